"""Steps of Adam, against algorithm 1 of its paper written out."""

from __future__ import annotations

import numpy as np
import pytest

from rewrites.small_heads.distillation import Adam, rate


def test_steps_are_those_of_the_paper() -> None:
    random = np.random.default_rng(0)
    point = random.standard_normal((3, 4)).astype(np.float32)
    slopes = random.standard_normal((20, 3, 4))
    theta, m, v = point.astype(float), np.zeros((3, 4)), np.zeros((3, 4))
    adam = Adam([point])
    for t, g in enumerate(slopes, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        theta = theta - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        adam.step([g.astype(np.float32)], 0.05)
    np.testing.assert_allclose(point, theta, rtol=1e-4, atol=1e-5)


def test_a_minimum_is_found() -> None:
    wanted = np.linspace(-2, 2, 7, dtype=np.float32)
    point = np.zeros(7, np.float32)
    adam = Adam([point])
    for step in range(800):
        adam.step([point - wanted], rate(step / 800))
    np.testing.assert_allclose(point, wanted, atol=1e-3)


def test_steps_grow_and_then_shrink_to_nothing() -> None:
    sizes = [rate(share) for share in np.linspace(0, 1, 101)]
    top = int(np.argmax(sizes))
    assert top == 10
    assert all(np.diff(sizes[: top + 1]) > 0)
    assert all(np.diff(sizes[top:]) < 0)
    assert 0 < sizes[0] < sizes[top] / 50
    assert sizes[-1] == pytest.approx(0, abs=1e-12)
