"""The report of `inspect`: a table a person enjoys, and the same rows as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from onnxshare.analysis.results import Inspection
from onnxshare.errors import printable
from onnxshare.report import inspect_columns
from onnxshare.report import text_tools as numbers
from onnxshare.report.console import make_console
from onnxshare.report.inspect_columns import cell, record
from onnxshare.report.inspect_summary import describe, describe_equal
from onnxshare.report.inspect_views import View, amount, count_of, for_sizes, totals_of
from onnxshare.report.table import GAP, Column, Row, Table, named, rows
from onnxshare.report.text_tools import folded


def print_table(report: Inspection, view: View | None, console: Console | None = None) -> None:
    """Print the table and, in words, where the unshared weights are and what changes that; without
    a view the totals instead."""
    console = console or make_console(answers=False)
    for line in title(report):
        console.print(line, soft_wrap=True)
    console.print()
    if view is None:
        console.print(totals_table(report).text())
    else:
        console.print(_fitted(report, view, console.width).text())
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


def totals_table(report: Inspection) -> Table:
    """The totals and what they are called."""
    cells = ((words, amount(field, value)) for field, words, value in totals_of(report))
    return Table(named("total", "value"), rows(cells), heads=False)


def make_table(report: Inspection, view: View, columns: Sequence[inspect_columns.Column]) -> Table:
    """The rows of a view, in some of its columns, as a person reads them; the totals below."""
    footer = _footer(report, view)
    return Table(
        [Column(column.title, column.right, footer.get(column.name, "")) for column in columns],
        [
            Row([cell(column, row, report.totals) for column in columns], _style(row))
            for row in view.rows
        ],
    )


#: What is left out first where there is no room for all: half a number would be a wrong one.
_DISPENSABLE = (
    *("bar", "bytes", "macs_share", "params_share", "dtype", "output", "used_by", "shape"),
    *("hash", "op_type", "macs"),
)

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


def _fitted(report: Inspection, view: View, width: int) -> Table:
    """The table in the columns that there is room for, with names broken where they are long."""
    whole = make_table(report, view, view.columns)
    widths = {
        column.name: max(
            Text(str(text)).cell_len
            for text in (shown.title, shown.foot, *(row.cells[place] for row in whole.rows))
        )
        for place, (column, shown) in enumerate(zip(view.columns, whole.columns, strict=True))
    }
    kept = view.columns if view.chosen else _fitting(view.columns, widths, width)
    flexible = _flexible(kept)
    room = _room(widths, kept, width)
    table = make_table(report, view, kept)
    columns = []
    for column, shown in zip(kept, table.columns, strict=True):
        fixed = column.right or column.name == "bar" or not view.chosen
        wide = room if column.name == flexible else widths[column.name]
        folds = not (fixed and view.chosen)
        columns.append(replace(shown, folds=folds, width=wide if fixed else None))
    if view.chosen:
        return replace(table, columns=columns)
    place = [column.name for column in kept].index(flexible)
    for row in table.rows:
        row.cells[place] = folded(str(row.cells[place]), room)
    return replace(table, columns=columns)


def _fitting(
    columns: Sequence[inspect_columns.Column], widths: dict[str, int], width: int
) -> tuple[inspect_columns.Column, ...]:
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


def _flexible(columns: Sequence[inspect_columns.Column]) -> str:
    """The column that can be folded: that of names, else the first."""
    names = [column.name for column in columns]
    return "name" if "name" in names else names[0]


def _room(widths: dict[str, int], kept: Sequence[inspect_columns.Column], width: int) -> int:
    flexible = _flexible(kept)
    others = sum(widths[column.name] + GAP for column in kept if column.name != flexible)
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


def _style(row: inspect_columns.Row) -> str:
    """FCs that use each weight once stand out."""
    unshared = (
        getattr(row, "kind", "") == "fc"
        and row.sharing_ratio is not None
        and row.sharing_ratio <= 1
    )
    return "yellow" if unshared else ""


def as_csv(report: Inspection, view: View | None) -> str:
    """The rows as CSV with a header, or the totals without a view; unknown values are empty."""
    if view is None:
        cells = ((field, "" if v is None else str(v)) for field, _, v in totals_of(report))
        return Table(named("total", "value"), rows(cells)).csv()
    return Table(
        [Column(column.name) for column in view.fields],
        rows(record(view.fields, row, report.totals) for row in view.rows),
    ).csv()


def as_markdown(report: Inspection, view: View | None) -> str:
    """The rows as a Markdown table with the totals as its last row, or the totals alone."""
    if view is None:
        return totals_table(report).markdown()
    columns = [column for column in view.columns if column.name != "bar"]
    return make_table(report, view, columns).markdown()
