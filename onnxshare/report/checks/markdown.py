"""The report of `check` as Markdown, for the summary of a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from onnxshare.checks.limits import show
from onnxshare.checks.metrics import METRICS
from onnxshare.checks.model_names import in_repository
from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.errors import printable
from onnxshare.report.table import Column, Table, rows

#: The metrics that have a column, in the table of models.
COLUMNS = {name: metric for name, metric in METRICS.items() if name != "peak_activation_bytes"}

#: GitHub takes a comment of fewer characters than this; some are kept for what is put around it.
MOST_CHARACTERS = 65_000


def render(report: CheckReport) -> str:
    """The verdict in one line, a table of what changed, one of the findings, one of the models."""
    return "\n".join(line for part in _parts(report) for line in part) + "\n"


def comment(report: CheckReport) -> str:
    """The same for a comment: below a mark by which it is found again, and cut where it becomes
    longer than GitHub takes."""
    lines = [marker(report)]
    length, most = len(lines[0]), MOST_CHARACTERS
    for part in _parts(report):
        for line in part:
            length += len(line) + 1
            if length > most:
                cut = "The rest is cut: a comment has no room for it. The job's log has all of it."
                closing = ["", "</details>"] if "</details>" in part[-1] else []
                return "\n".join([*lines, *closing, "", f"**{cut}**"]) + "\n"
            lines.append(line)
    return "\n".join(lines) + "\n"


def marker(report: CheckReport) -> str:
    """What a comment begins with: the same for every report under one policy."""
    name = "" if report.policy is None else in_repository(report.policy)
    return f"<!-- onnxshare check {quote(name, errors='replace')} -->"


def _parts(report: CheckReport) -> Iterator[list[str]]:
    yield [f"## {'✅' if report.passed else '❌'} onnxshare {_text(report.headline)}"]
    for model in report.unreadable:
        yield ["", f"**Could not be read:** {_text(model.error or '')}"]
    if report.findings:
        found = [_finding(finding) for finding in report.findings]
        yield ["", *_table(["Rule", "Model", "Finding", "Fix"], found)]
    changed = [
        [_text(model.path), one.metric.title, one.before, one.after, one.by]
        for model in report.models
        for one in model.differences
    ]
    if changed:
        yield ["", *_table(["Model", "Metric", "Before", "After", "Difference"], changed)]
    elif any(model.before is not None for model in report.models):
        yield ["", "Nothing that is measured changed."]
    titles = ["", "Model", *(metric.title for metric in COLUMNS.values())]
    if report.models:
        yield ["", *_table(titles, _models(report))]
    if report.notes:
        yield ["", *(f"- {_text(words)}" for words in report.notes)]
    if report.stale:
        yield ["", "**Stale:**", "", *(f"- {_text(words)}" for words in report.stale)]
    if report.silenced:
        cells = [
            [item.finding.code, _text(item.finding.model), _text(item.reason or "in the baseline")]
            for item in report.silenced
        ]
        table = _table(["Rule", "Model", "Reason"], cells)
        yield ["", "<details><summary>Silenced</summary>", "", *table, "", "</details>"]


def _table(titles: list[str], cells: list[list[str]]) -> list[str]:
    table = Table([Column(title) for title in titles], rows(cells))
    return table.markdown(escaped=True).splitlines()


def _models(report: CheckReport) -> list[list[str]]:
    cells = []
    for model in report.models:
        errors = [finding for finding in model.findings if finding in report.errors]
        mark = "❌" if errors or model.error else "⚠️" if model.findings else "✅"
        cells.append([mark, _text(model.path), *_measured(model)])
    return cells


def _measured(model: ModelReport) -> list[str]:
    now = model.measured
    return [
        "–" if (value := now.get(name)) is None else show(value, metric.unit)
        for name, metric in COLUMNS.items()
    ]


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
