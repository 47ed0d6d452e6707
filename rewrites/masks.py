"""Finds the spatial weightings that a head's own weights ask for.

A weight W[f, c, s] on maps x[c, s] is replaced by V·A: the r rows of A are shared by all channels.
With e_c = E[Σ_s x_c(s)²] the error of the outputs is about Σ_{f,c} e_c ‖(w_fc − A⁺A w_fc)‖², so the
best A are the leading eigenvectors of

    M = Σ_{f,c} e_c w_fc w_fcᵀ        (S × S)

(Eckart and Young, 1936). A dead channel (e_c = 0) has no say. For a collapse W is the mean
Jacobian of the outputs with respect to the map.

For a weighting of its own per channel, the best rank-1 form of W_c = (w_fc)_f for inputs with
second moments S_c = E[x_c x_cᵀ] = L Lᵀ is that of W_c L, with u = L⁻ᵀ v for the leading right
singular vector v: whitening as in SVD-LLM (Wang et al., arXiv 2403.07378).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.moments import Floats, blocks
from rewrites.spatial import Weighting

#: Damping of a channel's second moments, as a share of their mean.
_DAMPING = 1e-3

#: Masks whose eigenvalue is below this share of the largest carry only rounding.
_LEAST = 1e-12


def shared_masks(
    pieces: Iterable[Array], energy: Floats, spatial: tuple[int, ...], count: int
) -> Weighting:
    """The `count` leading masks; fewer where the weights span fewer.

    Args:
        pieces: the weight, some outputs at a time, each `[f, C, S]`.
        energy: e_c, `[C]`.
        spatial: the spatial sizes, S together.
        count: r.
    """
    size = int(np.prod(spatial))
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
    """One weighting per channel.

    Args:
        pieces: the weight, some outputs at a time, each `[f, C, S]`.
        maps: `[N, C, S]`.
        chosen: which samples.
        spatial: the spatial sizes, S together.
    """
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
    for part in blocks(len(chosen), int(np.prod(maps.shape[1:]))):
        wide = maps[chosen[part]].astype(np.float64)
        total += np.einsum("ncs,ncs->c", wide, wide)
    return np.asarray(total / max(1, len(chosen) * maps.shape[2]))
