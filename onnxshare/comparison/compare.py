"""Two models and inputs → a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxshare.comparison.cpu_difference import next_to_cpu
from onnxshare.comparison.double_precision import BUDGET
from onnxshare.comparison.interface import Interface, at_sizes
from onnxshare.comparison.promise import promise_of
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounding_noise import working_epsilon
from onnxshare.comparison.rounds import Task, stricter_of
from onnxshare.comparison.strategy import examine
from onnxshare.comparison.target import Target
from onnxshare.comparison.tolerance import NONE, advice, needs_labels
from onnxshare.comparison.wider_graph import (
    HALF,
    float_types,
    quantizes,
    same_steps,
    short_types,
    wider_graph,
    wider_samples,
)
from onnxshare.errors import ModelFileError, UsageError
from onnxshare.io.load import Model, ModelSource, load, with_data
from onnxshare.io.serialize import digest, pieces, size
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.provider_table import CPU
from onnxshare.runtime.providers import choose
from onnxshare.runtime.session_pair import Sessions
from onnxshare.runtime.timing import latencies
from onnxshare.samples.input_specs import structural_difference, unmatched
from onnxshare.samples.samples import ImageOptions, Samples, Source, random_samples, read_samples
from onnxshare.shapes.input_sizes import Dims, InputShapes
from onnxshare.support.option_text import option


def compare(
    a: ModelSource,
    b: ModelSource,
    *,
    samples: Samples | Source | str | Path | None = None,
    provider: str = "auto",
    seed: int = 0,
    count: int = 32,
    tensors: Sequence[str] = (),
    images: ImageOptions | None = None,
    run_limits: RunLimits | None = None,
    budget: float = BUDGET,
    latency: Sequence[int] | None = None,
    in_turn: bool = False,
    weights_moved: bool = False,
    keep: float | None = None,
    max_error: float | None = None,
    keep_top: tuple[int, float] | None = None,
    within: tuple[int, float] | None = None,
    max_loss: float | None = None,
    map_input: Mapping[str, str] | None = None,
    map_output: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (),
    input_shapes: InputShapes | None = None,
    dims: Dims | None = None,
    counted: Target = NONE,
    approximate: bool = False,
) -> Comparison:
    """Run two models on the same inputs and judge whether they are the same function.

    The tolerance is not a number but model A's own rounding noise; outputs that barely change
    with the inputs are not evidence, and give `inconclusive`. See `verdict.py`.

    Args:
        a: the model that is right.
        b: the model to be judged by it.
        samples: inputs, or where to read them (`read_samples`); None makes random ones.
        provider: where to run (`runtime.providers.choose`).
        seed: of the random samples and of the noise measurement.
        count: how many random samples.
        tensors: internal tensors of both models, compared in addition to the outputs: evidence for
            outputs that a later operator, such as a saturated softmax, keeps from moving.
        images: how image files become inputs.
        run_limits: what each model may take, and whether it runs in a process of its own.
        budget: seconds that may be spent in double precision on what stays undecided.
        latency: samples per run at which both are timed; none for 1, or what the models fix; None
            not to time them.
        in_turn: hold no two sessions at once, as where memory is short.
        weights_moved: the weights of B were shown to be those of A, so they are not read again.
        keep: allow an approximation that keeps the class of this share of the samples, by the 95 %
            lower bound; with real samples only.
        max_error: allow an approximation with this relative RMS error of every output; with real
            samples only.
        keep_top: `(k, share)`: allow one whose k largest scores hold the class on this share of the
            samples, by the same bound.
        within: `(k, share)`: allow one whose class moves by at most k places on this share; for
            classes that are ordered, such as ages.
        max_loss: allow one that loses at most this share of accuracy, by its 95 % upper bound; the
            samples need labels.
        map_input, map_output: names of A → those of B, where they differ.
        outputs: the outputs of A that are compared; all if empty.
        input_shapes, dims: sizes of inputs, by input or by symbol, that both models are compared
            at, and no others; as of `onnxshare.inspect`.
        counted: what is counted of classes without being judged.
        approximate: B approximates A: its errors are measured, and neither where they begin nor
            whether rounding could explain them, which takes long for a large model.

    Raises:
        ModelFileError, ModelError: a model cannot be read, or has inputs that are not tensors.
        SamplesError: the samples cannot be read or made, or do not fit.
        UsageError, RuntimeFailure: there is no such provider, or it does not work; a name is of
            nothing in the model; or an approximation is allowed without samples to judge it by.

    Example:
        >>> found = onnxshare.compare("models/lenet5.onnx", "models/lenet5-torchscript.onnx")
        >>> print(found.verdict, found.passed)
        identical True
    """
    tolerance = Target(keep, max_error, keep_top, within, max_loss)
    tolerance.check()
    if tolerance and (samples is None or (isinstance(samples, Samples) and samples.random)):
        raise UsageError(
            "random samples say nothing about an approximation", f"give {option('--samples')}"
        )
    memory = None if run_limits is None else run_limits.memory
    given = left, right = load(a), load(b)
    chosen = choose(provider)
    same = _same_bytes(left, right) and not (map_input or map_output)
    interface = Interface(map_input or {}, map_output or {}, outputs, cast=bool(tolerance))
    left, right = interface.align(left, right)
    if reason := unmatched(left.skeleton, right.skeleton):
        return Comparison(Verdict.NOT_RUN, f"{reason}: {_match()}", chosen.label)
    left, right = at_sizes(left, right, input_shapes, dims)
    other = "" if tolerance else advice(left.skeleton, right.skeleton)
    reason = structural_difference(left.skeleton, right.skeleton)
    if reason:
        reason = "; ".join(filter(None, (reason, other)))
        return Comparison(Verdict.DIFFERENT, reason, chosen.label)
    if same and latency is None:
        if samples is not None:
            _samples_for(left.skeleton, right.skeleton, samples, count, seed, images, memory)
        if reason := _unread(left):
            return Comparison(Verdict.NOT_RUN, reason, chosen.label)
        return Comparison(Verdict.IDENTICAL, _SAME, chosen.label)
    internal = _internal_names(left.skeleton, right.skeleton, tensors)
    with Sessions({"A": left, "B": right}, chosen, run_limits, in_turn=in_turn) as sessions:
        promise, unkept = promise_of(*given)
        task = Task(left, right, sessions, seed, tuple(internal), count, budget)
        task = replace(task, promise=promise, tolerance=tolerance)
        task = replace(task, weights_moved=weights_moved, counted=counted, approximate=approximate)
        models = left.skeleton, right.skeleton
        inputs = _samples_for(*models, samples, count, seed, images, memory)
        needs_labels(tolerance, inputs.labels is not None)
        found = Comparison.on(inputs, Verdict.IDENTICAL, _SAME)
        if not same:
            found = replace(examine(task, inputs), **sessions.costs())
            more = (unkept, "" if found.passed or promise else other)
            found = replace(found, reason="; ".join(filter(None, (found.reason, *more))))
        exact = not (promise or tolerance or approximate)
        if exact and _may_be_a_step(found, left, right):
            given_on = {"provider": provider, "seed": seed, "run_limits": run_limits}
            found = _unrounded(found, left, right, inputs, internal, budget=budget, **given_on)
        elif found.verdict is Verdict.INCONCLUSIVE and float_types(left.skeleton) & HALF:
            given_on = {"provider": provider, "seed": seed, "run_limits": run_limits}
            found = _in_float32(found, left, right, inputs, internal, budget=budget, **given_on)
        if latency is not None and found.verdict is not Verdict.NOT_RUN:
            found = replace(found, latency=latencies(sessions, inputs, latency, seed))
        found = replace(found, provider=chosen.described, seed=seed)
        if chosen.name == CPU or same:
            return found
        on_cpu = partial(compare, left, right, samples=inputs, provider="cpu", seed=seed)
        both = {"A": left, "B": right}
        return next_to_cpu(found, both, sessions, inputs, partial(on_cpu, run_limits=run_limits))


_SAME = "the models are equal byte for byte"


def _match() -> str:
    names = f"{option('--map-input')}, {option('--map-output')} or {option('--outputs')}"
    return f"say with {names} which stand for each other"


_UNROUNDED = (
    "with dequantized weights and without rounding data to steps, because these are larger than an "
    "error would be"
)

#: The largest error that a few steps of eight bits explain, as a share of the largest value.
_FEW_STEPS = 4 / 127


def _may_be_a_step(found: Comparison, a: Model, b: Model) -> bool:
    """Whether quantization may be why models do not agree, or why that cannot be told."""
    if not (quantizes(a.skeleton) or quantizes(b.skeleton)):
        return False
    errors = [math.inf if row.max_rel is None else row.max_rel for row in found.outputs]
    few = bool(errors) and max(errors) <= _FEW_STEPS
    return found.verdict is Verdict.INCONCLUSIVE or (found.verdict is Verdict.DIFFERENT and few)


def _unrounded(
    found: Comparison, a: Model, b: Model, samples: Samples, inside: Sequence[str], **how: Any
) -> Comparison:
    """Compare without rounding data, where both round it to the same steps; ONNX Runtime's own
    kernels for quantized weights round, too, and are left out with them."""
    whole = with_data(a), with_data(b)
    wide = [wider_graph(proto, rounding=False) for proto in whole]
    if not same_steps(*whole):
        return found
    return _as_wide(found, wide, samples, inside, _UNROUNDED, **how)


_IN_FLOAT32 = "in float32, because the rounding of half precision would hide a wrong weight"


def _in_float32(
    found: Comparison, a: Model, b: Model, samples: Samples, inside: Sequence[str], **how: Any
) -> Comparison:
    """Compare in float32, where no rounding hides an error, what A computes in half precision, and
    B no coarser."""
    ours, theirs = a.skeleton, b.skeleton
    if short_types(theirs) - short_types(ours) or working_epsilon(theirs) > working_epsilon(ours):
        return found
    wide = [wider_graph(with_data(model)) for model in (a, b)]
    return _as_wide(found, wide, samples, inside, _IN_FLOAT32, **how)


def _as_wide(
    found: Comparison,
    wide: Sequence[onnx.ModelProto | None],
    samples: Samples,
    inside: Sequence[str],
    words: str,
    **how: Any,
) -> Comparison:
    """What was found, or that the functions agree when both round less."""
    old, new = wide
    if old is None or new is None:
        return found
    made = {name for node in old.graph.node for name in node.output}
    names = [name for name in inside if name in made]
    smooth = compare(old, new, samples=wider_samples(samples), tensors=names, **how)
    if not smooth.passed:
        return found
    reason = f"{smooth.reason}; compared {words}; as they are, {found.reason}"
    return replace(smooth, verdict=Verdict.EQUIVALENT, reason=reason)


def _unread(model: Model) -> str:
    """Why the weights of a model cannot be read; empty if they can."""
    for tensor in model.external_tensors() if model.external_files() else ():
        try:
            model.external.check(tensor)
        except ModelFileError as error:
            return f"the files are equal byte for byte, but their weights cannot be read: {error}"
    return ""


def _samples_for(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    samples: Samples | Source | str | Path | None,
    count: int,
    seed: int,
    images: ImageOptions | None,
    memory: int | None,
) -> Samples:
    stricter = stricter_of(a, b)
    if samples is None:
        return random_samples(stricter, count, seed)
    if isinstance(samples, Samples):
        return samples
    return read_samples(samples, stricter, images=images, memory=memory)


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
