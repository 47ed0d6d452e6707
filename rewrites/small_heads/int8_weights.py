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

Where activations are in 8 bits too (`int8_activations.py`), a bias is an integer of 32 bits, in
steps of the product of both scales, and so is the sum of a row's products: s is never so small that
these could be larger than that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads.equalization import equalized, equalized_factors
from rewrites.small_heads.fitted_head import (
    FittedLayer,
    Hidden,
    SmallHead,
    weighting_matrices,
)
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.int8_activations import LARGEST, Range, Steps, costs, range_of, read
from rewrites.small_heads.methods import INT8
from rewrites.small_heads.spatial_weighting import Separable, Weighting, full
from rewrites.small_heads.sufficient_statistics import Floats, Singles, blocks
from rewrites.small_heads.training_data import HeadData

#: Since this version DequantizeLinear takes a scale per channel.
PER_CHANNEL = 13

_LARGEST = 127

#: Shares of its largest weight at which a row may be clipped.
_CLIPS = (1.0, 0.85, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)

#: The least spread of a feature, as a share of the mean spread.
_FLOOR = 0.001


#: What sums of integers stay below, half of what 32 bits hold.
_SUMS = 2**30


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


def rounded(
    weight: Array, moments: Moments | None = None, least: Floats | None = None
) -> tuple[Array, Singles]:
    """The closest weight `[F, …]` that 8 bits can store, and the scale of each row, of at least so
    much; closest to the largest weight of a row where nothing is known of the features."""
    found, scales = np.empty_like(weight), np.empty(len(weight), np.float32)
    flat, target = weight.reshape(len(weight), -1), found.reshape(len(weight), -1)
    least = np.zeros(len(weight)) if least is None else least
    importance = None
    if moments is not None:
        spread = np.sqrt(moments.variance)
        importance = np.maximum(spread, _FLOOR * spread.mean()) ** 2
        importance = importance.astype(weight.dtype)
    for part in blocks(len(flat), flat.shape[1]):
        target[part], scales[part] = _rounded(flat[part], importance, least[part])
    return found, scales


def _rounded(weight: Array, importance: Array | None, least: Floats) -> tuple[Array, Singles]:
    largest = np.abs(weight).max(axis=1)
    best = np.full(len(weight), np.inf)
    found, scales = np.zeros_like(weight), np.ones(len(weight), np.float32)
    for clip in _CLIPS if importance is not None and importance.any() else _CLIPS[:1]:
        scale = np.maximum(largest * (clip / _LARGEST), least).astype(np.float32)
        scale[scale == 0] = 1
        wide = scale.astype(weight.dtype)[:, None]
        values = np.rint(weight / wide).clip(-_LARGEST, _LARGEST) * wide
        lost = (values - weight) ** 2 @ importance if importance is not None else np.zeros(1)
        better = lost < best
        found[better], scales[better] = values[better], scale[better]
        best = np.minimum(best, lost)
    return found, scales


def integers(weight: Array, scale: Singles) -> np.ndarray[Any, np.dtype[np.int8]]:
    """A weight `[F, …]` of `rounded` as it is stored."""
    flat, wide = weight.reshape(len(weight), -1), scale.astype(weight.dtype)
    found = np.empty(flat.shape, np.int8)
    for part in blocks(len(flat), flat.shape[1]):
        found[part] = np.rint(flat[part] / wide[part, None])
    return found.reshape(weight.shape)


def bias_scale(steps: Steps) -> Singles:
    """The steps of the biases of a product whose activations are in 8 bits."""
    assert steps.reads is not None
    return steps.scale * np.float32(steps.reads.scale)


def _least_scale(weight: Array, bias: Floats | None, reads: Range) -> Floats:
    """Scales of rows with which sums of products and biases are in 32 bits."""
    sums = LARGEST * np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.float64)
    return np.asarray((sums if bias is None else sums + np.abs(bias) / reads.scale) / _SUMS)


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


def in_int8(
    head: SmallHead, data: HeadData, chosen: Array, *, activations: bool = False
) -> SmallHead:
    """A fitted head with the closest weights that 8 bits can store, its biases corrected on the
    chosen samples; FCs that stay as they are get such weights too. What weights are multiplied with
    is in 8 bits where that is requested.

    Raises:
        Refusal: the model is too old, or the range of an activation is not known.
    """
    check_int8(head.chain)
    return _Rounding(head, data, chosen, activations=activations).head()


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


