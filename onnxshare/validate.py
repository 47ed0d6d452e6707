"""Two models and inputs → a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from onnxshare.comparison import Comparison
from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.inputs import ImageOptions, Samples, random_samples, read_samples
from onnxshare.io.load import Model, ModelSource, load
from onnxshare.io.stream import digest, pieces, size
from onnxshare.measurement import Measurement
from onnxshare.promise import promise_of
from onnxshare.runtime.providers import choose
from onnxshare.runtime.run_limits import RunLimits
from onnxshare.runtime.sessions import Sessions
from onnxshare.signature import input_specs, structural_difference
from onnxshare.verdict import Judged, decide


def compare(
    a: ModelSource,
    b: ModelSource,
    *,
    samples: Samples | str | Path | None = None,
    provider: str = "auto",
    seed: int = 0,
    count: int = 32,
    tensors: Sequence[str] = (),
    images: ImageOptions | None = None,
    run_limits: RunLimits | None = None,
) -> Comparison:
    """Run two models on the same inputs and judge whether they are the same function.

    The tolerance is not a number but model A's own rounding noise; outputs that hardly move
    with the inputs are no evidence, and give `inconclusive`. See `verdict.py`.

    Args:
        a: the model that is right.
        b: the model to be judged by it.
        samples: inputs, or where to read them (`inputs.read_samples`); None makes random ones.
        provider: where to run (`runtime.providers.choose`).
        seed: of the random samples and of the noise measurement.
        count: how many random samples.
        tensors: internal tensors of both models, compared beside the outputs: evidence for
            outputs that a later operator, such as a saturated softmax, keeps from moving.
        images: how image files become inputs.
        run_limits: what each model may take, and whether it runs in a process of its own.

    Raises:
        ModelFileError, ModelError: a model cannot be read, or has inputs that are not tensors.
        SamplesError: the samples cannot be read or made, or do not fit.
        UsageError, RuntimeFailure: there is no such provider, or it does not work; or a name
            in `tensors` is not a tensor of both models.
    """
    left, right = load(a), load(b)
    chosen = choose(provider)
    if _same_bytes(left, right):
        return Comparison("identical", "the models are equal byte for byte", chosen.label)
    reason = structural_difference(left.skeleton, right.skeleton)
    if reason:
        return Comparison("different", reason, chosen.label)
    internal = _internal_names(left.skeleton, right.skeleton, tensors)
    with Sessions({"A": left, "B": right}, chosen, run_limits) as sessions:
        inputs = _samples_for(left.skeleton, right.skeleton, samples, count, seed, images)
        found = Comparison("not run", "", chosen.label, (), inputs.count, inputs.origin, seed)
        try:
            run = Measurement(left, right, inputs, sessions, seed, internal)
            return _settle(run, found, internal)
        except RuntimeFailure as error:
            return replace(found, reason=str(error))


def _settle(run: Measurement, found: Comparison, internal: Sequence[str]) -> Comparison:
    """Run everything, and say what follows."""
    judged = run.judge()
    a, b = run.a.skeleton, run.b.skeleton
    covers = {value.name: _upstream(a, value.name, internal) for value in a.graph.output}
    verdict, reason = decide(judged, covers, promise_of(a, b), run.samples.random)
    return replace(
        found,
        verdict=verdict,
        reason=reason,
        outputs=tuple(item.row for item in judged),
        accuracy=_accuracy(judged, run.samples),
        first_divergence=run.parting(judged) if verdict == "different" else None,
    )


def _samples_for(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    samples: Samples | str | Path | None,
    count: int,
    seed: int,
    images: ImageOptions | None,
) -> Samples:
    # The model that fixes more sizes says what both can take.
    stricter = min((a, b), key=_dynamic)
    if samples is None:
        return random_samples(stricter, count, seed)
    return (
        samples if isinstance(samples, Samples) else read_samples(samples, stricter, images=images)
    )


def _dynamic(proto: onnx.ModelProto) -> int:
    """How many input sizes a model leaves open; an unknown rank leaves more open than any."""
    shapes = [spec.shape for spec in input_specs(proto)]
    return sum(100 if shape is None else shape.count(None) for shape in shapes)


def _same_bytes(a: Model, b: Model) -> bool:
    """Whether the models are one: the same bytes, and no external data that may differ."""
    if a.external_files() and a.folder != b.folder:
        return False
    ours, theirs = pieces(a), pieces(b)
    return size(ours) == size(theirs) and digest(ours) == digest(theirs)


def _internal_names(a: onnx.ModelProto, b: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    for proto, letter in ((a, "A"), (b, "B")):
        known = {name for node in proto.graph.node for name in node.output}
        for name in names:
            if name not in known:
                raise UsageError(f"model {letter} computes no tensor called '{name}'")
    return list(names)


def _upstream(proto: onnx.ModelProto, output: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that `output` is computed from."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    seen: set[str] = set()
    stack = [output]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            if name in makers:
                stack.extend(makers[name].input)
    return tuple(name for name in names if name in seen)


def _accuracy(judged: Sequence[Judged], samples: Samples) -> dict[str, float] | None:
    """Share of samples that each model labels right, by the first output that has classes."""
    if samples.labels is None:
        return None
    for item in judged:
        if item.tally.classes and not item.row.internal:
            right = item.tally.right
            return {"a": right[0] / samples.count, "b": right[1] / samples.count}
    return None
