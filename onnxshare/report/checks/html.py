"""The report of `check` as one HTML page: measures of each model, findings by rule, commands."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onnxshare.checks.limits import show
from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.report.checks.markdown import COLUMNS
from onnxshare.report.checks.text import count
from onnxshare.report.page import document
from onnxshare.report.page.inspect import change
from onnxshare.report.table import Bar, Cell, Column, Table, rows


def render(report: CheckReport) -> str:
    """The page: it needs nothing else."""
    judged = len(report.models) - len(report.unreadable)
    sentence = f"{count(judged, 'model')} checked, {count(len(report.findings), 'finding')}"
    by_rule: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_rule.setdefault(f"{finding.code} {finding.rule}", []).append(finding)
    return document.render(
        "check",
        title="onnxshare check",
        about=[f"policy: {report.policy}"] if report.policy else [],
        verdict="passed" if report.passed else "failed",
        standing="pass" if report.passed else "fail",
        sentence=sentence,
        models=document.tabulated(_models(report)),
        rules=sorted(by_rule.items()),
        unreadable=[(model.path, model.error) for model in report.unreadable],
        silenced=[
            (item.finding.code, item.finding.model, item.reason or "in the baseline")
            for item in report.silenced
        ],
        notes=report.stale,
        warnings=[],
    )


def _models(report: CheckReport) -> Table:
    most = max((m.metrics.params for m in report.models if m.metrics is not None), default=0)
    titles = [title for title, _ in COLUMNS.values()]
    return Table(
        [Column("model"), Column("findings", right=True), Column()]
        + [Column(title, right=True) for title in titles],
        rows(_model(report, model, most) for model in report.models),
    )


def _model(report: CheckReport, model: ModelReport, most: int) -> list[Cell]:
    if model.metrics is None:
        return [model.path, "not read", "", *("–" for _ in COLUMNS)]
    now, before = asdict(model.metrics), report.before.get(model.name, {})
    cells: list[Cell] = []
    for name, (_, unit) in COLUMNS.items():
        value: Any = now[name]
        ratio = change(before.get(name), value)
        cells.append("–" if value is None else show(value, unit) + (f" ({ratio})" if ratio else ""))
    found = str(len(model.findings)) if model.findings else "none"
    return [model.path, found, Bar(model.metrics.params, most), *cells]
