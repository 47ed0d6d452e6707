"""The report of `check` as one HTML page: measures of each model, findings by rule, commands."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshare.checks.limits import show
from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.report.checks.markdown import COLUMNS
from onnxshare.report.page import document
from onnxshare.report.table import Bar, Cell, Column, Table, named, rows


def render(report: CheckReport) -> str:
    """The page: it needs nothing else."""
    changed = any(model.differences for model in report.models)
    by_rule: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_rule.setdefault(f"{finding.code} {finding.rule}", []).append(finding)
    return document.render(
        "check",
        title="onnxshare check",
        about=[f"policy: {report.policy}"] if report.policy else [],
        verdict="passed" if report.passed else "failed",
        standing="pass" if report.passed else "fail",
        sentence=report.headline.partition(": ")[2],
        models=document.tabulated(_models(report)),
        changed=document.tabulated(_changed(report)) if changed else "",
        rules=sorted(by_rule.items()),
        unreadable=[(model.path, model.error) for model in report.unreadable],
        silenced=[
            (item.finding.code, item.finding.model, item.reason or "in the baseline")
            for item in report.silenced
        ],
        notes=(*report.notes, *report.stale),
        warnings=[],
    )


def _changed(report: CheckReport) -> Table:
    titles = ("before", "after", "difference")
    cells: Iterator[list[Cell]] = (
        [model.path, one.metric.title, one.before, one.after, one.by]
        for model in report.models
        for one in model.differences
    )
    return Table([*map(Column, ("model", "metric")), *named("", *titles)[1:]], rows(cells))


def _models(report: CheckReport) -> Table:
    most = max((m.metrics.params for m in report.models if m.metrics is not None), default=0)
    titles = [metric.title for metric in COLUMNS.values()]
    return Table(
        [Column("model"), Column("findings", right=True), Column()]
        + [Column(title, right=True) for title in titles],
        rows(_model(model, most) for model in report.models),
    )


def _model(model: ModelReport, most: int) -> list[Cell]:
    if model.metrics is None:
        return [model.path, "not read", "", *("–" for _ in COLUMNS)]
    now = model.measured
    cells: list[Cell] = [
        "–" if (value := now[name]) is None else show(value, metric.unit)
        for name, metric in COLUMNS.items()
    ]
    found = str(len(model.findings)) if model.findings else "none"
    return [model.path, found, Bar(model.metrics.params, most), *cells]
