"""Weightings over the positions of a feature map: what is left of space before a small head.

With S positions and r weightings A (r × S) shared by all channels, the features are

    z[n, c·r + k] = Σ_s A[k, s] · map[n, c, s]

Global average pooling is r = 1 with A = 1/S, average pooling to a grid has one row per window,
masks are any rows, and A = I keeps all positions. A depthwise weighting has a row of its own for
each channel. A weight W[f, c, s] on the map becomes the weight W·A⁺ on the features (A⁺ the
pseudo-inverse): the one whose product with A is closest to W.

A head's own weights tell which weightings lose least. A weight W[f, c, s] on maps x[c, s] is
replaced by V·A: the r rows of A are shared by all channels.
With e_c = E[Σ_s x_c(s)²] the error of the outputs is about Σ_{f,c} e_c ‖(w_fc − A⁺A w_fc)‖², so the
best A are the leading eigenvectors of

    M = Σ_{f,c} e_c w_fc w_fcᵀ        (S × S)

(Eckart and Young, 1936). A dead channel (e_c = 0) has no say. For a collapse W is the mean
Jacobian of the outputs with respect to the map.

For a weighting of its own per channel, the best rank-1 form of W_c = (w_fc)_f for inputs with
second moments S_c = E[x_c x_cᵀ] = L Lᵀ is that of W_c L, with u = L⁻ᵀ v for the leading right
singular vector v: whitening as in SVD-LLM (Wang et al., arXiv 2403.07378).

In separable features each is one mixture of channels under one spatial weighting:

    z[n, k] = Σ_s m[k, s] Σ_c u[k, c] · map[n, c, s]

A linear layer on these is a weight W[f, c, s] = Σ_k H[f, k] u[k, c] m[k, s] on the map: the
canonical polyadic decomposition of that weight in K terms, which costs K (C + S) instead of F·C·S
(Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition",
arXiv 1412.6553). As operators it is a 1×1 convolution followed by a depthwise one over the map. A
large map may be averaged to a grid first: neighbouring positions of it say much the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.int8_activations import Steps, read
from rewrites.small_heads.sufficient_statistics import Floats, blocks


@dataclass(frozen=True)
class Weighting:
    """How the positions of each channel are weighted.

    Attributes:
        kind: `gap`, `grid`, `mask`, `depthwise` or `full`.
        spatial: the spatial sizes of the map.
        rows: A: `[r, S]` where all channels share it, `[C, 1, S]` for depthwise; None for `full`.
        kernel, strides: of the average pooling that makes a grid.
        steps: how its product is stored in 8 bits; empty in floats.
    """

    kind: str
    spatial: tuple[int, ...]
    rows: Floats | None = field(default=None, repr=False)
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    steps: tuple[Steps, ...] = ()

    @property
    def per_channel(self) -> int:
        """Features made of each channel, r."""
        return prod(self.spatial) if self.rows is None else self.rows.shape[-2]

    @property
    def counts(self) -> tuple[int, ...]:
        """Windows of a grid along each axis."""
        sizes = zip(self.spatial, self.kernel, self.strides, strict=True)
        return tuple((size - kernel) // stride + 1 for size, kernel, stride in sizes)

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
        wide = read(self.steps, 0, maps.astype(np.float64))
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
    """The features of maps `[N, C, S]`, in memory or mapped from a file, of the chosen samples
    under a weighting, computed again at each pass."""

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
        width = max(self.shape[1], prod(self._maps.shape[1:]))
        for part in blocks(len(self._chosen), width):
            yield part, self._weighting.apply(self._maps[self._chosen[part]])

    def columns(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of channels, each with all its features."""
        samples, (channels, positions) = len(self._chosen), self._maps.shape[1:]
        each = self._weighting.per_channel
        for part in blocks(channels, samples * positions):
            block = self._weighting.apply(self._maps[self._chosen, part], part)
            yield slice(part.start * each, part.stop * each), block


#: Damping of a channel's second moments, as a share of their mean.
_DAMPING = 1e-3

#: Masks whose eigenvalue is below this share of the largest carry only rounding.
_LEAST = 1e-12


def shared_masks(
    pieces: Iterable[Array], energy: Floats, spatial: tuple[int, ...], count: int
) -> Weighting:
    """The `count` leading masks, fewer where the weights span fewer, of a weight that comes some
    outputs at a time, each `[f, C, S]`, for channels of energy e_c."""
    size = prod(spatial)
    matrix = np.zeros((size, size))
    for piece in pieces:
        scaled = piece.astype(np.float64) * np.sqrt(energy)[None, :, None]
        flat = scaled.reshape(-1, size)
        matrix += flat.T @ flat
    power, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-power)[:count]
    kept = order[power[order] > max(float(power.max()), 0.0) * _LEAST]
    if not len(kept):  # all weights or all maps are zero: any mask does
        return Weighting("mask", spatial, np.full((1, size), size**-0.5))
    rows = vectors[:, kept].T.copy()
    rows *= np.where(rows.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)  # the sign is free
    return Weighting("mask", spatial, rows)


