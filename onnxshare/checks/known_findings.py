"""Findings that do not count: those that the policy allows, and those that the baseline knows.

A baseline holds what was found and measured before, so that only what is new or worse fails.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxshare.checks.model_names import covers
from onnxshare.checks.policy import Allow
from onnxshare.checks.results import CheckReport, Finding, Metrics, ModelReport, Silenced
from onnxshare.errors import UsageError
from onnxshare.io.atomic_write import replace_file
from onnxshare.io.user_files import read_user_file

#: Version of the file's layout.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Baseline:
    """What a baseline file holds: by fingerprint the code, model, node and message of each known
    finding, and by model what was measured."""

    findings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, int | float | None]] = field(default_factory=dict)
    path: Path | None = None

    def knows(self, finding: Finding) -> bool:
        """Whether the finding was there before; `write_baseline` never writes a regression."""
        return finding.fingerprint in self.findings

    def stale(self, models: Iterable[str], met: set[str]) -> list[str]:
        """The known findings of these models, by `ModelReport.name`, that were not found any more,
        as text."""
        checked = set(models)
        return [
            f"baseline {item['code']} {item['model']}"
            + (f" {item['node']}" if item.get("node") else "")
            + ": not found any more, write the baseline anew"
            for fingerprint, item in self.findings.items()
            if item["model"] in checked and fingerprint not in met
        ]


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        UsageError: it cannot be read, or is not a baseline.
    """
    remedy = "write it anew with --write-baseline"
    try:
        document = json.loads(read_user_file(path, UsageError))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", remedy) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not a baseline", remedy) from None
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path}: is not a baseline of this version", remedy)
    findings: Any = document.get("findings")
    metrics: Any = document.get("metrics")
    good = isinstance(findings, list) and all(map(_is_known, findings)) and _are_metrics(metrics)
    if not good:
        raise UsageError(f"{path}: is not a baseline", remedy)
    return Baseline({item["fingerprint"]: item for item in findings}, metrics, path)


#: What a metric is in a file: a number, or unknown.
_NUMBERS = (int, float, type(None))


def _is_known(item: object) -> bool:
    needed = ("fingerprint", "code", "model")
    return isinstance(item, dict) and all(isinstance(item.get(key), str) for key in needed)


def _are_metrics(metrics: object) -> bool:
    names = Metrics.__dataclass_fields__
    return isinstance(metrics, dict) and all(
        isinstance(values, dict)
        and all(name in names and type(value) in _NUMBERS for name, value in values.items())
        for values in metrics.values()
    )


def write_baseline(report: CheckReport, path: Path) -> int:
    """Write what was found and measured as the new baseline, and return the number of findings.

    Findings that an `allow` entry silences are left to it.

    Raises:
        OutputError: the file cannot be written; the old one is kept.
    """
    known = [item.finding for item in report.silenced if item.by == "baseline"]
    findings = [f for f in (*report.findings, *known) if not f.code.startswith("RG")]
    document = {
        "schema_version": SCHEMA_VERSION,
        "findings": sorted(map(_entry, findings), key=lambda item: json.dumps(item)),
        "metrics": {
            model.name: asdict(model.metrics)
            for model in sorted(report.models, key=lambda model: model.name)
            if model.metrics is not None
        },
    }
    replace_file(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return len(findings)


def _entry(finding: Finding) -> dict[str, str | None]:
    return {
        "code": finding.code,
        "model": finding.key or finding.model,
        "node": finding.node,
        "fingerprint": finding.fingerprint,
        "message": finding.message,
    }


def silence(
    reports: Sequence[ModelReport],
    allow: Sequence[Allow],
    baseline: Baseline | None,
    today: datetime.date | None = None,
) -> tuple[tuple[ModelReport, ...], tuple[str, ...]]:
    """Take out the findings that do not count; of an entry that has expired the finding says so.

    Returns:
        The reports, and as text what is allowed or known and was not found any more; entries
        for models that were not checked, or could not be read, are left alone.
    """
    day = today or datetime.date.today()
    used: set[int] = set()
    kept = tuple(_one(report, allow, baseline, day, used) for report in reports)
    stale: list[str] = []
    for place, entry in enumerate(allow):
        if place not in used and any(covers(entry.model, report.name) for report in reports):
            stale.append(f"allow {entry.rule} ({entry.reason}): nothing needs it any more")
    judged = [report.name for report in reports if report.error is None]
    if baseline is not None:
        met = {finding.fingerprint for report in reports for finding in report.findings}
        stale.extend(baseline.stale(judged, met))
    return kept, tuple(stale)


def _one(
    report: ModelReport,
    allow: Sequence[Allow],
    baseline: Baseline | None,
    day: datetime.date,
    used: set[int],
) -> ModelReport:
    findings: list[Finding] = []
    silenced: list[Silenced] = []
    for finding in report.findings:
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
