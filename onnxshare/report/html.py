"""The report of `inspect` as one HTML page that needs nothing else: no script, no outside file."""

from __future__ import annotations

from html import escape

from onnxshare.analysis.results import Inspection
from onnxshare.errors import printable
from onnxshare.report.inspect import make_table, notes, title, totals_table
from onnxshare.report.inspect_views import View, count_of

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
        "<h2>Totals per sample</h2>",
        *totals_table(report).html(),
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


def _rows(report: Inspection, view: View) -> list[str]:
    table = make_table(report, view, view.columns)
    shown = count_of(view).removesuffix("; ").replace(" (--all shows every one)", "")
    return [
        f"<h2>By {view.kind}</h2>",
        *table.html(),
        *([f"<p>{_text(shown)}</p>"] if shown else []),
        *([_LEGEND] if any(row.style for row in table.rows) else []),
    ]