def channel_masks(
    pieces: Iterable[Array], maps: Array, chosen: Array, spatial: tuple[int, ...]
) -> Weighting:
    """One weighting per channel, for maps `[N, C, S]` of the chosen samples and a weight that comes
    some outputs at a time, each `[f, C, S]`."""
    channels, size = maps.shape[1:]
    weights = np.zeros((channels, size, size))  # Σ_f w_fc w_fcᵀ
    for piece in pieces:
        wide = piece.astype(np.float64).transpose(1, 2, 0)
        weights += wide @ wide.transpose(0, 2, 1)
    rows = np.full((channels, 1, size), size**-0.5)
    for part in blocks(channels, len(chosen) * size):
        wide = maps[chosen, part].astype(np.float64).transpose(1, 0, 2)
        moments = wide.transpose(0, 2, 1) @ wide / len(chosen)
        for place, moment in enumerate(moments, part.start):
            rows[place, 0] = _leading(weights[place], moment, rows[place, 0])
    return Weighting("depthwise", spatial, rows)


def _leading(weights: Floats, moment: Floats, default: Floats) -> Floats:
    """u = L⁻ᵀ v of length 1; the default where a channel or its weights are dead."""
    scale = float(np.trace(moment)) / len(moment)
    if scale <= 0 or not weights.any():
        return default
    root = np.linalg.cholesky(moment + _DAMPING * scale * np.eye(len(moment)))
    vector = np.linalg.eigh(root.T @ weights @ root)[1][:, -1]
    row = np.linalg.solve(root.T, vector)
    row = row / np.linalg.norm(row)
    return np.asarray(-row if row.sum() < 0 else row)


def channel_energy(maps: Array, chosen: Array) -> Floats:
    """e_c = E[Σ_s x_c(s)²] / S over the chosen samples, in one pass."""
    total = np.zeros(maps.shape[1])
    for part in blocks(len(chosen), prod(maps.shape[1:])):
        wide = maps[chosen[part]].astype(np.float64)
        total += np.einsum("ncs,ncs->c", wide, wide)
    return np.asarray(total / max(1, len(chosen) * maps.shape[2]))


#: Values that differ by less than this share of their size, and of how far the liveliest channel
#: moves, differ by rounding.
_ROUNDING = 1e-6


def extremes(maps: Array, chosen: Array) -> tuple[Array, Array]:
    """The least and the largest value of each feature `[C, S]` on the chosen samples."""
    low = high = maps[chosen[0]]
    for part in blocks(len(chosen), prod(maps.shape[1:])):
        block = maps[chosen[part]]
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return low, high


def constant_channels(maps: Array, chosen: Array) -> Array:
    """Which channels of maps `[N, C, S]` are the same on all chosen samples, but for rounding; what
    they are may differ from position to position."""
    low, high = extremes(maps, chosen)
    moved = (high.astype(np.float64) - low).max(axis=1)
    size = np.maximum(np.abs(low), np.abs(high)).max(axis=1)
    return np.asarray(moved <= _ROUNDING * (float(moved.max()) + size))


@dataclass(frozen=True)
class Separable:
    """K separable features: channels u `[K, C]` and rows m `[K, S]`, over a map of these spatial
    sizes; or over the windows that it is averaged to first (`grid`). `steps` say how the two
    products are stored in 8 bits; empty in floats."""

    spatial: tuple[int, ...]
    channels: Floats = field(repr=False)
    rows: Floats = field(repr=False)
    windows: Weighting | None = None
    steps: tuple[Steps, ...] = ()

    @property
    def kind(self) -> str:
        """Its name in a method."""
        return "separable"

    @property
    def params(self) -> int:
        """Stored weights."""
        return self.channels.size + self.rows.size

    def macs(self, channels: int) -> int:
        """Multiply-accumulates per sample."""
        averaged = 0 if self.windows is None else self.windows.macs(channels)
        return averaged + self.rows.size * (channels + 1)

    def apply(self, maps: Array) -> Floats:
        """The features `[n, K]` of maps `[n, C, S]`."""
        mixed = self.mixed(maps)
        return np.asarray(np.einsum("nks,ks->nk", read(self.steps, 1, mixed), self.rows))

    def read(self, maps: Array) -> Floats:
        """What it reads, `[n, C, S]`: maps, or their windows."""
        if self.windows is None:
            return maps.astype(np.float64)
        return self.windows.apply(maps).reshape(*maps.shape[:2], -1)

    def mixed(self, maps: Array) -> Floats:
        """The mixtures of channels `[n, K, S]`."""
        return self.channels @ read(self.steps, 0, self.read(maps))
