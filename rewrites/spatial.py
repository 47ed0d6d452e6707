"""Weightings over the positions of a feature map: what is left of space before a small head.

With S positions and r weightings A (r × S) shared by all channels, the features are

    z[n, c·r + k] = Σ_s A[k, s] · map[n, c, s]

Global average pooling is r = 1 with A = 1/S, average pooling to a grid has one row per window,
masks are any rows, and A = I keeps all positions. A depthwise weighting has a row of its own for
each channel. A weight W[f, c, s] on the map becomes the weight W·A⁺ on the features (A⁺ the
pseudo-inverse): the one whose product with A is closest to W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.moments import BLOCK, Floats


@dataclass(frozen=True)
class Weighting:
    """How the positions of each channel are weighted.

    Attributes:
        kind: `gap`, `grid`, `mask`, `depthwise` or `full`.
        spatial: the spatial sizes of the map.
        rows: A: `[r, S]` where all channels share it, `[C, 1, S]` for depthwise; None for `full`.
        kernel, strides: of the average pooling that makes a grid.
    """

    kind: str
    spatial: tuple[int, ...]
    rows: Floats | None = field(default=None, repr=False)
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def per_channel(self) -> int:
        """Features made of each channel, r."""
        return prod(self.spatial) if self.rows is None else self.rows.shape[-2]

    @property
    def params(self) -> int:
        """Stored weights: none for averages, which ONNX has operators for."""
        return 0 if self.rows is None or self.kind in ("gap", "grid") else self.rows.size

    def macs(self, channels: int) -> int:
        """Multiply-accumulates per sample; an average adds, and multiplies once per result."""
        if self.rows is None:
            return 0
        if self.kind in ("gap", "grid"):
            return channels * self.per_channel
        return channels * self.per_channel * prod(self.spatial)

    def apply(self, maps: Array, channels: slice = slice(None)) -> Floats:
        """The features `[n, c·r]` of maps `[n, c, S]` that hold these channels."""
        count, width = maps.shape[:2]
        if self.rows is None:
            return maps.reshape(count, -1).astype(np.float64)
        wide = maps.astype(np.float64)
        if self.rows.ndim == 3:
            pooled = np.einsum("ncs,cks->nck", wide, self.rows[channels])
        else:
            pooled = wide @ self.rows.T
        return np.asarray(pooled).reshape(count, width * self.per_channel)

    def project(self, weight: Array) -> Floats:
        """The weight `[F, C·r]` on the features that is closest to a weight `[F, C, S]` on the
        map: W·A⁺."""
        outputs = len(weight)
        if self.rows is None:
            return weight.reshape(outputs, -1).astype(np.float64)
        wide = weight.astype(np.float64)
        if self.rows.ndim == 3:
            inverse = np.linalg.pinv(self.rows)  # [C, S, 1]
            return np.asarray(np.einsum("fcs,csk->fck", wide, inverse).reshape(outputs, -1))
        return np.asarray((wide @ np.linalg.pinv(self.rows)).reshape(outputs, -1))


def full(spatial: tuple[int, ...]) -> Weighting:
    """All positions as they are."""
    return Weighting("full", spatial)


def average(spatial: tuple[int, ...]) -> Weighting:
    """Global average pooling."""
    size = prod(spatial)
    return Weighting("gap", spatial, np.full((1, size), 1 / size))


def grid(spatial: tuple[int, ...], bins: int) -> Weighting:
    """Average pooling to `bins` windows along each axis, and no more than it has positions.

    One AveragePool does it for any size: with stride ⌊H/k⌋ and kernel H − (k − 1)·⌊H/k⌋ the
    windows cover every position, and overlap by less than a stride where k does not divide H.
    """
    counts = [min(bins, size) for size in spatial]
    strides = [size // count for size, count in zip(spatial, counts, strict=True)]
    kernel = [
        size - (count - 1) * stride
        for size, count, stride in zip(spatial, counts, strides, strict=True)
    ]
    rows: Floats = np.ones((1, 1))
    for size, count, stride, length in zip(spatial, counts, strides, kernel, strict=True):
        axis = np.zeros((count, size))
        for place in range(count):
            axis[place, place * stride : place * stride + length] = 1 / length
        rows = np.asarray(np.kron(rows, axis), np.float64)
    return Weighting("grid", spatial, rows, tuple(kernel), tuple(strides))


class PooledMaps:
    """The features of maps under a weighting, computed again at each pass.

    Args:
        maps: `[N, C, S]`, in memory or mapped from a file.
        chosen: which samples.
        weighting: how positions are weighted.
    """

    def __init__(self, maps: Array, chosen: Array, weighting: Weighting) -> None:
        self._maps = maps
        self._chosen = chosen
        self._weighting = weighting

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""
        return len(self._chosen), self._maps.shape[1] * self._weighting.per_channel

    def rows(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of samples."""
        width = max(self.shape[1], int(np.prod(self._maps.shape[1:])))
        step = max(1, BLOCK // max(1, width))
        for start in range(0, len(self._chosen), step):
            part = self._maps[self._chosen[start : start + step]]
            yield slice(start, start + len(part)), self._weighting.apply(part)

    def columns(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of channels, each with all its features."""
        samples, (channels, positions) = len(self._chosen), self._maps.shape[1:]
        step = max(1, BLOCK // max(1, samples * positions))
        each = self._weighting.per_channel
        for start in range(0, channels, step):
            part = slice(start, min(start + step, channels))
            block = self._weighting.apply(self._maps[self._chosen, part], part)
            yield slice(part.start * each, part.stop * each), block
