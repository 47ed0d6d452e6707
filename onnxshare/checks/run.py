"""Holds models against rules; one bad model never hides the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxshare.analysis.inspection import HeadJudge, inspect
from onnxshare.analysis.results import Inspection
from onnxshare.checks.git_baseline import baseline_at
from onnxshare.checks.git_changes import changed_since, commit_since, former_names, gone
from onnxshare.checks.jobs import Job, each, left_out, plan
from onnxshare.checks.known_findings import Baseline, content, read_baseline, silence
from onnxshare.checks.limits import resolved
from onnxshare.checks.metrics import Metrics
from onnxshare.checks.model_names import portable
from onnxshare.checks.policy import Policy
from onnxshare.checks.policy_file import read_policy
from onnxshare.checks.policy_template import DEFAULT
from onnxshare.checks.results import CheckReport, Finding, Limit, ModelReport, Severity
from onnxshare.checks.rule import Problem, Rule, Subject, command
from onnxshare.checks.rules import BY_OPTION
from onnxshare.checks.rules.sharing import REPEATED, fc_share, repeated, stored_tensors
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


#: Codes or names of the rules to add, to leave out, and that only warn.
Choice = tuple[Sequence[str], Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class Past:
    """What the models are compared with: `baseline`, `baseline_ref` and `changed_since` of
    `onnxshare.check`."""

    baseline: Baseline | str | os.PathLike[str] | None = None
    ref: str | None = None
    since: str | None = None


def run(
    sources: ModelSource | Sequence[ModelSource],
    limits: Mapping[str, object],
    how: How,
    *,
    policy: Policy | str | os.PathLike[str] | None,
    choice: Choice,
    past: Past,
    failing: tuple[Severity | None, int | None] = (None, None),
    jobs: int | None,
    progress: Callable[[Iterable[ModelReport], int], Iterable[ModelReport]] | None,
) -> CheckReport:
    """Check models against limits, as `onnxshare.check` does, whose arguments these are.

    `limits` are by option name; None for a rule that is not given one.

    Raises:
        UsageError: no model is given, there is no such rule, a limit is not one, a file is not a
            policy or baseline, or git does not know a commit.
    """
    options = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in limits.items()
    }
    if not isinstance(policy, Policy):
        policy = Policy() if policy is None else read_policy(Path(policy))
    known = _known(past.baseline, policy)
    compared = known is not None or past.ref is not None
    policy = _choose(policy, options, choice, compared=compared)
    planned = plan(sources, policy)
    if not planned:
        raise UsageError("no model is given", "specify one, or list `models` in the policy file")
    if not any(job.limits for job in planned):
        raise UsageError("every rule is left out", "see `onnxshare rules`, and select one")
    everything = isinstance(sources, (list, tuple)) and not sources
    notes = left_out(policy, planned) if everything else []
    named = _name(past.baseline, policy)
    planned, former, more = _changed(planned, past.since, policy, named, how)
    notes += more
    how = replace(how, warn=policy.warn)
    known, former, more = _before(planned, known, past.ref, policy, how, former, jobs)
    notes += more
    how = replace(how, baseline=known, former=former)
    reports = _check_all(planned, how, jobs, progress)
    kept, stale = silence(reports, policy.allow, known, root=policy.root)
    notes += _remarks(kept, known, past.ref)
    return CheckReport(
        dict(policy.limits),
        kept,
        None if policy.path is None else str(policy.path),
        stale,
        tuple(notes),
        failing[0] or policy.fail_on,
        policy.max_findings if failing[1] is None else failing[1],
        {BY_OPTION[option].code: line for option, line in policy.lines.items()},
    )


def _before(
    planned: Sequence[Job],
    known: Baseline | None,
    ref: str | None,
    policy: Policy,
    how: How,
    former: dict[str, str],
    jobs: int | None,
) -> tuple[Baseline | None, dict[str, str], list[str]]:
    """What is known of the models: by a baseline file, a commit or branch, or both; the former
    names of those that have new ones; and what could not be had."""
    notes: list[str] = []
    if known is not None:
        former = former | _renamed(known, planned, policy.root)

    def check_all(some: Sequence[Job]) -> list[ModelReport]:
        return _check_all(some, how, jobs, None)

    if ref is not None:
        samples = _path(how.samples)
        there, renamed, notes = baseline_at(ref, planned, policy.root, check_all, samples)
        former = former | renamed
        known = there if known is None else there.over(known.renamed(former))
    elif known is not None:
        known = known.renamed(former)
    return known, former, notes


def _name(baseline: Baseline | str | os.PathLike[str] | None, policy: Policy) -> Path | None:
    """The file of the baseline that counts."""
    if isinstance(baseline, Baseline):
        return baseline.path
    return policy.baseline if baseline is None else Path(baseline)


def _known(baseline: Baseline | str | os.PathLike[str] | None, policy: Policy) -> Baseline | None:
    if baseline is None and policy.baseline is not None and policy.baseline.exists():
        baseline = policy.baseline
    if baseline is None or isinstance(baseline, Baseline):
        return baseline
    return read_baseline(Path(baseline))


def _changed(
    planned: list[Job], since: str | None, policy: Policy, baseline: Path | None, how: How
) -> tuple[list[Job], dict[str, str], list[str]]:
    """The models to check, those of them that had another name, and what else changed."""
    commit = None if since is None else commit_since(since)
    if commit is None:
        return planned, {}, []
    shared = [path for path in (policy.path, *policy.searched, baseline) if path is not None]
    changed = changed_since(commit, planned, shared, _path(how.samples))
    former = former_names(commit, changed, policy.root)
    top = Path(commit.top)
    left = {portable(top / name, policy.root.resolve()) for name in gone(commit)}
    notes = [f"{name} is gone since {since}" for name in sorted(left - set(former.values()))]
    return changed, former, notes + ([] if changed else [f"no model changed since {since}"])


def _path(samples: Samples | str | Path | None) -> Path | None:
    return Path(samples) if isinstance(samples, (str, Path)) else None


def _renamed(baseline: Baseline, planned: Sequence[Job], root: Path) -> dict[str, str]:
    """The former names of models that a baseline knows under these only: nothing is there under
    that name any more, and the graph and the weights are those of then."""
    left = {
        name: digest
        for name, digest in sorted(baseline.contents.items())
        if not os.path.lexists(root / name)
    }
    found = {}
    for job in planned:
        if not left or not job.key or job.error or job.key in baseline.metrics:
            continue
        digest = content(job.name)
        for name in [name for name, old in left.items() if old == digest][:1]:
            found[job.key] = name
            del left[name]
    return found


def _remarks(
    reports: Sequence[ModelReport], baseline: Baseline | None, ref: str | None
) -> list[str]:
    """What there is to know of the models besides findings: new names, fixed findings, limits that
    judged nothing."""
    notes = [
        f"{model.name} was {model.former}: what the baseline and allow entries say of that counts"
        for model in reports
        if model.former
    ]
    if baseline is not None:
        judged = [model for model in reports if model.error is None]
        met = {finding.fingerprint for model in judged for finding in model.findings}
        met |= {item.finding.fingerprint for model in judged for item in model.silenced}
        notes += baseline.fixed((model.name for model in judged), met)
        new = [model.name for model in judged if model.before is None and _compared(model)]
        if new:
            where = f"at {ref}" if ref else "in the baseline"
            notes.append(f"new, so that nothing {where} limits what is measured: {', '.join(new)}")
    return notes


def needing_baseline(report: CheckReport) -> list[str]:
    """The codes of the rules whose limits say something only where there is a baseline."""
    return sorted({code for model in report.models for code in _compared(model)})


def _compared(model: ModelReport) -> list[str]:
    return [
        BY_OPTION[option].code
        for option, limit in model.limits.items()
        if option == "max-regression" or _is_relative((option, limit))
    ]


def _is_relative(item: tuple[str, object]) -> bool:
    option, limit = item
    return bool(BY_OPTION[option].metric) and isinstance(limit, str)


def _choose(
    policy: Policy,
    options: Mapping[str, object],
    choice: Choice,
    *,
    compared: bool,
) -> Policy:
    """The policy with the options put over it; the default rules where nobody selects any."""
    select, ignore, warn = choice
    chosen = policy.with_options(options, select)
    if not chosen.limits and not any(entry.limits for entry in chosen.models):
        chosen = policy.with_options(DEFAULT.limits, (), (), DEFAULT.warn)
    if compared and "max-regression" not in chosen.limits:
        chosen = chosen.with_options({}, ["RG501"])
    return chosen.with_options({}, (), ignore, warn)


def _check_all(
    planned: Sequence[Job],
    how: How,
    jobs: int | None,
    progress: Callable[[Iterable[ModelReport], int], Iterable[ModelReport]] | None,
) -> list[ModelReport]:
    """Check every model, and then what no single one shows: weights that several hold."""
    reports = each(partial(check_one, how=how), planned, jobs, progress)
    rule = BY_OPTION[REPEATED]
    found = []
    for job, report, problem in zip(planned, reports, repeated(reports), strict=True):
        if problem is not None:
            more = _finding(rule, problem, job, report.path, how, job.limits[REPEATED])
            findings = sorted([*report.findings, more], key=lambda finding: finding.code)
            report = replace(report, findings=tuple(findings))
        found.append(report)
    return found


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
    for option, limit in job.limits.items():
        rule = BY_OPTION[option]
        number = _number(rule, limit, subject)
        if number is None:  # nothing was measured before
            continue
        try:
            problems = list(rule.problems(subject, number))
        except UsageError:  # such as an unknown provider: every model would say the same
            raise
        except (ModelFileError, ModelError, SamplesError) as error:
            unread = str(error)
            continue
        except OnnxShareError as error:
            problems = [Problem(f"cannot be judged: {error}", None, command("inspect", name))]
        findings += (_finding(rule, problem, job, name, how, number) for problem in problems)
    return replace(
        report,
        path=name,
        findings=tuple(findings),
        metrics=subject.metrics,
        error=unread,
        before=None if subject.before is None else dict(subject.before),
        tensors=stored_tensors(model, inspection) if REPEATED in job.limits else {},
    )


def _number(rule: Rule, limit: Limit, subject: Subject) -> Limit | None:
    """A limit, as a number where it is relative to what was measured before; None where nothing
    was."""
    if not _is_relative((rule.option, limit)):
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
        frozenset(BY_OPTION[option].code for option in job.limits),
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


def _finding(rule: Rule, problem: Problem, job: Job, name: str, how: How, limit: Limit) -> Finding:
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
