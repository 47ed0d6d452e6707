"""The report of `inspect`: a table a person enjoys, and the same rows as CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from onnxshare.analysis.results import Inspection, TensorInfo
from onnxshare.errors import printable
from onnxshare.report import inspect_columns
from onnxshare.report import text_tools as numbers
from onnxshare.report.console import make_console
from onnxshare.report.inspect_columns import Row, cell, record, size_label
from onnxshare.report.inspect_rows import MOST_LINES, beginning
from onnxshare.report.inspect_summary import describe, describe_equal
from onnxshare.report.inspect_views import (
    View,
    amount,
    count_of,
    different_sizes,
    for_sizes,
    totals_of,
)
from onnxshare.report.table import GAP, Column, Table, named, rows
from onnxshare.report.table import Row as TableRow
from onnxshare.report.text_tools import shortened


def print_table(report: Inspection, view: View | None, console: Console | None = None) -> None:
    """Print the table and, as text, where the unshared weights are and what changes that.

    Args:
        report: what was found.
        view: the rows and columns; None for the totals instead.
        console: where to; None for stdout.
    """
    console = console or make_console(answers=False)
    above = title(report)
    said = notes(report, every=view is not None and view.whole)
    for line in above:
        console.print(line, soft_wrap=True)
    console.print()
    if view is None:
        console.print(totals_table(report).text())
    else:
        legend = _legend(report, view)
        used = sum(_lines(line, console.width) for line in (*above, legend, *said))
        shown = view.shown(max(_LEAST_SHOWN, MOST_LINES - used - _OTHER_LINES))
        table, common = _fitted(view, shown, console.width)
        console.print(table.text())
        console.print(Text.assemble(*_beginning(common), legend), soft_wrap=True)
    console.print()
    for line in said:
        console.print(line, soft_wrap=not console.is_terminal)


#: Empty lines, titles and totals of a table, and what the row of the rest takes beyond one.
_OTHER_LINES = 7

#: So many rows are shown whatever else is said.
_LEAST_SHOWN = 20


def _lines(text: Text, width: int) -> int:
    return -(-max(1, text.cell_len) // width)


def _beginning(common: str) -> list[Text]:
    return [Text(f"names begin with {printable(common)}; ", "dim")] if common else []


#: So many inputs, or outputs, are named; of more, one fewer and how many more there are.
_ENDS = 6


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
    lines = [
        Text.assemble(
            (printable(model.path or "model"), "bold"),
            ("  " + printable(" · ".join(filter(None, facts))), "dim"),
        ),
        Text(printable(f"{_ends(model.inputs)} → {_ends(model.outputs)}"), "dim"),
    ]
    held = [for_sizes(case.totals.dims) for case in report.sizes or (report,)]
    labels = [f" (columns {size_label(sizes)})" for sizes in different_sizes(report)] or [""]
    return [
        *lines,
        *(
            Text(printable(sizes + label), "dim")
            for sizes, label in zip(held, labels, strict=True)
            if sizes
        ),
    ]


def _ends(found: Sequence[TensorInfo]) -> str:
    """Inputs or outputs with their shapes; language models have dozens."""
    shown = found if len(found) <= _ENDS else found[: _ENDS - 1]
    words = [f"{item.name} {numbers.shape(item)}" for item in shown]
    if len(shown) < len(found):
        words.append(f"{len(found) - len(shown)} more")
    return ", ".join(words)


def notes(report: Inspection, *, every: bool = True) -> list[Text]:
    """What a reader should know beyond the rows; of many heads only the first, unless `every`."""
    labels = [size_label(sizes) for sizes in different_sizes(report)]
    return [*describe(report, labels, every=every), *describe_equal(report)]


def totals_table(report: Inspection) -> Table:
    """The totals and what they are called, a column for each of several sizes."""
    labels = [size_label(sizes) for sizes in different_sizes(report)] or ["value"]
    columns = named("total", *labels)
    cases = [totals_of(case) for case in report.sizes or (report,)]
    if len(cases) > 1:  # the title says what these are
        cases = [[each for each in case if each[0] != "dims"] for case in cases]
        columns[0] = replace(columns[0], least=max(len(words) for _, words, _ in cases[0]))
    cells = (
        (each[0][1], *(amount(field, value) for field, _, value in each))
        for each in zip(*cases, strict=True)
    )
    return Table(columns, rows(cells), heads=len(cases) > 1)


def make_table(
    view: View, shown: Sequence[Sequence[Row]], columns: Sequence[inspect_columns.Column]
) -> Table:
    """The rows of a view that are shown, in some of its columns, as a person reads them; the totals
    below."""
    footer = _footer(view)
    return Table(
        [Column(column.title, column.right, footer.get(column.name, "")) for column in columns],
        [
            TableRow([cell(column, row, view.totals) for column in columns], _style(row[0]))
            for row in shown
        ],
    )


#: What is left out first where there is no room for all: half a number would be a wrong one.
_DISPENSABLE = (
    *("bar", "bytes", "macs_share", "params_share", "dtype", "output", "used_by", "shape"),
    *("hash", "op_type", "macs"),
)

_NARROWEST_LAYER, _NARROWEST_WEIGHT = 12, 30


def _footer(view: View) -> dict[str, str]:
    """The totals, by name of the column."""
    found = {}
    for column in view.columns:
        totals = view.totals[column.case]
        cells = {
            "params": numbers.exact(totals.params),
            "params_new": numbers.exact(totals.params),
            "connections": numbers.rounded(totals.connections),
            "sharing_ratio": numbers.times(totals.sharing_ratio),
            "macs": numbers.rounded(totals.macs),
            "flops": numbers.rounded(totals.flops),
            "bytes": numbers.size(totals.param_bytes),
        }
        if view.kind != "node":  # a tensor that several nodes use is in several rows
            cells["nodes"] = numbers.exact(view.nodes)
        if column.field in cells:
            found[column.name] = cells[column.field]
    first = next((c.name for c in view.columns if c.name not in ("number", *found)), "")
    return {first: "total", **found}


#: How often a block is there, before its name; and a common beginning that is left out.
_TIMES, _WORTH_CUTTING = re.compile("^×[0-9]+ "), 3


def _fitted(view: View, shown: Sequence[Sequence[Row]], width: int) -> tuple[Table, str]:
    """The table in the columns that there is room for, and what the names begin with that are too
    long for theirs: they are shown without it, and broken or cut in the middle."""
    whole = make_table(view, shown, view.columns)
    widths = {
        column.name: max(
            Text(str(text)).cell_len
            for text in (head.title, head.foot, *(row.cells[place] for row in whole.rows))
        )
        for place, (column, head) in enumerate(zip(view.columns, whole.columns, strict=True))
    }
    kept = view.columns if view.chosen else _fitting(view.columns, widths, width)
    flexible = _flexible(kept)
    room = _room(widths, kept, width)
    columns, cells = [], []
    for column, head in zip(view.columns, whole.columns, strict=True):
        if column not in kept:
            continue
        fixed = column.right or column.name == "bar" or not view.chosen
        wide = room if column.name == flexible else widths[column.name]
        folds = not (fixed and view.chosen)
        columns.append(replace(head, folds=folds, width=wide if fixed else None))
        cells.append(view.columns.index(column))
    found = [TableRow([row.cells[place] for place in cells], row.style) for row in whole.rows]
    if view.chosen:
        return Table(columns, found), ""
    place = kept.index(next(column for column in kept if column.name == flexible))
    names = [str(row.cells[place]) for row in found]
    common = ""
    if flexible == "name" and view.kind != "scope" and widths["name"] > room:
        bare = [_TIMES.sub("", name) for name in names if name[0] != "…"]
        common = beginning(bare)
        if len(bare) == 1 or len(common) < _WORTH_CUTTING or common in bare:
            common = ""
    lines = 1 if any(name[0] == "…" for name in names) else 2
    for row, name in zip(found, names, strict=True):
        name = f" {name}".replace(f" {common}", " ")[1:]
        row.cells[place] = shortened(name, room, lines if name[0] != "…" else 3)
    return Table(columns, found), common


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
        kept = [column for column in kept if column.field != name or name == flexible]
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
    if not view.whole and any(run.times > 1 for run in view.runs):
        words += "; ×N: N equal blocks in one row"
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
        cases = [totals_of(case) for case in report.sizes or (report,)]
        heads = [
            " ".join(f"{name}={size}" for name, size in sizes.items())
            for sizes in different_sizes(report)
        ] or ["value"]
        cells = (
            (each[0][0], *("" if value is None else str(value) for _, _, value in each))
            for each in zip(*cases, strict=True)
        )
        return Table(named("total", *heads), rows(cells)).csv()
    return Table(
        [Column(column.name) for column in view.fields],
        rows(record(view.fields, row, view.totals) for row in zip(*view.cases, strict=True)),
    ).csv()


def as_markdown(report: Inspection, view: View | None) -> str:
    """The rows as a Markdown table with the totals as its last row, or the totals alone."""
    if view is None:
        return totals_table(report).markdown()
    columns = [column for column in view.columns if column.name != "bar"]
    return make_table(view, view.shown(), columns).markdown()
