"""Times two things in turn, A B A B …, and reports the ratio of each pair."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Ratios A/B of paired runs: their median and the middle half."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)"


def of_children() -> float:
    """Processor time of the processes that this one has waited for, which other work on the
    machine does not lengthen."""
    times = os.times()
    return times.children_user + times.children_system


def ratio(
    a: Callable[[], object],
    b: Callable[[], object],
    pairs: int,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Run A and B in pairs, in random order within each, after one warm-up of both. A time ends
    when the result is there; letting go of it is not in it."""
    order = random.Random(seed)
    a()
    b()
    ratios = []
    for _ in range(pairs):
        times = {}
        for run in order.sample((a, b), 2):
            start = clock()
            result = run()
            times[run] = clock() - start
            del result
        ratios.append(times[a] / times[b])
    quarters = statistics.quantiles(ratios, n=4)
    return Ratio(statistics.median(ratios), quarters[0], quarters[2], pairs)


def command(words: Sequence[str]) -> Callable[[], object]:
    """A run of a whole process, its output thrown away."""
    return lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
