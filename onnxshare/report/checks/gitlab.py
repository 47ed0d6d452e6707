"""The report of `check` as a Code Quality report of GitLab.

Form: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
"""

from __future__ import annotations

import hashlib
from typing import Any

from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.report.documents import json_text, repeated


def render(report: CheckReport) -> str:
    """A JSON list with one item per finding, and one per model that could not be read."""
    items: list[dict[str, Any]] = []
    for model in report.models:
        if model.error is not None:
            key = hashlib.sha256(f"unreadable\0{model.path}".encode(errors="replace")).hexdigest()
            items.append(_item(report, model, "unreadable", model.error, key, "blocker"))
        items += [_finding(report, model, finding) for finding in model.findings]
    for item, number in zip(items, repeated(item["fingerprint"] for item in items), strict=True):
        # GitLab drops an issue whose fingerprint another one has.
        item["fingerprint"] += f"-{number}" if number else ""
    return json_text(items)


def _finding(report: CheckReport, model: ModelReport, finding: Finding) -> dict[str, Any]:
    where = f"{finding.node}: " if finding.node else ""
    text = f"{finding.code} {finding.model}: {where}{finding.text}; fix: {finding.fix}"
    severity = "major" if finding.severity == "error" else "minor"
    return _item(
        report, model, f"{finding.code} {finding.rule}", text, finding.fingerprint, severity
    )


def _item(
    report: CheckReport, model: ModelReport, name: str, text: str, key: str, severity: str
) -> dict[str, Any]:
    file, line = report.anchor(model)
    return {
        "description": text,
        "check_name": name,
        "fingerprint": key,
        "severity": severity,
        "location": {"path": file.replace("\\", "/"), "lines": {"begin": line}},
    }
