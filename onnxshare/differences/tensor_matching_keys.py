"""How the stored tensors of two models compare: keys that are equal for the same content, how the
elements were rearranged, how far they are apart, and whether one is the other rounded.

Rounding to the nearest step moves a number by half a step at most. So a quantized tensor is the
rounded form of another where nearly all numbers are that close to what it stands for, and the
numbers are larger than a step: tensors that only happen to have the same sizes are not. A few may
be further away, which were clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxshare.differences.model_side import Side
from onnxshare.io.tensors import Array
from onnxshare.weights.content import (
    axis_orders,
    largest_gap,
    permutation_between,
    pieces,
    same_bits,
)
from onnxshare.weights.index import IndexedTensor
from onnxshare.weights.quantized_tensor import QuantizedTensor

#: The largest part of the numbers that may be clipped.
_CLIPPED = 0.01

#: Half a step, and what rounding in float32 adds.
_HALF = 0.5 + 1e-3

#: Fewer elements are not matched by their content alone: too many are alike by chance.
LEAST = 16


def size_of(tensor: IndexedTensor) -> tuple[int, int]:
    """Type and number of the elements that a tensor stands for."""
    return tensor.numbers.dtype, prod(tensor.numbers.shape)


def telling_hash(tensor: IndexedTensor) -> str | None:
    """The hash of a tensor that is not equal to others for no deep reason."""
    known = tensor.content
    return None if known.uniform or tensor.stored.elements < LEAST else known.hash


def bag_of(tensor: IndexedTensor, least: int = LEAST) -> Any:
    """Type, number and digest of the elements in any order; None where they tell too little."""
    stored, known = tensor.stored, tensor.content
    if known.uniform and least == LEAST:
        return None
    return None if stored.elements < least else (stored.dtype, stored.elements, known.bag)


def holder_in(side: Side) -> Callable[[IndexedTensor], IndexedTensor | None]:
    """Finds the tensor of a side that holds the same as one of the other, in any order."""
    tensors = list(reversed(side.tensors.values()))
    same = {telling_hash(tensor): tensor for tensor in tensors}
    alike = {bag_of(tensor): tensor for tensor in tensors}

    def find(other: IndexedTensor) -> IndexedTensor | None:
        hashed, bag = telling_hash(other), bag_of(other)
        if hashed is None or bag is None:
            return None
        return same.get(hashed) or alike.get(bag)

    return find


def rearranged(one: IndexedTensor, other: IndexedTensor) -> tuple[str, tuple[int, ...] | None]:
    """How the elements of a tensor were rearranged; the order of axes where that tells it."""
    if one.content.elements == other.content.elements:
        return "reshaped", None
    left, right = one.array, other.array
    if left is None or right is None or left.dtype.kind == "O":
        return "reordered", None
    permutation = permutation_between(left, right)
    if permutation is not None:
        return "transposed", permutation
    for rows in {right.shape[0], left.shape[0]}:
        if rows and left.size % rows == 0:
            columns = right.reshape(left.size // rows, rows)
            if same_bits(left.reshape(rows, -1), columns, (1, 0)):
                return "transposed and reshaped", None
    return "reordered", None


@dataclass(frozen=True)
class Rounded:
    """How far a tensor and its quantized form are apart: the largest difference, alone and over the
    largest number; and the order of the axes of the quantized one where it is transposed."""

    max_abs: float
    max_rel: float
    order: tuple[int, ...] | None


def rounded(floats: IndexedTensor, codes: IndexedTensor) -> Rounded | None:
    """Compare a tensor in floats with a quantized one of as many elements; None where the one is
    not the rounded form of the other."""
    quantized = codes.numbers.quantized
    if quantized is None or floats.numbers.quantized or size_of(floats) != size_of(codes):
        return None
    if quantized.packing is not None and quantized.packing.table:
        return None  # its steps are not even
    numbers, array = floats.array, codes.array
    if numbers is None or array is None or numbers.size < LEAST:
        return None
    for order in (None, *axis_orders(quantized.shape, numbers.shape)):
        apart = _apart(numbers, quantized, array, order)
        if apart is not None:
            return Rounded(*apart, order)
    return None


def _apart(
    numbers: Array, quantized: QuantizedTensor, codes: Array, order: tuple[int, ...] | None
) -> tuple[float, float] | None:
    largest = scale = step = 0.0
    far = seen = 0
    for floats, (values, scales) in zip(
        pieces(numbers), quantized.pieces(codes, order), strict=True
    ):
        part = floats.astype(np.float32)
        gap = np.abs(part - values.astype(np.float32))
        if not np.isfinite(gap).all():
            return None
        far += int((gap > scales * _HALF).sum())
        seen += len(values)
        if far > seen * _CLIPPED:
            return None
        largest = max(largest, float(gap.max(initial=0)))
        scale = max(scale, float(np.abs(part).max(initial=0)))
        step = max(step, float(np.abs(scales).max(initial=0)))
    return (largest, largest / scale) if scale > step > 0 else None


def distance(one: IndexedTensor, other: IndexedTensor) -> tuple[float | None, float | None]:
    """Largest |a - b|, and that over the largest |a|; None where the two are not numbers of one
    kind. A number on one side and none (NaN) on the other are infinitely far apart."""
    before, after = one.array, other.array
    if before is None or after is None or _kind(before) != _kind(after) or _kind(before) is None:
        return None, None
    if one.content.uniform and other.content.uniform:  # one element is like all others
        before, after = (array[(slice(0, 1),) * array.ndim] for array in (before, after))
    largest, scale = largest_gap(before, after)
    return largest, largest / scale if scale and np.isfinite(scale) else None


def _kind(array: Array) -> str | None:
    name = array.dtype.name
    if name.startswith(("float", "bfloat", "complex")):
        return "real"
    return "whole" if name.startswith(("int", "uint", "bool")) else None
