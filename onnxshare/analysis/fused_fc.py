"""Fully connected layers in integers, and those that ONNX Runtime fuses: QGemm, FusedGemm …

Scales, zero points and fused activations stay with the node; what all FCs have is told here.
"""

from __future__ import annotations

from onnxshare.analysis.fc import FullyConnected, matrix_shape
from onnxshare.graph import Graph, Node

CONTRIB = "com.microsoft"

#: Operator → which inputs are the data, the weight and the bias (None: it has none).
_PLACES = {
    "QLinearMatMul": (0, 3, None),
    "MatMulInteger": (0, 1, None),
    "QGemm": (0, 3, 6),
    "DynamicQuantizeMatMul": (0, 1, None),
    "MatMulIntegerToFloat": (0, 1, None),
    "FusedGemm": (0, 1, 2),
    "FusedMatMul": (0, 1, None),
}

#: What the integer operators compute: QLinear ones scale their result back to 8 bits.
_ARITHMETIC = {
    "QLinearMatMul": "quantized",
    "QGemm": "quantized",
    "MatMulInteger": "integer",
    "MatMulIntegerToFloat": "scaled",
    "DynamicQuantizeMatMul": "dynamic",
}

_STANDARD = frozenset(("QLinearMatMul", "MatMulInteger"))

#: All operators that this module knows.
OPERATORS = frozenset(_PLACES)


def recognise_fused(graph: Graph, node: Node) -> FullyConnected | None:
    """Return the node as a fully connected layer, or None if it is not one with a stored matrix."""
    places = _PLACES.get(node.op_type)
    known = node.standard if node.op_type in _STANDARD else node.proto.domain == CONTRIB
    if places is None or not known or len(node.inputs) <= places[1]:
        return None
    data, weight = node.inputs[places[0]], node.inputs[places[1]]
    shape = matrix_shape(graph, node, weight)
    if shape is None or graph.source(node.scope, data) is not None:
        return None
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        return None
    by_output = bool(node.attribute("transB", 0))
    out_features, in_features = shape if by_output else (shape[1], shape[0])
    bias = None if places[2] is None or len(node.inputs) <= places[2] else node.inputs[places[2]]
    return FullyConnected(
        node,
        data,
        weight,
        bias or None,
        in_features,
        out_features,
        stored_by_output=by_output,
        columns=bool(node.attribute("transA", 0)),
        alpha=float(node.attribute("alpha", 1.0)),
        beta=float(node.attribute("beta", 1.0)),
        arithmetic=_ARITHMETIC.get(node.op_type, "float"),
        activation=str(node.attribute("activation", "")) or None,
    )
