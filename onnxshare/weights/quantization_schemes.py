"""Which tensors of a model are quantized, and how: the operators that read them, with their scales
and zero points.

The integers of a MatMulInteger or ConvInteger get their scale afterwards, as ONNX Runtime's dynamic
quantization writes it: the sums are cast, and multiplied with the product of the scale of the data,
which a DynamicQuantizeLinear makes, and that of the weight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.io.tensors import Array
from onnxshare.weights import packed_formats
from onnxshare.weights.quantized_tensor import (
    NodeInputs,
    QuantizationRule,
    QuantizedTensor,
    quantized_by,
)

MICROSOFT = "com.microsoft"


def quantized_tensors(graph: Graph, values: Values) -> dict[str, QuantizedTensor]:
    """The quantized tensors by key: those that all their readers dequantize alike."""
    found: dict[str, QuantizedTensor] = {}
    mixed = set()
    for node in graph.nodes():
        rule = _RULES.get((MICROSOFT if node.domain == MICROSOFT else "", node.op_type))
        if rule is None or not (node.standard or node.domain == MICROSOFT):
            continue
        for one in rule(NodeInputs(graph, values, node)):
            if one is None:
                continue
            known = found.setdefault(one.stored.key, one)
            if known is not one and not known.alike(one):
                mixed.add(one.stored.key)
    return {key: one for key, one in found.items() if key not in mixed}


def _linear(*tensors: tuple[int, ...]) -> QuantizationRule:
    """Tensors by the positions of themselves, of their scales and of their zero points, and the
    axis of a scale that is a vector."""
    return lambda inputs: (one for each in tensors for one in inputs.linear(*each))


def _dequantize(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    node, scale = inputs.node, inputs.stored(1)
    given = node.attribute("output_dtype", 0)
    if not given or (scale is not None and given == scale.dtype):
        axis, block = int(node.attribute("axis", 1)), int(node.attribute("block_size", 0))
        yield from inputs.linear(0, 1, 2, axis, block)


def _gather(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """Rows of a table that are looked up as they are stored, and scaled afterwards."""
    node, stored = inputs.node, inputs.stored(0)
    readers = node.scope.readers(node.outputs[0]) if stored is not None else []
    if stored is None or not all(r.op_type == "DequantizeLinear" and r.standard for r in readers):
        return
    for after in (NodeInputs(inputs.graph, inputs.values, reader) for reader in readers):
        scale = after.value(1)
        if scale is None or scale.size != 1:
            return
        yield quantized_by(stored, scale, after.zero_point(2, scale))


def _qlinear_conv(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    yield from inputs.linear(3, 4, 5)
    yield from _bias(inputs, 8)


def _qgemm(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """One scale per column of the product, or one for all."""
    node = inputs.node
    yield from inputs.linear(0, 1, 2)
    yield from inputs.linear(3, 4, 5, 0 if node.attribute("transB", 0) else 1)
    if node.attribute("alpha", 1.0) == 1:
        yield from _bias(inputs, 6)


def _bias(inputs: NodeInputs, position: int) -> Iterator[QuantizedTensor | None]:
    """It has the product of the scales of data and weight, and no zero point."""
    stored, data, weight = inputs.stored(position), inputs.value(1), inputs.value(4)
    if stored is not None and data is not None and weight is not None:
        scale = np.asarray(data * weight)
        yield quantized_by(stored, scale, np.zeros(scale.shape, np.float32), -1)


def _lstm(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """One scale per direction, or one per direction and column of its matrix."""
    for data, scale, zero in ((1, 8, 9), (2, 10, 11)):
        stored, scales = inputs.stored(data), inputs.value(scale)
        if stored is None or scales is None or len(stored.shape) != 3:
            continue
        zeros = inputs.zero_point(zero, scales)
        sizes = (stored.shape[0], 1, scales.size // max(1, stored.shape[0]))
        if zeros is not None and zeros.size == scales.size == sizes[0] * sizes[2]:
            yield quantized_by(stored, scales.reshape(sizes), zeros.reshape(sizes))


def _qlinear_concat(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    for data in range(2, len(inputs.node.inputs), 3):
        yield from inputs.linear(data, data + 1, data + 2)


def _integers(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """MatMulInteger, ConvInteger: the scale is in a product behind them."""
    stored = inputs.stored(1)
    scale = None if stored is None else _scale_behind(inputs)
    if stored is None or scale is None:
        return
    axis = -1
    if inputs.node.op_type == "ConvInteger":
        axis = 0
        if scale.size > 1 and scale.ndim < len(stored.shape) - 1:
            return  # not along the channels
    scale = scale.reshape(-1)
    yield quantized_by(stored, scale, inputs.zero_point(3, scale), axis)


def _scale_behind(inputs: NodeInputs) -> Array | None:
    """The scale of the weight that the sums are multiplied with."""
    node = inputs.node
    data = node.scope.producers.get(node.inputs[0])
    if data is None or data.op_type != "DynamicQuantizeLinear" or len(data.outputs) < 2:
        return None
    cast = _only_reader(node, "Cast")
    product = None if cast is None else _only_reader(cast, "Mul")
    if cast is None or product is None:
        return None
    factor = _other_factor(product, cast.outputs[0])
    scales = None if factor is None else node.scope.producers.get(factor)
    if scales is None or scales.op_type != "Mul":
        return None
    weight = _other_factor(scales, data.outputs[1])
    return None if weight is None else inputs.values.get(scales.scope, weight)


def _only_reader(node: Node, op_type: str) -> Node | None:
    readers = node.scope.readers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type == op_type and readers[0].standard:
        return readers[0]
    return None


def _other_factor(product: Node, known: str) -> str | None:
    others = [name for name in product.inputs if name != known]
    return others[0] if len(others) == 1 and len(product.inputs) == 2 else None


_MATRICES = _linear((0, 1, 2, -2), (3, 4, 5, -1))
_OPERANDS = _linear((0, 1, 2), (3, 4, 5))

#: By domain and operator. Where a vector is the scale of a matrix product, it holds one scale per
#: row of the left, per column of the right.
_RULES: dict[tuple[str, str], QuantizationRule] = {
    ("", "Gather"): _gather,
    ("", "DequantizeLinear"): _dequantize,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _MATRICES,
    ("", "MatMulInteger"): _integers,
    ("", "ConvInteger"): _integers,
    (MICROSOFT, "DequantizeLinear"): _dequantize,
    (MICROSOFT, "QLinearConv"): _qlinear_conv,
    (MICROSOFT, "QGemm"): _qgemm,
    (MICROSOFT, "MatMulIntegerToFloat"): _linear((0, 2, 4, -2), (1, 3, 5, -1)),
    (MICROSOFT, "DynamicQuantizeMatMul"): _linear((1, 2, 3, -1)),
    (MICROSOFT, "MatMulNBits"): packed_formats.matmul_nbits,
    (MICROSOFT, "MatMulBnb4"): packed_formats.matmul_bnb4,
    (MICROSOFT, "MatMulNBitsMlp"): packed_formats.matmul_nbits_of((3, "N"), (6, "N")),
    (MICROSOFT, "MatMulNBitsQkv"): packed_formats.matmul_nbits_of(
        (3, "Nq"), (6, "Nkv"), (9, "Nkv")
    ),
    (MICROSOFT, "MatMulBlockQuantizedFp8Weight"): packed_formats.matmul_float8,
    (MICROSOFT, "GatherBlockQuantized"): packed_formats.gather_block_quantized,
    (MICROSOFT, "QAttention"): _linear((1, 4, 7, -1)),
    (MICROSOFT, "DynamicQuantizeLSTM"): _lstm,
    (MICROSOFT, "QEmbedLayerNormalization"): _linear(
        *((at, at + 6, at + 11) for at in range(2, 7))
    ),
    (MICROSOFT, "QLinearAdd"): _OPERANDS,
    (MICROSOFT, "QLinearMul"): _OPERANDS,
    (MICROSOFT, "QLinearWhere"): _linear((1, 2, 3), (4, 5, 6)),
    (MICROSOFT, "QLinearConcat"): _qlinear_concat,
}
