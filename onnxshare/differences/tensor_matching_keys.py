"""Whether a quantised tensor is the rounded form of one in floats.

Rounding to the nearest step moves a number by half a step at most. So it is one where nearly all
numbers are that close to what the other stands for, and the numbers are larger than a step: tensors
that only happen to have the same sizes are not. A few may be further away, which were clipped.

What identifies the stored tensors of two models, and how their elements were rearranged.

How far apart the elements of two tensors are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxshare.differences.model_side import Side
from onnxshare.io.tensors import Array, release
from onnxshare.weights.content import HIGHEST_RANK, permutation_between, same_bits
from onnxshare.weights.dequantize import Dequantized

#: The largest part of the numbers that may be clipped.
_CLIPPED = 0.01

#: Half a step, and what rounding in float32 adds.
_HALF = 0.5 + 1e-3


@dataclass(frozen=True)
class Rounded:
    """How far a tensor and its quantised form are apart.

    Attributes:
        max_abs: the largest difference.
        max_rel: that over the largest number.
        order: of the axes of the quantised one, which is transposed; None if it is not.
    """

    max_abs: float
    max_rel: float
    order: tuple[int, ...] | None


def rounded(numbers: Array, reading: Dequantized, codes: Array) -> Rounded | None:
    """Compare a tensor in floats with a quantised one of as many elements.

    Args:
        numbers: the floats.
        reading: how the other is read.
        codes: the other, as it is stored.

    Returns:
        None where the one is not the rounded form of the other.
    """
    if reading.packing is not None and reading.packing.table:
        return None  # its steps are not even
    orders: list[tuple[int, ...] | None] = [None]
    rank = len(reading.shape)
    if rank == numbers.ndim and 2 <= rank <= HIGHEST_RANK:
        same = tuple(range(rank))
        orders += [
            order
            for order in itertools.permutations(same)
            if order != same and tuple(reading.shape[axis] for axis in order) == numbers.shape
        ]
    for order in orders:
        apart = _apart(numbers, reading, codes, order)
        if apart is not None:
            return Rounded(*apart, order)
    return None


def _apart(
    numbers: Array, reading: Dequantized, codes: Array, order: tuple[int, ...] | None
) -> tuple[float, float] | None:
    flat, start = numbers.reshape(-1), 0
    largest = scale = step = 0.0
    far = 0
    for values, scales in reading.with_scales(codes, order):
        part = flat[start : start + len(values)].astype(np.float32)
        distance = np.abs(part - values.astype(np.float32))
        if not np.isfinite(distance).all():
            return None
        far += int((distance > scales * _HALF).sum())
        start += len(values)
        if far > start * _CLIPPED:
            return None
        largest = max(largest, float(distance.max(initial=0)))
        scale = max(scale, float(np.abs(part).max(initial=0)))
        step = max(step, float(np.abs(scales).max(initial=0)))
        release(part)
    return (largest, largest / scale) if scale > step > 0 else None


#: Fewer elements are not matched by their content alone: too many are alike by chance.
LEAST = 16


def size_of(side: Side, key: str) -> tuple[int, int]:
    """Type and number of the elements that a tensor stands for."""
    meaning = side.meaning(key)
    return meaning.dtype, prod(meaning.shape)


def head_maps(side: Side) -> Callable[[Side, str], str | None]:
    """Finds the tensor of a side that holds the same as one of the other, in any order."""
    same = {telling_hash(side, key): key for key in reversed(side.tensors)}
    alike = {bag_of(side, key): key for key in reversed(side.tensors)}

    def head_map(other: Side, key: str) -> str | None:
        hashed, bag = telling_hash(other, key), bag_of(other, key)
        if hashed is None or bag is None:
            return None
        return same.get(hashed) or alike.get(bag)

    return head_map


def telling_hash(side: Side, key: str) -> str | None:
    """The hash of a tensor that is not equal to others for no deep reason."""
    known = side.contents[key]
    return None if known.uniform or side.tensors[key].elements < LEAST else known.hash


def bag_of(side: Side, key: str, least: int = LEAST) -> Any:
    """Type, number and digest of the elements in any order; None where they tell too little."""
    stored, known = side.tensors[key], side.contents[key]
    if known.uniform and least == LEAST:
        return None
    return None if stored.elements < least else (stored.dtype, stored.elements, known.bag)


def rearranged(a: Side, b: Side, one: str, other: str) -> tuple[str, tuple[int, ...] | None]:
    """How the elements of a tensor were rearranged."""
    if a.contents[one].uniform:
        return "reshaped", None
    left, right = a.array(one), b.array(other)
    if left is None or right is None or left.dtype.kind == "O":
        return "reordered", None
    try:
        if left.size and same_bits(left.reshape(-1), right.reshape(-1)):
            return "reshaped", None
        permutation = permutation_between(left, right, HIGHEST_RANK)
        if permutation is not None:
            return "transposed", permutation
        for rows in {right.shape[0], left.shape[0]}:
            one_way, way_back = _as_matrix(left, rows), _as_matrix(right, left.size // rows)
            if (
                one_way is not None
                and way_back is not None
                and same_bits(one_way, way_back, (1, 0))
            ):
                return "transposed and reshaped", None
        return "reordered", None
    finally:
        release(left)
        release(right)


def _as_matrix(array: Array, rows: int) -> Array | None:
    return array.reshape(rows, -1) if rows and array.size % rows == 0 else None


#: Elements of one step.
_STEP = 2**17


def distance(one: Array | None, other: Array | None) -> tuple[float | None, float | None]:
    """Largest |a - b|, and that over the largest |a|; None where the two are not numbers of one
    kind. A number on one side and none (NaN) on the other are infinitely far apart."""
    if one is None or other is None or _kind(one) != _kind(other) or _kind(one) is None:
        return None, None
    largest = scale = 0.0
    for left, right in zip(_steps(one), _steps(other), strict=True):
        with np.errstate(all="ignore"):
            apart = np.abs(left - right)
        apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
        apart[np.isnan(apart)] = np.inf
        largest = max(largest, float(apart.max(initial=0)))
        scale = max(scale, float(np.nanmax(np.abs(left), initial=0)))
    return largest, largest / scale if scale and np.isfinite(scale) else None


def first(array: Array | None) -> Array | None:
    """One element, which is like all others."""
    return None if array is None else array[(slice(0, 1),) * array.ndim]


def _kind(array: Array) -> str | None:
    name = array.dtype.name
    if name.startswith(("float", "bfloat", "complex")):
        return "real"
    return "whole" if name.startswith(("int", "uint", "bool")) else None


def _steps(array: Array) -> Iterator[Array]:
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    filled = array.size > 1 and not any(array.strides)
    flat = array[(0,) * array.ndim].reshape(1) if filled else array.reshape(-1)
    for start in range(0, array.size, _STEP):
        count = min(_STEP, array.size - start)
        part = np.repeat(flat, count) if filled else flat[start : start + count]
        yield part.astype(wide)
        release(part)
