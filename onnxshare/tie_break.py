"""What rounding leaves undecided, in double precision: onnx's reference evaluator, in a budget.

Every float32 of both models and of the samples becomes the float64 of the same value. If the two
then agree within the rounding of float64, they are the same function. It cannot be asked of models
with shorter types or quantised steps, whose rounding belongs to what they are, and it is far too
slow for large ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxshare.comparison import Comparison
from onnxshare.errors import OnnxShareError
from onnxshare.inputs import Array, Samples
from onnxshare.io.load import Model, with_data
from onnxshare.noise import DRAWS, VISIBLE, move, rounds_data
from onnxshare.precision import HALF, widen
from onnxshare.signature import batching, input_specs
from onnxshare.statistics import Tally, is_float
from onnxshare.verdict import Judged, decide, judge, upstream

#: Seconds unless the caller says otherwise.
BUDGET = 10.0

#: Multiply-accumulates a second that the reference evaluator was seen to do at least: on two
#: cores, 3e7 (small convolutions) to 2e9 (matrix products).
_RATE = 1e8

#: Samples, and runs of each: A, B, A with inputs moved by roundings and visibly.
_SAMPLES = 6
_RUNS = 3 + DRAWS

#: A difference is looked at again only if it is less than this many times the tolerance: beyond,
#: rounding is no explanation.
_MARGINAL = 100.0

#: An error beyond this share of the movement is no rounding of float32 either.
_PLAIN = 2.0**-10

_Evaluate = Callable[[Mapping[str, Array]], list[Array]]


def in_double(
    a: Model,
    b: Model,
    samples: Samples,
    found: Comparison,
    inside: Mapping[str, str],
    budget: float,
    *,
    worst: Sequence[int] = (),
) -> Comparison:
    """Settle a verdict that is inconclusive, or different by little, if double precision can.

    Args:
        a: the model that is right.
        b: the model to be judged by it.
        samples: the inputs; a few of them are run.
        found: what was found in single precision.
        inside: tensors inside A that are compared too, and those of B that stand for them.
        budget: seconds; by the estimated work, nothing is begun that would take longer.
        worst: samples on which the models seem to differ: all of them are run, because what
            others show takes nothing back.

    Returns:
        `equivalent`, or `different` where an inconclusive one plainly is; else `found`.
    """
    spread = np.linspace(0, samples.count - 1, _SAMPLES).astype(int)
    rows = list(dict.fromkeys([*worst, *map(int, spread)]))[: max(len(worst), _SAMPLES)]
    if budget <= 0 or not _worth_it(found) or not _suits(a, b, budget, len(rows)):
        return found
    few = samples.take(np.sort(rows))
    try:
        judged = _judge(a, b, few, inside, time.monotonic() + budget)
    except Exception:  # an operator the evaluator lacks, or wants in float32: it decides nothing
        return found
    if judged is None:
        return found
    covers = {row.name: upstream(a.skeleton, row.name, list(inside)) for row in found.outputs}
    verdict, reason = decide(judged, covers, None, samples.random)
    basis = f"in double precision, on {few.count} samples"
    if verdict in ("equivalent", "identical"):
        words = f"{basis}, {reason}; in single precision: {found.reason}"
        return replace(found, verdict="equivalent", reason=words, first_divergence=None)
    if verdict == "different" and found.verdict == "inconclusive" and _plainly(judged):
        return replace(found, verdict="different", reason=f"{basis}, {reason}")
    return found


def _worth_it(found: Comparison) -> bool:
    if not found.outputs:
        return False
    if found.verdict == "inconclusive":
        return True
    worst = [row.worst for row in found.outputs]
    return all(value is not None and value < _MARGINAL for value in worst)


def _suits(a: Model, b: Model, budget: float, count: int) -> bool:
    """Whether both models compute in float32 throughout, and are small enough."""
    from onnxshare.analysis.inspection import inspect

    for model in (a, b):
        types = {tensor.data_type for tensor in model.skeleton.graph.initializer}
        types.update(
            value.type.tensor_type.elem_type
            for value in (*model.skeleton.graph.input, *model.skeleton.graph.output)
        )
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


def _judge(
    a: Model, b: Model, samples: Samples, inside: Mapping[str, str], deadline: float
) -> list[Judged] | None:
    outputs = [value.name for value in a.skeleton.graph.output]
    names = {name: inside.get(name, name) for name in [*outputs, *inside]}
    evaluate = [_evaluator(a, names), _evaluator(b, names.values())]
    if evaluate[0] is None or evaluate[1] is None:
        return None
    inputs = {
        name: array.astype(np.float64) if is_float(array) else array
        for name, array in samples.arrays.items()
    }
    random = np.random.default_rng(0)
    ways: list[tuple[_Evaluate, Mapping[str, Array]]] = [
        (evaluate[0], inputs),
        (evaluate[1], inputs),
        (evaluate[0], _moved(inputs, VISIBLE, random)),
        *((evaluate[0], _moved(inputs, 2.0**-52, random)) for _ in range(DRAWS)),
    ]
    results = []
    for run, values in ways:
        if time.monotonic() > deadline:
            return None
        results.append(_over(a, run, values))
    ours, theirs, response, *own = results
    judged = []
    for place, name in enumerate(names):
        tally = Tally(name)
        tally.add(ours[place], theirs[place], [result[place] for result in own])
        tally.add_response(ours[place], response[place])
        item = judge(tally, internal=name not in outputs)
        if not (item.excess and inside.get(name, name) != name):  # paired in error, perhaps
            judged.append(item)
    return judged


def _evaluator(model: Model, names: Iterable[str]) -> _Evaluate | None:
    from onnx.reference import ReferenceEvaluator

    proto = widen(with_data(model), frozenset((TensorProto.FLOAT,)), TensorProto.DOUBLE)
    if proto is None:
        return None
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluator = ReferenceEvaluator(proto)

    def run(feed: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(value) for value in evaluator.run(None, dict(feed))]

    return run


def _over(model: Model, run: _Evaluate, inputs: Mapping[str, Array]) -> list[Array]:
    """All samples, in runs of as many as the model takes."""
    layout = batching(input_specs(model.skeleton))
    count = min((len(array) for array in inputs.values()), default=1)
    size = layout.size or count
    pieces: list[list[Array]] = []
    for start in range(0, count, size):
        rows = [min(row, count - 1) for row in range(start, start + size)]
        feed = {
            name: array[rows[0]] if layout.whole else array[rows] for name, array in inputs.items()
        }
        real = min(size, count - start)
        values = run(feed)
        pieces.append(
            [
                value[:real]
                if value.ndim and value.shape[0] == size and not layout.whole
                else value[np.newaxis]
                for value in values
            ]
        )
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _moved(
    inputs: Mapping[str, Array], step: float, random: np.random.Generator
) -> dict[str, Array]:
    return {
        name: move(array, step, random) if is_float(array) else array
        for name, array in inputs.items()
    }


def _plainly(judged: Sequence[Judged]) -> bool:
    """Whether some channel's error is too large a share of its movement for any rounding."""
    return any(
        item.excess
        and item.tally.error.size > 0
        and bool((item.tally.error > _PLAIN * item.tally.movement)[item.ratio > 1].any())
        for item in judged
    )
