"""The report of `inspect`: a table a person enjoys, and the same rows as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxshare.analysis.results import Inspection
from onnxshare.errors import printable
from onnxshare.report import text_tools as numbers
from onnxshare.report.console import make_console
from onnxshare.report.inspect_columns import Column, Row, cell, record
from onnxshare.report.inspect_summary import describe, describe_equal
from onnxshare.report.inspect_views import View, amount, count_of, for_sizes, totals_of
from onnxshare.report.text_tools import folded


def print_table(report: Inspection, view: View | None, console: Console | None = None) -> None:
    """Print the table and, in words, where the unshared weights are and what changes that.

    Args:
        report: what was found.
        view: the rows and columns; None for the totals instead.
        console: where to; None for stdout.
    """
    console = console or make_console(answers=False)
    for line in title(report):
        console.print(line, soft_wrap=True)
    console.print()
    if view is None:
        console.print(_totals(report))
    else:
        console.print(_table(report, view, console.width))
        console.print(_legend(report, view), soft_wrap=True)
    console.print()
    for line in notes(report):
        console.print(line, soft_wrap=not console.is_terminal)


def title(report: Inspection) -> list[Text]:
    """Which model it is, its inputs and outputs, and for which sizes the counts hold."""
    model = report.model
    used = {"", *(node.domain for node in report.nodes)}
    opsets = {domain: number for domain, number in model.opsets.items() if domain in used}
    facts = [
        model.producer,
        ", ".join(f"{domain or 'opset'} {number}" for domain, number in opsets.items()),
        numbers.size(model.bytes) if model.bytes is not None else "",
    ]
    inputs = ", ".join(f"{item.name} {numbers.shape(item)}" for item in model.inputs)
    outputs = ", ".join(f"{item.name} {numbers.shape(item)}" for item in model.outputs)
    lines = [
        Text.assemble(
            (printable(model.path or "model"), "bold"),
            ("  " + printable(" · ".join(filter(None, facts))), "dim"),
        ),
        Text(printable(f"{inputs} → {outputs}"), "dim"),
    ]
    held = for_sizes(report.totals.dims)
    return [*lines, Text(printable(held), "dim")] if held else lines


def notes(report: Inspection) -> list[Text]:
    """What a reader should know beyond the rows."""
    return [*describe(report), *describe_equal(report)]


def _totals(report: Inspection) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for field, words, value in totals_of(report):
        table.add_row(words, amount(field, value))
    return table


#: What is left out first where there is no room for all: half a number would be a wrong one.
_DISPENSABLE = (
    *("bar", "bytes", "macs_share", "params_share", "dtype", "output", "used_by", "shape"),
    *("hash", "op_type", "macs"),
)

_GAP = 2
_NARROWEST_LAYER, _NARROWEST_WEIGHT = 12, 30


def _footer(report: Inspection, view: View) -> dict[str, str]:
    totals = report.totals
    footer = {
        "params": numbers.exact(totals.params),
        "params_new": numbers.exact(totals.params),
        "connections": numbers.rounded(totals.connections),
        "sharing_ratio": numbers.times(totals.sharing_ratio),
        "macs": numbers.rounded(totals.macs),
        "flops": numbers.rounded(totals.flops),
        "bytes": numbers.size(totals.param_bytes),
        "nodes": numbers.exact(len(report.nodes)),
    }
    if view.kind == "node":  # a tensor that several nodes use is in several rows
        del footer["nodes"]
    first = next((c.name for c in view.columns if c.name not in ("number", *footer)), "")
    return {first: "total", **footer}


def _table(report: Inspection, view: View, width: int) -> Table:
    body = [{c.name: cell(c, row, report.totals) for c in view.columns} for row in view.rows]
    footer = _footer(report, view)
    widths = {
        column.name: max(
            Text(cells.get(column.name, column.title)).cell_len for cells in [*body, footer, {}]
        )
        for column in view.columns
    }
    kept = view.columns if view.chosen else _fitting(view.columns, widths, width)
    flexible = _flexible(kept)
    room = _room(widths, kept, width)
    table = Table(
        box=None,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        show_footer=True,
        padding=(0, _GAP, 0, 0),
    )
    for column in kept:
        cells_wide = room if column.name == flexible else widths[column.name]
        fixed = column.right or column.name == "bar" or not view.chosen
        table.add_column(
            column.title,
            Text(footer.get(column.name, "")),
            justify="right" if column.right else "left",
            overflow="fold",
            width=cells_wide if fixed else None,
            no_wrap=fixed and view.chosen,
        )
    for row, cells in zip(view.rows, body, strict=True):
        if not view.chosen:
            cells[flexible] = folded(cells[flexible], room)
        texts = (Text(cells[c.name], "blue" if c.name == "bar" else "") for c in kept)
        table.add_row(*texts, style=_style(row))
    return table


def _fitting(columns: Sequence[Column], widths: dict[str, int], width: int) -> tuple[Column, ...]:
    """The columns there is room for; names of layers can be folded, numbers cannot."""
    kept = list(columns)
    flexible = _flexible(kept)
    names = [column.name for column in columns]
    narrowest = _NARROWEST_WEIGHT if "used_by" in names else _NARROWEST_LAYER
    for name in _DISPENSABLE:
        if _room(widths, kept, width) >= min(widths[flexible], narrowest):
            break
        kept = [column for column in kept if column.name != name or name == flexible]
    return tuple(kept)


def _flexible(columns: Sequence[Column]) -> str:
    """The column that can be folded: that of names, else the first."""
    names = [column.name for column in columns]
    return "name" if "name" in names else names[0]


def _room(widths: dict[str, int], kept: Sequence[Column], width: int) -> int:
    flexible = _flexible(kept)
    others = sum(widths[column.name] + _GAP for column in kept if column.name != flexible)
    return max(1, min(widths[flexible], width - others))


def _legend(report: Inspection, view: View) -> Text:
    words = "sharing: uses of a weight per inference"
    if any(not getattr(row, "counted", True) and row.macs for row in view.rows):
        words += "; in brackets: a branch of an If that totals leave out"
    if view.kind == "layer":
        totals = report.totals
        words = (
            f"{totals.weight_layers} weight layers (convolutions, FCs, recurrent cells), "
            f"{numbers.exact(totals.params)} parameters ({numbers.size(totals.param_bytes)}), "
            f"{numbers.exact(totals.statistics)} running means and variances; {words}"
        )
    return Text(count_of(view) + words, "dim")


def _style(row: Row) -> str:
    """FCs that use each weight once stand out."""
    unshared = (
        getattr(row, "kind", "") == "fc"
        and row.sharing_ratio is not None
        and row.sharing_ratio <= 1
    )
    return "yellow" if unshared else ""


def as_csv(report: Inspection, view: View | None) -> str:
    """The rows as CSV with a header, or the totals without a view; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if view is None:
        writer.writerow(("total", "value"))
        writer.writerows((field, "" if v is None else v) for field, _, v in totals_of(report))
        return text.getvalue()
    writer.writerow(column.name for column in view.fields)
    writer.writerows(record(view.fields, row, report.totals) for row in view.rows)
    return text.getvalue()


def as_markdown(report: Inspection, view: View | None) -> str:
    """The rows as a Markdown table with the totals as its last row, or the totals alone."""
    if view is None:
        rows = [[words, amount(field, value)] for field, words, value in totals_of(report)]
        return _markdown(["total", "value"], ["---", "---:"], rows)
    columns = [column for column in view.columns if column.name != "bar"]
    footer = _footer(report, view)
    rows = [[cell(column, row, report.totals) for column in columns] for row in view.rows]
    last = [footer.get(column.name, "") for column in columns]
    total = _line(["**total**" if text == "total" else _marked(text) for text in last])
    marks = ["---:" if column.right else "---" for column in columns]
    return _markdown([column.title for column in columns], marks, rows) + total


def _markdown(titles: list[str], marks: list[str], rows: list[list[str]]) -> str:
    body = (_line([_marked(text) for text in row]) for row in rows)
    return "".join([_line(titles), _line(marks), *body])


def _line(cells: list[str]) -> str:
    return "|" + "".join(f" {text} |" if text else " |" for text in cells) + "\n"


def _marked(text: str) -> str:
    for char in "\\|*_`<>[]":
        text = text.replace(char, f"\\{char}")
    return text
