"""Applies rewrites one after the other, proves the result, and says what changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import onnx

from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import Totals
from onnxshare.comparison.results import Comparison
from onnxshare.errors import RewriteError, RuntimeFailure, UsageError
from onnxshare.io.load import Model, ModelSource, load, with_data
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
from onnxshare.support.progress import report
from rewrites import ALL
from rewrites.apply import again, apply_all, fault_of_rewrite
from rewrites.base import Change, Features, Fitting, Options, Rewrite, Site
from rewrites.proof.prove import is_large, prove, prove_weights_alone, sample_count
from rewrites.refusal import Refusal
from rewrites.restore_functions import with_functions
from rewrites.small_heads.sample_checks import examine
from rewrites.small_heads.sample_split import check_method, split

#: Samples that are read from their files at once, and run.
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class RewriteResult:
    """What rewriting a model gave.

    Attributes:
        original: the model as it was read.
        rewritten: the rewritten model, its weights where they were; the original where nothing
            was done.
        sites: every site found, with the reason where it was refused.
        changes: what was done.
        before, after: totals of both models.
        validation: the comparison of both; None if nothing was done or it was switched off.
        warnings: what speaks against the samples that an approximation was fitted to.
    """

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
        first asked for. `save` does without."""
        return with_data(self.rewritten)

    @property
    def passed(self) -> bool:
        """Whether something was rewritten and the comparison does not speak against it."""
        return bool(self.changes) and (self.validation is None or self.validation.passed)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain types, without the model."""
        return {
            "schema_version": 1,
            "model": self.name,
            "sites": [site.to_dict() for site in self.sites],
            "changes": [change.to_dict() for change in self.changes],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "validation": None if self.validation is None else self.validation.to_dict(),
            "warnings": list(self.warnings),
        }

    def save(self, path: str | Path, *, force: bool = False) -> int:
        """Write the rewritten model and return the bytes written.

        Raises:
            RewriteError: nothing was rewritten, or validation failed.
            OutputError: the file exists and `force` is false, or cannot be written.
        """
        if not self.passed:
            raise RewriteError(f"{self.name}: there is no proven rewrite to save")
        return save_model(self.rewritten, Path(path), force=force)


def available() -> dict[str, Rewrite]:
    """All rewrites by name: this project's, then those of installed packages that can be loaded."""
    return _available()[0]


def _available() -> tuple[dict[str, Rewrite], dict[str, str]]:
    """All rewrites by name; and by entry point, why some of installed packages are not there."""
    found, broken = {rewrite.name: rewrite for rewrite in ALL}, {}
    for entry in entry_points(group="onnxshare.rewrites"):
        try:
            rewrite = entry.load()
            rewrite = rewrite() if isinstance(rewrite, type) else rewrite
            found.setdefault(rewrite.name, rewrite)
        except Exception as error:  # another package's code
            broken[entry.name] = f"{entry.value}: {type(error).__name__}: {error}"
    return found, broken


