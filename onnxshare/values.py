"""Evaluates what does not depend on the model's inputs: shape arithmetic and weights behind
layout nodes.

Only shapes and constants are followed, never data. Operators that rearrange are evaluated at any
size; those that compute are bounded, because a hostile file can ask for a tensor of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from onnx import helper

from onnxshare.constant_folding import LAYOUT, MAX_COMPUTED, OPERATORS
from onnxshare.errors import ModelError
from onnxshare.graph import Graph, Node, Scope, Stored
from onnxshare.io.tensors import Array

#: The largest ConstantOfShape that is filled in memory when its values are asked for.
MAX_FILLED = 2**30

#: Known shapes: (scope path, tensor name) → sizes.
KnownShapes = Mapping[tuple[str, str], tuple[int, ...]]


_SHAPE_OPERATORS = frozenset(("Shape", "Size"))


class Values:
    """Values of constant tensors, computed once each, on demand.

    Args:
        graph: the index to follow.
        shapes: what Shape and Size nodes answer.
    """

    def __init__(self, graph: Graph, shapes: KnownShapes | None = None) -> None:
        self._graph = graph
        self._shapes = shapes or {}
        self._known: dict[tuple[str, str], Array | None] = {}

    def get(self, scope: Scope, name: str) -> Array | None:
        """The value of a tensor, or None if it depends on the model's inputs or is too large.

        Iterative, so that a long chain of nodes cannot exhaust the stack.
        """
        home = scope.home(name)
        if home is None:
            return None
        stack = [(home, name)]
        while stack:
            where, wanted = stack[-1]
            key = (where.path, wanted)
            if key in self._known:
                stack.pop()
                continue
            missing = self._missing(where, wanted)
            if missing is None:
                self._known[key] = None
                stack.pop()
            elif missing:
                stack.extend(missing)
            else:
                self._known[key] = self._compute(where, wanted)
                stack.pop()
        return self._known[home.path, name]

    def integers(self, scope: Scope, name: str) -> list[int] | None:
        """The value as a flat list of integers, for shapes, axes and pads."""
        value = self.get(scope, name)
        if value is None or value.dtype.kind not in "iu":
            return None
        return [int(item) for item in value.reshape(-1)]

    def _missing(self, scope: Scope, name: str) -> list[tuple[Scope, str]] | None:
        """The inputs to evaluate first; None if the tensor cannot be evaluated at all."""
        if self._graph.stored(scope, name) is not None:
            return []
        node = scope.producers.get(name)
        if node is None or not node.standard or name != node.outputs[0]:
            return None
        if node.op_type in _SHAPE_OPERATORS:
            return []
        if node.op_type not in OPERATORS:
            return None
        missing = []
        for needed in filter(None, node.inputs):
            home = node.scope.home(needed)
            if home is None:
                return None
            key = (home.path, needed)
            if key not in self._known:
                missing.append((home, needed))
            elif self._known[key] is None:
                return None
        return missing

    def _compute(self, scope: Scope, name: str) -> Array | None:
        stored = self._graph.stored(scope, name)
        if stored is not None:
            return self.payload(stored)
        node = scope.producers[name]
        if node.op_type in _SHAPE_OPERATORS:
            return self._shape(node)
        inputs = [self._input(node, item) for item in node.inputs]
        layout = node.op_type in LAYOUT
        if not layout and sum(item.size for item in inputs if item is not None) > MAX_COMPUTED:
            return None
        try:
            with np.errstate(all="ignore"):  # a division by zero is the model's business
                result = OPERATORS[node.op_type](node, inputs)
        except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, MemoryError):
            return None  # not ours to judge: whoever needs the value says that it is unknown
        return None if result is None else np.asarray(result)

    def _input(self, node: Node, name: str) -> Array | None:
        home = node.scope.home(name) if name else None
        return self._known[home.path, name] if home else None

    def payload(self, stored: Stored) -> Array | None:
        """The values of a stored tensor; None for a sparse one or one too large to fill."""
        if stored.tensor is not None:
            return self._graph.model.read(stored.tensor)
        if stored.sparse or stored.elements > MAX_FILLED:
            return None
        if stored.fill is not None:
            fill = self._graph.model.read(stored.fill).reshape(-1)
            if fill.size != 1:
                raise ModelError(f"the value of ConstantOfShape '{stored.name}' is not one element")
            return np.broadcast_to(fill[0], stored.shape)
        dtype = helper.tensor_dtype_to_np_dtype(stored.dtype)
        return np.broadcast_to(np.zeros((), dtype), stored.shape)

    def _shape(self, node: Node) -> Array | None:
        home = node.scope.home(node.inputs[0])
        shape = None if home is None else self._shapes.get((home.path, node.inputs[0]))
        if shape is None:
            return None
        if node.op_type == "Size":
            return np.array(prod(shape), np.int64) if prod(shape) < 2**63 else None
        start = int(node.attribute("start", 0))
        end = node.attribute("end")
        return np.array(shape[start : None if end is None else int(end)], np.int64)


def rearrange(node: Node, data: Array, values: Values) -> Array | None:
    """Apply a layout node to an array, its shape or axes taken from `values`.

    Used with arrays of indices, it tells where a layout node moves each element.

    Returns:
        The result, or None if the node is no pure layout operator or its operands are unknown.
    """
    if not node.standard or node.op_type not in REARRANGING:
        return None
    if node.op_type in ("Cast", "DequantizeLinear", "QuantizeLinear", "Dropout", "CastLike"):
        return data
    others = [values.get(node.scope, name) if name else None for name in node.inputs[1:]]
    if any(name and value is None for name, value in zip(node.inputs[1:], others, strict=True)):
        return None
    try:
        return np.asarray(OPERATORS[node.op_type](node, [data, *others]))
    except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, MemoryError):
        return None


#: Operators that move elements, or change only their type: each output element is one input
#: element. (Dropout at inference is one; its callers check that it is not training.)
REARRANGING = frozenset(
    "Identity Cast CastLike Dropout Reshape Flatten Squeeze Unsqueeze Transpose "
    "QuantizeLinear DequantizeLinear".split()
)
