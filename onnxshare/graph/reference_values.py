"""Values of small constant nodes by onnx's own reference implementation, for the operators that
`constant_values` has no NumPy version of. It is imported when the first of them is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxshare.graph.inference_cost import is_cheap
from onnxshare.graph.nodes import Node
from onnxshare.graph.operator_traits import Effect, traits_of

#: The most elements that a node may read or make; shapes hold a handful.
MAX_ELEMENTS = 4096

#: What is not evaluated: what draws numbers, holds a graph, or is a function that nobody knows;
#: strings, whose patterns may take any time; and images.
_NOT_EVALUATED = frozenset(
    (
        Effect.RANDOM, Effect.CONTROL_FLOW, Effect.TRAINING, Effect.TEXT, Effect.ESTIMATOR,
        Effect.UNKNOWN,
    )
)  # fmt: skip

#: What makes no more elements than it reads.
_SHRINKING = frozenset(
    (
        Effect.RESHAPE, Effect.PERMUTATION, Effect.CUT, Effect.LOOKUP, Effect.JOIN, Effect.SCATTER,
        Effect.REDUCTION, Effect.ORDERING, Effect.CONTAINER, Effect.SOFTMAX, Effect.NORMALIZATION,
        Effect.OTHER,
    )
)  # fmt: skip

#: What may do much for each element: no number in an attribute may be larger than a shape.
_WORKING = frozenset(
    (
        Effect.CONVOLUTION, Effect.POOLING, Effect.INTERPOLATION, Effect.RECURRENT,
        Effect.ATTENTION, Effect.TRANSFORM, Effect.OTHER,
    )
)  # fmt: skip

#: What takes time that sizes do not tell, and no size comes from.
_SLOW = frozenset(("ConvTranspose", "DeformConv", "ImageDecoder"))

#: Of the elements of the operands of an Einsum.
_MOST_COMBINATIONS = 2**22

#: Work of one node, where a step through a loop is 1: half a millisecond, or much more.
_WORK, _MUCH_WORK = 100, 4000


def evaluable(node: Node) -> bool:
    """Whether a node may be evaluated, if what it reads is constant and small: it is of the
    standard, draws no random numbers, holds no graph and does not sample at computed places."""
    traits = traits_of(node)
    return (
        node.standard
        and traits.effect not in _NOT_EVALUATED
        and (traits.effect is not Effect.INTERPOLATION or bool(traits.shape_inputs))
        and node.op_type not in _SLOW
        and node.position not in node.scope.children
        and (node.op_type != "Dropout" or len(node.inputs) < 3)  # it may draw
        and (traits.effect not in _WORKING or _modest(node))
    )


def _modest(node: Node) -> bool:
    """Whether the numbers in a node's attributes are small, and so is their product."""
    numbers = [number for a in node.proto.attribute for number in (a.i, *a.ints)]
    return prod(max(1, abs(number)) for number in numbers) <= MAX_ELEMENTS


def cost(node: Node) -> int:
    """How much work it is to evaluate a node, as `Values` counts it."""
    return _MUCH_WORK if traits_of(node).effect in _WORKING else _WORK


def evaluate(node: Node, inputs: Sequence[Any], opset: int) -> list[Any] | None:
    """The results of an `evaluable` node, one for each named output: arrays, or lists of them for
    sequences; None where they are too large or cannot be computed. An input that is left out is
    None."""
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    if any(value is None for value in given.values()) or _elements(given.values()) > MAX_ELEMENTS:
        return None
    if node.op_type == "Einsum" and prod(map(np.size, inputs)) > _MOST_COMBINATIONS:
        return None  # of all indices
    sequences = {name: value for name, value in given.items() if isinstance(value, list)}
    graph = helper.make_graph(
        [node.proto],
        "node",
        [onnx.ValueInfoProto(name=name) for name in sequences],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
        [numpy_helper.from_array(v, name) for name, v in given.items() if name not in sequences],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        if not sequences and not _small(model, traits_of(node).effect not in _SHRINKING):
            return None
        from onnx.reference import ReferenceEvaluator

        results: Any = ReferenceEvaluator(model).run(None, sequences)
    except Exception:  # whatever it raises, the value is unknown
        return None
    return results if _elements(results) <= MAX_ELEMENTS else None


def _elements(values: Any) -> int:
    return sum(
        _elements(value) + 1 if isinstance(value, list) else getattr(value, "size", 1)
        for value in values
    )


def _small(model: onnx.ModelProto, grows: bool) -> bool:
    """Whether the results are small, judged before they are computed."""
    if not is_cheap(model):
        return False
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in inferred.graph.output:
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        if None in sizes or not value.type.tensor_type.HasField("shape"):
            if grows:
                return False
        elif prod(size for size in sizes if size is not None) > MAX_ELEMENTS:
            return False
    return True
