"""How quantised weights are read: the scales and zero points of the operators that take them.

The integers of a MatMulInteger or ConvInteger get their scale afterwards, as ONNX Runtime's dynamic
quantisation writes it: the sums are cast, and multiplied with the product of the scale of the data,
which a DynamicQuantizeLinear makes, and that of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.io.tensors import Array
from onnxshare.weights import packed_formats
from onnxshare.weights.quantized_tensor import QuantizedTensor, Reader

MICROSOFT = "com.microsoft"

Rule = Callable[[Reader], Iterator[QuantizedTensor | None]]


def quantized_tensors(graph: Graph, values: Values) -> dict[str, QuantizedTensor]:
    """How quantised tensors are read, by key: those that every reader dequantises alike.

    Args:
        graph: the index.
        values: evaluates scales and zero points.
    """
    found: dict[str, QuantizedTensor] = {}
    mixed = set()
    for node in graph.nodes():
        rule = _RULES.get((MICROSOFT if node.domain == MICROSOFT else "", node.op_type))
        if rule is None or not (node.standard or node.domain == MICROSOFT):
            continue
        for one in rule(Reader(graph, values, node)):
            if one is None:
                continue
            known = found.setdefault(one.stored.key, one)
            if known is not one and not known.alike(one):
                mixed.add(one.stored.key)
    return {key: one for key, one in found.items() if key not in mixed}


def _dequantize(reader: Reader) -> Iterator[QuantizedTensor | None]:
    node = reader.node
    if node.attribute("output_dtype", 0):
        scale = reader.stored(1)
        if scale is None or node.attribute("output_dtype", 0) != scale.dtype:
            return
    axis, block = int(node.attribute("axis", 1)), int(node.attribute("block_size", 0))
    yield from reader.linear(0, 1, 2, axis, block)


def _rows(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """Gather: rows of a table that are looked up as they are stored, and scaled afterwards."""
    node, stored = reader.node, reader.stored(0)
    scales = node.scope.readers(node.outputs[0]) if stored is not None else []
    for scale in scales:
        if stored is None or scale.op_type != "DequantizeLinear" or not scale.standard:
            return
    for after in (Reader(reader.graph, reader.values, scale) for scale in scales):
        value = after.value(1)
        if stored is None or value is None or value.size != 1:
            return
        yield after.by(stored, value, after.zero(2, value))


def _convolution(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """QLinearConv: the bias has the product of both scales, and no zero point."""
    yield from reader.linear(3, 4, 5)
    yield from _bias(reader, 8, 1, 4)


def _gemm(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """QGemm: one scale per column of the product, or one for all."""
    node = reader.node
    yield from reader.linear(0, 1, 2)
    yield from reader.linear(3, 4, 5, 0 if node.attribute("transB", 0) else 1)
    if node.attribute("alpha", 1.0) == 1:
        yield from _bias(reader, 6, 1, 4)


def _bias(reader: Reader, bias: int, data: int, weight: int) -> Iterator[QuantizedTensor | None]:
    stored, scales = reader.stored(bias), (reader.value(data), reader.value(weight))
    if stored is not None and scales[0] is not None and scales[1] is not None:
        scale = np.asarray(scales[0] * scales[1])
        yield reader.by(stored, scale, np.zeros(scale.shape, np.float32), -1)


def _matmul(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """QLinearMatMul: a vector holds one scale per row of the left, per column of the right."""
    yield from reader.linear(0, 1, 2, -2)
    yield from reader.linear(3, 4, 5, -1)


def _matmul_to_float(reader: Reader) -> Iterator[QuantizedTensor | None]:
    yield from reader.linear(0, 2, 4, -2)
    yield from reader.linear(1, 3, 5, -1)


def _dynamic_matmul(reader: Reader) -> Iterator[QuantizedTensor | None]:
    yield from reader.linear(1, 2, 3, -1)


def _attention(reader: Reader) -> Iterator[QuantizedTensor | None]:
    yield from reader.linear(1, 4, 7, -1)


def _lstm(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """One scale per direction, or one per direction and column of its matrix."""
    for data, scale, zero in ((1, 8, 9), (2, 10, 11)):
        stored, scales = reader.stored(data), reader.value(scale)
        if stored is None or scales is None or len(stored.shape) != 3:
            continue
        zeros = reader.zero(zero, scales)
        sizes = (stored.shape[0], 1, scales.size // max(1, stored.shape[0]))
        fits = zeros is not None and zeros.size == scales.size == sizes[0] * sizes[2]
        if fits and zeros is not None:
            yield reader.by(stored, scales.reshape(sizes), zeros.reshape(sizes))


def _embeddings(reader: Reader) -> Iterator[QuantizedTensor | None]:
    for position in range(2, 7):
        yield from reader.linear(position, position + 6, position + 11)


def _two(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """QLinearAdd, QLinearMul."""
    for data in (0, 3):
        yield from reader.linear(data, data + 1, data + 2)


def _where(reader: Reader) -> Iterator[QuantizedTensor | None]:
    for data in (1, 4):
        yield from reader.linear(data, data + 1, data + 2)


def _concat(reader: Reader) -> Iterator[QuantizedTensor | None]:
    for data in range(2, len(reader.node.inputs), 3):
        yield from reader.linear(data, data + 1, data + 2)


def _integers(reader: Reader) -> Iterator[QuantizedTensor | None]:
    """MatMulInteger, ConvInteger: the scale is in a product behind them."""
    node, stored = reader.node, reader.stored(1)
    scale = None if stored is None else _scale_behind(reader)
    if stored is None or scale is None:
        return
    axis = -1
    if node.op_type == "ConvInteger":
        axis = 0
        if scale.size > 1 and scale.ndim < len(stored.shape) - 1:
            return  # not along the channels
    scale = scale.reshape(-1)
    yield reader.by(stored, scale, reader.zero(3, scale), axis)


def _scale_behind(reader: Reader) -> Array | None:
    """The scale of the weight that the sums are multiplied with."""
    node = reader.node
    data = node.scope.producers.get(node.inputs[0])
    if data is None or data.op_type != "DynamicQuantizeLinear" or len(data.outputs) < 2:
        return None
    cast = _only_reader(node, "Cast")
    product = None if cast is None else _only_reader(cast, "Mul")
    if cast is None or product is None:
        return None
    factors = _factors(product, cast.outputs[0])
    scales = None if factors is None else node.scope.producers.get(factors)
    if scales is None or scales.op_type != "Mul":
        return None
    weight = _factors(scales, data.outputs[1])
    return None if weight is None else reader.values.get(scales.scope, weight)


def _only_reader(node: Node, op_type: str) -> Node | None:
    readers = node.scope.readers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type == op_type and readers[0].standard:
        return readers[0]
    return None


def _factors(product: Node, known: str) -> str | None:
    """The other factor of a product."""
    others = [name for name in product.inputs if name != known]
    return others[0] if len(others) == 1 and len(product.inputs) == 2 else None


_STANDARD: dict[str, Rule] = {
    "Gather": _rows,
    "DequantizeLinear": _dequantize,
    "QLinearConv": _convolution,
    "QLinearMatMul": _matmul,
    "MatMulInteger": _integers,
    "ConvInteger": _integers,
}

_CONTRIB: dict[str, Rule] = {
    "DequantizeLinear": _dequantize,
    "QLinearConv": _convolution,
    "QGemm": _gemm,
    "MatMulIntegerToFloat": _matmul_to_float,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulNBits": packed_formats.in_blocks,
    "MatMulBnb4": packed_formats.in_table,
    "MatMulNBitsMlp": packed_formats.two_in_blocks,
    "MatMulNBitsQkv": packed_formats.three_in_blocks,
    "MatMulBlockQuantizedFp8Weight": packed_formats.floats_in_blocks,
    "GatherBlockQuantized": packed_formats.packed_rows,
    "QAttention": _attention,
    "DynamicQuantizeLSTM": _lstm,
    "QEmbedLayerNormalization": _embeddings,
    "QLinearAdd": _two,
    "QLinearMul": _two,
    "QLinearWhere": _where,
    "QLinearConcat": _concat,
}

_RULES: dict[tuple[str, str], Rule] = {
    **{("", name): rule for name, rule in _STANDARD.items()},
    **{(MICROSOFT, name): rule for name, rule in _CONTRIB.items()},
}
