"""Refines a linear layer of a classifier: from close scores to close probabilities.

A ridge fit makes scores close in the mean square; what decides is their softmax. So with the
original's probabilities p_n and the ridge solution V_ridge as the start, minimise

    1/N Σ_n KL(p_n ‖ softmax(V t_n + c)) + μν/2 ‖V − V_ridge‖²,

which is convex (the knowledge distillation of Hinton, Vinyals and Dean, arXiv 1503.02531, for a
linear student), by L-BFGS (Nocedal, 1980; Nocedal and Wright, "Numerical Optimization", 2006,
algorithm 7.4). ν is the mean variance of a feature, and μ is chosen by cross-validation, with "not
at all" among the choices. It is for classes only: it makes the error of the scores larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rewrites.small_heads.ridge import LinearFit, Ridge
from rewrites.small_heads.sufficient_statistics import Floats, Matrix

#: The proximal weights μ tried, strongest first, each started from the one before.
_WEIGHTS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)

_FOLDS = 3

#: Scores that spread more than this are scaled down to it before their softmax: it would be 0 or 1,
#: and say nothing of the other classes (the temperature of Hinton, Vinyals and Dean).
_SPREAD = 8.0

#: More work than this (samples × directions × classes) is not worth the wait.
MOST_WORK = 1e8

_STEPS = 40
_MEMORY = 12

#: The search ends where a step would gain less than this share.
_ENOUGH = 1e-5


def refine(ridge: Ridge, targets: Floats, prior: Floats, fit: LinearFit) -> LinearFit | None:
    """Refine a fit to scores `[N, K]` that was centred on a prior, K × D; None where
    cross-validation does not favour it."""
    spread = float(np.sqrt(targets.var(axis=0).mean()))
    power = min(1.0, _SPREAD / spread) if spread > 0 else 1.0
    if power < 1:
        fit = replace(fit, weight=fit.weight * power, bias=fit.bias * power)
    found = _refined(ridge, targets * power, prior * power, fit)
    if found is None or power == 1:
        return found
    return replace(found, weight=found.weight / power, bias=found.bias / power)


def _refined(ridge: Ridge, targets: Floats, prior: Floats, fit: LinearFit) -> LinearFit | None:
    features = ridge.coordinates()
    samples, size = features.shape
    if size == 0 or samples < 2 * _FOLDS or features.size * targets.shape[1] > MOST_WORK:
        return None
    wanted = _softmax(targets)
    steps = _best_steps(features, targets, wanted, ridge.rotate(ridge.predict(prior)))
    if steps == 0:
        return None
    start = ridge.rotate(ridge.predict(fit.weight))
    weight, bias = start, fit.bias + fit.weight @ ridge.mean
    for strength in _WEIGHTS[:steps]:
        weight, bias = _fit(features, wanted, start, (weight, bias), strength)
    moved = fit.weight + ridge.lift(weight - start)
    return LinearFit(moved, bias - moved @ ridge.mean, fit.ridge, fit.error, fit.left_out)


def _best_steps(features: Floats, targets: Floats, wanted: Floats, centre: Floats) -> int:
    """How far down the list of weights cross-validation goes; 0 for not refining at all.

    Each weight starts from the one before, and the first that does not help ends it.
    """
    held = np.arange(len(features)) % _FOLDS
    first = [
        Ridge(Matrix(features[held != k])).fit(targets[held != k], centre) for k in range(_FOLDS)
    ]
    points = [(fit.weight, fit.bias) for fit in first]

    def score() -> float:
        return sum(
            _divergence(features[held == fold], wanted[held == fold], *points[fold])
            for fold in range(_FOLDS)
        )

    best = score()
    for place, strength in enumerate(_WEIGHTS):
        for fold in range(_FOLDS):
            seen = held != fold
            points[fold] = _fit(
                features[seen], wanted[seen], first[fold].weight, points[fold], strength
            )
        now = score()
        if now >= best:
            return place
        best = now
    return len(_WEIGHTS)


def _fit(
    features: Floats, wanted: Floats, centre: Floats, start: tuple[Floats, Floats], strength: float
) -> tuple[Floats, Floats]:
    """Minimise the objective of the module, in coordinates where its curvature is about even."""
    samples, size = features.shape
    classes = wanted.shape[1]
    spread = (features**2).mean(axis=0)
    proximal = strength * float(spread.mean())
    scale = np.sqrt(spread + proximal + 1e-300)
    scaled = features / scale
    pull = proximal / scale**2

    def objective(point: Floats) -> tuple[float, Floats]:
        moved, bias = point[:, :-1], point[:, -1]
        scores = base + scaled @ moved.T + bias
        logs = _log_softmax(scores)
        slope = (np.exp(logs) - wanted) / samples
        value = -float((wanted * logs).sum()) / samples + float((pull * moved**2).sum()) / 2
        gradient = np.hstack([slope.T @ scaled + pull * moved, slope.sum(axis=0)[:, None]])
        return value, gradient

    base = features @ centre.T
    point = np.hstack([(start[0] - centre) * scale, start[1][:, None]])
    found = minimise(objective, point.reshape(classes, size + 1))
    return centre + found[:, :-1] / scale, found[:, -1]


def minimise(
    objective: Callable[[Floats], tuple[float, Floats]], point: Floats, steps: int = _STEPS
) -> Floats:
    """Minimise a smooth convex function, which gives its value and gradient at a point of any
    shape, by L-BFGS with a backtracking line search."""
    value, gradient = objective(point)
    pairs: list[tuple[Floats, Floats, float]] = []
    for _ in range(steps):
        direction = _direction(gradient, pairs)
        descent = float(np.vdot(direction, gradient))
        if -descent <= _ENOUGH * max(1.0, abs(value)):
            break
        length = 1.0
        while True:
            candidate = point + length * direction
            new_value, new_gradient = objective(candidate)
            if new_value <= value + 1e-4 * length * descent:
                break
            length /= 2
            if length < 1e-8:
                return point
        move, change = candidate - point, new_gradient - gradient
        curvature = float(np.vdot(move, change))
        if curvature > 1e-12 * float(np.vdot(change, change)):
            pairs = [*pairs[1 - _MEMORY :], (move, change, 1 / curvature)]
        point, value, gradient = candidate, new_value, new_gradient
    return point


def _direction(gradient: Floats, pairs: list[tuple[Floats, Floats, float]]) -> Floats:
    """The two-loop recursion: −H g, H the inverse curvature that the last moves show."""
    found = gradient.copy()
    steps = []
    for move, change, inverse in reversed(pairs):
        step = inverse * float(np.vdot(move, found))
        found -= step * change
        steps.append(step)
    if pairs:
        move, change, inverse = pairs[-1]
        found /= inverse * float(np.vdot(change, change))
    for (move, change, inverse), step in zip(pairs, reversed(steps), strict=True):
        found += (step - inverse * float(np.vdot(change, found))) * move
    return -found


def _log_softmax(scores: Floats) -> Floats:
    moved = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))


def _softmax(scores: Floats) -> Floats:
    return np.exp(_log_softmax(scores))


def _divergence(features: Floats, wanted: Floats, weight: Floats, bias: Floats) -> float:
    """The cross-entropy, which is the divergence but for a constant."""
    return -float((wanted * _log_softmax(features @ weight.T + bias)).sum())
