"""How quantised weights are read: the scales and zero points of the operators that take them.

The integers of a MatMulInteger or ConvInteger get their scale afterwards, as ONNX Runtime's dynamic
quantisation writes it: the sums are cast, and multiplied with the product of the scale of the data,
which a DynamicQuantizeLinear makes, and that of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.dequantized import Dequantized, Packing, reading, spread
from onnxshare.graph import Graph, Node, Stored
from onnxshare.io.tensors import Array
from onnxshare.values import Values

MICROSOFT = "com.microsoft"

#: The numbers of 4-bit floats and of 4-bit normal floats (Dettmers et al., "QLoRA: Efficient
#: Finetuning of Quantized LLMs", 2023, appendix E), both between -1 and 1.
_FP4 = (0.0, 0.005208333333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_BNB4 = (
    (*_FP4, *(-number for number in _FP4)),
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
)


@dataclass(frozen=True)
class _Reader:
    """A node with what its constant inputs hold."""

    graph: Graph
    values: Values
    node: Node

    def has(self, position: int) -> bool:
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def stored(self, position: int) -> Stored | None:
        """The stored tensor of an input, which no node rearranges before."""
        if not self.has(position):
            return None
        return self.graph.stored(self.node.scope, self.node.inputs[position])

    def value(self, position: int) -> Array | None:
        """The value of an input; None where it is left out or computed from data."""
        if not self.has(position):
            return None
        return self.values.get(self.node.scope, self.node.inputs[position])

    def zero(self, position: int, scale: Array | None) -> Array | None:
        """A zero point, zeros where it is left out; one number stands for all."""
        if scale is None or not self.has(position):
            return None if scale is None else np.zeros(scale.shape, np.float32)
        zero = self.value(position)
        if zero is not None and zero.size == 1 and scale.size > 1:
            return np.broadcast_to(zero.reshape(()), scale.shape)
        return zero

    def linear(
        self, data: int, scale: int, zero: int, axis: int = 0, block: int = 0
    ) -> Iterator[Dequantized | None]:
        """The reading of an input by a scale per tensor, per axis or per block."""
        stored, scales = self.stored(data), self.value(scale)
        if stored is not None and scales is not None:
            yield self.by(stored, scales, self.zero(zero, scales), axis, block)

    def by(
        self, stored: Stored, scale: Array, zero: Array | None, axis: int = 0, block: int = 0
    ) -> Dequantized | None:
        """The reading of a tensor by these."""
        shape = stored.shape
        if zero is None:
            return None
        blocks = None
        if block and scale.size > 1:
            axis += len(shape) if axis < 0 else 0
            blocks = tuple(block if place == axis else 1 for place in range(len(shape)))
        one, other = spread(scale, shape, axis, block), spread(zero, shape, axis, block)
        return reading(stored, shape, one, other, blocks)


Rule = Callable[[_Reader], Iterator[Dequantized | None]]


def readings(graph: Graph, values: Values) -> dict[str, Dequantized]:
    """How quantised tensors are read, by key: those that every reader dequantises alike.

    Args:
        graph: the index.
        values: evaluates scales and zero points.
    """
    found: dict[str, Dequantized] = {}
    mixed = set()
    for node in graph.nodes():
        rule = _RULES.get((MICROSOFT if node.domain == MICROSOFT else "", node.op_type))
        if rule is None or not (node.standard or node.domain == MICROSOFT):
            continue
        for one in rule(_Reader(graph, values, node)):
            if one is None:
                continue
            known = found.setdefault(one.stored.key, one)
            if known is not one and not known.alike(one):
                mixed.add(one.stored.key)
    return {key: one for key, one in found.items() if key not in mixed}


def _dequantize(reader: _Reader) -> Iterator[Dequantized | None]:
    node = reader.node
    if node.attribute("output_dtype", 0):
        scale = reader.stored(1)
        if scale is None or node.attribute("output_dtype", 0) != scale.dtype:
            return
    axis, block = int(node.attribute("axis", 1)), int(node.attribute("block_size", 0))
    yield from reader.linear(0, 1, 2, axis, block)


def _convolution(reader: _Reader) -> Iterator[Dequantized | None]:
    """QLinearConv: the bias has the product of both scales, and no zero point."""
    yield from reader.linear(3, 4, 5)
    yield from _bias(reader, 8, 1, 4)


def _gemm(reader: _Reader) -> Iterator[Dequantized | None]:
    """QGemm: one scale per column of the product, or one for all."""
    node = reader.node
    yield from reader.linear(0, 1, 2)
    yield from reader.linear(3, 4, 5, 0 if node.attribute("transB", 0) else 1)
    if node.attribute("alpha", 1.0) == 1:
        yield from _bias(reader, 6, 1, 4)


def _bias(reader: _Reader, bias: int, data: int, weight: int) -> Iterator[Dequantized | None]:
    stored, scales = reader.stored(bias), (reader.value(data), reader.value(weight))
    if stored is not None and scales[0] is not None and scales[1] is not None:
        scale = np.asarray(scales[0] * scales[1])
        yield reader.by(stored, scale, np.zeros(scale.shape, np.float32), -1)


def _matmul(reader: _Reader) -> Iterator[Dequantized | None]:
    """QLinearMatMul: a vector holds one scale per row of the left, per column of the right."""
    yield from reader.linear(0, 1, 2, -2)
    yield from reader.linear(3, 4, 5, -1)


def _matmul_to_float(reader: _Reader) -> Iterator[Dequantized | None]:
    yield from reader.linear(0, 2, 4, -2)
    yield from reader.linear(1, 3, 5, -1)


def _dynamic_matmul(reader: _Reader) -> Iterator[Dequantized | None]:
    yield from reader.linear(1, 2, 3, -1)


def _attention(reader: _Reader) -> Iterator[Dequantized | None]:
    yield from reader.linear(1, 4, 7, -1)


def _lstm(reader: _Reader) -> Iterator[Dequantized | None]:
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


def _embeddings(reader: _Reader) -> Iterator[Dequantized | None]:
    for position in range(2, 7):
        yield from reader.linear(position, position + 6, position + 11)


def _two(reader: _Reader) -> Iterator[Dequantized | None]:
    """QLinearAdd, QLinearMul."""
    for data in (0, 3):
        yield from reader.linear(data, data + 1, data + 2)


def _where(reader: _Reader) -> Iterator[Dequantized | None]:
    for data in (1, 4):
        yield from reader.linear(data, data + 1, data + 2)


def _concat(reader: _Reader) -> Iterator[Dequantized | None]:
    for data in range(2, len(reader.node.inputs), 3):
        yield from reader.linear(data, data + 1, data + 2)


def _blocks(reader: _Reader) -> Iterator[Dequantized | None]:
    """MatMulNBits: [N, K], each row in blocks of bytes, a scale for each block."""
    node, stored, scale = reader.node, reader.stored(1), reader.value(2)
    shape = int(node.attribute("N", 0)), int(node.attribute("K", 0))
    bits, block = int(node.attribute("bits", 4)), int(node.attribute("block_size", 0))
    if reader.has(4) or node.attribute("weight_prepacked", 0) or min(*shape, block) < 1:
        return
    count = -(-shape[1] // block)
    row = count * block
    if (
        stored is None
        or scale is None
        or bits not in (2, 4, 8)
        or stored.dtype != TensorProto.UINT8
        or stored.elements * 8 != shape[0] * row * bits
        or scale.size != shape[0] * count
    ):
        return
    grid = (shape[0], count)
    zero = _packed_zeros(reader, 3, grid, bits)
    yield reading(stored, shape, scale.reshape(grid), zero, (1, block), Packing(bits, row))


def _tables(reader: _Reader) -> Iterator[Dequantized | None]:
    """MatMulBnb4: the rows of [N, K] behind one another, in blocks of codes of a table."""
    node, stored, scale = reader.node, reader.stored(1), reader.value(2)
    shape = int(node.attribute("N", 0)), int(node.attribute("K", 0))
    block, table = int(node.attribute("block_size", 0)), int(node.attribute("quant_type", -1))
    if stored is None or scale is None or min(*shape, block) < 1 or shape[1] % block:
        return  # blocks that go over the ends of rows are not told
    grid = shape[0], shape[1] // block
    if (
        table not in (0, 1)
        or stored.dtype != TensorProto.UINT8
        or stored.elements != (shape[0] * shape[1] + 1) // 2
        or scale.size != grid[0] * grid[1]
    ):
        return
    packing = Packing(4, shape[1], _BNB4[table], highest_first=True)
    zero = np.zeros(grid, np.float32)
    yield reading(stored, shape, scale.reshape(grid), zero, (1, block), packing)


def _packed_zeros(
    reader: _Reader, position: int, grid: tuple[int, ...], bits: int, centre: bool = True
) -> Array | None:
    """Zero points, one for each block: floats, or codes that are packed as the weight is; half the
    range, or 0, where they are left out."""
    if not reader.has(position):
        return np.full(grid, 2 ** (bits - 1) if centre else 0, np.float32)
    zero = reader.value(position)
    if zero is None or zero.dtype != np.uint8:
        return zero.reshape(grid) if zero is not None and zero.size == np.prod(grid) else None
    per_byte = 8 // bits
    row = -(-grid[-1] // per_byte) * per_byte
    if zero.size * per_byte != np.prod(grid[:-1], dtype=int) * row:
        return None
    places = np.arange(np.prod(grid))
    return Packing(bits, row).codes(zero.reshape(-1), places, grid[-1]).reshape(grid)


def _rows(reader: _Reader) -> Iterator[Dequantized | None]:
    """GatherBlockQuantized: bytes hold several elements of the last axis, other types do not."""
    node, stored, scale = reader.node, reader.stored(0), reader.value(2)
    if stored is None or scale is None or not stored.shape:
        return
    shape, bits, packing = stored.shape, int(node.attribute("bits", 4)), None
    if stored.dtype == TensorProto.UINT8:
        if bits not in (2, 4, 8):
            return
        shape = (*shape[:-1], shape[-1] * 8 // bits)
        packing = Packing(bits, shape[-1])
    axis, block = int(node.attribute("quantize_axis", 1)), int(node.attribute("block_size", 128))
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape):
        return
    block = block or shape[axis]
    wanted = [*shape]
    wanted[axis] = -(-shape[axis] // max(1, block))
    if block < 1 or list(scale.shape) != wanted:
        return
    zero: Array | None = np.zeros(scale.shape, np.float32)
    if packing is not None:
        zero = _packed_zeros(reader, 3, scale.shape, bits)
    elif reader.has(3):
        zero = reader.value(3)
    blocks = tuple(block if place == axis else 1 for place in range(len(shape)))
    yield reading(stored, shape, scale, zero, blocks, packing)


def _integers(reader: _Reader) -> Iterator[Dequantized | None]:
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


def _scale_behind(reader: _Reader) -> Array | None:
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
    "MatMulNBits": _blocks,
    "MatMulBnb4": _tables,
    "GatherBlockQuantized": _rows,
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
