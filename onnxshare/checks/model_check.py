"""Checks one model against its limits, whatever is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxshare.analysis.inspection import HeadJudge, inspect
from onnxshare.analysis.results import Inspection
from onnxshare.checks.jobs import Job
from onnxshare.checks.known_findings import Baseline
from onnxshare.checks.limits import parse_limit, resolved
from onnxshare.checks.metrics import Metrics
from onnxshare.checks.policy import fail_on, report_unknown
from onnxshare.checks.results import Finding, Limit, ModelReport
from onnxshare.checks.rule import Problem, Rule, Subject, command
from onnxshare.checks.rules import BY_OPTION, RULES, fault_of
from onnxshare.checks.rules.sharing import REPEATED, fc_share, stored_tensors
from onnxshare.errors import ModelError, ModelFileError, OnnxShareError, SamplesError, UsageError
from onnxshare.io.load import Model, ModelSource, load
from onnxshare.shapes.inference import InputShapes
from onnxshare.shapes.input_sizes import Dims, with_dims
from onnxshare.support import progress as steps
from onnxshare.support.plugins import blamed, stdout_kept

if TYPE_CHECKING:
    from onnxshare.comparison.results import Comparison
    from onnxshare.runtime.limits import RunLimits
    from onnxshare.samples.samples import Samples


@dataclass(frozen=True)
class How:
    """What is the same for every model.

    Attributes:
        input_shapes, samples, provider, follow_symlinks, dims, run_limits: as of
            `onnxshare.check`.
        judge: asks the rewrites what they could do with a head, so that findings can name the
            one that helps; as of `onnxshare.analysis.inspection.inspect`.
        warn: codes of the rules that only warn.
        baseline: what was found and measured before.
        former: by the name of a model the one that it had before.
    """

    input_shapes: InputShapes | None
    judge: HeadJudge | None
    samples: Samples | str | Path | None
    provider: str
    follow_symlinks: str | os.PathLike[str] | None
    dims: Dims | None = None
    run_limits: RunLimits | None = None
    warn: frozenset[str] = frozenset()
    baseline: Baseline | None = None
    former: Mapping[str, str] = field(default_factory=dict)

    def load(self, source: ModelSource) -> Model:
        """The model, with links to its external data allowed if they are."""
        return load(source, follow_symlinks=self.follow_symlinks)


@blamed()
@stdout_kept()
def check_one(job: Job, how: How) -> ModelReport:
    """Hold one model against its limits; whatever goes wrong is its own."""
    name = job.name
    report = ModelReport(
        name,
        limits=job.limits,
        error=job.error,
        line=job.line,
        key=job.key,
        former=how.former.get(job.key),
    )
    if job.error is not None:
        return report
    hashes = any("hashes" in BY_OPTION[option].needs for option in job.limits)
    try:
        model = how.load(job.source)
        shapes = with_dims(model, job.input_shapes or how.input_shapes, how.dims)
        reading = partial(steps.report, f"reading {name}")
        inspection = inspect(
            model, input_shapes=shapes, judge=how.judge, hashes=hashes, progress=reading
        )
        name = inspection.model.path or name
        subject = _subject(name, model, inspection, job, how)
    except UsageError as error:
        # Sizes that do not fit one of several models are that model's error.
        return replace(report, path=name, error=str(error))
    except Exception as error:
        return replace(report, path=name, error=_reason(error, name))
    findings: list[Finding] = []
    unread: str | None = None
    for option in job.limits:
        try:
            findings += _judged(BY_OPTION[option], subject, job, how)
        except (ModelFileError, ModelError, SamplesError) as error:
            unread = str(error)
    return replace(
        report,
        path=name,
        findings=tuple(findings),
        metrics=subject.metrics,
        error=unread,
        before=None if subject.before is None else dict(subject.before),
        tensors=stored_tensors(model, inspection) if REPEATED in job.limits else {},
    )


def _judged(rule: Rule, subject: Subject, job: Job, how: How) -> list[Finding]:
    """What a rule finds in a model.

    Raises:
        UsageError: such as an unknown provider: every model would say the same.
        ModelFileError, ModelError, SamplesError: what it needs cannot be read.
    """
    limit = _number(rule, job.limits[rule.option], subject)
    if limit is None:  # nothing was measured before
        return []
    if rule.options:
        subject = replace(subject, options=rule.settings(job.options.get(rule.code, {})))
    try:
        problems = list(rule.problems(subject, limit))
    except (UsageError, ModelFileError, ModelError, SamplesError):
        raise
    except OnnxShareError as error:
        why = f"cannot be judged: {error}"
        problems = [Problem(why, None, command("inspect", subject.name))]
    return [finding_of(rule, problem, job, subject.name, how, limit) for problem in problems]


def try_rule(
    rule: Rule,
    source: ModelSource,
    limit: object = None,
    *,
    options: Mapping[str, object] | None = None,
    before: Mapping[str, int | float | None] | None = None,
    judge: HeadJudge | None = None,
) -> tuple[Finding, ...]:
    """What a rule finds in a model, whether or not a package is installed that gives it: for the
    tests of rules of your own.

    Args:
        rule: the rule.
        source: the model; anything that `onnxshare.load` takes.
        limit: the limit, as a policy has it; None is the rule's default.
        options: what it is told besides, as a policy has it.
        before: what was measured of the model before, by metric.
        judge: as of `onnxshare.analysis.inspection.inspect`.

    Raises:
        UsageError: the rule is not one that can stand next to onnxshare's own, or the limit or an
            option is not one.
        ModelFileError, ModelError: the model cannot be read.

    Example:
        >>> [finding.message for finding in try_rule(MAX_NODES, "models/lenet5.onnx", 5)]
        ['12 nodes']
    """
    why = None if rule in RULES else fault_of(rule)
    if why is not None:
        raise UsageError(f"the rule {getattr(rule, 'code', rule)!r} cannot be used: {why}")
    given, problems = dict(options or {}), list[str]()
    report_unknown(given, rule.options, "", problems)
    fail_on(problems, f"{rule.code}: ")
    asked = rule.default if limit is None else limit
    try:
        parsed = parse_limit(asked, rule.unit, relative=bool(rule.metric))
        told = {key: parse_limit(one, rule.options[key].unit) for key, one in given.items()}
    except ValueError as error:
        raise UsageError(f"{rule.code}: {error}") from None
    model = load(source)
    report = inspect(model, judge=judge, hashes="hashes" in rule.needs)
    job = Job(source, model.name, {rule.option: parsed}, options={rule.code: told})
    known = None if before is None else Baseline(metrics={model.name: before})
    how = How(None, judge, None, "auto", None, baseline=known)
    return tuple(_judged(rule, _subject(model.name, model, report, job, how), job, how))


def _number(rule: Rule, limit: Limit, subject: Subject) -> Limit | None:
    """A limit, as a number where it is relative to what was measured before; None where nothing
    was."""
    if not is_relative(rule, limit):
        return limit
    before = (subject.before or {}).get(rule.metric)
    whole = rule.unit in ("count", "bytes")
    return None if before is None else resolved(str(limit), before, whole=whole)


def _subject(name: str, model: Model, inspection: Inspection, job: Job, how: How) -> Subject:
    samples = job.samples if how.samples is None else how.samples
    allowed = _allowed(job.limits, model, samples is not None)

    def compare(reference: str) -> Comparison:
        # The only rules that run models ask for this: the others never import onnxruntime.
        from onnxshare.comparison.compare import compare

        right = reference if how.follow_symlinks is None else how.load(reference)
        given: dict[str, Any] = {
            "samples": samples,
            "provider": how.provider,
            "run_limits": how.run_limits,
            "input_shapes": job.input_shapes or how.input_shapes,
            "dims": how.dims,
        }
        return compare(right, model, **given, **allowed)

    def loads() -> str | None:
        from onnxshare.errors import RuntimeFailure
        from onnxshare.runtime.session import opened

        try:
            with opened(model, "cpu", run_limits=how.run_limits):
                return None
        except RuntimeFailure as error:
            return error.cause

    reference = job.limits.get("equivalent-to")
    metrics = _metrics(inspection)
    return Subject(
        name,
        inspection,
        model,
        compare,
        loads,
        metrics,
        None if how.baseline is None else how.baseline.before(job.key or name, asdict(metrics)),
        None if reference is None else str(reference),
        frozenset(rule.code for rule in map(BY_OPTION.get, job.limits) if rule is not None),
        bool(allowed),
    )


def _allowed(limits: Mapping[str, Any], model: Model, samples: bool) -> dict[str, Any]:
    """The error that a comparison allows; none of a model that promises one itself."""
    found = {"keep": limits.get("min-agreement"), "max_error": limits.get("max-error")}
    if found["keep"] is not None and (not samples or found["keep"] >= 1):
        found["keep"] = None  # random samples show no agreement that counts
    asked = {name: value for name, value in found.items() if value is not None}
    if "equivalent-to" not in limits or not asked:
        return {}
    from onnxshare.comparison.promise import declared

    return asked if declared(model.skeleton) is None else {}


def _metrics(inspection: Inspection) -> Metrics:
    totals = inspection.totals
    return Metrics(
        totals.params,
        fc_share(totals),
        totals.sharing_ratio,
        totals.macs,
        inspection.model.bytes,
        totals.peak_activation_bytes,
    )


def finding_of(
    rule: Rule, problem: Problem, job: Job, name: str, how: How, limit: Limit
) -> Finding:
    """The finding that a problem of a model is, under a limit."""
    measured, given = problem.measured, job.limits[rule.option]
    near = measured if isinstance(measured, (int, float)) else None
    bound = rule.bound(limit, near)
    return Finding(
        rule.code,
        rule.name,
        name,
        problem.message,
        measured,
        limit,
        f"{bound} ({given})" if limit is not given and bound else bound,
        problem.fix,
        problem.node,
        "warning" if rule.code in how.warn else "error",
        job.key,
    )


def _reason(error: Exception, name: str) -> str:
    """A crash on one model is reported with it, so that the other models are still checked."""
    if isinstance(error, OnnxShareError):
        return str(error)
    if os.environ.get("ONNXSHARE_DEBUG"):
        raise error
    return (
        f"{name}: internal error: {type(error).__name__}: {error}; this is a bug: "
        "set ONNXSHARE_DEBUG=1 to see where, and report it"
    )


def is_relative(rule: Rule, limit: object) -> bool:
    """Whether a limit of a rule is relative to what was measured before."""
    return bool(rule.metric) and isinstance(limit, str)
