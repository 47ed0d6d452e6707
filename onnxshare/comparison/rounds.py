"""One round of a comparison: both models run on some samples, and what follows from that alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxshare.comparison.inner_tensors import before_the_end
from onnxshare.comparison.measure import Measurement
from onnxshare.comparison.promise import Promise
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.target import Criterion, Target
from onnxshare.comparison.tolerance import NONE
from onnxshare.comparison.verdict import Judged, decide, upstream
from onnxshare.errors import RuntimeFailure, SamplesError
from onnxshare.io.load import Model
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.input_specs import input_specs
from onnxshare.samples.samples import Samples


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
        promise: of the model that is an approximation of the other, if one is.
        tolerance: the error that is allowed.
        counted: what is counted of classes in addition to what these two are about.
        approximate: whether B is known to approximate A, so that its errors are only measured.
        weights_moved: whether the weights of B were shown to be those of A.
    """

    a: Model
    b: Model
    sessions: Sessions
    seed: int
    internal: tuple[str, ...]
    count: int
    budget: float
    promise: Promise | None = None
    tolerance: Target = NONE
    weights_moved: bool = False
    counted: Target = NONE
    approximate: bool = False

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What is counted of classes."""
        given = (self.tolerance, self.counted, *([self.promise.target] if self.promise else ()))
        return tuple(dict.fromkeys(item for target in given for item in target.criteria))


@dataclass(frozen=True)
class Round:
    """What one round found.

    Attributes:
        found: the comparison.
        samples: what it ran on.
        worst: per tensor and channel that differ, the sample that differs most, the worst first.
        small_differ: whether small samples alone may differ.
        parted: whether tensors before the end differ, of which the outputs show nothing.
    """

    found: Comparison
    samples: Samples
    worst: tuple[int, ...] = ()
    small_differ: bool = False
    parted: bool = False

    @property
    def verdict(self) -> Verdict:
        """That of the comparison."""
        return self.found.verdict

    def saying(self, reason: str, verdict: Verdict | None = None) -> Round:
        """The same with another reason, and perhaps verdict."""
        new = replace(self.found, reason=reason, verdict=verdict or self.verdict)
        return replace(self, found=new)


def stricter_of(a: onnx.ModelProto, b: onnx.ModelProto) -> onnx.ModelProto:
    """The model that fixes more sizes, which says what both can take."""
    return min((a, b), key=_dynamic)


def _dynamic(proto: onnx.ModelProto) -> int:
    """How many input sizes a model leaves open; an unknown rank leaves more open than any."""
    shapes = [spec.shape for spec in input_specs(proto)]
    return sum(100 if shape is None else shape.count(None) for shape in shapes)


def measure(
    task: Task,
    samples: Samples,
    pairs: Mapping[str, str] | None = None,
    batch: int | None = None,
) -> Round:
    """Run both models on these samples, and say what follows from that alone."""
    found = Comparison.on(samples, Verdict.NOT_RUN, "")
    try:
        run, judged = _run(task, samples, pairs, batch)
    except RuntimeFailure as error:
        found = replace(found, reason=str(error), failed_model=error.model)
        return Round(replace(found, missing_kernel=error.missing_kernel), samples)
    a, inside = task.a.skeleton, [*task.internal, *(pairs or ())]
    covers = {value.name: upstream(a, value.name, inside) for value in a.graph.output}
    verdict, reason = decide(judged, covers, task.promise, samples.random, task.tolerance)
    exact = not (task.tolerance or task.promise or task.approximate)
    if verdict is Verdict.DIFFERENT and exact:
        with contextlib.suppress(RuntimeFailure):
            verdict, reason = _before_integers(task, run, judged, pairs) or (verdict, reason)
    parted = verdict is Verdict.DIFFERENT and not (task.tolerance or task.approximate)
    found = replace(
        found,
        verdict=verdict,
        reason=reason + said_left_out(run.left_out),
        outputs=tuple(item.row for item in judged),
        accuracy=_accuracy(judged, samples),
        first_divergence=run.parting(judged) if parted else None,
    )
    return Round(found, samples, run.worst(judged), run.small_differ)


def _run(
    task: Task, samples: Samples, pairs: Mapping[str, str] | None, batch: int | None
) -> tuple[Measurement, list[Judged]]:
    """Run both; sample by sample where an output turns out to have one row for each run."""
    given = (task.a, task.b, samples, task.sessions, task.seed, task.internal, pairs)
    run = Measurement(*given, batch=batch, criteria=task.criteria)
    judged = run.judge(again=not task.approximate)
    if run.few_rows and batch is None:
        run = Measurement(*given, batch=1, criteria=task.criteria)
        judged = run.judge(again=not task.approximate)
    return run, judged


def _before_integers(
    task: Task, run: Measurement, judged: list[Judged], pairs: Mapping[str, str] | None
) -> tuple[Verdict, str] | None:
    """What follows where integers differ that the same last operators make of tensors that agree:
    rounding turned them over, as an ArgMax behind a sigmoid that is 1 for many classes. None where
    something else differs, or these tensors do."""
    wrong = {item.row.name: item for item in judged if item.excess}
    ends = before_the_end(task.a.skeleton, task.b.skeleton)
    if not (ends.keys() >= wrong.keys() and all(w.tally.only_values for w in wrong.values())):
        return None
    outputs = {value.name for value in task.a.skeleton.graph.output}
    before = dict(ends[name] for name in wrong)
    if not outputs.isdisjoint(before):
        return None
    given = (task.a, task.b, run.samples, task.sessions, task.seed, task.internal)
    again = Measurement(*given, {**(pairs or {}), **before}, batch=run.batch)
    rest = [item for item in again.judge() if item.row.name not in wrong]
    if not before.keys() <= {item.row.name for item in rest}:
        return None
    verdict, reason = decide(rest, {}, None, run.samples.random)
    if verdict is Verdict.DIFFERENT:
        return None
    name, item = next(iter(wrong.items()))
    words = f"output '{name}' {item.tally.problem}, which rounding before it explains"
    if not before.keys() <= {item.row.name for item in rest if item.lives}:
        return Verdict.INCONCLUSIVE, f"{words}; '{ends[name][0]}' there barely changes"
    if verdict is Verdict.INCONCLUSIVE:
        return verdict, reason
    return Verdict.EQUIVALENT, f"{reason}; {words}: '{ends[name][0]}' was judged instead"


def said_left_out(left_out: Mapping[str, str]) -> str:
    """Return which outputs were left out because of which operators, as text."""
    words = [f"'{name}' ({cause})" for name, cause in left_out.items()]
    return f"; left out, because they are random: {', '.join(words)}" if words else ""


def _accuracy(judged: Sequence[Judged], samples: Samples) -> dict[str, float] | None:
    """Share of samples that each model labels right, by the first output that has classes."""
    if samples.labels is None:
        return None
    for item in judged:
        if item.tally.classes and not item.row.internal:
            odd = [int(x) for x in samples.labels if not 0 <= x < item.tally.classes]
            if odd:
                raise SamplesError(
                    f"a label is {odd[0]}, and output '{item.row.name}' has "
                    f"{item.tally.classes} classes",
                    "give labels from 0 on that belong to this model",
                )
            right = item.tally.right
            return {"a": right[0] / samples.count, "b": right[1] / samples.count}
    return None
