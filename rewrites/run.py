"""Applies rewrites one after the other, proves the result, and says what changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import onnx

from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import Totals
from onnxshare.comparison.results import Comparison
from onnxshare.errors import RewriteError, RuntimeFailure
from onnxshare.io.load import Model, ModelSource, load, with_data, without_defaults
from onnxshare.io.save import save_model
from onnxshare.io.tensors import Array
from onnxshare.runtime.latency import Latency
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.providers import Provider, choose
from onnxshare.runtime.session import opened
from onnxshare.runtime.session_pair import Sessions
from onnxshare.runtime.timing import latencies
from onnxshare.samples.samples import ImageOptions, Samples, Source, read_samples
from onnxshare.shapes.inference import InputShapes
from onnxshare.shapes.input_sizes import Dims, with_dims
from onnxshare.support.dataclass_tools import Result
from onnxshare.support.progress import report
from rewrites.apply import again, apply_all, fault_of_rewrite
from rewrites.base import Change, Features, Fitting, Options, Rewrite, Site
from rewrites.proof.prove import Prover, is_large, prove_weights_alone, sample_count
from rewrites.refusal import Refusal
from rewrites.request import Asked, request
from rewrites.restore_functions import with_functions
from rewrites.small_heads.sample_checks import examine
from rewrites.small_heads.sample_split import split

#: Samples that are read from their files at once, and run.
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class RewriteResult(Result):
    """What rewriting a model gave.

    Attributes:
        original: the model as it was read; with `assume_defaults`, its real inputs alone.
        rewritten: the rewritten model, its weights where they were; the original where nothing
            was done.
        sites: every site found, with the reason where it was refused.
        changes: what was done.
        before, after: totals of both models.
        validation: the comparison of both; None if nothing was done or it was switched off.
        warnings: what was put right in the original, and what makes the samples doubtful that an
            approximation was fitted to.
    """

    SHOWN = (
        *("schema_version", "model=name", "sites", "changes", "before", "after", "validation"),
        "warnings",
    )
    schema_version: ClassVar[int] = 1

    original: Model = field(repr=False)
    rewritten: Model = field(repr=False)
    sites: tuple[Site, ...]
    changes: tuple[Change, ...]
    before: Totals
    after: Totals
    validation: Comparison | None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the model was read from."""
        return self.original.name

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The rewritten model with all its weights in memory, external ones included; read when
        first requested. `save` does without."""
        return with_data(self.rewritten)

    @property
    def passed(self) -> bool:
        """Whether something was rewritten and the comparison is not evidence against it."""
        return bool(self.changes) and (self.validation is None or self.validation.passed)

    def save(self, path: str | Path, *, force: bool = False) -> int:
        """Write the rewritten model and return the bytes written.

        Raises:
            RewriteError: nothing was rewritten, or validation failed.
            OutputError: the file exists and `force` is false, or cannot be written.
        """
        if not self.passed:
            raise RewriteError(f"{self.name}: there is no proven rewrite to save")
        return save_model(self.rewritten, Path(path), force=force)


def rewrite(
    source: ModelSource,
    rewrites: Asked,
    *,
    approximate: bool = False,
    samples: Samples | Source | str | Path | None = None,
    fully_convolutional: bool = False,
    pool_outputs: bool = False,
    assume_defaults: bool = False,
    node: str = "*",
    provider: str = "auto",
    seed: int = 0,
    validate: bool = True,
    input_shapes: InputShapes | None = None,
    dims: Dims | None = None,
    images: ImageOptions | None = None,
    run_limits: RunLimits | None = None,
    method: str = "",
    keep: float | None = None,
    max_error: float | None = None,
    keep_top: tuple[int, float] | None = None,
    within: tuple[int, float] | None = None,
    max_loss: float | None = None,
    search_share: float | None = None,
    objective: str = "params",
    time_limit: float | None = None,
    int8_activations: bool = False,
) -> RewriteResult:
    """Rewrite a model and compare the result with the original. The source is not changed.

    Args:
        source: the model.
        rewrites: names such as `fc-to-gap`, rewrites such as `FcToGap(keep=0.99)`, whose own
            options come before the keywords here, or one of these; they run in the order of
            `onnxshare.rewrites.ALL`, then others as they are given.
        approximate: allow changes that are not exact; these need `samples`.
        samples: real inputs, in memory, in a file or folder, or a function that yields batches of
            them (`samples.read_samples`): an approximation is fitted to one part of them and
            measured on the rest; an exact change is compared on all of them.
        fully_convolutional: with `fc-to-conv`, let outputs be maps over larger inputs.
        pool_outputs: with that, average each map to one answer.
        assume_defaults: take initializers that are inputs too, of which nobody gives another
            value, off the inputs, so that they are constants.
        node: a pattern such as `fc*`: leave sites of other nodes alone.
        provider: where to run.
        seed: of random inputs and of the choice of held-out samples.
        validate: whether to run both models and compare. Approximations are always compared, and
            moved weights always checked.
        input_shapes: sizes for inputs whose sizes are symbolic.
        dims: sizes by symbol: `{"batch": 1}`.
        images: how image files become inputs.
        run_limits: what a model may take when it runs; as of `onnxshare.compare`.
        method: with `fc-to-gap`, the head to fit, such as `stack:16`, or `auto` to search.
        keep: the share of answers, 0 to 1, that a head must keep; certified.
        max_error: the relative RMS error that a head may have instead, as embeddings need.
        keep_top: `(k, share)`: the share of samples on which the class must stay among the k
            largest scores of the new head.
        within: `(k, share)`: the share of samples whose class may move by k places, no more; for
            classes that are ordered.
        max_loss: the share of accuracy that may be lost; the samples need labels.
        search_share: the share of the samples that a fit or a search sees; the others certify what
            it finds. None: half, and more where fewer prove the promise.
        objective: what the search makes small: params, bytes, macs or latency.
        time_limit: seconds after which a search ends with the best that it has; with it the result
            depends on how fast the machine is.
        int8_activations: with `method="auto"`, try heads in 8 bits with their activations in 8 bits
            too.

    Raises:
        ModelFileError, ModelError: the model cannot be read or contradicts itself.
        UsageError: an unknown rewrite, or options that do not go together.
        SamplesError: the samples cannot be read or are too few.

    Example:
        >>> result = onnxshare.rewrite("models/lenet5.onnx", ["fc-to-conv"])
        >>> print(result.validation.verdict, result.after.params)
        equivalent 61706
        >>> size = result.save("lenet5.conv.onnx")
    """
    options = Options(
        approximate,
        fully_convolutional,
        pool_outputs,
        node,
        method,
        keep,
        max_error,
        objective,
        seed,
        time_limit,
        keep_top,
        within,
        max_loss,
        search_share,
        int8_activations,
    )
    chosen, options = request(rewrites, options, given=samples is not None)
    original = load(source)
    if assume_defaults:
        original = without_defaults(original)
    input_shapes = with_dims(original, input_shapes, dims)
    if samples is not None and not isinstance(samples, Samples):
        memory = None if run_limits is None else run_limits.memory
        samples = read_samples(samples, original.skeleton, images=images, memory=memory)
    if options.small_head and samples is not None:
        options = replace(options, approximate=True)
    job = _Job(original, chosen, options, input_shapes, provider, run_limits)
    return job.done(samples, validate=validate)


@dataclass(frozen=True)
class _Job:
    """One call of `rewrite`, its arguments read."""

    original: Model
    chosen: list[Rewrite]
    options: Options
    input_shapes: InputShapes | None
    provider: str
    run_limits: RunLimits | None

    def done(self, samples: Samples | None, *, validate: bool) -> RewriteResult:
        """Apply the rewrites, prove what comes out, and count it."""
        original, options, shapes = self.original, self.options, self.input_shapes
        warnings: dict[str, None] = {}
        measuring, fitting = samples, Fitting()
        if options.approximate and samples is not None:
            part, measuring = split(examine(samples, warnings.setdefault), options)
            fitting = self._fitting(part, measuring, warnings.setdefault)
        result, sites, changes = apply_all(original, self.chosen, options, fitting, shapes)
        before = inspect(original, input_shapes=shapes).totals
        said = (*original.notes, *warnings)
        if not changes:
            return RewriteResult(original, original, sites, (), before, before, None, said)
        result, changes = with_functions(original, result, changes)
        validation: Comparison | None
        if validate or any(change.site.exact is False for change in changes):
            result, validation = self._proven(result, changes, measuring, before)
        else:
            result, validation = prove_weights_alone(original, result, changes)
        with fault_of_rewrite(original.name):
            free = options.fully_convolutional
            after = inspect(result, input_shapes=None if free else shapes).totals
        return RewriteResult(original, result, sites, changes, before, after, validation, said)

    def _fitting(self, own: Samples, held_out: Samples, warn: Callable[[str], None]) -> Fitting:
        """What a fit may use: one part of the samples to fit to, the other to certify on."""
        features = partial(
            features_of, self.original, provider=self.provider, run_limits=self.run_limits
        )
        fitting = Fitting(own, features(own), features(held_out), warn)
        fitting = replace(fitting, held_out_labels=held_out.labels)
        if self.options.objective != "latency":
            return fitting
        where = choose(self.provider)
        return replace(fitting, race=self._race(own, where), timed_on=where.label)

    def _proven(
        self,
        result: Model,
        changes: tuple[Change, ...],
        samples: Samples | None,
        before: Totals,
    ) -> tuple[Model, Comparison]:
        prover = Prover(
            self.options,
            partial(
                again, chosen=self.chosen, options=self.options, input_shapes=self.input_shapes
            ),
            self.provider,
            sample_count(before.macs),
            is_large(before),
            self.run_limits,
        )
        return prover.prove(self.original, result, changes, samples)

    def _race(self, samples: Samples, provider: Provider) -> Callable[[onnx.ModelProto], Latency]:
        """What times a rewritten model against the original, one sample per run or as many as
        they fix."""

        def run(model: onnx.ModelProto) -> Latency:
            both = {"A": self.original, "B": replace(self.original, skeleton=model)}
            with Sessions(both, provider, self.run_limits, start=False) as sessions:
                return latencies(sessions, samples, (), self.options.seed)[0]

        return run


def features_of(
    original: Model, samples: Samples, provider: str, run_limits: RunLimits | None
) -> Features:
    """What runs rewritten models on samples."""

    def run(model: onnx.ModelProto, names: tuple[str, ...]) -> Generator[Mapping[str, Array]]:
        subject = replace(original, skeleton=model)
        try:
            with opened(subject, provider, names, run_limits=run_limits) as session:
                done = 0
                for part in samples.batches(_READ_AT_ONCE):
                    report("fitting", done, samples.count)
                    yield from session.iter_batches(dict(part.arrays))
                    done += part.count
        except RuntimeFailure as error:
            raise Refusal(f"nothing can be fitted: {error}") from error

    return run
