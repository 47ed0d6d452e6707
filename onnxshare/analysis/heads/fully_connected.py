"""Fully connected layers, however they are written: Gemm, MatMul with a bias added after it, in
integers (QGemm …), or fused by ONNX Runtime (FusedGemm …).

What all FCs have is told here; scales, zero points and fused activations stay with the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.io.node_reader import Operation
from onnxshare.io.tensors import Array
from onnxshare.support.dataclass_tools import made


@dataclass(frozen=True)
class FullyConnected:
    """y = alpha · x Wᵀ + beta · b for rows x, with the weight in one of its written forms.

    Attributes:
        node: the Gemm or MatMul.
        data: name of the tensor x.
        weight: name of the weight as the node reads it.
        bias: name of the bias as the node reads it; None without one.
        in_features: columns of x.
        out_features: columns of y.
        stored_by_output: whether the weight is written [out, in], as transB does.
        columns: whether x comes as [in, rows] (transA, or a weight on the left of MatMul).
        result_columns: whether y is [out, rows] (a weight on the left of MatMul).
        alpha, beta: the factors of Gemm.
        stored: whether the weight is a stored matrix; False for what only looks like an FC.
        arithmetic: float; integer, whose results are sums of 32 bits; scaled, where these are made
            floats; dynamic, where the data is floats too and quantized first; quantized, where
            the sums are scaled back to 8 bits.
        activation: what a fused operator applies to the result; None without.
    """

    node: Node
    data: str
    weight: str
    bias: str | None
    in_features: int
    out_features: int
    stored_by_output: bool
    columns: bool = False
    result_columns: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    stored: bool = True
    arithmetic: str = "float"
    activation: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it computes in floating point and nothing is fused to it."""
        return self.arithmetic == "float" and self.activation is None


CONTRIB = "com.microsoft"

#: Operator → which inputs are the data, the weight and the bias (None: it has none), and what it
#: computes: QLinear ones scale their result back to 8 bits.
_FORMS: dict[str, tuple[int, int, int | None, str]] = {
    "Gemm": (0, 1, 2, "float"),
    "QLinearMatMul": (0, 3, None, "quantized"),
    "MatMulInteger": (0, 1, None, "integer"),
    "QGemm": (0, 3, 6, "quantized"),
    "DynamicQuantizeMatMul": (0, 1, None, "dynamic"),
    "MatMulIntegerToFloat": (0, 1, None, "scaled"),
    "FusedGemm": (0, 1, 2, "float"),
    "FusedMatMul": (0, 1, None, "float"),
}

_STANDARD = frozenset(("Gemm", "QLinearMatMul", "MatMulInteger"))


def recognise(graph: Graph, node: Node) -> FullyConnected | None:
    """A product as a fully connected layer, or None if it is not one with a stored matrix."""
    if node.op_type == "MatMul":
        return _matmul(graph, node) if node.standard else None
    form = _FORMS.get(node.op_type)
    known = node.standard if node.op_type in _STANDARD else node.proto.domain == CONTRIB
    if form is None or not known or len(node.inputs) <= form[1]:
        return None
    data, weight = node.inputs[form[0]], node.inputs[form[1]]
    shape, source = matrix_shape(graph, node, weight), graph.source
    if shape is None or source(node.scope, data) is not None or not source(node.scope, weight):
        return None
    said = _by_attributes(graph, node)
    if said is None:
        return None
    by_output = said["stored_by_output"]
    bias = None if form[2] is None or len(node.inputs) <= form[2] else node.inputs[form[2]]
    given = {
        **said,
        "node": node,
        "data": data,
        "weight": weight,
        "bias": bias or None,
        "in_features": shape[by_output],
        "out_features": shape[not by_output],
        "arithmetic": form[3],
    }
    return made(FullyConnected, given)


def _by_attributes(graph: Graph, node: Node) -> dict[str, Any] | None:
    """What an FC's attributes say, once for all nodes with the same; None where the product is one
    of stacks of matrices."""
    known: dict[Operation, dict[str, Any] | None] = graph.memo.setdefault("attributes of FCs", {})
    operation = node.operation
    if operation in known:
        return known[operation]
    said = None
    if not (node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0)):
        said = {
            "stored_by_output": bool(node.attribute("transB", 0)),
            "columns": bool(node.attribute("transA", 0)),
            "alpha": float(node.attribute("alpha", 1.0)),
            "beta": float(node.attribute("beta", 1.0)),
            "activation": str(node.attribute("activation", "")) or None,
        }
    if operation.attributes is not None:  # else nodes that share it may differ in them
        known[operation] = said
    return said


def fully_connected(graph: Graph) -> list[FullyConnected]:
    """All FCs of the main graph with a stored weight matrix, in graph order, those in integers and
    fused ones included."""

    if "fully connected" not in graph.memo:
        wanted = {"MatMul", *_FORMS}
        found = [recognise(graph, n) for n in graph.main.nodes if n.op_type in wanted]
        graph.memo["fully connected"] = [layer for layer in found if layer is not None]
    layers: list[FullyConnected] = graph.memo["fully connected"]
    return layers


def _matmul(graph: Graph, node: Node) -> FullyConnected | None:
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    sides = graph.source(node.scope, left), graph.source(node.scope, right)
    turned = sides[0] is not None  # the weight is on the left
    stored = sides[not turned]
    if stored is None or (turned and sides[1] is not None):
        return None
    data, weight = (right, left) if turned else (left, right)
    shape: tuple[int, ...] | None = stored.shape
    if stored.name != weight or node.scope.parent is not None or stored.elements >= 2**63:
        shape = _behind_layout(graph, node, weight)
    if shape is None or len(shape) != 2:
        return None
    return made(
        FullyConnected,
        {
            "node": node,
            "data": data,
            "weight": weight,
            "bias": None,
            "in_features": shape[turned],
            "out_features": shape[not turned],
            "stored_by_output": turned,
            "columns": turned,
            "result_columns": turned,
        },
    )