class _Rounding:
    """Brings a head to 8 bits, product by product: each for what those before it give in 8 bits."""

    def __init__(
        self, head: SmallHead, data: HeadData, chosen: Array, *, activations: bool
    ) -> None:
        self._head, self._data, self._chosen = head, data, chosen
        self._activations = activations

    def head(self) -> SmallHead:
        """The head in 8 bits."""
        head = self._head
        for place, stays in enumerate(head.chain.layers):
            if stays in self._head.kept:
                factors = (head.chain.weight(place),)
                kept = FittedLayer(place, stays.parent, factors, head.chain.bias(place))
                head = replace(head, layers=[*head.layers, kept])
        if self._activations:
            head = equalized(head, self._data.maps, self._chosen)
        weighting, hidden = self._weighting(head), None
        given = self._features(weighting, None)
        wanted = given if weighting is head.weighting else self._features(head.weighting, None)
        if head.hidden is not None:
            inside, bias = (head.hidden.weight,), head.hidden.bias
            reads = range_of(given, _cost(head)) if self._activations else None
            [factor], bias, steps = self._product(inside, bias, wanted, given, reads)
            hidden = Hidden(factor, bias, steps)
            wanted = self._features(head.weighting, head.hidden)
            given = self._features(weighting, hidden)
        reads = range_of(given, _cost_of_layers(head)) if self._activations else None
        found = []
        for layer in head.layers:
            if layer.source < 0:
                made = self._product(layer.factors, layer.bias, wanted, given, reads)
            else:
                made = self._layer(layer)
            found.append(replace(layer, factors=made[0], bias=made[1], steps=made[2]))
        return replace(head, weighting=weighting, hidden=hidden, layers=found)

    def _features(self, weighting: Weighting | Separable, hidden: Hidden | None) -> _Rows:
        maps, chosen = self._data.maps, self._chosen

        def rows() -> Iterator[Floats]:
            for part in blocks(len(chosen), int(np.prod(maps.shape[1:]))):
                values = weighting.apply(maps[chosen[part]])
                yield values if hidden is None else hidden.apply(values)

        return rows

    def _maps(self, read: Callable[[Array], Floats]) -> _Rows:
        """What is computed of maps, as rows."""
        maps, chosen = self._data.maps, self._chosen
        parts = list(blocks(len(chosen), int(np.prod(maps.shape[1:]))))
        return lambda: (read(maps[chosen[i]]).reshape(len(chosen[i]), -1) for i in parts)

    def _weighting(self, head: SmallHead) -> Weighting | Separable:
        """The weighting in 8 bits."""
        weighting = head.weighting
        found = [rounded(rows) for rows in weighting_matrices(weighting)]
        if not found:
            return weighting
        steps = tuple(Steps(scale) for _, scale in found)
        if isinstance(weighting, Separable):
            (channels, _), (rows, _) = found
            made = replace(weighting, channels=channels, rows=rows, steps=steps)
            if not self._activations:
                return made
            mixed = _cost(head)[:, None] * weighting.rows**2
            reads = range_of(self._maps(made.read), ((weighting.channels**2).T @ mixed).ravel())
            steps = (replace(steps[0], reads=reads), steps[1])
            made = replace(made, steps=steps)
            reads = range_of(self._maps(made.mixed), mixed.ravel())
            return replace(made, steps=(steps[0], replace(steps[1], reads=reads)))
        rows = found[0][0]
        if self._activations:
            squares, each = rows**2, _cost(head).reshape(self._data.maps.shape[1], -1)
            spread = each @ squares if rows.ndim == 2 else each * squares[:, 0]
            reads = range_of(self._maps(lambda maps: maps.astype(np.float64)), spread.ravel())
            steps = (replace(steps[0], reads=reads),)
        return replace(weighting, rows=rows, steps=steps)

    def _layer(self, layer: FittedLayer) -> tuple[tuple[Array, ...], Floats, tuple[Steps, ...]]:
        """A layer after the first."""
        data, chosen = self._data, self._chosen
        known = data.inputs.get(layer.target)
        values = data.results[layer.source] if known is None else known
        step = None if known is not None else data.chain.step(layer.target)

        def rows() -> Iterator[Floats]:
            for part in blocks(len(chosen), values.shape[1]):
                block = values[chosen[part]].astype(np.float64)
                block = block if step is None else step.value(block)
                yield block if layer.reads is None else block[:, layer.reads]

        return self._product(layer.factors, layer.bias, rows, rows)

    def _product(
        self,
        factors: Sequence[Array],
        bias: Floats,
        wanted: _Rows,
        given: _Rows,
        shared: Range | None = None,
    ) -> tuple[tuple[Array, ...], Floats, tuple[Steps, ...]]:
        """Weights, one behind the other, and a bias, for features as they were and as they are
        given; what the first reads can hold so much, or what suits these."""
        if self._activations:
            factors = equalized_factors(factors, wanted)
        known, reads = Moments.of(given()), shared
        mean = known.mean if wanted is given else Moments.of(wanted()).mean
        prices = costs(tuple(factors), np.ones(len(bias))) if self._activations else []
        found: list[Array] = []
        steps: list[Steps] = []
        for place, factor in enumerate(factors):
            last = bias if place == len(factors) - 1 else None

            def rows() -> Iterator[Floats]:
                return _through(given(), found, steps)

            if self._activations:
                reads = range_of(rows, prices[place]) if place or shared is None else shared
                known = Moments.of(map(reads.apply, rows()))
                weight, scale = rounded(factor, known, _least_scale(factor, last, reads))
            else:
                known = Moments.of(rows()) if place else known
                weight, scale = rounded(factor, known)
            found.append(weight)
            steps.append(Steps(scale, reads))
            mean = _times(factor, mean)
        bias = bias + mean - _times(found[-1], known.mean)
        if self._activations:
            unit = bias_scale(steps[-1]).astype(np.float64)
            bias = np.rint(bias / unit) * unit
        return tuple(found), bias, tuple(steps)


def _cost_of_layers(head: SmallHead) -> Floats:
    """What errors cost of that which the first layers read."""
    first = [layer for layer in head.layers if layer.source < 0]
    found = [costs(layer.factors, np.ones(len(layer.bias)))[0] for layer in first]
    return np.asarray(np.sum(found, axis=0))


def _cost(head: SmallHead) -> Floats:
    """What errors of the features cost."""
    found = _cost_of_layers(head)
    return found if head.hidden is None else costs((head.hidden.weight,), found)[0]


def _times(weight: Array, vector: Floats) -> Floats:
    parts = blocks(len(weight), weight.shape[1])
    return np.concatenate([weight[part] @ vector for part in parts])


def _through(rows: Iterator[Floats], factors: list[Array], steps: list[Steps]) -> Iterator[Floats]:
    for block in rows:
        for place, factor in enumerate(factors):
            block = read(tuple(steps), place, block) @ factor.T
        yield block