def rewrite(
    source: ModelSource,
    rewrites: str | Sequence[str],
    *,
    approximate: bool = False,
    samples: Samples | Source | str | Path | None = None,
    fully_convolutional: bool = False,
    pool_outputs: bool = False,
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
    objective: str = "params",
) -> RewriteResult:
    """Rewrite a model and compare the result with the original. The source is not changed.

    Args:
        source: the model.
        rewrites: names such as `fc-to-gap`, or one of them; they run in the order of
            `rewrites.ALL`.
        approximate: allow changes that are not exact; these need `samples`.
        samples: real inputs, in memory, in a file or folder, or a function that yields batches of
            them (`inputs.read_samples`): an approximation is fitted to one part of them and
            measured on the rest; an exact change is compared on all of them.
        fully_convolutional: with `fc-to-conv`, let outputs be maps over larger inputs.
        pool_outputs: with that, average each map to one answer.
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
        objective: what the search makes small: params, bytes, macs or latency.

    Raises:
        ModelFileError, ModelError: the model cannot be read or contradicts itself.
        UsageError: an unknown rewrite, or options that do not go together.
        SamplesError: the samples cannot be read or are too few.
    """
    promised = keep is not None or max_error is not None
    wanted = approximate or (samples is not None and (bool(method) or promised))
    options = Options(
        wanted, fully_convolutional, pool_outputs, node, method, keep, max_error, objective, seed
    )
    names = (rewrites,) if isinstance(rewrites, str) else rewrites
    chosen = _choose(names, options, samples)
    original = load(source)
    input_shapes = with_dims(original, input_shapes, dims)
    given = (
        samples
        if samples is None or isinstance(samples, Samples)
        else read_samples(samples, original.skeleton, images=images)
    )
    warnings: dict[str, None] = {}
    fitting, measuring = None, given
    if options.approximate and given is not None:
        fitting, measuring = split(examine(given, warnings.setdefault), options)
    fit = Fitting()
    if fitting is not None and measuring is not None:
        fit = Fitting(
            fitting,
            _features(original, fitting, provider, run_limits),
            _features(original, measuring, provider, run_limits),
            warnings.setdefault,
        )
        if options.objective == "latency":
            where = choose(provider)
            timing = _race(original, fitting, where, run_limits, seed)
            fit = replace(fit, race=timing, timed_on=where.label)
    result, sites, changes = apply_all(original, chosen, options, fit, input_shapes)
    before = inspect(original, input_shapes=input_shapes).totals
    if not changes:
        return RewriteResult(original, original, sites, (), before, before, None, tuple(warnings))
    result, changes = with_functions(original, result, changes)
    validation: Comparison | None
    if validate or any(change.site.exact is False for change in changes):
        result, validation = prove(
            original,
            result,
            changes,
            measuring,
            options,
            again=partial(again, chosen=chosen, options=options, input_shapes=input_shapes),
            provider=provider,
            seed=seed,
            count=sample_count(before.macs),
            large=is_large(before),
            run_limits=run_limits,
        )
    else:
        result, validation = prove_weights_alone(original, result, changes)
    shapes = None if fully_convolutional else input_shapes
    with fault_of_rewrite(original.name):
        after = inspect(result, input_shapes=shapes).totals
    said = tuple(warnings)
    return RewriteResult(original, result, sites, changes, before, after, validation, said)


def _choose(names: Sequence[str], options: Options, samples: object) -> list[Rewrite]:
    known = {rewrite.name: rewrite for rewrite in ALL}
    broken: dict[str, str] = {}
    if not known.keys() >= set(names):
        known, broken = _available()
    unknown = [name for name in names if name not in known]
    if unknown:
        for entry, why in broken.items():
            raise UsageError(
                f"there is no rewrite '{unknown[0]}', and the package behind entry point "
                f"'{entry}' cannot be loaded ({why})",
                f"mend or remove that package; there are: {', '.join(known)}",
            )
        raise UsageError(f"there is no rewrite '{unknown[0]}'", f"there are: {', '.join(known)}")
    if not names:
        raise UsageError("no rewrite was asked for", f"there are: {', '.join(known)}")
    if {"fc-to-conv", "conv-to-fc"} <= set(names):
        raise UsageError("--conv-to-fc undoes --fc-to-conv", "ask for one of them")
    if options.fully_convolutional and "fc-to-conv" not in names:
        raise UsageError("--fully-convolutional needs --fc-to-conv")
    if options.pool_outputs and not options.fully_convolutional:
        raise UsageError("--pool-outputs needs --fully-convolutional")
    if options.approximate and samples is None:
        raise UsageError(
            "--approximate needs inputs to fit to", "give some with --samples FILE.npz or a folder"
        )
    if options.method or options.keep is not None or options.max_error is not None:
        check_method(options, names, given=samples is not None)
    return [known[name] for name in known if name in names]


def _race(
    original: Model, samples: Samples, provider: Provider, limits: RunLimits | None, seed: int
) -> Callable[[onnx.ModelProto], Latency]:
    """What times a rewritten model against the original, one sample per run or as many as they
    fix."""

    def run(model: onnx.ModelProto) -> Latency:
        both = {"A": original, "B": replace(original, skeleton=model)}
        with Sessions(both, provider, limits, start=False) as sessions:
            return latencies(sessions, samples, (), seed)[0]

    return run


def _features(
    original: Model, samples: Samples, provider: str, run_limits: RunLimits | None
) -> Features:
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
