"""Lets the features of each tensor inside a small head reach as far as one another.

A tensor in 8 bits has one scale for all its features, so that one that reaches far gives the others
coarse steps. Between two linear layers, and across max(0, ·), a feature may be divided by any
positive number if the weights that read it are multiplied by that: the outputs stay the same
(cross-layer equalization; Nagel et al., arXiv 1906.04721). Each is divided by its largest absolute
value on the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.spatial_weighting import Separable, Weighting
from rewrites.small_heads.sufficient_statistics import Floats, blocks


def equalized(head: SmallHead, maps: Array, chosen: Array) -> SmallHead:
    """An equal head, what its weighting and its hidden layer give divided as above."""

    def reach(read: Callable[[Array], Floats]) -> Floats:
        parts = blocks(len(chosen), prod(maps.shape[1:]))
        return _reach(read(maps[chosen[part]]) for part in parts)

    weighting, hidden, layers = head.weighting, head.hidden, list(head.layers)
    if isinstance(weighting, Separable):
        sizes = _divisors(reach(weighting.mixed).max(axis=1))[:, None]
        channels, rows = weighting.channels / sizes, weighting.rows * sizes
        weighting = replace(weighting, channels=channels, rows=rows)
    features, weighting = _features(weighting, maps.shape[1], reach)
    if features is not None and hidden is not None:
        hidden = replace(hidden, weight=hidden.weight * features)
    if hidden is not None:
        inner, before = hidden, weighting
        features = _divisors(reach(lambda block: inner.apply(before.apply(block))))
        weight = hidden.weight / features[:, None]
        hidden = replace(hidden, weight=weight, bias=hidden.bias / features)
    if features is not None:
        for place, layer in enumerate(layers):
            if layer.source < 0:
                first, *others = layer.factors
                layers[place] = replace(layer, factors=(first * features, *others))
    return replace(head, weighting=weighting, hidden=hidden, layers=layers)


def _features(
    weighting: Weighting | Separable,
    channels: int,
    reach: Callable[[Callable[[Array], Floats]], Floats],
) -> tuple[Floats | None, Weighting | Separable]:
    """What each feature of a weighting is divided by, None where it has no weights, and the
    weighting that divides it."""
    if isinstance(weighting, Weighting) and weighting.kind not in ("mask", "depthwise"):
        return None, weighting
    assert weighting.rows is not None
    found = reach(weighting.apply)
    if weighting.kind != "mask":
        sizes = _divisors(found)
        shape = (-1, *(1 for _ in weighting.rows.shape[1:]))
        return sizes, replace(weighting, rows=weighting.rows / sizes.reshape(shape))
    sizes = _divisors(found.reshape(channels, -1).max(axis=0))  # a mask is that of all channels
    return np.tile(sizes, channels), replace(weighting, rows=weighting.rows / sizes[:, None])


def equalized_factors(
    factors: Sequence[Array], rows: Callable[[], Iterator[Floats]]
) -> tuple[Array, ...]:
    """Equal weights, one behind the other, for such features, what is between them divided as
    above."""
    found = list(factors)
    for place in range(len(found) - 1):

        def given(block: Floats, last: int = place) -> Floats:
            for factor in found[: last + 1]:
                block = block @ factor.T
            return block

        sizes = _divisors(_reach(given(block) for block in rows()))
        found[place] = found[place] / sizes[:, None]
        found[place + 1] = found[place + 1] * sizes
    return tuple(found)


def _reach(blocks_: Iterator[Floats]) -> Floats:
    """The largest absolute value of each feature."""
    found: Floats = np.zeros(1)
    for block in blocks_:
        found = np.maximum(found, np.abs(block).max(axis=0))
    return found


def _divisors(sizes: Floats) -> Floats:
    return np.where(sizes > 0, sizes, 1.0)
