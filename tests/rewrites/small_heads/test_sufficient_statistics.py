"""Moments and fits in blocks against numpy on the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewrites.small_heads import sufficient_statistics
from rewrites.small_heads.ridge import Ridge
from rewrites.small_heads.spatial_weighting import PooledMaps, average, full, grid
from rewrites.small_heads.sufficient_statistics import Matrix, Moments, gather, gram

Array = np.ndarray[Any, np.dtype[np.float64]]


def data(samples: int, size: int) -> Array:
    """Far from zero, where sums of squares would lose digits."""
    return np.random.default_rng([samples, size]).standard_normal((samples, size)) + 1e6


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 30], [0, 40]], ids=str)
def test_merged_moments_are_those_of_all(cuts: list[int]) -> None:
    z = data(40, 6)
    found = Moments.of(z[:0])
    for part in np.split(z, cuts):
        found = found.merge(Moments.of(part))
    assert found.count == 40
    np.testing.assert_allclose(found.mean, z.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.scatter, np.cov(z.T, bias=True) * 40, atol=1e-8)


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sufficient_statistics, "BLOCK", 17)


@pytest.mark.usefixtures("tiny_blocks")
def test_blocks_add_up() -> None:
    z = data(23, 5)
    centred = z - z.mean(axis=0)
    np.testing.assert_allclose(gather(Matrix(z)).scatter, centred.T @ centred, atol=1e-8)
    np.testing.assert_allclose(gram(Matrix(z))[1], centred @ centred.T, atol=1e-8)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 12)])
def test_fits_in_blocks_are_fits(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    z = data(*shape) - 1e6
    y = z @ np.random.default_rng(1).standard_normal((shape[1], 3)) + np.sin(z[:, :3])
    prior = np.ones((3, shape[1]))
    whole = Ridge(Matrix(z)).fit(y, prior)
    monkeypatch.setattr(sufficient_statistics, "BLOCK", 29)
    pieces = Ridge(Matrix(z)).fit(y, prior)
    np.testing.assert_allclose(pieces.weight, whole.weight, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(pieces.left_out, whole.left_out, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(20, 5), (6, 9)])
def test_left_out_predictions_are_those_of_a_loop(shape: tuple[int, int]) -> None:
    """Each sample predicted by a ridge fit of the same strength to all others, written out."""
    z = data(*shape) - 1e6
    y = np.cos(z[:, :2]) + z[:, 1:3]
    prior = np.full((2, shape[1]), 0.3)
    fit = Ridge(Matrix(z)).fit(y, prior)
    for row in range(len(z)):
        others = np.arange(len(z)) != row
        mean, level = z[others].mean(axis=0), y[others].mean(axis=0)
        centred = z[others] - mean
        rest = y[others] - level - centred @ prior.T
        normal = centred.T @ centred + fit.ridge * np.eye(shape[1])
        weight = prior + np.linalg.solve(normal, centred.T @ rest).T
        expected = level + weight @ (z[row] - mean)
        np.testing.assert_allclose(fit.left_out[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_rotation_and_back(shape: tuple[int, int]) -> None:
    z = data(*shape) - 1e6
    ridge = Ridge(Matrix(z))
    weight = np.random.default_rng(2).standard_normal((3, shape[1]))
    rotated = ridge.rotate(ridge.predict(weight))
    np.testing.assert_allclose(ridge.coordinates() @ rotated.T, ridge.predict(weight), atol=1e-8)
    np.testing.assert_allclose(ridge.predict(ridge.lift(rotated)), ridge.predict(weight), atol=1e-8)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize(
    "weighting", [average((3, 4)), grid((3, 4), 2), full((3, 4))], ids=lambda item: item.kind
)
def test_pooled_maps_in_blocks(weighting: Any) -> None:
    maps = np.random.default_rng(3).standard_normal((9, 5, 12)).astype(np.float32)
    chosen = np.array([8, 1, 2, 5])
    pooled = PooledMaps(maps, chosen, weighting)
    whole = weighting.apply(maps[chosen])
    assert pooled.shape == whole.shape
    np.testing.assert_allclose(np.concatenate([block for _, block in pooled.rows()]), whole)
    columns = [block for _, block in pooled.columns()]
    np.testing.assert_allclose(np.concatenate(columns, axis=1), whole, rtol=1e-12)
