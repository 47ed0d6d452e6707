"""Refinement: from close scores to close probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from rewrites.small_heads.refine_classifier import minimise, refine
from rewrites.small_heads.ridge import Ridge
from rewrites.small_heads.sufficient_statistics import Matrix


def test_minimise_finds_the_minimum_of_a_quadratic() -> None:
    random = np.random.default_rng(0)
    root = random.standard_normal((12, 12)) * np.logspace(0, 1.5, 12)
    matrix, target = root @ root.T + np.eye(12), random.standard_normal(12)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(x @ matrix @ x / 2 - target @ x), matrix @ x - target

    found = minimise(objective, np.zeros(12), steps=500)
    value, best = objective(found)[0], objective(np.linalg.solve(matrix, target))[0]
    assert value == pytest.approx(best, rel=1e-2)  # it stops where little is left to gain


def scores(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and scores that are a linear function of them, bent."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((samples, 6))
    weight = np.random.default_rng(99).standard_normal((4, 6)) * 3
    return features, np.maximum(features @ weight.T, -1.0) ** 3


def test_refinement_brings_probabilities_closer() -> None:
    features, targets = scores(400, 1)
    ridge = Ridge(Matrix(features))
    prior = np.zeros((4, 6))
    fit = ridge.fit(targets, prior)
    better = refine(ridge, targets, prior, fit)
    assert better is not None
    fresh, wanted = scores(2000, 2)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def divergence(one: object) -> float:
        guess = fresh @ one.weight.T + one.bias  # type: ignore[attr-defined]
        return -float((softmax(wanted) * np.log(softmax(guess) + 1e-300)).sum(axis=1).mean())

    assert divergence(better) < divergence(fit)
    agreement = [
        float(((fresh @ one.weight.T + one.bias).argmax(1) == wanted.argmax(1)).mean())
        for one in (fit, better)
    ]
    assert agreement[1] >= agreement[0]


@pytest.mark.parametrize("times", [30, 1e4])
def test_refinement_does_not_depend_on_the_unit_of_large_scores(times: float) -> None:
    """Scores in the thousands have the same classes, and probabilities of 0 and 1."""
    features, targets = scores(400, 1)
    ridge, prior = Ridge(Matrix(features)), np.zeros((4, 6))
    found = refine(ridge, targets, prior, ridge.fit(targets, prior))
    assert np.sqrt(targets.var(axis=0).mean()) > 20
    again = refine(ridge, times * targets, prior, ridge.fit(times * targets, prior))
    assert found is not None
    assert again is not None
    np.testing.assert_allclose(again.weight / times, found.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.bias / times, found.bias, rtol=1e-5, atol=1e-6)


def test_refinement_leaves_a_perfect_fit_alone() -> None:
    features, _ = scores(200, 3)
    weight = np.random.default_rng(98).standard_normal((4, 6))
    ridge = Ridge(Matrix(features))
    fit = ridge.fit(features @ weight.T, weight)
    better = refine(ridge, features @ weight.T, weight, fit)
    found = fit if better is None else better
    np.testing.assert_allclose(found.weight, weight, atol=1e-2)
