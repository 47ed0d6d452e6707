"""Takes a whole head's place by a small network that is distilled from it (`distil.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.chain import Chain
from rewrites.distil import distil, steps_for
from rewrites.fitted import FittedLayer, Hidden, SmallHead
from rewrites.head_data import HeadData
from rewrites.methods import Method
from rewrites.moments import Singles, blocks
from rewrites.refusal import Refusal
from rewrites.separable import Separable

#: Fewer samples than this say too little of what lies between them.
_FEWEST = 16


def distilled(
    chain: Chain,
    data: HeadData,
    chosen: Array,
    method: Method,
    classes: frozenset[int],
    *,
    quick: bool = False,
) -> SmallHead:
    """Fit separable features and one hidden layer to the answers of the whole head.

    Args:
        chain: the head.
        data: what it does on samples.
        chosen: the samples to use; no other has a part in it.
        method: how many features and hidden units.
        classes: the leaves whose largest output is what counts.
        quick: whether the fit is only to estimate how well another would do.

    Raises:
        Refusal: the head is linear, cannot be asked, or is too large for that.
        ValueError: the fit comes to nothing.
    """
    if chain.opaque is not None:
        raise Refusal(f"{chain.opaque}, so it cannot be asked what it would answer")
    if len(chain.leaves) == len(chain.layers):
        raise Refusal("it is linear: a hidden layer is of no use")
    if len(chosen) < _FEWEST:
        raise Refusal(f"'{method.name}' takes at least {_FEWEST} samples to fit to")
    width = chain.head.channels * chain.positions
    if _params(chain, method) >= chain.params:
        raise Refusal("it is no smaller than the head")
    effort = steps_for(method.count * width, chain.macs, width, quick=quick)
    if not effort[0]:
        raise Refusal(
            f"'{method.name}' is fitted step by step, and for a head of {chain.macs:,} "
            f"multiply-accumulates on {width:,} features that would take too long"
        )
    answers = _Answers(chain)
    sizes = chain.head.spatial
    found = distil(data.maps[chosen], sizes, answers, classes, (method.count, method.rank), effort)
    weighting = Separable(sizes, found.channels, found.rows)
    hidden = Hidden(found.hidden, found.hidden_bias)
    layers = tuple(
        FittedLayer(leaf, -1, (found.out[leaf],), found.out_bias[leaf]) for leaf in chain.leaves
    )
    macs = weighting.macs(chain.head.channels) + hidden.weight.size
    macs += sum(layer.macs for layer in layers)
    return SmallHead(method, weighting, layers, _params(chain, method), macs, hidden)


def _params(chain: Chain, method: Method) -> int:
    outputs = sum(chain.layers[leaf].fc.out_features for leaf in chain.leaves)
    features = method.count * (chain.head.channels + prod(chain.head.spatial))
    return features + method.rank * (method.count + 1) + outputs * (method.rank + 1)


class _Answers:
    """The head itself, in single precision, its weights read once."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._layers = []
        for place, layer in enumerate(chain.layers):
            if layer.parent < 0:
                pieces = [piece.reshape(len(piece), -1) for piece in chain.pieces(place)]
                weight = np.concatenate(pieces)
            else:
                weight = chain.weight(place)
            bias = chain.bias(place).astype(np.float32)
            self._layers.append((weight.astype(np.float32, copy=False), bias))

    def __call__(self, maps: Singles) -> Mapping[int, Array]:
        """Per leaf its outputs `[n, F]` for maps `[n, C, S]`."""
        parts = [self._some(maps[part]) for part in blocks(len(maps), prod(maps.shape[1:]))]
        return {leaf: np.concatenate([part[leaf] for part in parts]) for leaf in self._chain.leaves}

    def _some(self, maps: Singles) -> dict[int, Array]:
        found: dict[int, Array] = {}
        flat = maps.reshape(len(maps), -1)
        for place, (weight, bias) in enumerate(self._layers):
            parent = self._chain.layers[place].parent
            given: Array = flat
            if parent >= 0:
                given = self._chain.step(place).value(found[parent]).astype(np.float32, copy=False)
            found[place] = given @ weight.T + bias
        return found
