"""The report of `check` as annotations: for GitLab (Code Quality) and GitHub Actions.

Forms: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format and
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.errors import printable
from onnxshare.report.text_tools import repeated
from onnxshare.support.json_text import json_text


def gitlab(report: CheckReport) -> str:
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
    return json_text(items, indented=True) + "\n"


def _finding(report: CheckReport, model: ModelReport, finding: Finding) -> dict[str, Any]:
    text = f"{finding.code} {finding.model}: {finding.where}{finding.text}; fix: {finding.fix}"
    severity = "major" if finding.severity == "error" else "minor"
    return _item(
        report,
        model,
        f"{finding.code} {finding.rule}",
        text,
        finding.fingerprint,
        severity,
        finding.code,
    )


def _item(
    report: CheckReport,
    model: ModelReport,
    name: str,
    text: str,
    key: str,
    severity: str,
    code: str = "",
) -> dict[str, Any]:
    file, line = report.anchor(model, code)
    return {
        "description": text,
        "check_name": name,
        "fingerprint": key,
        "severity": severity,
        "location": {"path": file.replace("\\", "/"), "lines": {"begin": line}},
    }


def github(report: CheckReport) -> str:
    """One command a line: the verdict, then errors first, of which a page shows only the first few
    of a step, then what changed and what else there is to know."""
    lines = [f"::notice title=onnxshare::{_data(report.headline)}"]
    lines += [
        _command("error", report, model, "cannot be read", model.error)
        for model in report.models
        if model.error is not None
    ]
    found = [(finding, model) for model in report.models for finding in model.findings]
    for severity in ("error", "warning"):
        lines += [
            _command(
                severity,
                report,
                model,
                f"{finding.code} {finding.rule}",
                _words(finding),
                finding.code,
            )
            for finding, model in found
            if finding.severity == severity
        ]
    lines += [f"::notice title=onnxshare::{_data(words)}" for words in _remarks(report)]
    return "".join(line + "\n" for line in lines)


def _remarks(report: CheckReport) -> Iterator[str]:
    for model in report.models:
        if model.differences:
            yield f"{model.path}: " + "; ".join(map(str, model.differences))
    yield from (*report.notes, *report.stale)


def _words(finding: Finding) -> str:
    return f"{finding.model}: {finding.where}{finding.text}\nfix: {finding.fix}"


def _command(
    kind: str, report: CheckReport, model: ModelReport, title: str, text: str | None, code: str = ""
) -> str:
    file, line = report.anchor(model, code)
    place = f"file={_property(file.replace(chr(92), '/'))},line={line}"
    return f"::{kind} {place},title={_property(title)}::{_data(text or '')}"


def _data(text: str) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return printable(text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
