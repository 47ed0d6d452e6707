"""Weights of a small head in 8 bits, one scale per output channel (`+int8`).

A row w of a weight becomes s·q with q = clip(round(w / s), −127, 127) and s = r · max|w| / 127. All
arithmetic stays in floats: the file has q, s and a DequantizeLinear. With features x
of mean μ and variances v the error of the output is on average

    E[((w − s·q)·x)²] = ((w − s·q)·μ)² + Σ_d v_d (w_d − s q_d)² + (covariances, left out)

The first term goes into the bias: b + (w − s·q)·μ (bias correction; Nagel et al., "Data-free
quantization through weight equalization and bias correction", arXiv 1906.04721). The second chooses
r from a few shares of 1: a large weight on a feature that moves little would give all others of its
row a coarse scale, so it is clipped where that costs less (Banner et al., "Post training 4-bit
quantization", arXiv 1810.05723). A variance counts as at least 0.1 % of the mean spread: what the
samples do not move may move later.

The largest element of a row that was clipped is 127·s, as that of one that was not: s can be read
off the row, and a head in 8 bits is one whose weights are such numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads.fitted_head import (
    FittedLayer,
    Hidden,
    SmallHead,
    weighting_matrices,
)
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.methods import INT8
from rewrites.small_heads.spatial_weighting import Separable, Weighting, full
from rewrites.small_heads.sufficient_statistics import Floats, blocks
from rewrites.small_heads.training_data import HeadData

#: Since this version DequantizeLinear takes a scale per channel.
PER_CHANNEL = 13

_LARGEST = 127

#: Shares of its largest weight at which a row may be clipped.
_CLIPS = (1.0, 0.85, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)

#: The least spread of a feature, as a share of the mean spread.
_FLOOR = 0.001


@dataclass(frozen=True)
class Int8:
    """A weight in 8 bits: `values` times `scale`, one for each row."""

    values: np.ndarray[Any, np.dtype[np.int8]]
    scale: np.ndarray[Any, np.dtype[np.float32]]


def int8_of(weight: Array) -> Int8:
    """A weight `[F, …]` of `rounded` as it is stored."""
    flat = weight.reshape(len(weight), -1)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    scale = (largest / _LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    values = np.empty(flat.shape, np.int8)
    for part in blocks(len(flat), flat.shape[1]):
        values[part] = np.rint(flat[part] / scale[part, None]).clip(-_LARGEST, _LARGEST)
    return Int8(values.reshape(weight.shape), scale)


@dataclass(frozen=True)
class Moments:
    """The mean and the variance of each feature."""

    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, rows: Iterator[Floats]) -> Moments:
        """The moments of features that come some samples at a time."""
        count, mean, power = 0, np.zeros(1), np.zeros(1)
        for block in rows:
            part, own = len(block), block.mean(axis=0)
            gap = own - mean
            power = (
                power + ((block - own) ** 2).sum(axis=0) + gap**2 * (count * part) / (count + part)
            )
            mean, count = mean + gap * (part / (count + part)), count + part
        return cls(mean, power / count)


def rounded(weight: Array, moments: Moments | None = None) -> Array:
    """The closest weight `[F, …]` that 8 bits can store; closest to the largest weight of a row
    where nothing is known of the features."""
    found = np.empty_like(weight)
    flat, target = weight.reshape(len(weight), -1), found.reshape(len(weight), -1)
    importance = None
    if moments is not None:
        spread = np.sqrt(moments.variance)
        importance = np.maximum(spread, _FLOOR * spread.mean()) ** 2
        importance = importance.astype(weight.dtype)
    for part in blocks(len(flat), flat.shape[1]):
        target[part] = _rounded(flat[part], importance)
    return found


def _rounded(weight: Array, importance: Array | None) -> Array:
    largest = np.abs(weight).max(axis=1)
    best = np.full(len(weight), np.inf)
    found = np.zeros_like(weight)
    for clip in _CLIPS if importance is not None and importance.any() else _CLIPS[:1]:
        scale = (largest * (clip / _LARGEST)).astype(np.float32).astype(weight.dtype)
        scale[scale == 0] = 1
        values = np.rint(weight / scale[:, None]).clip(-_LARGEST, _LARGEST) * scale[:, None]
        lost = (values - weight) ** 2 @ importance if importance is not None else np.zeros(1)
        better = lost < best
        found[better], best = values[better], np.minimum(best, lost)
    return found


def check_int8(chain: Chain) -> None:
    """Make sure that 8 bits per output channel can be written.

    Raises:
        Refusal: the model is older than that.
    """
    opset = chain.subject.graph.opset
    if opset < PER_CHANNEL:
        raise Refusal(
            f"8 bits with a scale per output channel take opset {PER_CHANNEL}, and the model has "
            f"{opset}: raise it with onnx.version_converter.convert_version"
        )


def in_int8(head: SmallHead, data: HeadData, chosen: Array) -> SmallHead:
    """A fitted head with the closest weights that 8 bits can store, its biases corrected on the
    chosen samples; FCs that stay as they are get such weights too.

    Raises:
        Refusal: the model is too old.
    """
    check_int8(head.chain)
    weighting, hidden = _weighting(head.weighting), None

    def features() -> Iterator[Floats]:
        for part in blocks(len(chosen), int(np.prod(data.maps.shape[1:]))):
            values = weighting.apply(data.maps[chosen[part]])
            yield values if hidden is None else hidden.apply(values)

    if head.hidden is not None:
        known = Moments.of(features())
        weight = rounded(head.hidden.weight, known)
        hidden = Hidden(weight, head.hidden.bias + (head.hidden.weight - weight) @ known.mean)
    chain, kept = head.chain, head.kept
    layers = list(head.layers)
    for place, layer in enumerate(chain.layers):
        if layer in kept:
            weight = chain.weight(place)
            layers.append(FittedLayer(place, layer.parent, (weight,), chain.bias(place)))
    return replace(
        head,
        weighting=weighting,
        hidden=hidden,
        layers=[
            _layer(layer, features if layer.source < 0 else _hidden_rows(data, chosen, layer))
            for layer in layers
        ],
    )


def original(data: HeadData) -> SmallHead:
    """A head whose layers are the FCs as they are."""
    chain = data.chain
    layers = []
    for place, layer in enumerate(chain.layers):
        if layer.parent < 0:
            weight = np.concatenate([item.reshape(len(item), -1) for item in chain.pieces(place)])
        else:
            weight = chain.weight(place)
        layers.append(FittedLayer(place, layer.parent, (weight,), chain.bias(place)))
    return SmallHead(chain, INT8, full(chain.head.spatial), layers)


#: Features that can be gone through several times, some samples at a time.
_Rows = Callable[[], Iterator[Floats]]


def _hidden_rows(data: HeadData, chosen: Array, layer: FittedLayer) -> _Rows | None:
    """What a layer after the first reads; None where that cannot be computed here."""
    try:
        step = data.chain.step(layer.target)
    except Refusal:
        return None
    results = data.results[layer.source]
    return lambda: (
        step.value(results[chosen[part]].astype(np.float64))
        for part in blocks(len(chosen), results.shape[1])
    )


def _layer(layer: FittedLayer, rows: _Rows | None) -> FittedLayer:
    """A layer in 8 bits: each factor for what the ones before it give."""
    factors: list[Array] = []
    bias = layer.bias
    for place, factor in enumerate(layer.factors):
        if rows is None:
            factors.append(rounded(factor))
            continue
        known = Moments.of(_through(rows(), factors))
        factors.append(rounded(factor, known))
        parts = blocks(len(factor), factor.shape[1])
        lost = np.concatenate([(factor[i] - factors[-1][i]) @ known.mean for i in parts])
        for later in layer.factors[place + 1 :]:
            lost = later @ lost
        bias = bias + lost
    return replace(layer, factors=tuple(factors), bias=bias)


def _through(rows: Iterator[Floats], factors: list[Array]) -> Iterator[Floats]:
    for block in rows:
        for factor in factors:
            block = block @ factor.T
        yield block


def _weighting(weighting: Weighting | Separable) -> Weighting | Separable:
    found = [rounded(rows) for rows in weighting_matrices(weighting)]
    if isinstance(weighting, Separable):
        return replace(weighting, channels=found[0], rows=found[1])
    return replace(weighting, rows=found[0]) if found else weighting
