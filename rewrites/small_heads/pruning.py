"""The FCs as they are, without the hidden units that never change on the samples (`prune`).

A unit is dropped where what every later FC reads of it, behind the functions between, is the same
on all samples: a Relu that never fires, a Clip that is always at its limit. With c what it gives
there, W·c of its columns goes into the bias of each FC that reads it, so that on the samples all
outputs stay. On others a unit may fire after all: what is lost is measured as for any small head.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads.fitted_head import FittedLayer, SmallHead
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.int8_weights import original
from rewrites.small_heads.methods import PRUNE
from rewrites.small_heads.spatial_weighting import constant_channels
from rewrites.small_heads.sufficient_statistics import Floats
from rewrites.small_heads.training_data import HeadData


def pruned(data: HeadData, chosen: Array) -> SmallHead:
    """The head without the hidden units that are constant on the chosen samples.

    Raises:
        Refusal: what is between the FCs is not known, or no unit is constant.
    """
    chain = data.chain
    if chain.opaque is not None:
        raise Refusal(chain.opaque)
    read = {
        place: chain.step(place).value(data.results[layer.parent][chosen].astype(np.float64))
        for place, layer in enumerate(chain.layers)
        if layer.parent >= 0
    }
    moving = _moving(chain, read)
    if all(mask.all() for mask in moving.values()):
        raise Refusal("none of its hidden units is constant on the samples")
    head = original(data)
    layers = [_without(layer, moving, read) for layer in head.layers]
    return replace(head, method=PRUNE, layers=layers)


def _moving(chain: Chain, read: dict[int, Floats]) -> dict[int, Array]:
    """Per layer that others read, which of its units at least one of them sees move; one of them
    stays at least, as a layer of none cannot be written."""
    found: dict[int, Array] = {}
    for place, values in read.items():
        parent = chain.layers[place].parent
        moves = ~constant_channels(values[:, :, None], np.arange(len(values)))
        found[parent] = found[parent] | moves if parent in found else moves
    for mask in found.values():
        mask[0] |= not mask.any()
    return found


def _without(layer: FittedLayer, moving: dict[int, Array], read: dict[int, Floats]) -> FittedLayer:
    """A layer without the units that are dropped, of its own and of the one it reads."""
    [weight], bias, reads = layer.factors, layer.bias, None
    if layer.source >= 0:
        stays = moving[layer.source]
        still = read[layer.target][:, ~stays].mean(axis=0)
        bias, reads = bias + weight[:, ~stays] @ still, np.flatnonzero(stays)
        weight = weight[:, stays]
    if layer.target in moving:
        weight, bias = weight[moving[layer.target]], bias[moving[layer.target]]
    return replace(layer, factors=(weight,), bias=bias, reads=reads)
