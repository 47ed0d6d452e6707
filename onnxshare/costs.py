"""What two models cost to run, beside each other: time for batches of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxshare.errors import RuntimeFailure
from onnxshare.io.tensors import Array
from onnxshare.latency import Latency
from onnxshare.runtime.sessions import Sessions
from onnxshare.runtime.timing import ROUNDS, measure
from onnxshare.samples.samples import Samples
from onnxshare.support.progress import report


def latencies(
    sessions: Sessions, samples: Samples, batches: Sequence[int], seed: int
) -> tuple[Latency, ...]:
    """Time models A and B on the same samples.

    Args:
        sessions: both models.
        samples: inputs; the first ones are used, repeated where there are fewer than a batch.
        batches: samples per run; none for what the models fix, else 1.
        seed: of the order in which they run.

    Returns:
        One entry per batch, with the reason where it was not run.
    """
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
