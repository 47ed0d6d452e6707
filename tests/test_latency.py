from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxshare.latency import LEAST_PAIRS, MARGIN, interval, summarise

Array = np.ndarray[Any, np.dtype[Any]]


def timings(seed: int, factor: float = 1.0, rounds: int = 5, pairs: int = 40) -> list[Array]:
    """Times of A and of B, which takes `factor` times as long, on a busy machine.

    Noise is what was seen on one: a slow drift that both share, bursts in which a run takes up to
    twice as long, and sessions that are up to some percent faster or slower all their lives.
    """
    random = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        luck = np.exp(random.normal(0, 0.015, 2))
        drift = np.exp(np.cumsum(random.normal(0, 0.02, (pairs, 1)), axis=0))
        burst = 1 + random.random((pairs, 2)) * (random.random((pairs, 2)) < 0.1)
        jitter = np.exp(random.normal(0, 0.05, (pairs, 2)))
        found.append(0.001 * drift * luck * burst * jitter * [1, factor])
    return found


def test_the_figures_of_known_times() -> None:
    times = np.tile([[0.002, 0.003], [0.004, 0.005], [0.001, 0.0009]], (40, 1))
    result = summarise([times], batch=8, threads=3)
    assert (result.batch, result.threads, result.pairs) == (8, 3, 120)
    assert (result.a, result.b) == (0.002, 0.003)
    assert result.ratio == pytest.approx(1.25)  # of 1.5, 1.25 and 0.9
    assert (result.ci95, result.result) == ((1.25, 1.25), "slower")


@pytest.mark.parametrize(
    ("factor", "result"), [(0.85, "faster"), (1.2, "slower"), (1.0, "no difference shown")]
)
def test_what_is_claimed_on_a_busy_machine(factor: float, result: str) -> None:
    for seed in range(20):
        assert summarise(timings(seed, factor), 1).result == result, seed


def test_a_difference_within_the_margin_is_not_claimed() -> None:
    for ratio in (1 - MARGIN, 1 + MARGIN):
        times = np.tile([0.001, 0.001 * ratio], (LEAST_PAIRS, 1))
        assert summarise([times], 1).result == "no difference shown"


def test_fewer_pairs_than_it_takes_show_nothing() -> None:
    times = np.tile([0.001, 0.002], (LEAST_PAIRS - 1, 1))
    assert summarise([times], 1).result == "no difference shown"
    assert summarise([np.tile([0.001, 0.002], (LEAST_PAIRS, 1))], 1).result == "slower"


def test_one_lucky_session_is_no_claim() -> None:
    rounds = timings(3)
    rounds[2] = rounds[2] * [1, 0.7]
    found = summarise(rounds, 1)
    assert found.result == "no difference shown"
    assert found.ci95 is not None
    assert found.ci95[0] < 0.99 < found.ci95[1]


def test_the_interval_holds_the_true_median() -> None:
    held = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        low, high = interval([np.exp(random.normal(0, 0.1, 40)) for _ in range(5)], seed)
        held += low <= 1 <= high
    assert held >= 34  # of 40 × 95 % = 38; fewer than 34 by chance once in 50
