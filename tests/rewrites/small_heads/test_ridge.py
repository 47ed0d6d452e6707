"""The ridge fit against normal equations, least squares and leave-one-out loops written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewrites.small_heads.ridge import LinearFit, Ridge
from rewrites.small_heads.sufficient_statistics import Matrix

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Samples, features, outputs.
SIZES = {
    "more samples": (60, 7, 3),
    "fewer samples": (9, 20, 3),
    "as many": (12, 12, 2),
    "one more": (13, 12, 2),
    "two samples": (2, 5, 2),
    "one feature": (15, 1, 1),
}


def ridge(*given: Any) -> LinearFit:
    """A fit of features, targets and a prior."""
    z, y, prior = (np.asarray(item, np.float64) for item in given)
    return Ridge(Matrix(z)).fit(y, prior)


def problem(samples: int, features: int, outputs: int, noise: float = 0.5) -> tuple[Array, ...]:
    """Features far from zero mean, targets that are linear but for noise, and a poor prior."""
    random = np.random.default_rng([samples, features])
    z = random.standard_normal((samples, features)) * np.linspace(0.5, 3, features) + 4
    v = random.standard_normal((outputs, features))
    y = z @ v.T + random.standard_normal(outputs) * 5
    y += noise * random.standard_normal((samples, outputs))
    return z, y, v + random.standard_normal(v.shape)


def explicit(z: Array, y: Array, prior: Array, strength: float) -> tuple[Array, Array]:
    """V and b from the augmented least-squares problem, the bias as a column without a penalty:

    minimise ‖[Z 1] θ − (Y − Z V₀ᵀ)‖² + λ‖θ without its last row‖².
    """
    samples, features = z.shape
    rows = np.vstack(
        [
            np.hstack([z, np.ones((samples, 1))]),
            np.sqrt(strength) * np.eye(features, features + 1),
        ]
    )
    right = np.vstack([y - z @ prior.T, np.zeros((features, y.shape[1]))])
    theta = np.linalg.lstsq(rows, right, rcond=None)[0]
    return prior + theta[:-1].T, theta[-1]


def left_out(z: Array, y: Array, prior: Array, strength: float) -> float:
    """The squared error of each sample under the fit to all others, as a share of the variance."""
    total = 0.0
    for row in range(len(z)):
        others = np.arange(len(z)) != row
        weight, bias = explicit(z[others], y[others], prior, strength)
        total += float(((weight @ z[row] + bias - y[row]) ** 2).sum())
    return total / float(((y - y.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_solution_is_that_of_the_normal_equations(size: tuple[int, int, int]) -> None:
    z, y, prior = problem(*size)
    fit = ridge(z, y, prior)
    weight, bias = explicit(z, y, prior, fit.ridge)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.bias, bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_error_is_that_of_a_leave_one_out_loop(size: tuple[int, int, int]) -> None:
    z, y, prior = problem(*size)
    fit = ridge(z, y, prior)
    assert fit.error == pytest.approx(left_out(z, y, prior, fit.ridge), rel=1e-4)


@pytest.mark.parametrize("name", ["more samples", "fewer samples", "as many"])
def test_strength_is_the_best_of_a_grid(name: str) -> None:
    """No other strength, from none to one that keeps the prior, leaves less out."""
    z, y, prior = problem(*SIZES[name])
    fit = ridge(z, y, prior)
    centred = z - z.mean(axis=0)
    largest = float(np.linalg.eigvalsh(centred.T @ centred)[-1])
    others = [left_out(z, y, prior, largest * factor) for factor in np.logspace(-8, 1, 10)]
    assert fit.error <= min(others) * 1.02


def test_without_noise_a_planted_map_comes_back() -> None:
    z, y, prior = problem(40, 6, 4, noise=0.0)
    fit = ridge(z, y, prior)
    theta = np.linalg.lstsq(np.hstack([z, np.ones((40, 1))]), y, rcond=None)[0]
    np.testing.assert_allclose(fit.weight, theta[:-1].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.bias, theta[-1], rtol=1e-5, atol=1e-5)
    assert fit.error < 1e-10


def test_the_right_prior_needs_few_samples() -> None:
    z, y, _ = problem(5, 30, 2, noise=0.0)
    random = np.random.default_rng([5, 30])
    random.standard_normal(z.shape)
    planted = random.standard_normal((2, 30))
    fit = ridge(z, y, planted)
    np.testing.assert_allclose(fit.weight, planted, atol=1e-8)
    assert fit.error < 1e-12


def assert_keeps(fit: LinearFit, prior: Array, z: Array, y: Array) -> None:
    """The prior, and a bias that makes it right on average."""
    np.testing.assert_allclose(fit.weight, prior, atol=1e-12)
    np.testing.assert_allclose(fit.bias, y.mean(axis=0) - prior @ z.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("samples", [1, 6])
def test_prior_is_kept_where_features_never_change(samples: int) -> None:
    _, y, prior = problem(samples, 3, 2)
    z = np.tile([[1.0, -2.0, 5.0]], (samples, 1))
    assert_keeps(ridge(z, y, prior), prior, z, y)


def test_prior_is_kept_in_directions_that_no_sample_shows() -> None:
    """The last two features are constant: their columns of V stay as they were."""
    z, y, prior = problem(30, 6, 2)
    z[:, 4:] = (3.0, -1.0)
    fit = ridge(z, y, prior)
    np.testing.assert_allclose(fit.weight[:, 4:], prior[:, 4:], atol=1e-9)
    assert np.abs(fit.weight[:, :4] - prior[:, :4]).max() > 0.1
    weight, bias = explicit(z, y, prior, fit.ridge)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fit.bias, bias, rtol=1e-5, atol=1e-5)


def test_features_that_are_equal_share_what_is_found() -> None:
    z, y, _ = problem(30, 2, 1, noise=0.0)
    twice = np.hstack([z, z])
    fit = ridge(twice, y, np.zeros((1, 4)))
    np.testing.assert_allclose(fit.weight[:, :2], fit.weight[:, 2:], rtol=1e-6)
    np.testing.assert_allclose(twice @ fit.weight.T + fit.bias, y, rtol=1e-4, atol=1e-4)


def test_samples_given_twice_give_a_finite_fit() -> None:
    z, y, prior = problem(10, 20, 2)
    fit = ridge(np.vstack([z, z]), np.vstack([y, y]), prior)
    assert np.isfinite(fit.weight).all()
    weight, _ = explicit(np.vstack([z, z]), np.vstack([y, y]), prior, fit.ridge)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-4, atol=1e-5)


def test_targets_that_never_change() -> None:
    z, _, _ = problem(10, 4, 2)
    y = np.tile([[1.0, 2.0]], (10, 1))
    fit = ridge(z, y, np.zeros((2, 4)))
    np.testing.assert_allclose(fit.weight, np.zeros((2, 4)), atol=1e-12)
    np.testing.assert_allclose(fit.bias, [1.0, 2.0])
    assert fit.error == 0.0


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_scale_does_not_matter(factor: float) -> None:
    z, y, prior = problem(25, 6, 2)
    plain, scaled = ridge(z, y, prior), ridge(z * factor, y, prior / factor)
    np.testing.assert_allclose(scaled.weight * factor, plain.weight, rtol=1e-6)
    assert scaled.error == pytest.approx(plain.error, rel=1e-6)


@pytest.mark.parametrize(
    ("features", "targets", "prior"),
    [
        pytest.param([[1.0, np.nan]], [[1.0]], [[0.0, 0.0]], id="NaN in the features"),
        pytest.param([[1.0, 2.0]], [[np.inf]], [[0.0, 0.0]], id="infinite target"),
        pytest.param([[1.0, 2.0]], [[1.0]], [[np.nan, 0.0]], id="NaN in the prior"),
        pytest.param(np.zeros((0, 2)), np.zeros((0, 1)), [[0.0, 0.0]], id="no samples"),
        pytest.param([[1.0, 2.0]], [[1.0], [2.0]], [[0.0, 0.0]], id="other numbers of samples"),
        pytest.param([[1.0, 2.0]], [[1.0]], [[0.0]], id="prior of another size"),
    ],
)
def test_refused(features: Any, targets: Any, prior: Any) -> None:
    with pytest.raises(ValueError, match=r"fit|samples|finite"):
        ridge(features, targets, prior)
