"""What was measured, a row for every model, as CSV and as JSON Lines."""

from __future__ import annotations

from typing import Any

from onnxshare.checks.metrics import METRICS
from onnxshare.checks.results import CheckReport, ModelReport
from onnxshare.report.table import Column, Table, rows
from onnxshare.support.json_text import json_text


def as_csv(report: CheckReport) -> str:
    """A header, and a line for every model; what is unknown is empty."""
    found = [_row(report, model) for model in report.models]
    titles = list(_row(report, ModelReport("")))
    cells = (map(_cell, row.values()) for row in found)
    return Table([*map(Column, titles)], rows(cells)).csv()


def as_jsonl(report: CheckReport) -> str:
    """A JSON object on a line for every model; what is unknown is null."""
    return "".join(json_text(_row(report, model)) + "\n" for model in report.models)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return "" if value is None else str(value)


def _row(report: CheckReport, model: ModelReport) -> dict[str, Any]:
    failing = sum(finding in report.errors for finding in model.findings)
    now, before = model.measured, model.before or {}
    return {
        "model": model.name,
        "findings": len(model.findings),
        "failing": failing,
        "codes": list(dict.fromkeys(finding.code for finding in model.findings)),
        "silenced": len(model.silenced),
        **{name: now.get(name) for name in METRICS},
        **{f"{name}_before": before.get(name) for name in METRICS},
        "error": model.error,
    }
