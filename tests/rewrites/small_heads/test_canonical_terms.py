"""A weight over a map as a sum of mixtures of channels under masks."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshare.io.tensors import Array
from rewrites.small_heads.canonical_terms import canonical_terms


def left_over(weight: Array, channels: Array, masks: Array) -> float:
    """The share of a weight `[R, C, S]` that its best sum of these terms misses, by NumPy's own
    least squares over all elements."""
    basis = np.einsum("kc,ks->csk", channels, masks).reshape(-1, len(masks)).astype(np.float64)
    flat = weight.reshape(len(weight), -1).T
    best = basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
    return float(((flat - best) ** 2).sum() / (flat**2).sum())


@pytest.mark.parametrize(
    ("directions", "channels", "positions", "terms"),
    [
        pytest.param(6, 9, 8, 4, id="several directions"),
        pytest.param(1, 9, 8, 3, id="one direction"),
        pytest.param(5, 7, 1, 4, id="one position"),
        pytest.param(5, 1, 9, 4, id="one channel"),
    ],
)
def test_planted_terms_are_found(
    directions: int, channels: int, positions: int, terms: int
) -> None:
    random = np.random.default_rng(2)
    shapes = ((directions, terms), (channels, terms), (positions, terms))
    weight = np.einsum("rk,ck,sk->rcs", *(random.standard_normal(shape) for shape in shapes))
    mixtures, masks = canonical_terms(weight, terms, np.random.default_rng(0))
    assert mixtures.shape == (terms, channels)
    assert masks.shape == (terms, positions)
    np.testing.assert_allclose(np.linalg.norm(mixtures, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(masks, axis=1), 1, rtol=1e-5)
    assert left_over(weight, mixtures, masks) < 1e-4


def test_terms_shared_by_directions_cost_once() -> None:
    """Twelve directions in a space of three terms: the singular pairs of each direction alone,
    which the search starts from, would be some of the terms of some directions only."""
    random = np.random.default_rng(5)
    shapes = ((12, 3), (10, 3), (11, 3))
    weight = np.einsum("rk,ck,sk->rcs", *(random.standard_normal(shape) for shape in shapes))
    weight += 0.01 * random.standard_normal(weight.shape)
    assert left_over(weight, *canonical_terms(weight, 3, np.random.default_rng(0))) < 1e-3


@pytest.mark.parametrize("count", [3, 40])
def test_a_weight_of_nothing_has_random_terms(count: int) -> None:
    mixtures, masks = canonical_terms(np.zeros((2, 4, 5)), count, np.random.default_rng(0))
    assert np.linalg.matrix_rank(mixtures) == min(count, 4)
    assert np.linalg.matrix_rank(masks) == min(count, 5)


def test_more_terms_than_it_has_use_for() -> None:
    """A weight of one term, and five asked for: the others are there, and it is not spoilt."""
    random = np.random.default_rng(3)
    weight = np.einsum("r,c,s->rcs", *(random.standard_normal(size) for size in (3, 6, 7)))
    mixtures, masks = canonical_terms(weight, 5, np.random.default_rng(0))
    assert np.isfinite(mixtures).all()
    assert np.isfinite(masks).all()
    assert left_over(weight, mixtures, masks) < 1e-6
