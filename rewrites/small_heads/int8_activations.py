"""What the weights of a small head are multiplied with, in 8 bits too (`+w8a8`).

A tensor x becomes (q − z)·s with q = clip(round(x / s) + z, 0, 255), one scale s and one zero point
z for all of it. From what the samples show, each end of its range is one of a few shares of the
extreme there, so that with an error of x_d costing g_d

    Σ_n Σ_d g_d (x_nd − x̂_nd)²

is the least: few large values are clipped where that costs less than coarser steps for all others
(as Banner et al., arXiv 1810.05723, do it for weights and activations). g_d are the squares of the
weights that read x_d, through all products up to the outputs. A feature that is the same on all
samples has no say: what its rounding adds goes into the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.sufficient_statistics import Floats

#: The largest integer.
LARGEST = 255

#: Shares of its extreme at which an end may be clipped.
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)

#: Bins that a tensor's values are counted in: 16 for each integer.
_BINS = 2**12


@dataclass(frozen=True)
class Range:
    """What a tensor in unsigned 8 bits can hold: (q − `zero`) · `scale` for q from 0 to 255; the
    scale is one of single precision."""

    scale: float
    zero: int

    def apply(self, values: Floats) -> Floats:
        """The values as 8 bits hold them."""
        steps = np.rint(values / self.scale)
        return (steps.clip(-self.zero, LARGEST - self.zero)) * self.scale


@dataclass(frozen=True)
class Steps:
    """How a product is stored in 8 bits.

    Attributes:
        scale: of each row of its weight.
        reads: what the tensor that it reads can hold; None where that stays in floats.
    """

    scale: np.ndarray[Any, np.dtype[np.float32]] = field(repr=False)
    reads: Range | None = None


def read(steps: tuple[Steps, ...], place: int, values: Floats) -> Floats:
    """What a product reads: the values as they are, or in 8 bits."""
    reads = steps[place].reads if steps else None
    return values if reads is None else reads.apply(values)


def range_of(rows: Callable[[], Iterator[Floats]], cost: Floats) -> Range:
    """The range with the least error for values `[n, D]` that come some samples at a time, where
    errors of each of D features cost so much."""
    low, high = np.full(len(cost), np.inf), np.full(len(cost), -np.inf)
    for block in rows():
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    counts = (cost > 0) & (low < high)
    if not counts.any():
        return Range(1.0, 0)
    least, most = float(low[counts].min()), float(high[counts].max())
    width = (most - least) / _BINS
    weights, found = cost[counts], np.zeros(_BINS)
    for block in rows():
        bins = ((block[:, counts] - least) / width).astype(np.intp).clip(0, _BINS - 1)
        each = np.broadcast_to(weights, bins.shape)
        found += np.bincount(bins.ravel(), each.ravel(), _BINS)
    centres = np.asarray(least + (np.arange(_BINS) + 0.5) * width, np.float64)
    ranges = [
        between(share * min(least, 0.0), other * max(most, 0.0))
        for share in (_CLIPS if least < 0 else _CLIPS[:1])
        for other in (_CLIPS if most > 0 else _CLIPS[:1])
    ]
    return min(ranges, key=lambda item: float(found @ (item.apply(centres) - centres) ** 2))


def between(low: float, high: float) -> Range:
    """The range from about `low` to about `high`, of which one is 0 or they lie around it: 0 is a
    step of it. Numbers so small that single precision loses digits of them count as 0."""
    scale = float(np.float32((high - low) / LARGEST))
    if scale < float(np.finfo(np.float32).tiny):
        return Range(1.0, 0)
    return Range(scale, round(-low / scale))


def costs(factors: tuple[Array, ...], outputs: Floats) -> list[Floats]:
    """What errors cost of that which each of some weights `[F, D]`, one behind the other, reads,
    given what errors of the last outputs do; that of the first comes first."""
    found = [outputs]
    for factor in reversed(factors):
        found.insert(0, _through_squares(factor, found[0]))
    return found[:-1]


def _through_squares(factor: Array, outputs: Floats) -> Floats:
    total = np.zeros(factor.shape[1])
    for row, weight in zip(outputs, factor, strict=True):
        total += row * weight.astype(np.float64) ** 2
    return total
