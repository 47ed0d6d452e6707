"""Fits one small head to what a head does on samples, nearly always in closed form.

- A pooled first layer keeps the later FCs: the FCs that read the map are fitted on the weighted
  features around V₀ = W·A⁺.
- A collapse makes the whole head one linear layer, fitted to its outputs around E[J]·A⁺ (the mean
  Jacobian, `output_sensitivity.py`), and refined for classifiers (`refine_classifier.py`).
- A stack goes layer by layer: each FC is fitted on what the one before gives for samples that it
  has not seen (its leave-one-out predictions; on its own predictions it would overfit), and hidden
  layers are cut to low rank where the outputs hardly notice (`output_sensitivity.py`). Fitting each
  layer to the original's responses on the approximated input follows Zhang et al. (arXiv
  1505.06798).
- An mlp has no closed form: it is distilled (`distillation.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads import spatial_weighting
from rewrites.small_heads import spatial_weighting as spatial
from rewrites.small_heads.distillation import distilled
from rewrites.small_heads.fitted_head import FittedLayer, SmallHead, measured
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.methods import Method
from rewrites.small_heads.output_sensitivity import low_rank, mean_jacobian, output_probes
from rewrites.small_heads.refine_classifier import refine
from rewrites.small_heads.ridge import LinearFit, Ridge
from rewrites.small_heads.spatial_weighting import PooledMaps, Weighting
from rewrites.small_heads.sufficient_statistics import Floats, Matrix
from rewrites.small_heads.training_data import HeadData


def fit_head(
    chain: Chain,
    data: HeadData,
    chosen: Array,
    method: Method,
    classes: frozenset[int],
    *,
    quick: bool = False,
) -> SmallHead:
    """Fit a head by one method on the chosen samples.

    Args:
        chain: the head.
        data: what it does on samples.
        chosen: the samples to use.
        method: how.
        classes: the leaves whose largest output is what counts.
        quick: whether the fit is only to estimate how well another would do; matters where a fit
            goes step by step.

    Raises:
        Refusal: the method does not suit the head, or the fit fails.
    """
    results = {place: values[chosen].astype(np.float64) for place, values in data.results.items()}
    try:
        if method.form == "collapse":
            return _collapse(chain, data, chosen, method, results, classes)
        if method.form == "mlp":
            return distilled(chain, data, chosen, method, classes, quick=quick)
        if method.form == "stack":
            return _stack(chain, data, chosen, method, results, classes)
        return _first(chain, data, chosen, method, results, classes)
    except ValueError as error:
        raise Refusal(f"the fit of '{method.name}' failed: {error}") from error


def _weighting(
    chain: Chain, data: HeadData, chosen: Array, method: Method, pieces: Iterable[Array]
) -> Weighting:
    """What is left of space; `pieces` are the weights on the map that masks are made for."""
    sizes = chain.head.spatial
    if method.weighting == "gap":
        return spatial.average(sizes)
    if method.weighting == "grid":
        return spatial.grid(sizes, method.count)
    if method.weighting == "mask":
        if method.count >= chain.positions:
            raise Refusal(
                f"its map has {chain.positions} positions: {method.count} masks would not be fewer"
            )
        energy = spatial_weighting.channel_energy(data.maps, chosen)
        return spatial_weighting.shared_masks(pieces, energy, sizes, method.count)
    if method.weighting == "depthwise":
        return spatial_weighting.channel_masks(pieces, data.maps, chosen, sizes)
    return spatial.full(sizes)


def _first(
    chain: Chain,
    data: HeadData,
    chosen: Array,
    method: Method,
    results: Mapping[int, Floats],
    classes: frozenset[int],
) -> SmallHead:
    pieces = (piece for root in chain.roots for piece in chain.pieces(root))
    weighting = _weighting(chain, data, chosen, method, pieces)
    ridge = Ridge(PooledMaps(data.maps, chosen, weighting))
    layers = []
    for root in chain.roots:
        prior = _projected(chain, root, weighting)
        layers.append(_leaf(ridge, root, -1, results[root], prior, root in classes))
    kept = [place for place in range(len(chain.layers)) if place not in chain.roots]
    return measured(chain, method, weighting, layers, kept)


def _projected(chain: Chain, root: int, weighting: Weighting) -> Floats:
    """V₀ = W·A⁺, some outputs at a time."""
    return np.concatenate([weighting.project(piece) for piece in chain.pieces(root)])


def _collapse(
    chain: Chain,
    data: HeadData,
    chosen: Array,
    method: Method,
    results: Mapping[int, Floats],
    classes: frozenset[int],
) -> SmallHead:
    priors = {leaf: mean_jacobian(chain, leaf, results) for leaf in chain.leaves}
    pieces = [
        prior / (float(np.sqrt(results[leaf].var(axis=0).mean())) or 1.0)
        for leaf, prior in priors.items()
    ]
    weighting = _weighting(chain, data, chosen, method, pieces)
    ridge = Ridge(PooledMaps(data.maps, chosen, weighting))
    layers = []
    for leaf in chain.leaves:
        prior = weighting.project(priors[leaf])
        layers.append(_leaf(ridge, leaf, -1, results[leaf], prior, leaf in classes))
    return measured(chain, method, weighting, layers, [])


def _leaf(
    ridge: Ridge, target: int, source: int, wanted: Floats, prior: Floats, classes: bool
) -> FittedLayer:
    """A fitted layer, refined where it is for classes and that helps."""
    fit = ridge.fit(wanted, prior)
    better = refine(ridge, wanted, prior, fit) if classes else None
    best = better or fit
    return FittedLayer(
        target, source, (best.weight,), best.bias, fit.ridge, fit.error, better is not None
    )


def _stack(
    chain: Chain,
    data: HeadData,
    chosen: Array,
    method: Method,
    results: Mapping[int, Floats],
    classes: frozenset[int],
) -> SmallHead:
    if len(chain.leaves) == len(chain.layers):
        raise Refusal("it has no hidden layer to cut to low rank")
    if chain.opaque is not None:
        raise Refusal(chain.opaque)
    pieces = (piece for root in chain.roots for piece in chain.pieces(root))
    weighting = _weighting(chain, data, chosen, method, pieces)
    probes = output_probes(chain, results)
    pooled = Ridge(PooledMaps(data.maps, chosen, weighting)) if weighting.rows is not None else None
    layers: list[FittedLayer] = []
    unseen: dict[int, Floats] = {}  # per layer its predictions for samples it was not fitted to
    for place, layer in enumerate(chain.layers):
        hidden = place not in chain.leaves
        if layer.parent < 0 and pooled is None:
            fitted, unseen[place] = _whole(chain, place, results[place], probes, method.rank)
            layers.append(fitted)
            continue
        if layer.parent < 0:
            assert pooled is not None
            ridge, prior = pooled, _projected(chain, place, weighting)
        else:
            ridge = Ridge(Matrix(chain.step(place).value(unseen[layer.parent])))
            prior = chain.weight(place).astype(np.float64)
        if not hidden:
            last = _leaf(ridge, place, layer.parent, results[place], prior, place in classes)
            layers.append(last)
            continue
        fit = ridge.fit(results[place], prior)
        fitted, unseen[place] = _cut(place, layer.parent, ridge, fit, probes[place], method.rank)
        layers.append(fitted)
    return measured(chain, method, weighting, layers, [])


def _cut(
    target: int, source: int, ridge: Ridge, fit: LinearFit, probes: Floats, rank: int
) -> tuple[FittedLayer, Floats]:
    """A hidden layer cut to low rank where that saves, and its leave-one-out predictions."""
    outputs, inputs = fit.weight.shape
    if rank * (outputs + inputs) >= outputs * inputs:
        layer = FittedLayer(target, source, (fit.weight,), fit.bias, fit.ridge, fit.error)
        return layer, fit.left_out
    centred = ridge.predict(fit.weight)
    mean = fit.bias + fit.weight @ ridge.mean
    out, into = low_rank(centred, probes, rank)
    inner = into @ fit.weight
    layer = FittedLayer(
        target, source, (inner, out), mean - out @ (inner @ ridge.mean), fit.ridge, fit.error
    )
    return layer, mean + ((fit.left_out - mean) @ into.T) @ out.T


def _whole(
    chain: Chain, root: int, results: Floats, probes: Mapping[int, Floats], rank: int
) -> tuple[FittedLayer, Floats]:
    """A root that keeps all positions: its own weight is the fit, and is exact."""
    layer = chain.layers[root].fc
    bias = chain.bias(root)
    if root not in probes or rank * (layer.out_features + layer.in_features) >= (
        layer.out_features * layer.in_features
    ):
        pieces = [piece.reshape(len(piece), -1) for piece in chain.pieces(root)]
        return FittedLayer(root, -1, (np.concatenate(pieces),), bias), results
    mean = results.mean(axis=0)
    out, into = low_rank(results - mean, probes[root], rank)
    inner = np.zeros((len(into), layer.in_features))
    start = 0
    for piece in chain.pieces(root):
        part = into[:, start : start + len(piece)]
        inner += part.astype(piece.dtype) @ piece.reshape(len(piece), -1)
        start += len(piece)
    moved = mean - out @ (into @ (mean - bias))
    return FittedLayer(root, -1, (inner, out), moved), mean + ((results - mean) @ into.T) @ out.T
