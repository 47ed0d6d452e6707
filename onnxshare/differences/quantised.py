"""Whether a quantised tensor is the rounded form of one in floats.

Rounding to the nearest step moves a number by half a step at most. So it is one where nearly all
numbers are that close to what the other stands for, and the numbers are larger than a step: tensors
that only happen to have the same sizes are not. A few may be further away, which were clipped.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from onnxshare.io.tensors import Array, release
from onnxshare.weights.content import HIGHEST_RANK
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