def matrix_shape(graph: Graph, node: Node, name: str) -> tuple[int, int] | None:
    """Sizes of a constant matrix as a node reads it, behind whatever layout nodes.

    Follows the layout nodes on an index without elements, so that no payload is read.
    """
    shape = _behind_layout(graph, node, name)
    return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else None


def _behind_layout(graph: Graph, node: Node, name: str) -> tuple[int, ...] | None:
    direct = graph.source(node.scope, name)
    if direct is None or direct.name != name or node.scope.parent is not None:
        direct = graph.stored(node.scope, name)
    if direct is not None:
        return direct.shape if direct.elements < 2**63 else None
    return _rearranged(graph, node, name)


def _rearranged(graph: Graph, node: Node, name: str) -> tuple[int, ...] | None:
    from onnxshare.graph.rearrangement import rearrange

    chain: list[Node] = []
    scope = node.scope
    while (stored := graph.stored(scope, name)) is None:
        producer = scope.producer(name)
        if producer is None:
            return None
        chain.append(producer)
        scope, name = producer.scope, producer.inputs[0]
    if stored.elements >= 2**63:
        return None  # more than an array can index
    # A broadcast zero has the shape and none of the memory.
    view: Array = np.broadcast_to(np.zeros((), np.int8), stored.shape)
    values = Values(graph)
    for carrier in reversed(chain):
        moved = rearrange(carrier, view, values)
        if moved is None:
            return None
        view = np.broadcast_to(np.zeros((), np.int8), moved.shape)
    return tuple(view.shape)


def bias_node(graph: Graph, layer: FullyConnected) -> Node | None:
    """The Add that follows a MatMul as its only reader and gives it its bias, as `[out]` or
    `[1, out]`; None if there is none. An Add of any other shape is an Add like others."""
    found: dict[Node, Node | None] = graph.memo.setdefault("bias nodes", {})
    if layer.node not in found:
        found[layer.node] = _bias_node(graph, layer)
    return found[layer.node]


def _bias_node(graph: Graph, layer: FullyConnected) -> Node | None:
    if layer.node.op_type not in ("MatMul", "FusedMatMul") or layer.result_columns:
        return None
    result, scope = layer.node.outputs[0], layer.node.scope
    readers = scope.readers(result)
    if len(readers) != 1 or result in scope.outputs:
        return None
    adder = readers[0]
    if adder.op_type != "Add" or not adder.standard or adder.inputs.count(result) != 1:
        return None
    other = adder.inputs[adder.inputs[0] == result]
    if graph.source(adder.scope, other) is None:
        return None
    shape = _behind_layout(graph, adder, other)
    fits = shape in ((layer.out_features,), (1, layer.out_features))
    return adder if fits else None


def nodes_of(graph: Graph, layer: FullyConnected) -> list[Node]:
    """The product, and the Add behind it that gives it its bias, where there is one."""
    return [layer.node, *filter(None, (bias_node(graph, layer),))]


def stored_bias(graph: Graph, layer: FullyConnected) -> tuple[str | None, float]:
    """The constant that an FC adds, in whatever shape, and the factor on it; None without one."""
    adder = bias_node(graph, layer)
    if adder is None:
        return layer.bias, layer.beta
    return next(item for item in adder.inputs if item != layer.node.outputs[0]), 1.0


def made_by(graph: Graph, node: Node) -> FullyConnected | None:
    """The FC in floating point whose result, its bias added, a node makes."""
    product = node
    if node.op_type == "Add":
        made = (graph.main.producers.get(name) for name in node.inputs)
        product = next((item for item in made if item and item.op_type == "MatMul"), node)
    fc = recognise(graph, product)
    if fc is None or not fc.plain or (product is not node and bias_node(graph, fc) is not node):
        return None
    return fc


def bias_elements(graph: Graph, layer: FullyConnected) -> int:
    """Elements of the stored bias of a layer, whether in the Gemm or in an Add after a MatMul."""
    if layer.bias is not None:
        stored = graph.source(layer.node.scope, layer.bias)
        return stored.elements if stored is not None else 0
    return layer.out_features if bias_node(graph, layer) is not None else 0


def weight_by_output(layer: FullyConnected, values: Values) -> Array | None:
    """The weight as [out, in], alpha not applied; None if its values cannot be had."""
    weight = values.get(layer.node.scope, layer.weight)
    if weight is None or weight.ndim != 2:
        return None
    return weight if layer.stored_by_output else weight.T


def by_rows(layer: FullyConnected, data: Array) -> Array | None:
    """The data of a layer with features on the last axis; None where it is a stack of matrices
    with features on another."""
    if not layer.columns or data.ndim < 2:
        return data
    return data.T if data.ndim == 2 else None


def per_feature(value: Array | None, features: int) -> Array | None:
    """A constant that adds the same to each row of `features` columns, as [features]; else None.

    Gemm's C and the operand of an Add may have any shape that broadcasts to [rows, features].
    """
    if value is None or value.size not in (1, features):
        return None
    if value.size == features and features > 1 and (value.ndim == 0 or value.shape[-1] != features):
        return None
    return np.broadcast_to(value.reshape(-1), (features,))
