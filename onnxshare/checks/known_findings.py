"""Findings that do not count: those that the policy allows, and those that the baseline knows.

A baseline holds what was found and measured before, so that only what is new or worse fails.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxshare.checks.metrics import METRICS, Measured, better
from onnxshare.checks.model_names import covers
from onnxshare.checks.policy import Allow
from onnxshare.checks.results import CheckReport, Finding, ModelReport, Silenced, fingerprint
from onnxshare.errors import OnnxShareError, UsageError
from onnxshare.io.atomic_write import replace_file
from onnxshare.io.user_files import read_user_file

#: Version of the file's layout.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Baseline:
    """What was found and measured before.

    Attributes:
        findings: by fingerprint the code, model, node and message of each known finding.
        metrics: by model what was measured.
        contents: by model a digest of its graph and weights, by which it is known again under
            another name; `onnxshare.comparison.function_digest`.
        path: the file, or None.
        unchanged: models that are what they were: whatever is found in them is known.
    """

    findings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metrics: Mapping[str, Measured] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    unchanged: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        findings: Iterable[Finding],
        metrics: Mapping[str, Measured],
        *,
        unchanged: frozenset[str] = frozenset(),
        ref: str | None = None,
    ) -> Baseline:
        """The baseline that knows these findings but for regressions, which are never known; those
        of a commit or branch are marked with its name."""
        mark = {} if ref is None else {"ref": ref}
        known = {
            finding.fingerprint: {**_entry(finding), **mark}
            for finding in findings
            if not finding.code.startswith("RG")
        }
        return cls(known, metrics, unchanged=unchanged)

    def knows(self, finding: Finding) -> bool:
        """Whether the finding was there before."""
        if finding.fingerprint in self.findings:
            return True
        return finding.key in self.unchanged and not finding.code.startswith("RG")

    def before(self, model: str, now: Measured) -> Measured | None:
        """What was measured of a model before, given what is measured now."""
        return now if model in self.unchanged else self.metrics.get(model)

    def over(self, other: Baseline) -> Baseline:
        """Both, this one first where both know what was measured."""
        return replace(
            self,
            findings={**self.findings, **other.findings},
            metrics={**other.metrics, **self.metrics},
            contents=other.contents,
            path=other.path,
        )

    def renamed(self, former: Mapping[str, str]) -> Baseline:
        """The same with models called what they are called now, given what they were called."""
        now = {old: new for new, old in former.items()}
        findings = {}
        for key, item in self.findings.items():
            name = now.get(item["model"])
            if name is not None:
                key = fingerprint(item["code"], name, item.get("node"))
                item = {**item, "model": name, "fingerprint": key}
            findings[key] = item
        metrics = {now.get(name, name): values for name, values in self.metrics.items()}
        contents = {now.get(name, name): digest for name, digest in self.contents.items()}
        return replace(self, findings=findings, metrics=metrics, contents=contents)

    def stale(self, models: Iterable[str], met: set[str], root: Path | None) -> list[str]:
        """The known findings of these models, by `ModelReport.name`, that were not found any more,
        and the models that are not there any more below a folder, if one is given, as text."""
        advice = ", shrink the baseline with `onnxshare check --update-baseline`"
        missed = [
            f"baseline {item['code']} {_place(item)}: not found any more{advice}"
            for item in self._missed(models, met)
            if "ref" not in item
        ]
        if root is None:
            return missed
        names = {*self.metrics, *(item["model"] for item in self.findings.values())} - set(models)
        gone = [name for name in sorted(names) if not os.path.lexists(root / name)]
        return missed + [f"baseline {name}: is not there any more{advice}" for name in gone]

    def fixed(self, models: Iterable[str], met: set[str]) -> list[str]:
        """The findings of a commit or branch that are not found any more, as text."""
        return [
            f"fixed since {item['ref']}: {item['code']} {_place(item)}"
            for item in self._missed(models, met)
            if "ref" in item
        ]

    def _missed(self, models: Iterable[str], met: set[str]) -> list[Mapping[str, Any]]:
        checked = set(models)
        return [
            item
            for key, item in self.findings.items()
            if item["model"] in checked and key not in met
        ]


def _place(item: Mapping[str, Any]) -> str:
    return f"{item['model']} {item['node']}" if item.get("node") else str(item["model"])


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        UsageError: it cannot be read, or is not a baseline.
    """
    remedy = "write it anew with `onnxshare check --write-baseline`"
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
    contents = document.get("contents", {})
    if not isinstance(contents, dict):
        raise UsageError(f"{path}: is not a baseline", remedy)
    known = {item["fingerprint"]: item for item in findings}
    return Baseline(known, metrics, {name: str(one) for name, one in contents.items()}, path)


#: What a metric is in a file: a number, or unknown.
_NUMBERS = (int, float, type(None))


def _is_known(item: object) -> bool:
    needed = ("fingerprint", "code", "model")
    return isinstance(item, dict) and all(isinstance(item.get(key), str) for key in needed)


