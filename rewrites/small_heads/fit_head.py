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
- Pruning fits nothing: units that never change on the samples are dropped (`pruning.py`).
- Separable features, with or without a hidden layer behind them, have no closed form: they are
  distilled (`distillation.py`).

What is stored in 8 bits is fitted in floats first (`int8_weights.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads import spatial_weighting as spatial
from rewrites.small_heads.distillation import distil, effort_for
from rewrites.small_heads.fitted_head import FittedLayer, Hidden, SmallHead
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.int8_weights import check_int8, in_int8, original
from rewrites.small_heads.methods import Method
from rewrites.small_heads.output_sensitivity import low_rank, mean_jacobian, output_probes
from rewrites.small_heads.pruning import pruned
from rewrites.small_heads.refine_classifier import refine
from rewrites.small_heads.ridge import LinearFit, Ridge
from rewrites.small_heads.spatial_weighting import (
    PooledMaps,
    Separable,
    Weighting,
    constant_channels,
)
from rewrites.small_heads.sufficient_statistics import Floats, Matrix
from rewrites.small_heads.training_data import HeadData
from rewrites.small_heads.transfer_set import (
    HeadAnswers,
    TransferSet,
    maps_for,
    transfer_set,
)

#: Fewer samples than this say too little of what lies between them.
_FEWEST = 16

#: Directions of a root that a distilled head starts from, at most.
_DIRECTIONS = 128


def fit_head(data: HeadData, chosen: Array, method: Method) -> SmallHead:
    """Fit a head by one method on the chosen samples.

    Raises:
        Refusal: the method does not suit the head, or the fit fails.
    """
    return HeadFitter(data, chosen).fit(method)


class HeadFitter:
    """Fits a head to the chosen samples by one method after the other; what several methods ask for
    is computed once."""

    def __init__(self, data: HeadData, chosen: Array) -> None:
        self._data, self._chosen = data, chosen
        self._shared = _Shared(data, chosen)
        self._sets: dict[tuple[int, bool], TransferSet] = {}

    def fit(self, method: Method, *, quick: bool = False) -> SmallHead:
        """Fit by a method. A quick fit is only to estimate how well another would do; that matters
        where a fit goes step by step.

        Raises:
            Refusal: the method does not suit the head, or the fit fails.
        """
        data, chosen = self._data, self._chosen
        if method.int8:
            check_int8(data.chain)
            twin = replace(method, int8=False, int8_activations=False)
            as_it_is = method.form == "original"
            head = original(data) if as_it_is else self.fit(twin, quick=quick)
            activations = method.int8_activations
            found = in_int8(head, data, chosen, activations=activations)
            return replace(found, method=method)
        if method.form == "prune":
            return pruned(data, chosen)
        try:
            if method.taught:
                return self._distilled(method, quick)
            fit = _Fit(self._shared, method)
            head = {"collapse": fit.collapse, "stack": fit.stack}.get(method.form, fit.first)()
            return without_constants(head, data.maps, chosen)
        except ValueError as error:
            raise Refusal(f"the fit of '{method.name}' failed: {error}") from error

    def _distilled(self, method: Method, quick: bool) -> SmallHead:
        """Separable features, and mostly one hidden layer, taught by the whole head."""
        data, chain = self._data, self._data.chain
        if chain.opaque is not None:
            raise Refusal(f"{chain.opaque}, so it cannot be asked what it would answer")
        if method.form == "first" and len(chain.layers) > 1:
            raise Refusal(f"it has several FCs: use 'collapse+{method.name}'")
        if len(self._chosen) < _FEWEST:
            raise Refusal(f"'{method.name}' takes at least {_FEWEST} samples to fit to")
        sizes = chain.head.spatial
        windows = spatial.grid(sizes, method.bins) if method.bins else None
        positions = chain.positions if windows is None else windows.per_channel
        if expected_params(chain, method) >= chain.params:
            raise Refusal("it is no smaller than the head")
        width = chain.head.channels * positions
        kind = method.bins, quick
        if kind not in self._sets:
            whole = chain.head.channels * chain.positions
            count = maps_for(whole, width, chain.macs, quick=quick)
            maps, teacher = data.maps[self._chosen], HeadAnswers(chain)
            self._sets[kind] = transfer_set(maps, sizes, teacher, count, method.bins)
        made = self._sets[kind]
        found = distil(
            made,
            made.on_maps(self._shared.directions),
            data.classes,
            (method.count, method.rank),
            effort_for(method.count * width, quick=quick),
        )
        hidden = None
        if found.hidden is not None and found.hidden_bias is not None:
            hidden = Hidden(found.hidden, found.hidden_bias)
        layers = [
            FittedLayer(leaf, -1, (found.out[leaf],), found.out_bias[leaf])
            for leaf in chain.leaves
        ]  # fmt: skip
        separable = Separable(sizes, found.channels, found.rows, windows)
        return SmallHead(chain, method, separable, layers, hidden)


def expected_params(chain: Chain, method: Method) -> int:
    """Weights and biases of a head by a method, before it is fitted; there are fewer where masks or
    ranks turn out to be."""
    channels, sizes = chain.head.channels, chain.head.spatial
    outputs = sum(chain.layers[leaf].fc.out_features for leaf in chain.leaves)
    if method.taught:
        windows = prod(min(method.bins, size) for size in sizes) if method.bins else chain.positions
        features, units = method.count * (channels + windows), method.rank
        between = units * (method.count + 1) if units else 0
        return features + between + outputs * ((units or method.count) + 1)
    each, stored = {
        "full": (chain.positions, 0),
        "grid": (prod(min(method.count, size) for size in sizes), 0),
        "mask": (method.count, method.count * chain.positions),
        "depthwise": (1, channels * chain.positions),
    }.get(method.weighting, (1, 0))
    if method.form == "collapse":
        return stored + outputs * (channels * each + 1)
    last = chain.leaves if len(chain.leaves) < len(chain.layers) else ()  # these are not cut
    for place, layer in enumerate(chain.layers):
        if method.form in ("original", "prune") or (method.form == "first" and layer.parent >= 0):
            stored += layer.params
            continue
        rows = layer.fc.out_features
        columns = channels * each if layer.parent < 0 else layer.fc.in_features
        whole = rows * columns
        thin = method.rank * (rows + columns) if method.rank and place not in last else whole
        stored += rows + min(thin, whole)
    return stored


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


class _Shared:
    """What fits in closed form to the same samples ask for, whatever the method."""

    def __init__(self, data: HeadData, chosen: Array) -> None:
        self.data, self.chosen = data, chosen

    @cached_property
    def results(self) -> dict[int, Floats]:
        """Per layer its outputs."""
        data = self.data
        return {place: y[self.chosen].astype(np.float64) for place, y in data.results.items()}

    @cached_property
    def directions(self) -> Floats:
        """The directions of the map `[R, C, S]` that the outputs notice most, of all roots, each as
        long as its share is large."""
        chain, found = self.data.chain, list[Floats]()
        for root in chain.roots:
            results = self.results[root]
            scale = float(np.sqrt(results.var(axis=0).mean())) or 1.0
            leaf = root in chain.leaves
            probes = np.eye(results.shape[1]) / scale if leaf else self.probes[root]
            _, into = low_rank(results - results.mean(axis=0), probes, _DIRECTIONS)
            found.append(_onto_map(chain, root, into))
        return np.concatenate(found).reshape(-1, chain.head.channels, chain.positions)

    @cached_property
    def slopes(self) -> dict[int, Floats]:
        """Per leaf its mean Jacobian."""
        chain = self.data.chain
        return {leaf: mean_jacobian(chain, leaf, self.results) for leaf in chain.leaves}

    @cached_property
    def probes(self) -> dict[int, Floats]:
        """What errors of each layer that is cut to low rank cost at the outputs."""
        chain = self.data.chain
        if len(chain.leaves) < len(chain.layers):
            return output_probes(chain, self.results)
        return {leaf: np.eye(chain.layers[leaf].fc.out_features) for leaf in chain.leaves}


class _Fit:
    """One fit in closed form: of which head, to what, how."""

    def __init__(self, shared: _Shared, method: Method) -> None:
        data, self.chosen = shared.data, shared.chosen
        self.chain, self.maps, self.classes = data.chain, data.maps, data.classes
        self.shared, self.method, self.results = shared, method, shared.results

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
        priors = self.shared.slopes
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
        if chain.opaque is not None:
            raise Refusal(chain.opaque)
        weighting = self.roots_weighting()
        probes = self.shared.probes
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
            if place not in probes:
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
    inner = _onto_map(chain, root, into)
    moved = mean - out @ (into @ (mean - bias))
    return FittedLayer(root, -1, (inner, out), moved), mean + ((results - mean) @ into.T) @ out.T


def _onto_map(chain: Chain, root: int, into: Floats) -> Floats:
    """T W, `[r, C·S]`: what reads the outputs of a root, T `[r, F]`, in terms of the map."""
    inner = np.zeros((len(into), chain.layers[root].fc.in_features))
    for part, piece in chain.parts(root):
        inner += into[:, part].astype(piece.dtype) @ piece.reshape(len(piece), -1)
    return inner
