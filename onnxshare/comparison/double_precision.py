"""What rounding leaves undecided, in double precision: onnx's reference evaluator, in a budget.

Every float32 of both models and of the samples becomes the float64 of the same value. If the two
then agree within the rounding of float64, they are the same function. It cannot be asked of models
with shorter types or quantized steps, whose rounding belongs to what they are, and it is far too
slow for large ones. It runs in a process of its own, which ends with the budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxshare.comparison.measure import Measurement
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounding_noise import DRAWS, rounds_data
from onnxshare.comparison.tensor_statistics import Tally, is_float
from onnxshare.comparison.verdict import Judged, decide, upstream
from onnxshare.comparison.wider_graph import HALF, float_types, wider_graph, wider_samples
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import Model, load, with_data
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_weights import WHOLE_BELOW, weight_bytes
from onnxshare.runtime.provider_table import REFERENCE
from onnxshare.runtime.providers import Provider
from onnxshare.runtime.session import run_model
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Array, Samples

#: Seconds unless the caller says otherwise.
BUDGET = 10.0

#: Multiply-accumulates a second that the reference evaluator was seen to do at least: on two
#: cores, 3e7 (small convolutions) to 2e9 (matrix products).
_RATE = 1e8

#: Bytes of weights, at most: they are copied, widened and handed over.
_MOST_WEIGHTS = WHOLE_BELOW // 2

#: Samples, and runs of each: A twice, B, A with inputs moved by roundings and visibly.
_SAMPLES = 6
_RUNS = 4 + DRAWS

#: A difference is looked at again only if it is less than this many times the tolerance: beyond,
#: rounding is not an explanation.
_MARGINAL = 100.0

#: An error beyond this share of the movement is not rounding of float32 either.
_PLAIN = 2.0**-10

#: An error below this share of a channel's largest value, 4,096 units of double precision, may be
#: its rounding: what does not move at all has no noise that could be shaken up and measured.
_ROUNDING = 2.0**-40

#: Beyond this share of the largest value, what the evaluator gives is not what the model computes.
_FAITHFUL = 2.0**-7

#: Where they run, in double precision.
_EVALUATOR = Provider(REFERENCE, "onnx's reference evaluator")

#: Seconds that a step may take although the budget is used up: it would be killed at once.
_LEAST_SECONDS = 0.01


@dataclass(frozen=True)
class Doubt:
    """What is undecided.

    Attributes:
        a: the model that is right.
        b: the model to be judged by it.
        samples: the inputs; a few of them are run.
        found: what was found in single precision.
        inside: tensors inside A that are compared too, and those of B that stand for them.
        worst: samples on which the models seem to differ: all of them are run, because what
            others show takes nothing back.
    """

    a: Model
    b: Model
    samples: Samples
    found: Comparison
    inside: Mapping[str, str]
    worst: Sequence[int] = ()

    def few(self) -> Samples:
        """The samples that are run."""
        spread = np.linspace(0, self.samples.count - 1, _SAMPLES).astype(int)
        rows = list(dict.fromkeys([*self.worst, *map(int, spread)]))
        return self.samples.take(np.sort(rows[: max(len(self.worst), _SAMPLES)]))


@dataclass(frozen=True)
class _Settled:
    """What double precision says: a verdict, why, and the figures."""

    verdict: Verdict
    reason: str
    judged: Sequence[Judged]


def in_double(doubt: Doubt, budget: float, limits: RunLimits) -> Comparison:
    """Settle a verdict that is inconclusive, or different by little, if double precision can; by
    the estimated work, nothing is begun that would take longer than `budget` seconds.

    Returns:
        `equivalent`, or `different` where an inconclusive one plainly is; else what was found.
    """
    found = doubt.found
    settled = _settle(doubt, budget, limits) if _worth_it(found) else None
    if settled is None:
        return found
    if settled.verdict in (Verdict.EQUIVALENT, Verdict.IDENTICAL):
        words = f"{settled.reason}; in single precision: {found.reason}"
        return replace(found, verdict=Verdict.EQUIVALENT, reason=words, first_divergence=None)
    undecided = found.verdict is Verdict.INCONCLUSIVE and settled.verdict is Verdict.DIFFERENT
    if undecided and _plainly(settled.judged):
        return replace(found, verdict=Verdict.DIFFERENT, reason=settled.reason)
    return found


def difference_in_double(doubt: Doubt, budget: float, limits: RunLimits) -> str:
    """How models differ that are known not to be equal, as text; "" where it does not show.

    No rounding of float32 is taken into account, which a weight of another value is not.
    """
    settled = _settle(doubt, budget, limits)
    return settled.reason if settled is not None and settled.verdict is Verdict.DIFFERENT else ""


def _settle(doubt: Doubt, budget: float, limits: RunLimits) -> _Settled | None:
    a, few = doubt.a, doubt.few()
    if budget <= 0 or not _suits(a, doubt.b, budget, few.count):
        return None
    try:
        judged = _judge(doubt, few, _Until.of(budget, limits))
    except OnnxShareError:  # such as an operator that the evaluator lacks: it decides nothing
        return None
    if judged is None:
        return None
    names = [row.name for row in doubt.found.outputs if not row.internal]
    covers = {name: upstream(a.skeleton, name, list(doubt.inside)) for name in names}
    verdict, reason = decide(judged, covers, None, few.random)
    return _Settled(verdict, f"in double precision, on {few.count} samples, {reason}", judged)


def _judge(doubt: Doubt, few: Samples, limits: _Until) -> list[Judged] | None:
    """Run both; None where double precision does not hold the models, the evaluator computes
    something else, or its first run used up the budget."""
    wide = [wider_graph(with_data(model), TensorProto.DOUBLE) for model in (doubt.a, doubt.b)]
    if wide[0] is None or wide[1] is None:
        return None
    a, b, samples = load(wide[0]), load(wide[1]), wider_samples(few, TensorProto.DOUBLE)
    pairs = {ours: theirs for ours, theirs in doubt.inside.items() if ours != theirs}
    same = [name for name in doubt.inside if name not in pairs]
    with Sessions({"A": a, "B": b}, _EVALUATOR, limits) as sessions:
        run = Measurement(a, b, samples, sessions, 0, same, pairs, few.count)
        double = run.first()
        single = run_model(
            doubt.a, few.arrays, list(double), "cpu", batch=few.count, run_limits=limits
        )
        if limits.left <= 0 or not _agree(double, single):
            return None
        return run.judge(again=False)


def _worth_it(found: Comparison) -> bool:
    if not found.outputs:
        return False
    if found.verdict is Verdict.INCONCLUSIVE:
        return True
    worst = [row.worst for row in found.outputs]
    return all(value is not None and value < _MARGINAL for value in worst)


def _suits(a: Model, b: Model, budget: float, count: int) -> bool:
    """Whether both models compute in float32 throughout, and are small enough."""
    from onnxshare.analysis.inspection import inspect

    if max(weight_bytes(model) for model in (a, b)) > _MOST_WEIGHTS:
        return False
    for model in (a, b):
        types = float_types(model.skeleton)
        if types & HALF or TensorProto.FLOAT not in types:
            return False
        if any(_shortens(node) for node in model.skeleton.graph.node):
            return False
    try:
        macs = inspect(a).totals.macs
    except OnnxShareError:
        return False
    return macs is not None and macs * count * _RUNS / _RATE <= budget


def _shortens(node: onnx.NodeProto) -> bool:
    """Whether a node rounds data to fewer digits."""
    if rounds_data(node) or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return True
    return node.op_type == "Cast" and any(
        item.name == "to" and item.i in HALF for item in node.attribute
    )


def _agree(double: Mapping[str, Array], single: Mapping[str, Array]) -> bool:
    """Whether the evaluator computes what ONNX Runtime does, but for rounding. It has operators
    that it computes otherwise: BatchNormalization of opset 9 to 13, by the batch's statistics."""
    for name, values in double.items():
        if not is_float(values):
            continue
        if values.shape != single[name].shape:
            return False
        seen = np.isfinite(values) & np.isfinite(single[name])
        error = np.abs(values[seen] - single[name][seen])
        if error.size and error.max() > _FAITHFUL * np.abs(values[seen]).max():
            return False
    return True


@dataclass(frozen=True)
class _Until(RunLimits):
    """Each step may take what is left of the budget, which ends at a time of `time.monotonic`, and
    no more than any other."""

    end: float = 0.0

    @classmethod
    def of(cls, budget: float, limits: RunLimits) -> _Until:
        """So many seconds from now on, and otherwise what holds for any model."""
        return cls(limits.in_process, limits.timeout, limits.memory, time.monotonic() + budget)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def to_load(self, weights: int) -> float:
        """Seconds for loading a model."""
        return max(_LEAST_SECONDS, min(super().to_load(weights), self.left))

    def to_run(self, weights: int, samples: int, size: int) -> float:
        """Seconds for running some samples."""
        return max(_LEAST_SECONDS, min(super().to_run(weights, samples, size), self.left))


def _plainly(judged: Sequence[Judged]) -> bool:
    """Whether some channel's error is too large for any rounding: as a share of its movement, and
    of its values."""
    return any(
        item.excess and item.tally.error.size > 0 and _far(item.tally, item.ratio)
        for item in judged
    )


def _far(tally: Tally, ratio: Array) -> bool:
    least = np.maximum(_PLAIN * tally.movement, _ROUNDING * tally.largest)
    return bool((tally.error > least)[ratio > 1].any())
