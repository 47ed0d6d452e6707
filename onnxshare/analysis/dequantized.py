"""The real numbers that a quantised weight stands for, a piece at a time.

As DequantizeLinear defines it (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html):
y = (x - zero_point) · scale, per tensor, per axis or per block, rounded to the scale's type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto, helper

from onnxshare.contents import PIECE
from onnxshare.graph import Graph, Node, Stored
from onnxshare.io.tensors import Array, release
from onnxshare.values import Values

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Dequantized:
    """A stored tensor with how one DequantizeLinear reads it.

    Attributes:
        stored: the quantised tensor.
        dtype: the TensorProto data type of the result.
        scale: the scale: one element, one per position of the axis, or one per block.
        zero_point: of the same size as the scale.
        axis: the axis of the scale.
        block: elements of the axis that share a scale; 0 if each position has its own.
    """

    stored: Stored
    dtype: int
    scale: Array
    zero_point: Array
    axis: int
    block: int

    def pieces(self, array: Array) -> Iterator[Array]:
        """The results in the order of C, cut as `contents.pieces` would cut them."""
        kind = helper.tensor_dtype_to_np_dtype(self.dtype)
        step = PIECE // kind.itemsize
        flat = array.reshape(-1)
        scale, zero = (self.scale.astype(np.float32), self.zero_point.astype(np.float32))
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            index = self._index(start, len(part))
            with np.errstate(all="ignore"):
                yield ((part.astype(np.float32) - zero[index]) * scale[index]).astype(kind)
            release(part)

    def _index(self, start: int, count: int) -> Array:
        """Which scale each of so many elements has, counted in the order of C."""
        if self.scale.size == 1:
            return np.zeros(1, np.int64)
        shape = self.stored.shape
        inner = prod(shape[self.axis + 1 :])
        places = np.arange(start, start + count, dtype=np.int64)
        along = places // inner % shape[self.axis]
        if not self.block:
            return along
        blocks = -(-shape[self.axis] // self.block)
        outer = places // (inner * shape[self.axis])
        return (outer * blocks + along // self.block) * inner + places % inner


def dequantized(graph: Graph, values: Values, node: Node) -> Dequantized | None:
    """What a DequantizeLinear makes of a stored tensor; None where it reads none, where scale or
    zero point are computed, or their sizes do not fit."""
    if node.op_type != "DequantizeLinear" or not node.standard or len(node.inputs) < 2:
        return None
    stored = graph.stored(node.scope, node.inputs[0])
    scale = values.get(node.scope, node.inputs[1])
    if stored is None or scale is None:
        return None
    dtype = helper.np_dtype_to_tensor_dtype(scale.dtype)
    zero: Array | None = np.zeros(scale.shape, np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = values.get(node.scope, node.inputs[2])
    if zero is None or zero.size != scale.size or dtype not in _FLOATS:
        return None
    axis, block = int(node.attribute("axis", 1)), int(node.attribute("block_size", 0))
    axis += len(stored.shape) if axis < 0 else 0
    if node.attribute("output_dtype", 0) not in (0, dtype) or not _fits(stored, scale, axis, block):
        return None
    return Dequantized(stored, dtype, scale.reshape(-1), zero.reshape(-1), axis, block)


def _fits(stored: Stored, scale: Array, axis: int, block: int) -> bool:
    if scale.size == 1 and scale.ndim <= 1:
        return True
    if not 0 <= axis < len(stored.shape) or block < 0:
        return False
    if not block:
        return bool(scale.shape == (stored.shape[axis],))
    wanted = list(stored.shape)
    wanted[axis] = -(-wanted[axis] // block)
    return bool(scale.shape == tuple(wanted))
