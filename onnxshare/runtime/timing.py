"""Times two sessions in turn: pairs in random order, after a warm-up, on a fixed set of threads.

What two models cost to run, next to each other: time for batches of samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxshare.errors import RuntimeFailure
from onnxshare.io.tensors import Array
from onnxshare.runtime.latency import LEAST_PAIRS, Latency, summarise
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Samples
from onnxshare.support.progress import report

#: How often the sessions are opened anew, in another process; even, as A and B take turns in being
#: opened first.
ROUNDS = 6

#: The most pairs of a round, and the seconds after which it takes no more than it must.
_MOST_PAIRS, _SECONDS = 200, 0.4

#: A timing spans as many runs as take about this many seconds: the clock and the start of threads
#: would blur shorter ones.
_LEAST_TIMING = 1e-3

_MOST_RUNS = 100

#: Bytes, at most, of a batch of inputs: each model gets a copy, and so does its process.
_MOST_BYTES = 2**30

#: Pairs that are requested at once, and the least of a round.
_STEP = 10
_LEAST = -(-LEAST_PAIRS // ROUNDS // _STEP) * _STEP


def measure(
    a: Session,
    b: Session,
    inputs: Mapping[str, Array],
    batch: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Latency:
    """Time two sessions that live in one place, opened with `usable_cores` threads, on the same
    samples, repeated where there are fewer than a batch. `not run`, with the reason, where a model
    does not take such batches."""
    for letter, session in (("A", a), ("B", b)):
        fixed = session.fixed_batch
        if fixed is not None and fixed != batch:
            plural = "" if fixed == 1 else "s"
            reason = f"model {letter} takes {fixed} sample{plural} per run and no other number"
            return Latency(batch, reason=reason)
    one = sum(array.nbytes / max(1, len(array)) for array in inputs.values())
    if one * batch > _MOST_BYTES:
        reason = (
            f"a batch of {batch} samples takes {one * batch / 2**30:.3g} GiB, and 1 is the most"
        )
        return Latency(batch, reason=reason)
    random = np.random.default_rng([seed, batch])
    rounds = []
    try:
        feeds = a.feed(inputs, batch), b.feed(inputs, batch)
        for number in range(ROUNDS):
            a.leave()
            for session in (a, b) if number % 2 else (b, a):
                session.enter()
            rounds.append(_round(a, b, feeds, random))
            if progress is not None:
                progress(number + 1, ROUNDS)
    except RuntimeFailure as failure:
        return Latency(batch, reason=str(failure))
    return summarise(rounds, batch, a.settings.threads or 0, seed)


def _round(
    a: Session,
    b: Session,
    feeds: tuple[Mapping[str, Array], Mapping[str, Array]],
    random: np.random.Generator,
) -> Array:
    # The first runs also make the kernels choose their ways and the arenas grow.
    for _ in range(2):
        warm = a.race(b, feeds, random.permutation(2)[np.newaxis], 1)
    runs = int(np.clip(np.ceil(_LEAST_TIMING / warm.min()), 1, _MOST_RUNS))
    times: list[Array] = []
    start = time.perf_counter()
    while len(times) * _STEP < _MOST_PAIRS:
        orders = np.stack([random.permutation(2) for _ in range(_STEP)])
        times.append(a.race(b, feeds, orders, runs))
        if len(times) * _STEP >= _LEAST and time.perf_counter() - start > _SECONDS:
            break
    return np.concatenate(times)


def latencies(
    sessions: Sessions, samples: Samples, batches: Sequence[int], seed: int
) -> tuple[Latency, ...]:
    """Time models A and B on the first of these samples, repeated where there are fewer than a
    batch: one entry per batch, none being what the models fix, else 1; with the reason where it was
    not run."""
    try:
        a, b = sessions.racers("A", "B")
    except RuntimeFailure as failure:
        return tuple(Latency(batch, reason=str(failure)) for batch in batches or (1,))
    chosen = list(dict.fromkeys(batches)) or [a.fixed_batch or b.fixed_batch or 1]
    arrays: Mapping[str, Array] = dict(samples.take(slice(max(chosen))).arrays)
    found = []
    for place, batch in enumerate(chosen):

        def progress(done: int, _: int, place: int = place) -> None:
            report("timing", place * ROUNDS + done, len(chosen) * ROUNDS)

        report("timing", place * ROUNDS, len(chosen) * ROUNDS)
        found.append(measure(a, b, arrays, batch, seed=seed, progress=progress))
    return tuple(found)
