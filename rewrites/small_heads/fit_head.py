"""Fits one small head to what a head does on samples, nearly always in closed form.

- A pooled first layer keeps the later FCs: the FCs that read the map are fitted on the weighted
  features around V₀ = W·A⁺.
- A collapse makes the whole head one linear layer, fitted to its outputs around E[J]·A⁺ (the mean
  Jacobian, `output_sensitivity.py`), and refined for classifiers (`refine_classifier.py`).
- A stack goes layer by layer: each FC is fitted on what the one before gives for samples that it
  has not seen (its leave-one-out predictions; on its own predictions it would overfit), and hidden
  layers are cut to low rank where the outputs barely change (`output_sensitivity.py`). Fitting each
  layer to the original's responses on the approximated input follows Zhang et al. (arXiv
  1505.06798).
- An mlp has no closed form: it is distilled (`distillation.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads import spatial_weighting as spatial
from rewrites.small_heads.distillation import distilled
from rewrites.small_heads.fitted_head import FittedLayer, SmallHead
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.methods import Method
from rewrites.small_heads.output_sensitivity import low_rank, mean_jacobian, output_probes
from rewrites.small_heads.refine_classifier import refine
from rewrites.small_heads.ridge import LinearFit, Ridge
from rewrites.small_heads.spatial_weighting import PooledMaps, Weighting, constant_channels
from rewrites.small_heads.sufficient_statistics import Floats, Matrix
from rewrites.small_heads.training_data import HeadData


def fit_head(data: HeadData, chosen: Array, method: Method, *, quick: bool = False) -> SmallHead:
    """Fit a head by one method on the chosen samples. A quick fit is only to estimate how well
    another would do; that matters where a fit goes step by step.

    Raises:
        Refusal: the method does not suit the head, or the fit fails.
    """
    try:
        if method.form == "mlp":
            return distilled(data, chosen, method, quick=quick)
        fit = _Fit(data, chosen, method)
        head = {"collapse": fit.collapse, "stack": fit.stack}.get(method.form, fit.first)()
        return without_constants(head, data.maps, chosen)
    except ValueError as error:
        raise Refusal(f"the fit of '{method.name}' failed: {error}") from error


def without_constants(head: SmallHead, maps: Array, chosen: Array) -> SmallHead:
    """A head of layers on features that gives channels which are the same on all chosen samples the
    weight 0, and what they add to the biases: nothing is known of what they would do."""
    constant = constant_channels(maps, chosen)
    if not constant.any():
        return head
    still = np.where(constant[:, None], maps[chosen[0]], np.zeros((), maps.dtype))
    features = head.weighting.apply(still[None])
    columns = np.repeat(constant, features.size // len(constant))
    layers = []
    for layer in head.layers:
        if layer.source < 0:
            first, *others = layer.factors
            factors = (np.where(columns, np.zeros((), first.dtype), first), *others)
            layer = replace(layer, factors=factors, bias=layer.apply(features)[0])
        layers.append(layer)
    return replace(head, layers=layers)


class _Fit:
    """One fit in closed form: of which head, to what, how."""

    def __init__(self, data: HeadData, chosen: Array, method: Method) -> None:
        self.chain, self.maps, self.classes = data.chain, data.maps, data.classes
        self.chosen, self.method = chosen, method
        self.results = {
            place: values[chosen].astype(np.float64) for place, values in data.results.items()
        }

    def weighting(self, pieces: Iterable[Array]) -> Weighting:
        """What is left of space; `pieces` are the weights on the map that masks are made for."""
        sizes, count = self.chain.head.spatial, self.method.count
        if self.method.weighting == "gap":
            return spatial.average(sizes)
        if self.method.weighting == "grid":
            return spatial.grid(sizes, count)
        if self.method.weighting == "mask":
            if count >= self.chain.positions:
                raise Refusal(
                    f"its map has {self.chain.positions} positions: {count} masks would not be "
                    "fewer"
                )
            energy = spatial.channel_energy(self.maps, self.chosen)
            return spatial.shared_masks(pieces, energy, sizes, count)
        if self.method.weighting == "depthwise":
            return spatial.channel_masks(pieces, self.maps, self.chosen, sizes)
        return spatial.full(sizes)

    def pooled(self, weighting: Weighting) -> Ridge:
        """The features under a weighting, decomposed."""
        return Ridge(PooledMaps(self.maps, self.chosen, weighting))

    def roots_weighting(self) -> Weighting:
        """What is left of space for the FCs that read the map."""
        return self.weighting(p for root in self.chain.roots for p in self.chain.pieces(root))

    def projected(self, root: int, weighting: Weighting) -> Floats:
        """V₀ = W·A⁺, some outputs at a time."""
        return np.concatenate([weighting.project(piece) for piece in self.chain.pieces(root)])

    def layer(self, ridge: Ridge, target: int, source: int, prior: Floats) -> FittedLayer:
        """A fitted layer, refined where it is for classes and that helps."""
        wanted = self.results[target]
        fit = ridge.fit(wanted, prior)
        better = refine(ridge, wanted, prior, fit) if target in self.classes else None
        best = better or fit
        return FittedLayer(
            target, source, (best.weight,), best.bias, fit.ridge, fit.error, better is not None
        )

    def first(self) -> SmallHead:
        """A pooled first layer."""
        chain, weighting = self.chain, self.roots_weighting()
        ridge = self.pooled(weighting)
        layers = [
            self.layer(ridge, root, -1, self.projected(root, weighting)) for root in chain.roots
        ]
        return SmallHead(chain, self.method, weighting, layers)

    def collapse(self) -> SmallHead:
        """The whole head as one linear layer."""
        chain, results = self.chain, self.results
        priors = {leaf: mean_jacobian(chain, leaf, results) for leaf in chain.leaves}
        weighting = self.weighting(
            prior / (float(np.sqrt(results[leaf].var(axis=0).mean())) or 1.0)
            for leaf, prior in priors.items()
        )
        ridge = self.pooled(weighting)
        layers = [
            self.layer(ridge, leaf, -1, weighting.project(priors[leaf])) for leaf in chain.leaves
        ]
        return SmallHead(chain, self.method, weighting, layers)

    def stack(self) -> SmallHead:
        """Layer by layer, hidden ones of low rank."""
        chain, rank = self.chain, self.method.rank
        if len(chain.leaves) == len(chain.layers):
            raise Refusal("it has no hidden layer to cut to low rank")
        if chain.opaque is not None:
            raise Refusal(chain.opaque)
        weighting = self.roots_weighting()
        probes = output_probes(chain, self.results)
        pooled = self.pooled(weighting) if weighting.rows is not None else None
        layers: list[FittedLayer] = []
        unseen: dict[int, Floats] = {}  # per layer its predictions for samples it did not see
        for place, layer in enumerate(chain.layers):
            if layer.parent >= 0:
                ridge = Ridge(Matrix(chain.step(place).value(unseen[layer.parent])))
                prior = chain.weight(place).astype(np.float64)
            elif pooled is not None:
                ridge, prior = pooled, self.projected(place, weighting)
            else:
                fitted, unseen[place] = _whole(chain, place, self.results[place], probes, rank)
                layers.append(fitted)
                continue
            if place in chain.leaves:
                layers.append(self.layer(ridge, place, layer.parent, prior))
                continue
            fit = ridge.fit(self.results[place], prior)
            fitted, unseen[place] = _cut(place, layer.parent, ridge, fit, probes[place], rank)
            layers.append(fitted)
        return SmallHead(chain, self.method, weighting, layers)


def _saves(rank: int, outputs: int, inputs: int) -> bool:
    return rank * (outputs + inputs) < outputs * inputs


def _cut(
    target: int, source: int, ridge: Ridge, fit: LinearFit, probes: Floats, rank: int
) -> tuple[FittedLayer, Floats]:
    """A hidden layer cut to low rank where that saves, and its leave-one-out predictions."""
    if not _saves(rank, *fit.weight.shape):
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
    if root not in probes or not _saves(rank, layer.out_features, layer.in_features):
        pieces = [piece.reshape(len(piece), -1) for piece in chain.pieces(root)]
        return FittedLayer(root, -1, (np.concatenate(pieces),), bias), results
    mean = results.mean(axis=0)
    out, into = low_rank(results - mean, probes[root], rank)
    inner = np.zeros((len(into), layer.in_features))
    for part, piece in chain.parts(root):
        inner += into[:, part].astype(piece.dtype) @ piece.reshape(len(piece), -1)
    moved = mean - out @ (into @ (mean - bias))
    return FittedLayer(root, -1, (inner, out), moved), mean + ((results - mean) @ into.T) @ out.T
