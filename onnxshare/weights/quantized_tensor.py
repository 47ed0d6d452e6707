"""Quantized tensors: their scales and zero points, and the real numbers that they stand for.

As DequantizeLinear defines it (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html):
y = (x - zero_point) · scale, per tensor, per axis or per block, rounded to the scale's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto, helper

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.io.tensors import Array, release
from onnxshare.weights.content import PIECE

Sizes = tuple[int, ...]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Packing:
    """How elements of a few bits lie in bytes, the first in the lowest bits.

    Attributes:
        bits: of one element.
        row: elements that a row of the last axis takes, padding included.
        table: the number that each code stands for; () if it is the code itself.
        highest_first: whether the first element is in the highest bits.
    """

    bits: int
    row: int
    table: tuple[float, ...] = ()
    highest_first: bool = False

    def codes(self, data: Array, places: Array, columns: int) -> Array:
        """The elements at some places, counted in the order of C without the padding."""
        rows, column = np.divmod(places, columns)
        place = rows * self.row + column
        per_byte = 8 // self.bits
        shift = place % per_byte
        if self.highest_first:
            shift = per_byte - 1 - shift
        codes: Array = data[place // per_byte] >> (shift * self.bits).astype(np.uint8)
        codes &= np.uint8(2**self.bits - 1)
        return np.array(self.table, np.float32)[codes] if self.table else codes


@dataclass(frozen=True)
class QuantizedTensor:
    """A stored tensor with how one node dequantizes it.

    Attributes:
        stored: the tensor.
        dtype: the TensorProto data type of the result.
        shape: its dims as the node reads it.
        scale: the scale, of as many axes as the tensor.
        zero_point: of the dims of the scale.
        blocks: along each axis, how many elements share a scale.
        packing: how its elements lie in bytes; None if each is an element of the stored tensor.
    """

    stored: Stored
    dtype: int
    shape: Sizes
    scale: Array
    zero_point: Array
    blocks: Sizes
    packing: Packing | None = None

    def pieces(
        self, array: Array, order: tuple[int, ...] | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """The real numbers in the order of C, cut as `content.pieces` would cut them, each with the
        scales of its elements, or their one scale.

        Args:
            array: the elements as they are stored.
            order: of axes, to have the numbers of the transposed tensor.
        """
        kind = helper.tensor_dtype_to_np_dtype(self.dtype)
        step = PIECE // kind.itemsize
        flat = array.reshape(-1)
        scale = self.scale.astype(np.float32).reshape(-1)
        zero = self.zero_point.astype(np.float32).reshape(-1)
        total = prod(self.shape)
        for start in range(0, total, step):
            count = min(step, total - start)
            places = self._places(np.arange(start, start + count, dtype=np.int64), order)
            if self.packing is not None:
                codes = self.packing.codes(flat, places, self.shape[-1])
            else:
                codes = flat[start : start + count] if order is None else flat[places]
            index = self._index(places)
            with np.errstate(all="ignore"):
                values = (codes.astype(np.float32) - zero[index]) * scale[index]
            yield values.astype(kind), scale[index]
            release(codes)

    def alike(self, other: QuantizedTensor) -> bool:
        """Whether another reading of the same tensor makes the same numbers of it."""
        return (
            (self.dtype, self.shape, self.blocks, self.packing)
            == (other.dtype, other.shape, other.blocks, other.packing)
            and self.scale.tobytes() == other.scale.tobytes()
            and self.zero_point.astype(float).tobytes() == other.zero_point.astype(float).tobytes()
        )

    def _places(self, numbers: Array, order: tuple[int, ...] | None) -> Array:
        """Where elements of the result are in the tensor, both counted in the order of C."""
        if order is None:
            return numbers
        along = np.unravel_index(numbers, tuple(self.shape[axis] for axis in order))
        there = [along[order.index(axis)] for axis in range(len(order))]
        return np.asarray(np.ravel_multi_index(there, self.shape))

    def _index(self, places: Array) -> Array:
        """Which scale the elements at some places have."""
        index = np.zeros(1, np.int64)
        for axis, scales in enumerate(self.scale.shape):
            if scales > 1:
                along = places // prod(self.shape[axis + 1 :]) % self.shape[axis]
                index = index + along // self.blocks[axis] * prod(self.scale.shape[axis + 1 :])
        return index


@dataclass(frozen=True)
class NodeInputs:
    """A node that reads quantized tensors, and what its constant inputs hold."""

    graph: Graph
    values: Values
    node: Node

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return bool(self.node.input(position))

    def stored(self, position: int) -> Stored | None:
        """The stored tensor of an input, which no node rearranges before."""
        name = self.node.input(position)
        return self.graph.stored(self.node.scope, name) if name else None

    def value(self, position: int) -> Array | None:
        """The value of an input; None where it is left out or computed from data."""
        name = self.node.input(position)
        return self.values.get(self.node.scope, name) if name else None

    def zero_point(self, position: int, scale: Array) -> Array | None:
        """A zero point, zeros where it is left out; one number stands for all."""
        if not self.has(position):
            return np.zeros(scale.shape, np.float32)
        zero = self.value(position)
        if zero is not None and zero.size == 1 and scale.size > 1:
            return np.broadcast_to(zero.reshape(()), scale.shape)
        return zero

    def linear(
        self, data: int, scale: int, zero: int, axis: int = 0, block: int = 0
    ) -> Iterator[QuantizedTensor | None]:
        """The tensor of an input, quantized by a scale per tensor, per axis, or per `block`
        elements of it; `data`, `scale` and `zero` are positions of the inputs."""
        stored, scales = self.stored(data), self.value(scale)
        if stored is not None and scales is not None:
            yield quantized_by(stored, scales, self.zero_point(zero, scales), axis, block)


#: What a node quantizes, or None for what cannot be read.
QuantizationRule = Callable[[NodeInputs], Iterator[QuantizedTensor | None]]


def quantized_by(
    stored: Stored, scale: Array, zero_point: Array | None, axis: int = 0, block: int = 0
) -> QuantizedTensor | None:
    """A tensor that is quantized by a scale and zero point as DequantizeLinear takes them; None
    where their sizes do not fit."""
    shape = stored.shape
    if zero_point is None:
        return None
    blocks = None
    if block and scale.size > 1:
        axis += len(shape) if axis < 0 else 0
        blocks = tuple(block if place == axis else 1 for place in range(len(shape)))
    scales, zeros = (_with_axes(one, shape, axis, block) for one in (scale, zero_point))
    return quantized(stored, shape, scales, zeros, blocks)


def quantized(
    stored: Stored,
    shape: Sizes,
    scale: Array | None,
    zero_point: Array | None,
    blocks: Sizes | None = None,
    packing: Packing | None = None,
) -> QuantizedTensor | None:
    """A tensor of this shape that is quantized by a scale and a zero point with as many axes as it
    has; `blocks` are along each axis the elements that share a scale, by default one or all. None
    where it cannot be read so, or the sizes of scale or zero point do not fit."""
    if scale is None or zero_point is None or scale.shape != zero_point.shape:
        return None
    dtype = helper.np_dtype_to_tensor_dtype(scale.dtype)
    if dtype not in _FLOATS:
        return None
    if blocks is None:
        pairs = zip(scale.shape, shape, strict=True)
        blocks = tuple(max(1, size) if scales == 1 else 1 for scales, size in pairs)
    return QuantizedTensor(stored, dtype, shape, scale, zero_point, blocks, packing)


def _with_axes(scale: Array, shape: Sizes, axis: int, block: int) -> Array | None:
    """A scale or zero point (one element, one per position of the axis, one per block, or one per
    position of whichever axes it has) with as many axes as its tensor; None where it does not
    fit."""
    if scale.size == 1 and scale.ndim <= 1:
        return scale.reshape((1,) * len(shape))
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape) or block < 0:
        return None
    if scale.ndim == 1 and not block:
        wide = [1] * len(shape)
        wide[axis] = shape[axis]
        return scale.reshape(wide) if scale.size == shape[axis] else None
    wanted = list(shape)
    if block:
        wanted[axis] = -(-wanted[axis] // block)
    fits = scale.ndim == len(shape) and all(
        size in ((most,) if block else (1, most))
        for size, most in zip(scale.shape, wanted, strict=True)
    )
    return scale if fits else None
