from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxshare.runtime.latency import interval, summarise

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


@pytest.mark.parametrize(
    ("ratio", "result"),
    [
        (0.5, "faster"),
        (0.969, "faster"),
        (0.971, "no difference shown"),
        (1.0, "no difference shown"),
        (1.029, "no difference shown"),
        (1.031, "slower"),
        (2.0, "slower"),
    ],
)
def test_a_claim_takes_a_hundred_pairs_and_three_percent(ratio: float, result: str) -> None:
    times = np.tile([0.001, 0.001 * ratio], (100, 1))
    assert summarise([times], 1).result == result
    assert summarise([times[:50], times[:50]], 1).result == result
    assert summarise([times[:99]], 1).result == "no difference shown"


def test_one_lucky_session_is_no_claim() -> None:
    rounds = timings(3)
    rounds[2] = rounds[2] * [1, 0.7]
    found = summarise(rounds, 1)
    assert found.result == "no difference shown"
    assert found.ci95 is not None
    assert found.ci95[0] < 0.99 < found.ci95[1]


def test_the_interval_is_that_of_hundreds_of_resamples_of_the_median() -> None:
    """Of 1000 independent values the median has the standard error 1.2533 · σ / √n."""
    values = np.random.default_rng(5).normal(1, 0.1, 1000)
    low, high = interval([values], 0)
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 * 0.1 / 1000**0.5, rel=0.2)
    assert low < np.median(values) < high
    assert interval([values], 0) == (low, high)
    assert interval([values], 1) != (low, high)


def test_values_that_hang_together_widen_the_interval() -> None:
    random = np.random.default_rng(6)
    waves = np.repeat(random.normal(1, 0.1, 40), 10)
    together, apart = (interval([values]) for values in (waves, random.permutation(waves)))
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


def test_rounds_of_unequal_lengths_are_drawn_to_their_ends() -> None:
    """The last values of the longer round are the only ones that differ."""
    long = np.r_[np.ones(30), np.full(60, 2.0)]
    low, high = interval([np.ones(10), long], 0)
    assert (low, high) == (1.0, 2.0)


def test_the_interval_holds_the_true_median() -> None:
    held = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        low, high = interval([np.exp(random.normal(0, 0.1, 40)) for _ in range(5)], seed)
        held += low <= 1 <= high
    assert held >= 34  # of 40 × 95 % = 38; fewer than 34 by chance once in 50
