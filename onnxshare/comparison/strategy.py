"""The rounds of a comparison: more evidence is looked for only while the verdict needs it.

1. Both models on the samples, against A's own noise (`measure.py`, `verdict.py`).
2. Random samples of other sizes, where a model cannot run at those that were guessed.
3. Outputs that barely change: the tensors that go into the last operators (`inner_tensors.py`);
   integers and labels that take several values are evidence where these do not part.
4. Still inconclusive, and the samples are random: other integers, then the same ones larger or
   smaller, until outputs live.
5. Passed, on samples of very different scales: once more on the small ones alone, because what is
   rounding next to large numbers is an error next to small ones.
6. Passed, with the batch open: runs of other batches. With random samples and sizes open: once
   more at other sizes, odd and long ones among them; with open integers: others than 0 and 1;
   where a model asks for NaN, with that.
7. Inconclusive, or different by little: in double precision, in a budget (`double_precision.py`).
8. Passed: the weights are read. Where one layer's differ and nothing makes up for it
   (`weight_difference.py`), that is not a pass, and different if double precision shows it.
9. Passed: operators, attributes and nodes that differ run alone (`part_difference.py`).

Where the weights of B were shown to be those of A, byte for byte, as in the proof of a rewrite that
moved them, 5, 8 and 9 add nothing, and are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from onnxshare.comparison.double_precision import Doubt, difference_in_double, in_double
from onnxshare.comparison.graph_parts import same_graphs, sides
from onnxshare.comparison.inner_tensors import before_the_end
from onnxshare.comparison.measure import small_samples
from onnxshare.comparison.other_sizes import (
    at_other_batches,
    at_other_integers,
    at_other_sizes,
    at_sizes_that_run,
    with_missing_values,
)
from onnxshare.comparison.part_difference import part_difference
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounding_noise import EPSILON
from onnxshare.comparison.rounds import Round, Task, measure, said_left_out
from onnxshare.comparison.tensor_statistics import is_float
from onnxshare.comparison.verdict import FACTOR, VISIBILITY
from onnxshare.comparison.weight_difference import weight_difference
from onnxshare.errors import OnnxShareError
from onnxshare.graph.random_operators import random_tensors
from onnxshare.samples.samples import Array, Samples
from onnxshare.support.option_text import option

#: Factors on random inputs, tried in turn while the outputs do not live.
SCALES = (1e-2, 1e2, 1e-4, 1e4)

#: Types of integers and booleans.
_LABELS = frozenset(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(code)) for code in "?bhilqBHILQ")

#: Why outputs of few digits are not evidence.
_COARSE = (
    "rounding is too large a share of any output for agreement to prove something: compare the "
    "models as they were before they were converted"
)


def examine(task: Task, samples: Samples) -> Comparison:
    """Compare two models, round by round; the provider is left to be filled in."""
    a, b = task.a.skeleton, task.b.skeleton
    drawn = {**random_tensors(a), **random_tensors(b)}
    if not a.graph.output:
        why = "the models have no outputs: there is nothing to compare"
        return Comparison(Verdict.NOT_RUN, why, "")
    if all(value.name in drawn for value in a.graph.output):
        why = _all_drawn(drawn, a)
        return Comparison.on(samples, Verdict.INCONCLUSIVE, why)
    last = at_sizes_that_run(task, samples)
    samples = last.samples
    if last.verdict is Verdict.NOT_RUN or task.promise is not None or task.tolerance:
        return last.found
    if task.approximate:
        return last.found
    if not samples.arrays and last.verdict is Verdict.INCONCLUSIVE:
        return _without_inputs(last.found)
    if last.verdict is Verdict.INCONCLUSIVE and _same_graphs(task):
        return _equal_graphs(task, last)
    if last.verdict is Verdict.INCONCLUSIVE:
        last = _behind_the_end(task, last)
    if last.verdict is Verdict.INCONCLUSIVE:
        last = _by_labels(task, last)
    if last.verdict is Verdict.INCONCLUSIVE and (kind := _too_coarse(a)):
        return replace(last.found, reason=f"in {kind}, {_COARSE}")
    if last.verdict is Verdict.INCONCLUSIVE and samples.random:
        last = at_other_integers(task, last)
    if last.verdict is Verdict.INCONCLUSIVE and samples.random:
        last = _at_other_scales(task, last)
    if last.found.passed and not task.weights_moved:
        last = _on_small_ones(task, samples, last)
    if last.found.passed:
        last = at_other_batches(task, last)
    if last.found.passed and samples.random:
        last = at_other_sizes(task, last)
    if last.found.passed and samples.random:
        last = with_missing_values(task, last)
    if last.verdict is Verdict.DIFFERENT and not last.found.outputs:
        return last.found  # B does not run where A does
    if last.verdict in (Verdict.INCONCLUSIVE, Verdict.DIFFERENT):
        return in_double(_doubt(task, last), task.budget, task.sessions.limits)
    return last.found if task.weights_moved else _with_weights_read(task, last)


def _doubt(task: Task, last: Round) -> Doubt:
    return Doubt(task.a, task.b, last.samples, last.found, _inside(task), last.worst)


def _with_weights_read(task: Task, last: Round) -> Comparison:
    """Outputs that agree say little about a layer whose weights differ alone."""
    words = ""
    with contextlib.suppress(OnnxShareError):  # a graph that ONNX Runtime reads otherwise than we
        words = weight_difference(task.a, task.b, lambda name: _values(task, last.samples, name))
    if not words:
        return _with_parts_run(task, last)
    cause = f"weight {words}, and nothing else in the models makes up for it"
    shown = difference_in_double(_doubt(task, last), task.budget, task.sessions.limits)
    if shown:
        return last.saying(f"{cause}; {shown}", Verdict.DIFFERENT).found
    return last.saying(
        f"{cause}; but no output shows it ({last.found.reason}): pass other {option('--samples')}",
        Verdict.INCONCLUSIVE,
    ).found


def _values(task: Task, samples: Samples, name: str) -> Array:
    """A tensor of A on samples."""
    if name in samples.arrays:
        return np.asarray(samples.arrays[name])
    return task.sessions.open("A", [name]).run(samples.arrays, 1)[name]


def _same_graphs(task: Task) -> bool:
    try:
        return same_graphs(*sides(task.a, task.b))
    except OnnxShareError:
        return False


def _equal_graphs(task: Task, last: Round) -> Comparison:
    """The same nodes and weights are the same function, whether or not outputs show it."""
    drawn = random_tensors(task.a.skeleton)
    outputs = [value.name for value in task.a.skeleton.graph.output]
    left_out = {name: drawn[name] for name in outputs if name in drawn}
    equal = not left_out and all(row.max_abs == 0 for row in last.found.outputs)
    words = "both are the same nodes and weights, whatever these are called"
    words += said_left_out(left_out)
    return last.saying(words, Verdict.IDENTICAL if equal else Verdict.EQUIVALENT).found


def _with_parts_run(task: Task, last: Round) -> Comparison:
    """Outputs that agree say little about an operator that differs alone."""
    part = None
    if not task.sessions.in_turn:
        with contextlib.suppress(OnnxShareError):
            given = (task.a, task.b, task.sessions, last.samples)
            part = part_difference(*given, task.budget)
    if part is None:
        return last.found
    if part.inputs is not None:
        rows = min(len(array) for array in part.inputs.values())
        shown = Samples(part.inputs, None, "random for what differs", True)
        again = measure(task, shown.take(range(rows)))
        if again.verdict is Verdict.DIFFERENT:
            return again.saying(f"{part.words}: {again.found.reason}").found
    return last.saying(
        f"{part.words}: run alone, that makes a difference; but no output shows it "
        f"({last.found.reason}): pass other {option('--samples')}",
        Verdict.INCONCLUSIVE,
    ).found


def _without_inputs(found: Comparison) -> Comparison:
    """Models without inputs give the same outputs whenever they run: equal ones prove all."""
    if not all(row.max_abs == 0 for row in found.outputs):
        return found
    return replace(
        found,
        verdict=Verdict.IDENTICAL,
        reason="the models have no inputs, and all outputs are equal",
    )


def _behind_the_end(task: Task, last: Round) -> Round:
    pairs = _pairs(task)
    if not pairs:
        return last
    again = measure(task, last.samples, pairs)
    if again.found.passed:
        return again
    return replace(last, parted=not {row.name for row in again.found.outputs}.issuperset(pairs))


def _by_labels(task: Task, last: Round) -> Round:
    """Integers and labels that take several values, and agree on all, are evidence of their own."""
    rows = [row for row in last.found.outputs if not row.internal]
    kinds = {value.name: value.type.tensor_type.elem_type for value in task.a.skeleton.graph.output}
    labels = [row.name for row in rows if kinds.get(row.name) in _LABELS]
    if last.parted or not labels or not all((row.live or 0) >= 0.5 for row in rows):
        return last
    equal = all(row.max_abs == 0 for row in rows)
    verdict = Verdict.IDENTICAL if equal else Verdict.EQUIVALENT
    words = f"'{labels[0]}' takes several values over the samples, and agrees on all of them"
    return last.saying(words, verdict)


def _pairs(task: Task) -> dict[str, str]:
    """Tensors of A, and those of B that stand for them, which go into the last operators."""
    found = dict(before_the_end(task.a.skeleton, task.b.skeleton).values())
    return {ours: theirs for ours, theirs in found.items() if ours not in task.internal}


def _inside(task: Task) -> dict[str, str]:
    """All tensors inside that may be evidence."""
    return {**{name: name for name in task.internal}, **_pairs(task)}


def _too_coarse(proto: onnx.ModelProto) -> str:
    """The type of all outputs, if it has so few digits that none of them can live."""
    types = {value.type.tensor_type.elem_type for value in proto.graph.output}
    name: str = onnx.TensorProto.DataType.Name(min(types)).lower() if len(types) == 1 else ""
    unit = EPSILON.get(min(types), 0.0) if len(types) == 1 else 0.0
    return name if unit * FACTOR * VISIBILITY > 1 else ""


def _at_other_scales(task: Task, last: Round) -> Round:
    samples = last.samples
    if not any(is_float(array) for array in samples.arrays.values()):
        return last
    pairs = _pairs(task)
    for scale in SCALES:
        with np.errstate(over="ignore"):  # of half precision; such samples prove nothing
            arrays = {
                name: (array * scale).astype(array.dtype) if is_float(array) else array
                for name, array in samples.arrays.items()
            }
        origin = f"{samples.origin}, times {scale:g}"
        again = measure(task, replace(samples, arrays=arrays, origin=origin), pairs)
        # Where numbers leave the range of their type, models differ for no fault of theirs.
        honest = again.verdict is Verdict.DIFFERENT and again.found.outputs[0].worst is not None
        if again.found.passed or honest:
            return again
    return last


def _on_small_ones(task: Task, samples: Samples, last: Round) -> Round:
    """Compare once more on small samples alone, if they seem to differ."""
    small = small_samples(samples) if last.small_differ else None
    if small is None:
        return last
    again = measure(task, samples.take(np.flatnonzero(small)))
    if again.verdict is not Verdict.DIFFERENT:
        return last
    return again.saying(f"on the {small.sum()} smallest samples, {again.found.reason}")


def _all_drawn(drawn: Mapping[str, str], proto: onnx.ModelProto) -> str:
    first = proto.graph.output[0].name
    return (
        f"every output is random ('{first}' depends on {drawn[first]}), so runs say nothing: "
        "export the model for inference"
    )
