"""Holds models against rules; one bad model never hides the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxshare.analysis.inspection import HeadJudge, inspect
from onnxshare.analysis.results import Inspection
from onnxshare.checks.jobs import Job, each, plan
from onnxshare.checks.known_findings import Baseline, read_baseline, silence
from onnxshare.checks.policy import Policy
from onnxshare.checks.policy_file import read_policy
from onnxshare.checks.policy_template import DEFAULT
from onnxshare.checks.results import CheckReport, Finding, Metrics, ModelReport
from onnxshare.checks.rule import Problem, Rule, Subject, command
from onnxshare.checks.rules import BY_OPTION
from onnxshare.checks.rules.sharing import fc_share
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
        before: per model what the baseline says was measured.
    """

    input_shapes: InputShapes | None
    judge: HeadJudge | None
    samples: Samples | str | Path | None
    provider: str
    follow_symlinks: str | os.PathLike[str] | None
    dims: Dims | None = None
    run_limits: RunLimits | None = None
    warn: frozenset[str] = frozenset()
    before: Mapping[str, Mapping[str, int | float | None]] = field(default_factory=dict)

    def load(self, source: ModelSource) -> Model:
        """The model, with links to its external data allowed if they are."""
        return load(source, follow_symlinks=self.follow_symlinks)


#: Codes or names of the rules to add, to leave out, and that only warn.
Choice = tuple[Sequence[str], Sequence[str], Sequence[str]]


def run(
    sources: ModelSource | Sequence[ModelSource],
    limits: Mapping[str, object],
    how: How,
    *,
    policy: Policy | str | os.PathLike[str] | None,
    choice: Choice,
    baseline: Baseline | str | os.PathLike[str] | None,
    jobs: int | None,
    progress: Callable[[Iterable[ModelReport], int], Iterable[ModelReport]] | None,
) -> CheckReport:
    """Check models against limits, as `onnxshare.check` does, whose arguments these are.

    `limits` are by option name; None for a rule that is not given one.

    Raises:
        UsageError: no model is given, there is no such rule, a limit is not one, or a file is not a
            policy or baseline.
    """
    options = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in limits.items()
    }
    if not isinstance(policy, Policy):
        policy = Policy() if policy is None else read_policy(Path(policy))
    baseline = _known(baseline, policy)
    policy = _choose(policy, options, choice, baseline)
    planned = plan(sources, policy)
    if not planned:
        raise UsageError("no model is given", "specify one, or list `models` in the policy file")
    if not any(job.limits for job in planned):
        raise UsageError("every rule is left out", "see `onnxshare rules`, and select one")
    before = {} if baseline is None else baseline.metrics
    how = replace(how, warn=policy.warn, before=before)
    reports = each(partial(check_one, how=how), planned, jobs, progress)
    kept, stale = silence(reports, policy.allow, baseline)
    path = None if policy.path is None else str(policy.path)
    return CheckReport(
        dict(policy.limits), kept, path, stale, {k: dict(v) for k, v in before.items()}
    )


def _known(baseline: Baseline | str | os.PathLike[str] | None, policy: Policy) -> Baseline | None:
    if baseline is None and policy.baseline is not None and policy.baseline.exists():
        baseline = policy.baseline
    if baseline is None or isinstance(baseline, Baseline):
        return baseline
    return read_baseline(Path(baseline))


def _choose(
    policy: Policy,
    options: Mapping[str, object],
    choice: Choice,
    baseline: Baseline | None,
) -> Policy:
    """The policy with the options put over it; the default rules where nobody selects any."""
    select, ignore, warn = choice
    chosen = policy.with_options(options, select)
    if not chosen.limits and not any(entry.limits for entry in chosen.models):
        chosen = policy.with_options(DEFAULT.limits, (), (), DEFAULT.warn)
    if baseline is not None and "max-regression" not in chosen.limits:
        chosen = chosen.with_options({}, ["RG501"])
    return chosen.with_options({}, (), ignore, warn)


@blamed()
@stdout_kept()
def check_one(job: Job, how: How) -> ModelReport:
    """Hold one model against its limits; whatever goes wrong is its own."""
    name = job.name
    report = ModelReport(name, limits=job.limits, error=job.error, line=job.line, key=job.key)
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
        try:
            problems = list(rule.problems(subject, limit))
        except UsageError:  # such as an unknown provider: every model would say the same
            raise
        except (ModelFileError, ModelError, SamplesError) as error:
            unread = str(error)
            continue
        except OnnxShareError as error:
            problems = [Problem(f"cannot be judged: {error}", None, command("inspect", name))]
        findings.extend(_finding(rule, problem, job, name, how) for problem in problems)
    return replace(
        report, path=name, findings=tuple(findings), metrics=subject.metrics, error=unread
    )


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
    return Subject(
        name,
        inspection,
        model,
        compare,
        loads,
        _metrics(inspection),
        how.before.get(job.key or name),
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


def _finding(rule: Rule, problem: Problem, job: Job, name: str, how: How) -> Finding:
    limit, measured = job.limits[rule.option], problem.measured
    near = measured if isinstance(measured, (int, float)) else None
    return Finding(
        rule.code,
        rule.name,
        name,
        problem.message,
        measured,
        limit,
        rule.bound(limit, near),
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
