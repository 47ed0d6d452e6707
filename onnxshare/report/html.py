"""The report of `inspect` as one HTML page that needs nothing else: no script, no outside file."""

from __future__ import annotations

from html import escape

from onnxshare.analysis.results import Inspection
from onnxshare.errors import printable
from onnxshare.report.inspect import notes, title
from onnxshare.report.inspect_columns import Column, Row, cell
from onnxshare.report.inspect_views import View, amount, count_of, totals_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
h1 { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
td { overflow-wrap: break-word; max-width: 24rem; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.unshared { background: #fff6d6; }
.bar { background: #3b6ea8; height: .8rem; }
pre { background: #f4f4f4; padding: .6rem .8rem; white-space: pre-wrap; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; }
  th, td { border-color: #444; }
  .unshared { background: #4a3f10; }
  pre { background: #262626; }
}
"""


_LEGEND = '<p><span class="unshared">Marked</span>: fully connected, each weight used once.</p>'


def as_html(report: Inspection, view: View | None) -> str:
    """The page: model, totals, rows, notes, warnings. Without a view, no rows."""
    name = _text(report.model.path or "model")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name} – onnxshare</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{name}</h1>",
        *(f"<p>{_text(line)}</p>" for line in _title(report)),
        *_totals(report),
        *([] if view is None else _rows(report, view)),
        "<h2>Notes</h2>",
        "<pre>" + "\n".join(_text(line.plain) for line in notes(report)) + "</pre>",
    ]
    if report.warnings:
        items = "".join(f"<li>{_text(warning)}</li>" for warning in report.warnings)
        parts += ["<h2>Warnings</h2>", f"<ul>{items}</ul>"]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _title(report: Inspection) -> list[str]:
    """Producer, versions and size, then inputs and outputs."""
    first, *others = (line.plain for line in title(report))
    about = first.removeprefix(printable(report.model.path or "model")).strip()
    return [*([about] if about else []), *others]


def _text(text: str) -> str:
    return escape(printable(text))


def _totals(report: Inspection) -> list[str]:
    rows = (
        f'<tr><td>{_text(words)}</td><td class="number">{_text(amount(field, value))}</td></tr>'
        for field, words, value in totals_of(report)
    )
    return [
        "<h2>Totals per sample</h2>",
        '<div class="wide">',
        "<table>",
        *rows,
        "</table>",
        "</div>",
    ]


def _rows(report: Inspection, view: View) -> list[str]:
    head = "".join(_heading(column) for column in view.columns)
    once = any(_unshared(row) for row in view.rows)
    shown = count_of(view).removesuffix("; ").replace(" (--all shows every one)", "")
    return [
        f"<h2>By {view.kind}</h2>",
        '<div class="wide">',
        "<table>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *(_row(report, view, row) for row in view.rows),
        "</tbody>",
        "</table>",
        "</div>",
        *([f"<p>{_text(shown)}</p>"] if shown else []),
        *([_LEGEND] if once else []),
    ]


def _heading(column: Column) -> str:
    if not column.title:
        return '<th scope="col" aria-label="share of all parameters"></th>'
    return f'<th scope="col"{_class(column)}>{_text(column.title)}</th>'


def _row(report: Inspection, view: View, row: Row) -> str:
    cells = "".join(_cell(report, column, row) for column in view.columns)
    return f'<tr class="unshared">{cells}</tr>' if _unshared(row) else f"<tr>{cells}</tr>"


def _unshared(row: Row) -> bool:
    """Whether it is an FC that uses each weight once."""
    ratio = row.sharing_ratio
    return getattr(row, "kind", "") == "fc" and ratio is not None and ratio <= 1


def _cell(report: Inspection, column: Column, row: Row) -> str:
    if column.name == "bar":
        part, whole = getattr(row, "params_new", row.params), report.totals.params
        width = 100 * part / whole if whole else 0
        return f'<td><div class="bar" style="width: {width / 10:.2f}rem"></div></td>'
    return f"<td{_class(column)}>{escape(cell(column, row, report.totals))}</td>"


def _class(column: Column) -> str:
    return ' class="number"' if column.right else ""
