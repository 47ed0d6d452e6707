"""Which weights a model computes with, which nodes do, and what else takes part in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import CARRIERS, Graph, Node, Scope, Stored
from onnxshare.io.tensors import Array
from onnxshare.noise import EPSILON

#: Types of numbers that are computed with; sizes and indices are int64 or bool.
_KINDS = {
    *EPSILON,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT32,
}

#: Elements, at most, of quantised tensors that are dequantised to be compared.
_MOST_DEQUANTISED = 2**22

#: Operators with weights of which each is a factor or a term of its own, so that a change of one
#: is not undone by another of the same node.
LAYERS = frozenset("Conv ConvTranspose Gemm MatMul FusedConv FusedGemm FusedMatMul".split())
TERMS = frozenset("Add Sub Mul Div PRelu Gather BatchNormalization".split())
QUANTISED = frozenset(
    "QLinearConv QLinearMatMul QGemm ConvInteger MatMulInteger QuantizeLinear "
    "DequantizeLinear".split()
)

#: Operators that may come and go without making up for a weight: layers and their biases, whose
#: numbers are compared, and what only moves values.
_PLAIN = (
    LAYERS
    | QUANTISED
    | CARRIERS
    | frozenset(
        "Add Constant ConstantOfShape Dropout Shape Gather Concat Slice Split Expand "
        "DynamicQuantizeLinear".split()
    )
)

#: Operators that take no notice of a term that all their inputs, or all of a channel, share.
SHIFTED = frozenset("Softmax LogSoftmax Hardmax ArgMax ArgMin".split())
CENTRED = frozenset(
    "InstanceNormalization GroupNormalization LayerNormalization MeanVarianceNormalization".split()
)

#: Names for one thing.
_SAME = {"GlobalAveragePool": "mean", "AveragePool": "mean", "ReduceMean": "mean"}


@dataclass(frozen=True)
class Used:
    """Numbers that nodes compute with.

    Attributes:
        key: unique within the model.
        stored: the tensor that holds them.
        readers: the nodes.
        dequantised: what they are where the tensor is quantised.
    """

    key: str
    stored: Stored
    readers: tuple[Node, ...]
    dequantised: Array | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.stored.name

    @property
    def kind(self) -> tuple[int, int]:
        """A TensorProto data type, and the number of elements."""
        if self.dequantised is None:
            return self.stored.dtype, self.stored.elements
        return TensorProto.FLOAT, self.dequantised.size


def live_nodes(graph: Graph) -> list[Node]:
    """The nodes that some output needs, those of subgraphs with the nodes that hold them."""
    needed = set(graph.main.outputs)
    found: list[Node] = []
    for node in reversed(graph.main.nodes):
        if needed.isdisjoint(filter(None, node.outputs)):
            continue
        inner = list(_inner(graph, node))
        found += [node, *inner]
        needed.update(name for item in (node, *inner) for name in item.inputs)
        for item in (node, *inner):
            for scope in graph.subgraphs(item).values():
                needed.update(scope.outputs)
    return found


def _inner(graph: Graph, node: Node) -> Iterator[Node]:
    for scope in graph.subgraphs(node).values():
        for item in scope.nodes:
            yield item
            yield from _inner(graph, item)


def used_weights(graph: Graph, nodes: Iterable[Node], values: Values) -> dict[str, Used]:
    """The numbers that nodes compute with, by key: stored tensors, and what DequantizeLinear makes
    of them, whatever rearranges them before they are used."""
    found: dict[str, Used] = {}
    for node in nodes:
        if node.op_type in CARRIERS and node.inputs and _carries(graph, node):
            continue
        for name in filter(None, node.inputs):
            stored = graph.source(node.scope, name)
            if stored is None or stored.dtype not in _KINDS:
                continue
            key, numbers = stored.key, None
            if stored.elements <= _MOST_DEQUANTISED and _dequantises(graph, node.scope, name):
                numbers = values.get(node.scope, name)
            if numbers is not None and numbers.dtype == np.float32:
                key = f"{key} dequantised"
            else:
                numbers = None
            known = found.get(key)
            readers = (*(known.readers if known is not None else ()), node)
            found[key] = Used(key, stored, readers, numbers)
    return found


def _carries(graph: Graph, node: Node) -> bool:
    return graph.source(node.scope, node.outputs[0]) is not None


def _dequantises(graph: Graph, scope: Scope, name: str) -> bool:
    """Whether a constant comes through a DequantizeLinear."""
    node = scope.producer(name)
    while node is not None and node.op_type in CARRIERS:
        if node.op_type == "DequantizeLinear":
            return True
        scope, name = node.scope, node.inputs[0]
        node = scope.producer(name)
    return False


def others(nodes: Iterable[Node]) -> Counter[Any]:
    """What else could make up for a weight: operators, and the numbers in their attributes."""
    found: Counter[Any] = Counter()
    for node in nodes:
        if node.op_type not in _PLAIN or not node.standard:
            found[_SAME.get(node.op_type, node.op_type)] += 1
        elif node.op_type not in LAYERS:
            continue
        for item in node.proto.attribute:
            if item.type == onnx.AttributeProto.FLOAT and item.f != 1.0:
                found[item.name, item.f] += 1
            elif item.type == onnx.AttributeProto.FLOATS:
                found[item.name, tuple(item.floats)] += 1
    return found
