"""The report of `check` as Markdown, for the summary of a pull request."""

from __future__ import annotations

from dataclasses import asdict

from onnxshare.checks.limits import Unit, show
from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.errors import printable
from onnxshare.report.checks.text import count
from onnxshare.report.table import Column, Table, rows

#: What is shown of each model: the title and unit of a metric.
COLUMNS: dict[str, tuple[str, Unit]] = {
    "file_bytes": ("Size", "bytes"),
    "params": ("Parameters", "count"),
    "fc_share": ("In FCs", "share"),
    "sharing_ratio": ("Uses per parameter", "ratio"),
    "macs": ("MACs", "count"),
}


def render(report: CheckReport) -> str:
    """A table of the models with what changed since the baseline, and one of the findings."""
    mark = "✅" if report.passed else "❌"
    judged = len(report.models) - len(report.unreadable)
    lines = [
        f"## {mark} onnxshare: {count(judged, 'model')} checked, "
        f"{count(len(report.findings), 'finding')}",
        "",
        *_table(["", "Model", *(title for title, _ in COLUMNS.values())], _models(report)),
    ]
    if report.findings:
        found = [_finding(finding) for finding in report.findings]
        lines += ["", *_table(["Rule", "Model", "Finding", "Fix"], found)]
    for model in report.unreadable:
        lines += ["", f"**Could not be read:** {_text(model.error or '')}"]
    if report.silenced:
        lines += ["", "<details><summary>Silenced</summary>", ""]
        cells = [
            [item.finding.code, _text(item.finding.model), _text(item.reason or "in the baseline")]
            for item in report.silenced
        ]
        lines += [*_table(["Rule", "Model", "Reason"], cells), "", "</details>"]
    if report.stale:
        lines += ["", "**Stale:**", "", *(f"- {_text(words)}" for words in report.stale)]
    return "\n".join(lines) + "\n"


def _table(titles: list[str], cells: list[list[str]]) -> list[str]:
    table = Table([Column(title) for title in titles], rows(cells))
    return table.markdown(escaped=True).splitlines()


def _models(report: CheckReport) -> list[list[str]]:
    cells = []
    for model in report.models:
        errors = [finding for finding in model.findings if finding.severity == "error"]
        mark = "❌" if errors or model.error else "⚠️" if model.findings else "✅"
        cells.append([mark, _text(model.path), *_measured(report, model)])
    return cells


def _measured(report: CheckReport, model: ModelReport) -> list[str]:
    if model.metrics is None:
        return ["–"] * len(COLUMNS)
    now = asdict(model.metrics)
    before = report.before.get(model.name, {})
    return [_value(now[name], before.get(name), unit) for name, (_, unit) in COLUMNS.items()]


def _value(now: float | None, old: float | None, unit: Unit) -> str:
    if now is None:
        return "–"
    text = show(now, unit, near=old)
    if old is None or old == now:
        return text
    if not old:
        return f"{text} (was 0)"
    return f"{text} ({(now - old) / abs(old):+.1%})"


def _finding(finding: Finding) -> list[str]:
    where = f"`{_code(finding.node)}`: " if finding.node else ""
    mark = "" if finding.severity == "error" else "⚠️ "
    return [
        mark + finding.code,
        _text(finding.model),
        where + _text(finding.text),
        f"`{_code(finding.fix)}`",
    ]


def _text(words: str) -> str:
    """Words that mean nothing to Markdown or HTML."""
    clean = printable(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*_[]|~#":
        clean = clean.replace(char, "\\" + char)
    return clean


def _code(words: str) -> str:
    """Words within backticks; a backtick cannot be escaped there, and a bar ends the cell."""
    return printable(words).replace("`", "'").replace("|", "\\|")
