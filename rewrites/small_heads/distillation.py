"""Takes a whole head's place by a small network with one hidden layer: the head teaches, no labels.

    z[n, k] = Σ_s m[k, s] Σ_c u[k, c] · map[n, c, s]        (`spatial_weighting.py`)
    y[n]    = O · max(0, H z[n] + h) + o

One linear layer is too little for many heads. This one is not convex, and is fitted by Adam (Kingma
and Ba, arXiv 1412.6980, algorithm 1), with a step size that grows and then falls along a cosine
(Loshchilov and Hutter, arXiv 1608.03983), on maps that are made from those of the samples
(`transfer_set.py`), to the head's own answers: for classes by KL(p ‖ softmax(y)) with p the head's
probabilities (knowledge distillation: Hinton, Vinyals and Dean, arXiv 1503.02531), for values by
squared errors. The gradients are written out: with W[k, (c, s)] = u[k, c] m[k, s] both z = x Wᵀ and
∂W are one matrix product over a batch, and ∂u, ∂m are sums over ∂W.

Without the hidden layer, with y = O z + o, the same steps fit one linear layer of that form.

The start decides much: what samples do not show stays as it was. So u and m are first those of the
head's own weights (`canonical_terms.py`), in the directions that its outputs notice most; H is
random, and O a ridge fit to these hidden units (Rahimi and Recht, "Weighted sums of random kitchen
sinks", 2008). A step is a share of the size that a weight has at the start, as in Adafactor
(Shazeer and Stern, arXiv 1804.04235). Chance has one fixed seed. Several starts are begun side by
side, on the same batches, and the one that does best on made maps which none is fitted to goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, inf, pi

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.canonical_terms import canonical_terms
from rewrites.small_heads.sufficient_statistics import Singles
from rewrites.small_heads.transfer_set import TransferSet

#: Adam's step size at its height, as a share of the root mean square of a weight at the start, and
#: how it remembers gradients and their squares.
_RATE = 0.05
_MEMORY = (0.9, 0.99)

#: The share of the steps in which the step size grows; it falls to 0 along a cosine in the rest.
_GROWTH = 0.1


class Adam:
    """Moves a point along its gradients; `sizes` are what the step size of each part is in."""

    def __init__(self, point: list[Singles], sizes: Sequence[float]) -> None:
        self._point, self._sizes = point, sizes
        self._mean = [np.zeros_like(values) for values in point]
        self._square = [np.zeros_like(values) for values in point]
        self._count = 0

    def step(self, gradient: list[Singles], size: float) -> None:
        """One step of this size."""
        self._count += 1
        first, second = (1 - memory**self._count for memory in _MEMORY)
        for values, unit, slope, mean, square in zip(
            self._point, self._sizes, gradient, self._mean, self._square, strict=True
        ):
            mean += (1 - _MEMORY[0]) * (slope - mean)
            square += (1 - _MEMORY[1]) * (slope * slope - square)
            values -= (unit * size / first) * mean / (np.sqrt(square / second) + 1e-8)


def rate(done: float) -> float:
    """The step size where this share of all steps is done."""
    if done < _GROWTH:
        return _RATE * (done + 1e-3) / _GROWTH
    return _RATE * (1 + cos(pi * (done - _GROWTH) / (1 - _GROWTH))) / 2


#: Where all chance comes from.
_SEED = 0

#: Maps per step, and the fewest and the most steps; where steps are cheap, there are more of them.
_BATCH = 256
_STEPS = (200, 2000, 6000)

#: Multiply-accumulates of all steps from one start, where there are more than the usual, and at
#: most.
_WORK = (1e11, 8e11)

#: Maps that the first output layer is fitted to.
_FEW = 2000

#: Starts, after which share of the steps the best goes on, and the share of the made maps that
#: chooses it.
_STARTS = 3
_BEGUN = 1 / 8
_CHOOSING = 1 / 16

#: A fit that only estimates how well another would do takes this share of the steps, from one
#: start.
_QUICK = 1 / 4

#: As in `refine_classifier.py`; here it leaves the bundled networks alone, which gained nothing
#: below it.
_SPREAD = 10.0

#: Damping of the first output layer, as a share of a hidden unit's mean square of 1.
_RIDGE = 1e-2


@dataclass(frozen=True)
class Student:
    """The fitted network, in terms of the map as it is, or as it is on its grid: u `[K, C]`,
    m `[K, S]`, H `[h, K]` and h, both None without a hidden layer, and per output group O `[F, h]`
    and o `[F]`."""

    channels: Array
    rows: Array
    hidden: Array | None
    hidden_bias: Array | None
    out: Mapping[int, Array]
    out_bias: Mapping[int, Array]


def effort_for(weights: int, *, quick: bool = False) -> tuple[int, int]:
    """How many steps a fit of K·C·S = `weights` takes, or one that is only to estimate how well
    that would do; and from how many starts: one, where steps are dear."""
    each = 2 * _BATCH * weights
    least, usual, most = _STEPS
    affordable = int(_WORK[1] // each)
    steps = max(least, min(most, affordable, max(usual, int(_WORK[0] // each))))
    if quick:
        return max(least // 2, int(_QUICK * steps)), 1
    return steps, 1 if affordable < least else _STARTS


def distil(
    given: TransferSet,
    directions: Array,
    classes: frozenset[int],
    size: tuple[int, int],
    effort: tuple[int, int],
) -> Student:
    """Fit the network to a head's answers.

    Args:
        directions: what the outputs notice of the maps, `[R, c, s]`.
        classes: the groups whose largest output counts.
        size: K and the number of hidden units, 0 for no hidden layer.
        effort: steps, and starts.

    Raises:
        ValueError: the fit comes to nothing.
    """
    steps, starts = effort
    made, first = len(given.maps), given.flat(slice(_FEW))
    targets = _Targets(given.answers, classes)
    terms = canonical_terms(directions, size[0], np.random.default_rng(_SEED))
    points = [
        _start(first, targets, size[1], terms, np.random.default_rng([_SEED, start]))
        for start in range(starts)
    ]
    learnt = made - int(made * _CHOOSING) if starts > 1 else made
    batch = min(_BATCH, learnt)
    moved = [Adam(point, _sizes(point)) for point in points]
    place = 0
    for step in range(steps):
        if step == int(steps * _BEGUN) and starts > 1:
            choosing = slice(learnt, None)
            best = _best(points, given.flat(choosing), targets, choosing)
            points, moved = [points[best]], [moved[best]]
        if place + batch > learnt:
            place = 0
        rows = slice(place, place + batch)
        place += batch
        slopes = _gradient(points, given.flat(rows), targets, rows)
        for adam, slope in zip(moved, slopes, strict=True):
            adam.step(slope, rate(step / steps))
    [point] = points
    if not all(np.isfinite(values).all() for values in point):
        raise ValueError("it diverges")
    samples = given.samples.reshape(len(given.samples), -1)
    _level(point, targets, samples, given.sample_answers)
    return _folded(point, targets, given)


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

    def slope(self, scores: Singles, rows: slice) -> Singles:
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
        return found / np.float32(len(scores))

    def loss(self, scores: Singles, rows: slice) -> float:
        """The mean loss of the scaled scores of these rows, but for a constant."""
        total = 0.0
        for group, part in self.parts.items():
            if group in self.classes:
                given = (scores[:, part] * self.scale[part] + self.mean[part]) * self._power[part]
                given = given - given.max(axis=1, keepdims=True)
                logs = given - np.log(np.exp(given).sum(axis=1, keepdims=True))
                total -= float((self._wanted[rows, part] * logs).sum(axis=1).mean())
            else:
                total += float(((scores[:, part] - self.scores[rows, part]) ** 2).mean()) / 2
        return total


#: u, m, O, o, and between them, where there is a hidden layer, H and h.
_Point = list[Singles]

#: Parts of a point without a hidden layer.
_FLAT = 4


def _start(
    made: Singles,
    targets: _Targets,
    units: int,
    terms: tuple[Singles, Singles],
    random: np.random.Generator,
) -> _Point:
    """Features of unit variance, random hidden units, and the best output layer for them."""
    channels, rows = (values.copy() for values in terms)
    spread = (made @ _kernel(channels, rows).T).std(axis=0)
    rows /= np.where(spread > 0, spread, np.float32(1))[:, None]
    first = [channels, rows]
    if units:
        count = len(rows)
        hidden = random.standard_normal((units, count), dtype=np.float32) / np.float32(count**0.5)
        first += [hidden, np.zeros(units, np.float32)]
    active, ones = _active(first, made, units > 0), np.ones((len(made), 1))
    best = _ridge(np.hstack([active, ones]).astype(np.float64), targets.scores[: len(made)])
    return [*first, best[:-1].T.astype(np.float32), best[-1].astype(np.float32)]


def _sizes(point: _Point) -> list[float]:
    """The root mean square of each weight, and for a bias that of the weight before it."""
    found: list[float] = []
    for values in point:
        size = float(np.sqrt((values**2).mean()))
        found.append(size if values.ndim > 1 else found[-1])
    return found


def _ridge(active: Array, wanted: Array) -> Array:
    gram = active.T @ active
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram, active.T @ wanted))


def _active(point: _Point, made: Singles, deep: bool) -> Singles:
    """What the output layer reads, `[n, h]`, for maps."""
    channels, rows, *_ = point
    features = made @ _kernel(channels, rows).T
    return np.maximum(features @ point[2].T + point[3], 0) if deep else features


def _best(points: list[_Point], made: Singles, targets: _Targets, rows: slice) -> int:
    """The place of the point of the least loss on maps that none was fitted to."""

    def loss(point: _Point) -> float:
        active = _active(point, made, len(point) > _FLAT)
        found = targets.loss(active @ point[-2].T + point[-1], rows)
        return found if np.isfinite(found) else inf

    return min(range(len(points)), key=lambda place: loss(points[place]))


def _level(point: _Point, targets: _Targets, made: Singles, answers: Mapping[int, Array]) -> None:
    """Give scores of classes the level of the head's. A number that is added to all of them changes
    no probability, so that the fit leaves it to chance: it is a ridge fit to the hidden units."""
    active = _active(point, made, len(point) > _FLAT).astype(np.float64)
    active = np.hstack([active, np.ones((len(active), 1))])
    for group in targets.classes & targets.parts.keys():
        part = targets.parts[group]
        scaled = (np.asarray(answers[group], np.float64) - targets.mean[part]) / targets.scale[part]
        best = _ridge(active, scaled.mean(axis=1))
        for values, level in zip(point[-2:], (best[:-1], best[-1]), strict=True):
            values[part] += (level - values[part].mean(axis=0)).astype(np.float32)


def _kernel(channels: Singles, rows: Singles) -> Singles:
    """W, `[K, C·S]`."""
    return np.asarray((channels[:, :, None] * rows[:, None, :]).reshape(len(channels), -1))


def _gradient(
    points: list[_Point], made: Singles, targets: _Targets, chosen: slice
) -> list[list[Singles]]:
    """The slopes of the mean loss of each point. All points together make one
    product with the maps, and one back: a few wide products take less than many thin ones."""
    kernels = [_kernel(*point[:2]) for point in points]
    features = made @ np.concatenate(kernels).T
    count = len(kernels[0])
    parts = [slice(start, start + count) for start in range(0, features.shape[1], count)]
    behind, back = [], np.empty_like(features)
    for point, part in zip(points, parts, strict=True):
        found, back[:, part] = _behind(point, features[:, part], targets, chosen)
        behind.append(found)
    pulled = back.T @ made
    slopes = []
    for (channels, rows, *_), part, found in zip(points, parts, behind, strict=True):
        own = pulled[part].reshape(count, -1, rows.shape[1])
        slopes.append(
            [(own @ rows[:, :, None])[:, :, 0], (channels[:, None, :] @ own)[:, 0, :], *found]
        )
    return slopes


def _behind(
    point: _Point, features: Singles, targets: _Targets, chosen: slice
) -> tuple[list[Singles], Singles]:
    """The slopes of what reads the features, and those of the features themselves."""
    out, out_bias = point[-2:]
    if len(point) == _FLAT:
        error = targets.slope(features @ out.T + out_bias, chosen)
        return [error.T @ features, error.sum(axis=0)], np.asarray(error @ out)
    hidden, hidden_bias = point[2:4]
    before = features @ hidden.T + hidden_bias
    active = np.maximum(before, 0)
    error = targets.slope(active @ out.T + out_bias, chosen)
    back = (error @ out) * (before > 0)
    slopes = [back.T @ features, back.sum(axis=0), error.T @ active, error.sum(axis=0)]
    return slopes, np.asarray(back @ hidden)


def _folded(point: _Point, targets: _Targets, given: TransferSet) -> Student:
    """The network with all centring and scaling in its weights, in double precision."""
    channels, rows, *between, out, out_bias = (values.astype(np.float64) for values in point)
    whole = np.zeros((len(channels), given.channels))
    whole[:, given.live] = channels * given.gain
    shift = (whole[:, given.live] @ given.centre) * rows.sum(axis=1)
    out = out * targets.scale[:, None]
    out_bias = out_bias * targets.scale + targets.mean
    if between:
        between[1] = between[1] - between[0] @ shift
    else:
        out_bias = out_bias - out @ shift
    hidden, hidden_bias = between or (None, None)
    return Student(
        whole, rows, hidden, hidden_bias,
        {group: out[part] for group, part in targets.parts.items()},
        {group: out_bias[part] for group, part in targets.parts.items()},
    )  # fmt: skip


def _softmax(scores: Singles) -> Singles:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
