"""Takes a whole head's place by a small network with one hidden layer: the head teaches, no labels.

    z[n, k] = Σ_s m[k, s] Σ_c u[k, c] · map[n, c, s]        (`spatial_weighting.py`)
    y[n]    = O · max(0, H z[n] + h) + o

One linear layer is too little for many heads. This one is not convex, and is fitted by Adam (Kingma
and Ba, arXiv 1412.6980, algorithm 1), with a step size that grows and then falls along a cosine
(Loshchilov and Hutter, arXiv 1608.03983), on maps that are made from those of the samples
(`augmentation.py`), to the head's own answers: for classes by KL(p ‖ softmax(y)) with p the head's
probabilities (knowledge distillation: Hinton, Vinyals and Dean, arXiv 1503.02531), for values by
squared errors. The gradients are written out: with W[k, (c, s)] = u[k, c] m[k, s] both z = x Wᵀ and
∂W are one matrix product over a batch, and ∂u, ∂m are sums over ∂W.

Channels are centred and scaled, outputs too, so that one step size suits every head; both are
folded into the weights afterwards. A channel that is the same on all samples is scaled by 0. The
first output layer is a ridge fit to random hidden units (Rahimi and Recht, "Weighted sums of random
kitchen sinks", 2008). Chance has one fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi, prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.refusal import Refusal
from rewrites.small_heads.augmentation import Augmentation
from rewrites.small_heads.fitted_head import FittedLayer, Hidden, SmallHead
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.methods import Method
from rewrites.small_heads.spatial_weighting import Separable, constant_channels
from rewrites.small_heads.sufficient_statistics import Singles, blocks
from rewrites.small_heads.training_data import HeadData

#: Adam's step size at its height, and how it remembers gradients and their squares.
_RATE = 0.02
_MEMORY = (0.9, 0.99)

#: The share of the steps in which the step size grows; it falls to 0 along a cosine in the rest.
_GROWTH = 0.1


class Adam:
    """Moves a point along its gradients."""

    def __init__(self, point: list[Singles]) -> None:
        self._point = point
        self._mean = [np.zeros_like(values) for values in point]
        self._square = [np.zeros_like(values) for values in point]
        self._count = 0

    def step(self, gradient: list[Singles], size: float) -> None:
        """One step of this size."""
        self._count += 1
        first, second = (1 - memory**self._count for memory in _MEMORY)
        for values, slope, mean, square in zip(
            self._point, gradient, self._mean, self._square, strict=True
        ):
            mean += (1 - _MEMORY[0]) * (slope - mean)
            square += (1 - _MEMORY[1]) * (slope * slope - square)
            values -= (size / first) * mean / (np.sqrt(square / second) + 1e-8)


def rate(done: float) -> float:
    """The step size where this share of all steps is done."""
    if done < _GROWTH:
        return _RATE * (done + 1e-3) / _GROWTH
    return _RATE * (1 + cos(pi * (done - _GROWTH) / (1 - _GROWTH))) / 2


#: Where all chance comes from.
_SEED = 0

#: Maps per step, and the most and the fewest steps.
_BATCH = 400
_STEPS = (600, 16_000)

#: Multiply-accumulates of all steps, and twice those of all answers of the head: some ten seconds.
_WORK = 4.8e11

#: Maps that are made: at most and at least so many, and so many numbers together.
_POOL = (4096, 48_000)
_POOL_SIZE = 2**25

#: A fit that only estimates how well another would do takes this share of the work.
_QUICK = 1 / 4

#: Channels that vary less than this share of the liveliest are not scaled up as it is: the fit
#: would give them weights so large that a small change of theirs decides the answer.
_LEAST = 0.05

#: As in `refine_classifier.py`; here it leaves the bundled networks alone, which gained nothing
#: below it.
_SPREAD = 10.0

#: Damping of the first output layer, as a share of a hidden unit's mean square of 1.
_RIDGE = 1e-2


@dataclass(frozen=True)
class Student:
    """The fitted network, in terms of the map as it is: u `[K, C]`, m `[K, S]`, H `[h, K]` and h,
    and per output group O `[F, h]` and o `[F]`."""

    channels: Array
    rows: Array
    hidden: Array
    hidden_bias: Array
    out: Mapping[int, Array]
    out_bias: Mapping[int, Array]


def steps_for(weights: int, answer: int, size: int, *, quick: bool = False) -> tuple[int, int]:
    """How many steps a fit takes and how many maps it is given; 0 steps where it costs too much.

    Args:
        weights: of W, K·C·S.
        answer: multiply-accumulates of one answer of the head.
        size: numbers of a map, C·S.
        quick: whether the fit is only to estimate how well another would do.
    """
    share = _QUICK if quick else 1
    work = share * _WORK
    maps = min(_POOL[1], _POOL_SIZE // size, int(work / 2 // max(1, answer)))
    steps = min(int(share * _STEPS[1]), int(work // (3 * _BATCH * weights)))
    return (steps, maps) if steps >= _STEPS[0] and maps >= _POOL[0] else (0, 0)


def distil(
    maps: Array,
    spatial: tuple[int, ...],
    answer: Callable[[Singles], Mapping[int, Array]],
    classes: frozenset[int],
    size: tuple[int, int],
    effort: tuple[int, int],
) -> Student:
    """Fit the network to the samples' maps `[N, C, S]`.

    Args:
        answer: the head's outputs for maps, per group `[n, F]`.
        classes: the groups whose largest output counts.
        size: K and the number of hidden units.
        effort: steps, and maps to make.

    Raises:
        ValueError: the fit comes to nothing.
    """
    random = np.random.default_rng(_SEED)
    centre, gain = _channels(maps)
    steps, count = effort
    made = Augmentation(maps, spatial, random).draw(count)
    made[:, gain == 0] = maps[0, gain == 0]  # where a value became zero
    answers = {group: np.asarray(y, np.float32) for group, y in answer(made).items()}
    made -= centre[:, None]
    made *= gain[:, None]
    made = made.reshape(count, -1)
    targets = _Targets(answers, classes)
    point = _start(made, targets, size, maps.shape[1:], random)
    adam = Adam(point)
    order, place = random.permutation(count), 0
    for step in range(steps):
        if place + _BATCH > count:
            order, place = random.permutation(count), 0
        rows, place = order[place : place + _BATCH], place + _BATCH
        adam.step(_gradient(point, made[rows], targets, rows), rate(step / steps))
    if not all(np.isfinite(values).all() for values in point):
        raise ValueError("it diverges")
    given = np.asarray(maps, np.float32)
    real = ((given - centre[:, None]) * gain[:, None]).reshape(len(given), -1)
    _level(point, targets, real, answer(given))
    return _folded(point, targets, centre, gain)


def _channels(maps: Array) -> tuple[Singles, Singles]:
    """The mean of each channel, and by what it is multiplied: by the inverse of its spread over the
    samples, and the less the smaller that is where it is small; by 0 where it is constant."""
    centre = maps.mean(axis=(0, 2), dtype=np.float64)
    spread = np.sqrt(maps.var(axis=0, dtype=np.float64).mean(axis=1))
    spread[constant_channels(maps, np.arange(len(maps)))] = 0
    least = np.maximum(spread, _LEAST * float(spread.max()) or 1.0)
    return centre.astype(np.float32), (spread / least**2).astype(np.float32)


class _Targets:
    """What is to be given, all groups side by side, and the slope of the loss."""

    def __init__(self, answers: Mapping[int, Singles], classes: frozenset[int]) -> None:
        self.parts: dict[int, slice] = {}
        start = 0
        for group, values in answers.items():
            self.parts[group] = slice(start, start + values.shape[1])
            start += values.shape[1]
        whole = np.concatenate(list(answers.values()), axis=1)
        self.mean = whole.mean(axis=0)
        self.scale = np.ones(start, np.float32)
        for part in self.parts.values():
            self.scale[part] = float(np.sqrt(whole[:, part].var(axis=0).mean())) or 1.0
        self.scores = (whole - self.mean) / self.scale
        self.classes = classes
        self._power = np.minimum(1, np.float32(_SPREAD) / self.scale)
        self._wanted = whole * self._power
        for group in classes & self.parts.keys():
            self._wanted[:, self.parts[group]] = _softmax(self._wanted[:, self.parts[group]])

    def slope(self, scores: Singles, rows: Array) -> Singles:
        """The gradient of the mean loss with respect to the scaled scores of these rows."""
        found = np.empty_like(scores)
        for group, part in self.parts.items():
            if group in self.classes:
                power = self._power[part]
                given = _softmax((scores[:, part] * self.scale[part] + self.mean[part]) * power)
                found[:, part] = (given - self._wanted[rows, part]) * self.scale[part] * power
            else:
                width = part.stop - part.start
                found[:, part] = (scores[:, part] - self.scores[rows, part]) / width
        return found / np.float32(len(rows))


#: u, m, H, h, O, o.
_Point = list[Singles]


def _start(
    made: Singles,
    targets: _Targets,
    size: tuple[int, int],
    shape: tuple[int, ...],
    random: np.random.Generator,
) -> _Point:
    """Random features of unit variance, and the best output layer for them."""
    count, units = size

    def normal(rows: int, columns: int) -> Singles:
        values: Singles = random.standard_normal((rows, columns), dtype=np.float32)
        return values / np.float32(columns**0.5)

    few = slice(0, 2000)
    channels, rows, hidden = normal(count, shape[0]), normal(count, shape[1]), normal(units, count)
    spread = (made[few] @ _kernel(channels, rows).T).std(axis=0)
    rows /= np.where(spread > 0, spread, np.float32(1))[:, None]
    first = [channels, rows, hidden, np.zeros(units, np.float32)]
    active = _hidden(first, made[few])
    active = np.hstack([active, np.ones((len(active), 1))]).astype(np.float64)
    gram = active.T @ active + _RIDGE * len(active) * np.eye(units + 1)
    best = np.linalg.solve(gram, active.T @ targets.scores[few]).astype(np.float32)
    return [*first, best[:-1].T.copy(), best[-1].copy()]


def _hidden(point: _Point, made: Singles) -> Singles:
    """What the hidden units give for maps, `[n, h]`."""
    channels, rows, hidden, hidden_bias, *_ = point
    return np.maximum(made @ _kernel(channels, rows).T @ hidden.T + hidden_bias, 0)


def _level(point: _Point, targets: _Targets, made: Singles, answers: Mapping[int, Array]) -> None:
    """Give scores of classes the level of the head's. A number that is added to all of them changes
    no probability, so that the fit leaves it to chance: it is a ridge fit to the hidden units."""
    active = _hidden(point, made).astype(np.float64)
    active = np.hstack([active, np.ones((len(active), 1))])
    gram = active.T @ active
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    for group in targets.classes & targets.parts.keys():
        part = targets.parts[group]
        scaled = (np.asarray(answers[group], np.float64) - targets.mean[part]) / targets.scale[part]
        best = np.linalg.solve(gram, active.T @ scaled.mean(axis=1))
        for values, level in zip(point[4:], (best[:-1], best[-1]), strict=True):
            values[part] += (level - values[part].mean(axis=0)).astype(np.float32)


def _kernel(channels: Singles, rows: Singles) -> Singles:
    """W, `[K, C·S]`."""
    return np.asarray((channels[:, :, None] * rows[:, None, :]).reshape(len(channels), -1))


def _gradient(point: _Point, made: Singles, targets: _Targets, chosen: Array) -> _Point:
    channels, rows, hidden, hidden_bias, out, out_bias = point
    features = made @ _kernel(channels, rows).T
    before = features @ hidden.T + hidden_bias
    active = np.maximum(before, 0)
    error = targets.slope(active @ out.T + out_bias, chosen)
    back = (error @ out) * (before > 0)
    pulled = ((back @ hidden).T @ made).reshape(len(channels), -1, rows.shape[1])
    return [
        (pulled @ rows[:, :, None])[:, :, 0],
        (channels[:, None, :] @ pulled)[:, 0, :],
        back.T @ features,
        back.sum(axis=0),
        error.T @ active,
        error.sum(axis=0),
    ]


def _folded(point: _Point, targets: _Targets, centre: Singles, gain: Singles) -> Student:
    """The network with all centring and scaling in its weights, in double precision."""
    channels, rows, hidden, hidden_bias, out, out_bias = (
        values.astype(np.float64) for values in point
    )
    channels = channels * gain
    shift = hidden @ ((channels @ centre) * rows.sum(axis=1))
    out = out * targets.scale[:, None]
    out_bias = out_bias * targets.scale + targets.mean
    return Student(
        channels, rows, hidden, hidden_bias - shift,
        {group: out[part] for group, part in targets.parts.items()},
        {group: out_bias[part] for group, part in targets.parts.items()},
    )  # fmt: skip


def _softmax(scores: Singles) -> Singles:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


#: Fewer samples than this say too little of what lies between them.
_FEWEST = 16


def distilled(data: HeadData, chosen: Array, method: Method, *, quick: bool) -> SmallHead:
    """Fit separable features and one hidden layer to the answers of the whole head, as `fit_head`;
    no other than the chosen samples has a part in it.

    Raises:
        Refusal: the head is linear, cannot be asked, or is too large for that.
        ValueError: the fit comes to nothing.
    """
    chain = data.chain
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
    sizes, size = chain.head.spatial, (method.count, method.rank)
    found = distil(data.maps[chosen], sizes, _Answers(chain), data.classes, size, effort)
    weighting = Separable(sizes, found.channels, found.rows)
    hidden = Hidden(found.hidden, found.hidden_bias)
    layers = [
        FittedLayer(leaf, -1, (found.out[leaf],), found.out_bias[leaf]) for leaf in chain.leaves
    ]
    return SmallHead(chain, method, weighting, layers, hidden)


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
