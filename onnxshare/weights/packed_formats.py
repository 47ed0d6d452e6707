"""Quantized weights of which several elements share a byte, in blocks with a scale each
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from onnxshare.io.tensors import Array
from onnxshare.weights.quantized_tensor import (
    NodeInputs,
    Packing,
    QuantizationRule,
    QuantizedTensor,
    quantized,
)

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


def matmul_nbits(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """MatMulNBits, where its columns are in their order."""
    if not inputs.has(4) and not inputs.node.attribute("weight_prepacked", 0):
        yield from _matrix(inputs, 1, "N", zero=3)


def matmul_nbits_of(*matrices: tuple[int, str]) -> QuantizationRule:
    """MatMulNBitsMlp, MatMulNBitsQkv: several matrices, each by its input and the attribute that
    says how many rows it has."""
    return lambda inputs: (one for data, rows in matrices for one in _matrix(inputs, data, rows))


def matmul_bnb4(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """MatMulBnb4: codes of a table; blocks that go over the ends of rows are not told."""
    node = inputs.node
    table, block = int(node.attribute("quant_type", -1)), int(node.attribute("block_size", 0))
    if table in (0, 1) and block > 0 and int(node.attribute("K", 0)) % block == 0:
        yield from _matrix(inputs, 1, "N", table=_BNB4[table])


def _matrix(
    inputs: NodeInputs, data: int, rows: str, zero: int = 99, table: tuple[float, ...] = ()
) -> Iterator[QuantizedTensor | None]:
    """[N, K], each row in blocks of bytes, a scale for each block in the next input."""
    node, stored, scale = inputs.node, inputs.stored(data), inputs.value(data + 1)
    shape = int(node.attribute(rows, 0)), int(node.attribute("K", 0))
    bits = 4 if table else int(node.attribute("bits", 4))
    block = int(node.attribute("block_size", 0))
    if stored is None or scale is None or min(*shape, block) < 1 or bits not in (2, 4, 8):
        return
    grid = shape[0], -(-shape[1] // block)
    size = -(-grid[0] * grid[1] * block * bits // 8)
    fits = stored.dtype == TensorProto.UINT8 and stored.elements == size
    if not fits or scale.size != grid[0] * grid[1]:
        return
    packing = Packing(bits, grid[1] * block, table, highest_first=bool(table))
    zeros = np.zeros(grid, np.float32) if table else _packed_zeros(inputs, zero, grid, bits)
    yield quantized(stored, shape, scale.reshape(grid), zeros, (1, block), packing)


def matmul_float8(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """MatMulBlockQuantizedFp8Weight: [N, K] 8-bit floats, a scale for each block of a row."""
    yield from inputs.linear(1, 2, 99, 1, int(inputs.node.attribute("block_size", 128)))


def _packed_zeros(
    inputs: NodeInputs, position: int, grid: tuple[int, ...], bits: int
) -> Array | None:
    """Zero points, one for each block: floats, or codes that are packed as the weight is; half the
    range where they are left out."""
    if not inputs.has(position):
        return np.full(grid, 2 ** (bits - 1), np.float32)
    zero = inputs.value(position)
    if zero is None or zero.dtype != np.uint8:
        return zero.reshape(grid) if zero is not None and zero.size == np.prod(grid) else None
    per_byte = 8 // bits
    row = -(-grid[-1] // per_byte) * per_byte
    if zero.size * per_byte != np.prod(grid[:-1], dtype=int) * row:
        return None
    places = np.arange(np.prod(grid))
    return Packing(bits, row).codes(zero.reshape(-1), places, grid[-1]).reshape(grid)


def gather_block_quantized(inputs: NodeInputs) -> Iterator[QuantizedTensor | None]:
    """GatherBlockQuantized: bytes hold several elements of the last axis, other types do not."""
    node, stored, scale = inputs.node, inputs.stored(0), inputs.value(2)
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
        zero = _packed_zeros(inputs, 3, scale.shape, bits)
    elif inputs.has(3):
        zero = inputs.value(3)
    blocks = tuple(block if place == axis else 1 for place in range(len(shape)))
    yield quantized(stored, shape, scale, zero, blocks, packing)
