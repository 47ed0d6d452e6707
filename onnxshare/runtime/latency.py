"""What pairs of timings show: the median of their ratios, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxshare.io.tensors import Array

#: Pairs below which nothing is said.
LEAST_PAIRS = 100

#: A ratio this close to 1 is not a difference worth the name: two sessions of one model may differ
#: as much by where their memory happens to lie.
MARGIN = 0.03

_RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """How long two models take for a batch.

    Attributes:
        batch: samples per run.
        a, b: median seconds of a run; None if it was not measured.
        ratio: the median over the pairs of B's time over A's.
        ci95: its 95 % bootstrap interval, low and high.
        pairs: how many pairs were timed.
        threads: threads that share an operator's work on the CPU.
        result: of B against A: `faster`, `slower`, `no difference shown`, or `not run`.
        reason: why it was not run; else empty.
    """

    batch: int
    a: float | None = None
    b: float | None = None
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    pairs: int = 0
    threads: int = 0
    result: str = "not run"
    reason: str = ""


def summarise(rounds: Sequence[Array], batch: int, threads: int = 0, seed: int = 0) -> Latency:
    """What pairs of timings show: seconds, `[pairs, 2]` of A and B each, in the order in which they
    were taken; every round with newly opened sessions, because where a session's memory and threads
    happen to lie can make it faster or slower than its map for as long as it lives."""
    ratios = [times[:, 1] / times[:, 0] for times in rounds]
    low, high = interval(ratios, seed)
    pairs = sum(len(found) for found in ratios)
    result = "no difference shown"
    if pairs >= LEAST_PAIRS and high < 1 - MARGIN:
        result = "faster"
    elif pairs >= LEAST_PAIRS and low > 1 + MARGIN:
        result = "slower"
    a, b = (float(value) for value in np.median(np.concatenate(rounds), axis=0))
    ratio = float(np.median(np.concatenate(ratios)))
    return Latency(batch, a, b, ratio, (low, high), pairs, threads, result)


def interval(rounds: Sequence[Array], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median of all values (Efron and Tibshirani, An
    Introduction to the Bootstrap, chapter 13).

    Rounds are drawn first, and then, within each, blocks of values that follow one another (Künsch,
    Annals of Statistics 17, 1989): those share what else the machine does.
    """
    random = np.random.default_rng(seed)
    counts = np.array([len(values) for values in rounds])
    padded = np.zeros((len(rounds), counts.max()))
    for row, values in zip(padded, rounds, strict=True):
        row[: len(values)] = values
    drawn = [_blocks(padded, counts, random) for _ in rounds]
    low, high = np.quantile(np.median(np.concatenate(drawn, axis=1), axis=1), [0.025, 0.975])
    return float(low), float(high)


def _blocks(padded: Array, counts: Array, random: np.random.Generator) -> Array:
    """For each resample one round, drawn again in blocks, which run on from its end to its
    beginning: `[resamples, pairs]`."""
    size = int(counts.max())
    block = max(1, round(size**0.5))
    chosen = random.integers(0, len(counts), (_RESAMPLES, 1))
    starts = random.integers(0, size, (_RESAMPLES, -(-size // block), 1))
    places = (starts + np.arange(block)).reshape(_RESAMPLES, -1)[:, :size] % counts[chosen]
    values: Array = padded[chosen, places]
    return values
