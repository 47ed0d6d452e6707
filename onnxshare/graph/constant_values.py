"""Evaluates what does not depend on the model's inputs: shape arithmetic, and weights behind layout
nodes.

Most operators that exporters use for the two have a NumPy version (`numpy_operators`), loops are
followed trip by trip (`loop_values`), and others are left to onnx's reference implementation
(`reference_values`). Only constants and shapes are followed, never data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
from onnx import helper

from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.graph.loop_values import LOOPS, run
from onnxshare.graph.numpy_operators import MAX_COMPUTED, OPERATORS, OTHERS
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.graph.reference_values import MAX_ELEMENTS, cost, evaluable, evaluate
from onnxshare.io.tensors import Array

#: How much work is done for values in all: trips through loops, where that of a node, some
#: microseconds, is 1, and nodes that are left to the reference implementation (`cost`).
_MOST_WORK = 200_000

#: The largest ConstantOfShape that is filled in memory when its values are requested.
MAX_FILLED = 2**30

#: Known shapes: (scope path, tensor name) → sizes.
KnownShapes = Mapping[tuple[str, str], tuple[int, ...]]


class Values:
    """Values of constant tensors, computed once each, on demand. `shapes` are what Shape and Size
    nodes answer; `impossible` the paths of branches that cannot run, as something in them does not
    fit; `lengths` how many tensors sequences hold."""

    def __init__(
        self,
        graph: Graph,
        shapes: KnownShapes | None = None,
        impossible: Collection[str] = (),
        lengths: Mapping[tuple[str, str], int] | None = None,
        around: Values | None = None,
    ) -> None:
        self._graph = graph
        self._shapes = {} if shapes is None else shapes  # whether it is empty takes long to say
        self._impossible = impossible
        self._lengths = lengths or {}
        self._around = around
        #: By scope path and name; lists for sequences.
        self._known: dict[str, dict[str, Any]] = {}
        self._left = _MOST_WORK

    def get(self, scope: Scope, name: str) -> Array | None:
        """The value of a tensor, or None if it depends on the model's inputs or is too large."""
        found = self.find(scope, name)
        return None if isinstance(found, list) else found

    def find(self, scope: Scope, name: str) -> Any:
        """As `get`, and the values of a sequence as a list.

        Iterative, so that a long chain of nodes cannot exhaust the stack.
        """
        home = scope.home(name)
        if home is None:
            return None
        stack = [(home, name)]
        while stack:
            where, wanted = stack[-1]
            known = self._table(where)
            if wanted in known:
                stack.pop()
                continue
            missing = self._missing(where, wanted)
            if missing:
                stack.extend(missing)
            else:
                known[wanted] = None if missing is None else self._compute(where, wanted)
                stack.pop()
        return self._table(home)[name]

    def _table(self, scope: Scope) -> dict[str, Any]:
        return self._known.setdefault(scope.path, {})

    def shape(self, scope: Scope, name: str) -> tuple[int, ...] | None:
        """The sizes of a tensor, if they are known."""
        home = scope.home(name)
        return None if home is None else self._shapes.get((home.path, name))

    def within(self, body: Scope, given: dict[str, Any]) -> Values:
        """Values of one trip through a body whose inputs are these; what is around it is shared."""
        inner = Values(self._graph, self._shapes, self._impossible, self._lengths, self)
        inside = f"{body.path}/"
        inner._known = {p: t for p, t in self._known.items() if not p.startswith(inside)}
        inner._known[body.path] = given
        return inner

    def spend(self, work: int) -> bool:
        """Whether so much work may still be done."""
        if self._around is not None:
            return self._around.spend(work)
        self._left -= work
        return self._left >= 0

    def branch(self, node: Node) -> str | None:
        """Which branch of an If runs, where its condition does not depend on data, or only one of
        them can."""
        return self._branch(node, self.get(node.scope, node.inputs[0]))

    def _branch(self, node: Node, condition: Any) -> str | None:
        if isinstance(condition, np.ndarray) and condition.size == 1:
            return "then_branch" if condition.all() else "else_branch"
        branches = self._graph.subgraphs(node)
        left = [name for name, scope in branches.items() if scope.path not in self._impossible]
        return left[0] if len(left) == 1 < len(branches) else None

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
        if node is None or not (node.standard or (node.domain, node.op_type) in OTHERS):
            return None
        if traits_of(node).effect is Effect.SHAPE:
            return []
        if node.op_type == "If":
            return self._missing_of_branch(node, name)
        if node.op_type in LOOPS:
            return self._missing_of_loop(node)
        if node.op_type == "OptionalHasElement" or self._length(node) is not None:
            return []
        quick = node.op_type in OPERATORS and name == node.outputs[0]
        if not quick and (not evaluable(node) or self._too_large(node)):
            return None
        return self._unknown([(node.scope, needed) for needed in node.inputs if needed])

    def _unknown(self, needed: list[tuple[Scope, str]]) -> list[tuple[Scope, str]] | None:
        """Those of some tensors that are to be evaluated first; None if one cannot be."""
        missing = []
        for scope, name in needed:
            home = scope.home(name)
            if home is None:
                return None
            known = self._table(home)
            if name not in known:
                missing.append((home, name))
            elif known[name] is None:
                return None
        return missing

    def _missing_of_branch(self, node: Node, name: str) -> list[tuple[Scope, str]] | None:
        home = node.scope.home(node.inputs[0])
        if home is not None and node.inputs[0] not in self._table(home):
            return [(home, node.inputs[0])]
        source = self._returned(node, name)
        return None if source is None else self._unknown([source])

    def _missing_of_loop(self, node: Node) -> list[tuple[Scope, str]]:
        """What a loop reads, and what its body reads from around it, as far as that is new."""
        missing = []
        for name in filter(None, (*node.inputs, *self._graph.captured(node))):
            home = node.scope.home(name)
            maker = home.producers.get(name) if home is not None else None
            later = home is node.scope and maker is not None and maker.position >= node.position
            if home is not None and not later and name not in self._table(home):
                missing.append((home, name))
        return missing

    def _returned(self, node: Node, name: str) -> tuple[Scope, str] | None:
        """What a result of an If is in the branch that runs."""
        taken = self._branch(node, self._input(node, node.inputs[0]))
        scope = self._graph.subgraphs(node).get(taken or "")
        place = node.outputs.index(name)
        if scope is None or place >= len(scope.graph.output):
            return None
        return scope, scope.graph.output[place].name

    def _too_large(self, node: Node) -> bool:
        """Whether a node reads a large stored tensor."""
        stored = [self._graph.stored(node.scope, name) for name in node.inputs if name]
        return any(item is not None and item.elements > MAX_ELEMENTS for item in stored)

    def _compute(self, scope: Scope, name: str) -> Any:
        stored = self._graph.stored(scope, name)
        if stored is not None:
            return self.payload(stored)
        node = scope.producers[name]
        if traits_of(node).effect is Effect.SHAPE:
            return self._shape(node)
        if node.op_type == "If":
            source = self._returned(node, name)
            home = source[0].home(source[1]) if source else None
            return self._table(home)[source[1]] if source and home else None
        if node.op_type in LOOPS:
            body = self._graph.subgraphs(node).get("body")
            found = [] if body is None else run(self, node, body)
            self._table(scope).update(dict(zip(node.outputs, found, strict=False)))
            return self._table(scope).get(name)
        if node.op_type == "OptionalHasElement":
            return _has_element(node)
        length = self._length(node)
        if length is not None:
            return np.array(length, np.int64)
        inputs = [self._input(node, item) for item in node.inputs]
        if (
            node.op_type not in OPERATORS
            or name != node.outputs[0]
            or any(isinstance(item, list) for item in inputs)
        ):
            return self._evaluate(node, name, inputs)
        # What only rearranges or converts is evaluated at any size.
        if (
            not traits_of(node).carries
            and sum(item.size for item in inputs if item is not None) > MAX_COMPUTED
        ):
            return None
        try:
            with np.errstate(all="ignore"):  # a division by zero is the model's business
                result = OPERATORS[node.op_type](node, inputs)
        except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, MemoryError):
            return None  # not ours to judge: what needs the value says that it is unknown
        return None if result is None else np.asarray(result)

    def _evaluate(self, node: Node, name: str, inputs: list[Any]) -> Any:
        """A result of a node by the reference implementation; the others are noted."""
        allowed = self.spend(cost(node))
        results = evaluate(node, inputs, self._graph.opset) if allowed else None
        if results is None:
            return None
        named = [output for output in node.outputs if output]
        self._table(node.scope).update(zip(named, results, strict=True))
        return self._table(node.scope)[name]

    def _input(self, node: Node, name: str) -> Any:
        home = node.scope.home(name) if name else None
        return self._table(home)[name] if home else None

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

    def _length(self, node: Node) -> int | None:
        """What a SequenceLength of data answers."""
        if node.op_type != "SequenceLength":
            return None
        home = node.scope.home(node.inputs[0])
        return None if home is None else self._lengths.get((home.path, node.inputs[0]))

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


def _has_element(node: Node) -> Array | None:
    """Of an optional that a node of the same graph makes."""
    maker = node.scope.producer(node.input(0)) if node.input(0) else None
    if node.input(0) and (maker is None or maker.op_type != "Optional"):
        return None
    return np.array(maker is not None and bool(maker.input(0)))
