"""The rounds of a comparison: more evidence is looked for only while the verdict needs it.

1. Both models on the samples, against A's own noise (`measurement.py`, `verdict.py`).
2. Random samples of other sizes, where a model cannot run at those that were guessed.
3. Outputs that hardly move: the tensors that go into the last operators (`evidence.py`).
4. Still inconclusive, and the samples made up: the same ones larger or smaller, until outputs live.
5. Passed, on samples of very different scales: once more on the small ones alone, because what is
   rounding beside large numbers is an error beside small ones.
6. Passed, with sizes left open and samples made up: once more at other sizes.
7. Inconclusive, or different by little: in double precision, within a budget (`tie_break.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxshare.comparison import Comparison
from onnxshare.errors import RuntimeFailure, SamplesError
from onnxshare.evidence import before_the_end
from onnxshare.inputs import Samples, random_samples
from onnxshare.io.load import Model
from onnxshare.measurement import Measurement
from onnxshare.promise import promise_of
from onnxshare.random_inputs import MORE, OTHER, Guess, open_sizes
from onnxshare.randomness import random_tensors
from onnxshare.runtime.sessions import Sessions
from onnxshare.samples.lazy import LazyArrays
from onnxshare.signature import input_specs
from onnxshare.statistics import is_float
from onnxshare.tie_break import in_double
from onnxshare.verdict import Judged, decide, upstream

#: Factors on made-up inputs, tried in turn while the outputs do not live.
SCALES = (1e-2, 1e2, 1e-4, 1e4)

#: Samples so many times smaller than the largest are looked at alone.
_SCALES_APART = 16.0

#: Samples of the second sizes.
_OTHERS = 8


@dataclass(frozen=True)
class Task:
    """What is compared, and how.

    Attributes:
        a: the model that is right.
        b: the model to be judged by it.
        sessions: where they run, as "A" and "B".
        seed: of the random samples and of the noise measurement.
        internal: tensors inside both that are compared too.
        count: how many random samples.
        budget: seconds that may be spent in double precision.
    """

    a: Model
    b: Model
    sessions: Sessions
    seed: int
    internal: tuple[str, ...]
    count: int
    budget: float


def examine(task: Task, samples: Samples) -> Comparison:
    """Compare two models, round by round; the provider is left to be filled in."""
    a, b = task.a.skeleton, task.b.skeleton
    drawn = {**random_tensors(a), **random_tensors(b)}
    if a.graph.output and all(value.name in drawn for value in a.graph.output):
        return Comparison("inconclusive", _all_drawn(drawn, a), "", samples=samples.count)
    found, samples = _at_sizes_that_run(task, samples)
    if found.verdict == "not run" or promise_of(a, b) is not None:
        return found
    if found.verdict == "inconclusive":
        found = _behind_the_end(task, samples, found)
    if found.verdict == "inconclusive" and samples.random:
        found = _at_other_scales(task, samples, found)
    if found.passed:
        found = _on_small_ones(task, samples, found)
    if found.passed and samples.random and open_sizes(stricter_of(a, b)):
        found = _at_other_sizes(task, found)
    if found.verdict in ("inconclusive", "different"):
        found = in_double(task.a, task.b, samples, found, _inside(task), task.budget)
    return found


def stricter_of(a: onnx.ModelProto, b: onnx.ModelProto) -> onnx.ModelProto:
    """The model that fixes more sizes, which says what both can take."""
    return min((a, b), key=_dynamic)


def _dynamic(proto: onnx.ModelProto) -> int:
    """How many input sizes a model leaves open; an unknown rank leaves more open than any."""
    shapes = [spec.shape for spec in input_specs(proto)]
    return sum(100 if shape is None else shape.count(None) for shape in shapes)


def measure(task: Task, samples: Samples, pairs: Mapping[str, str] | None = None) -> Comparison:
    """Run both models on these samples, and say what follows from that alone."""
    found = Comparison("not run", "", "", (), samples.count, samples.origin)
    try:
        run = Measurement(task.a, task.b, samples, task.sessions, task.seed, task.internal, pairs)
        judged = run.judge()
    except RuntimeFailure as error:
        return replace(found, reason=str(error))
    a, b = task.a.skeleton, task.b.skeleton
    inside = [*task.internal, *(pairs or ())]
    covers = {value.name: upstream(a, value.name, inside) for value in a.graph.output}
    verdict, reason = decide(judged, covers, promise_of(a, b), samples.random)
    return replace(
        found,
        verdict=verdict,
        reason=reason + _said_left_out(run.left_out),
        outputs=tuple(item.row for item in judged),
        accuracy=_accuracy(judged, samples),
        first_divergence=run.parting(judged) if verdict == "different" else None,
    )


def _at_sizes_that_run(task: Task, samples: Samples) -> tuple[Comparison, Samples]:
    """The first round; where A cannot run at sizes that were guessed, at others."""
    found = measure(task, samples)
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    if not (_a_fails(found) and samples.random and open_sizes(stricter)):
        return found, samples
    for guess in MORE:
        other = _made(task, guess)
        again = None if other is None else measure(task, other)
        if other is not None and again is not None and again.verdict != "not run":
            return again, other
    return found, samples


def _behind_the_end(task: Task, samples: Samples, found: Comparison) -> Comparison:
    pairs = _pairs(task)
    if not pairs:
        return found
    again = measure(task, samples, pairs)
    return again if again.passed else found


def _pairs(task: Task) -> dict[str, str]:
    """Tensors of A, and those of B that stand for them, which go into the last operators."""
    found = dict(before_the_end(task.a.skeleton, task.b.skeleton).values())
    return {ours: theirs for ours, theirs in found.items() if ours not in task.internal}


def _inside(task: Task) -> dict[str, str]:
    """All tensors inside that may be evidence."""
    return {**{name: name for name in task.internal}, **_pairs(task)}


def _at_other_scales(task: Task, samples: Samples, found: Comparison) -> Comparison:
    if not any(is_float(array) for array in samples.arrays.values()):
        return found
    pairs = _pairs(task)
    for scale in SCALES:
        arrays = {
            name: (array * scale).astype(array.dtype) if is_float(array) else array
            for name, array in samples.arrays.items()
        }
        origin = f"{samples.origin}, times {scale:g}"
        again = measure(task, replace(samples, arrays=arrays, origin=origin), pairs)
        # Where numbers leave the range of their type, models differ for no fault of theirs.
        honest = again.verdict == "different" and again.outputs[0].worst is not None
        if again.passed or honest:
            return again
    return found


def _on_small_ones(task: Task, samples: Samples, found: Comparison) -> Comparison:
    """Compare on the samples that are `_SCALES_APART` times smaller than the largest."""
    if isinstance(samples.arrays, LazyArrays):
        return found
    scale = np.zeros(samples.count)
    for array in samples.arrays.values():
        if is_float(array) and array.size:
            rows = np.abs(array.reshape(len(array), -1).astype(np.float64)).max(axis=1)
            scale = np.maximum(scale, rows)
    small = np.flatnonzero(scale <= scale.max() / _SCALES_APART)
    if small.size < 2 or not scale[small].any():
        return found
    again = measure(task, samples.take(small))
    if again.verdict != "different":
        return found
    return replace(again, reason=f"on the {small.size} smallest samples, {again.reason}")


def _at_other_sizes(task: Task, found: Comparison) -> Comparison:
    samples = _made(replace(task, count=min(task.count, _OTHERS)), OTHER)
    if samples is None:
        return found
    again = measure(task, samples)
    if again.verdict == "different":
        return replace(again, reason=f"at other sizes ({OTHER.words}): {again.reason}")
    if again.verdict == "not run" and not _a_fails(again):
        reason = f"A runs at other sizes ({OTHER.words}), and B does not: {again.reason}"
        return replace(again, verdict="different", reason=reason)
    if again.passed:
        return replace(found, reason=f"{found.reason}; the same at other sizes")
    return found


def _made(task: Task, guess: Guess) -> Samples | None:
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    try:
        return random_samples(stricter, task.count, task.seed, guess=guess)
    except SamplesError:
        return None  # too large


def _a_fails(found: Comparison) -> bool:
    return found.verdict == "not run" and found.reason.startswith("model A")


def _said_left_out(left_out: Mapping[str, str]) -> str:
    words = [f"'{name}' ({cause})" for name, cause in left_out.items()]
    return f"; left out, because they are random: {', '.join(words)}" if words else ""


def _all_drawn(drawn: Mapping[str, str], proto: onnx.ModelProto) -> str:
    first = proto.graph.output[0].name
    return (
        f"every output is random ('{first}' depends on {drawn[first]}), so runs say nothing: "
        "export the model for inference"
    )


def _accuracy(judged: Sequence[Judged], samples: Samples) -> dict[str, float] | None:
    """Share of samples that each model labels right, by the first output that has classes."""
    if samples.labels is None:
        return None
    for item in judged:
        if item.tally.classes and not item.row.internal:
            right = item.tally.right
            return {"a": right[0] / samples.count, "b": right[1] / samples.count}
    return None