def _are_metrics(metrics: object) -> bool:
    return isinstance(metrics, dict) and all(
        isinstance(values, dict)
        and all(name in METRICS and type(value) in _NUMBERS for name, value in values.items())
        for values in metrics.values()
    )


def write_baseline(report: CheckReport, path: Path) -> int:
    """Write what was found and measured as the new baseline, and return the number of findings.

    Findings that an `allow` entry silences are left to it.

    Raises:
        OutputError: the file cannot be written; the old one is kept.
    """
    known = [item.finding for item in report.silenced if item.by == "baseline"]
    metrics = {model.name: model.measured for model in report.models if model.metrics is not None}
    made = Baseline.of((*report.findings, *known), metrics)
    return _write(replace(made, contents=_contents(report.models)), path)


def update_baseline(report: CheckReport, old: Baseline, path: Path, root: Path) -> tuple[int, int]:
    """Write a baseline without the findings that are not found any more and the models that are
    gone, and return how many findings are left and how many were dropped. Nothing is added: what
    was measured changes only where it became better, and of models that have new names, the names.

    Args:
        report: what was found; models that were not checked, or could not be read, stay.
        old: the baseline as it was.
        path: where to write it.
        root: the folder that names of models are relative to.

    Raises:
        OutputError: the file cannot be written; the old one is kept.
    """
    new = old.renamed({model.name: model.former for model in report.models if model.former})
    read = {model.name: model for model in report.models if model.error is None}
    found = {finding.fingerprint for finding in report.findings}
    found |= {item.finding.fingerprint for item in report.silenced}

    def stays(name: str) -> bool:
        return name in read or os.path.lexists(root / name)

    kept = {
        key: item
        for key, item in new.findings.items()
        if (key in found if item["model"] in read else stays(item["model"]))
    }
    metrics = {
        name: better(values, read[name].measured) if name in read else values
        for name, values in new.metrics.items()
        if stays(name)
    }
    accepted = [model for model in read.values() if not any(one.worse for one in model.differences)]
    now = {**new.contents, **_contents(accepted)}
    contents = {name: now[name] for name in new.contents if stays(name)}
    left = _write(replace(new, findings=kept, metrics=metrics, contents=contents), path)
    return left, len(old.findings) - left


def _contents(models: Iterable[ModelReport]) -> dict[str, str]:
    """By name a digest of each model whose weights can be read."""
    found = {model.name: content(model.path) for model in models if model.metrics is not None}
    return {name: digest for name, digest in found.items() if digest is not None}


def content(path: str) -> str | None:
    """A digest of a model's graph and weights; None where these cannot be read."""
    from onnxshare.comparison.function_digest import function_digest
    from onnxshare.io.load import load

    try:
        return function_digest(load(path))
    except OnnxShareError:
        return None


def _write(baseline: Baseline, path: Path) -> int:
    document = {
        "schema_version": SCHEMA_VERSION,
        "findings": sorted(baseline.findings.values(), key=lambda item: json.dumps(item)),
        "metrics": {name: baseline.metrics[name] for name in sorted(baseline.metrics)},
        "contents": {name: baseline.contents[name] for name in sorted(baseline.contents)},
    }
    replace_file(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return len(baseline.findings)


def _entry(finding: Finding) -> dict[str, str | None]:
    return {
        "code": finding.code,
        "model": finding.key or finding.model,
        "node": finding.node,
        "fingerprint": finding.fingerprint,
        "message": finding.message,
    }


def today() -> datetime.date:
    """The day on which `allow` entries count or have expired."""
    return datetime.date.today()


def silence(
    reports: Sequence[ModelReport],
    allow: Sequence[Allow],
    baseline: Baseline | None,
    day: datetime.date | None = None,
    root: Path | None = None,
) -> tuple[tuple[ModelReport, ...], tuple[str, ...]]:
    """Take out the findings that do not count; of an entry that has expired the finding says so.

    Returns:
        The reports, and as text what is allowed or known and was not found any more; entries
        for models that were not checked, or could not be read, are left alone.
    """
    day = day or today()
    used: set[int] = set()
    kept = tuple(_one(report, allow, baseline, day, used) for report in reports)
    stale: list[str] = []
    for place, entry in enumerate(allow):
        if place not in used and any(_covers(entry, report) for report in reports):
            stale.append(f"allow {entry.rule} ({entry.reason}): nothing needs it any more")
    judged = [report.name for report in reports if report.error is None]
    if baseline is not None:
        met = {finding.fingerprint for report in reports for finding in report.findings}
        stale.extend(baseline.stale(judged, met, root))
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
        and _covers(entry, report)
        and fnmatchcase(finding.node or "", entry.node)
    )


def _covers(entry: Allow, report: ModelReport) -> bool:
    """Whether an entry is for a model, which may have had another name when it was written."""
    names = (report.name, report.former)
    return any(name is not None and covers(entry.model, name) for name in names)
