"""Findings that do not count: those that the policy allows, and those that the baseline knows."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from onnxshare.checks.baseline import Baseline
from onnxshare.checks.names import covers
from onnxshare.checks.policy import Allow
from onnxshare.checks.results import Finding, ModelReport, Silenced


def silence(
    reports: Sequence[ModelReport],
    allow: Sequence[Allow],
    baseline: Baseline | None,
    today: datetime.date | None = None,
) -> tuple[tuple[ModelReport, ...], tuple[str, ...]]:
    """Take out the findings that do not count.

    An entry that has expired silences nothing, and the finding says so.

    Args:
        reports: what was found.
        allow: the entries of the policy.
        baseline: the findings that were there before, or None.
        today: the day, for tests; None is today.

    Returns:
        The reports, and in words what is allowed or known and was not found any more; entries
        for models that were not checked, or could not be read, are left alone.
    """
    day = today or datetime.date.today()
    used: set[int] = set()
    met: set[str] = set()
    kept = tuple(_one(report, allow, baseline, day, used, met) for report in reports)
    stale: list[str] = []
    for place, entry in enumerate(allow):
        if place not in used and any(covers(entry.model, report.name) for report in reports):
            stale.append(f"allow {entry.rule} ({entry.reason}): nothing needs it any more")
    judged = [report.name for report in reports if report.error is None]
    if baseline is not None:
        stale.extend(baseline.stale(judged, met))
    return kept, tuple(stale)


def _one(
    report: ModelReport,
    allow: Sequence[Allow],
    baseline: Baseline | None,
    day: datetime.date,
    used: set[int],
    met: set[str],
) -> ModelReport:
    findings: list[Finding] = []
    silenced: list[Silenced] = []
    for finding in report.findings:
        met.add(finding.fingerprint)
        expired: Allow | None = None
        for place, entry in enumerate(allow):
            if not _matches(entry, finding, report):
                continue
            used.add(place)
            if entry.expires is None or day <= entry.expires:
                silenced.append(Silenced(finding, "allow", entry.reason))
                break
            expired = entry
        else:
            if baseline is not None and baseline.knows(finding):
                silenced.append(Silenced(finding, "baseline"))
            elif expired is not None:
                words = f"{finding.message} (allowed until {expired.expires}, which has passed)"
                findings.append(replace(finding, message=words))
            else:
                findings.append(finding)
    return replace(report, findings=tuple(findings), silenced=tuple(silenced))


def _matches(entry: Allow, finding: Finding, report: ModelReport) -> bool:
    return (
        entry.rule == finding.code
        and covers(entry.model, report.name)
        and fnmatchcase(finding.node or "", entry.node)
    )
