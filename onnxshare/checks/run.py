"""Holds models against rules; one bad model never hides the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.checks.git_baseline import baseline_at
from onnxshare.checks.git_changes import changed_since, commit_since, former_names, gone
from onnxshare.checks.jobs import Job, each, left_out, plan
from onnxshare.checks.known_findings import Baseline, content, read_baseline, silence
from onnxshare.checks.model_check import How, check_one, finding_of, is_relative
from onnxshare.checks.model_names import portable
from onnxshare.checks.policy import Policy
from onnxshare.checks.policy_file import read_policy
from onnxshare.checks.policy_template import DEFAULT
from onnxshare.checks.results import CheckReport, ModelReport, Severity
from onnxshare.checks.rules import BY_OPTION
from onnxshare.checks.rules.sharing import REPEATED, repeated
from onnxshare.errors import UsageError
from onnxshare.io.load import ModelSource

if TYPE_CHECKING:
    from onnxshare.samples.samples import Samples


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
        if option == "max-regression" or is_relative(BY_OPTION[option], limit)
    ]


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
            more = finding_of(rule, problem, job, report.path, how, job.limits[REPEATED])
            findings = sorted([*report.findings, more], key=lambda finding: finding.code)
            report = replace(report, findings=tuple(findings))
        found.append(report)
    return found
