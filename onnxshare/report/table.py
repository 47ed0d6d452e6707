"""Tables: one description of columns and rows, written as text, Markdown, CSV or HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from onnxshare.errors import printable

#: Cells of a terminal between two columns.
GAP = 2

#: What a spreadsheet takes for a formula; a number is none.
_FORMULA = re.compile(r"\s*(?![-+]?[0-9.]+$)[-=+@\uff1d\uff0b\uff0d\uff20]")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        right: whether its cells stand to the right, as numbers do.
        foot: the cell below all rows.
        folds: whether its cells are broken where there is no room.
        width: how wide it is on a terminal; None: as its cells.
        least: how narrow it may become where it folds.
    """

    title: str = ""
    right: bool = False
    foot: str = ""
    folds: bool = False
    width: int | None = None
    least: int | None = None


#: Characters of the widest bar.
BAR = 12


@dataclass(frozen=True)
class Bar:
    """A cell that shows a part of a whole as a bar; the whole may be 0."""

    part: int
    whole: int

    def __str__(self) -> str:
        filled = round(8 * BAR * self.part / (self.whole or 1))
        return ("█" * (filled // 8) + " ▏▎▍▌▋▊▉"[filled % 8].strip()).ljust(BAR)


Cell = str | Text | Bar


@dataclass(frozen=True)
class Row:
    """One row: its cells, and the style that makes it stand out."""

    cells: list[Cell]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows, ready to be written in any form; with the titles if they are `heads`, in
    text with a line below these if they are `ruled`."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    heads: bool = True
    ruled: bool = False

    def text(self) -> RichTable:
        """The table for a console."""
        table = RichTable(
            box=box.SIMPLE_HEAD if self.ruled else None,
            pad_edge=False,
            show_edge=False,
            show_header=self.heads,
            header_style=None if self.ruled else "dim",
            show_footer=any(column.foot for column in self.columns),
            padding=(0, 1) if self.ruled else (0, GAP, 0, 0),
        )
        for column in self.columns:
            table.add_column(
                column.title,
                Text(column.foot),
                justify="right" if column.right else "left",
                overflow="fold" if column.folds else "ellipsis",
                no_wrap=not column.folds,
                width=column.width,
                min_width=column.least,
            )
        for row in self.rows:
            table.add_row(*map(_text_cell, row.cells), style=row.style)
        return table

    def markdown(self, *, escaped: bool = False) -> str:
        """The table in Markdown; `escaped` says that the cells are Markdown already."""
        marked = str if escaped else _marked
        marks = ["---:" if column.right else "---" for column in self.columns]
        lines = [
            [column.title for column in self.columns],
            marks,
            *([marked(str(cell)) for cell in row.cells] for row in self.rows),
        ]
        feet = [column.foot for column in self.columns]
        if any(feet):
            lines.append(["**total**" if foot == "total" else marked(foot) for foot in feet])
        return "".join(map(_line, lines))

    def csv(self) -> str:
        """The table as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.title for column in self.columns)
        writer.writerows(map(_inert, row.cells) for row in self.rows)
        return text.getvalue()

    def html(self) -> list[str]:
        """The table as lines of HTML; rows with a style are of the class `unshared`."""
        rows = [
            ('<tr class="unshared">' if row.style else "<tr>")
            + "".join(map(_html_cell, self.columns, row.cells))
            + "</tr>"
            for row in self.rows
        ]
        if self.heads:
            heads = "".join(map(_html_head, self.columns))
            rows = [f"<thead><tr>{heads}</tr></thead>", "<tbody>", *rows, "</tbody>"]
        return ['<div class="wide">', "<table>", *rows, "</table>", "</div>"]


def named(name: str, *others: str) -> list[Column]:
    """A column of names, and columns of numbers."""
    return [Column(name), *(Column(title, right=True) for title in others)]


def rows(cells: Iterable[Iterable[Cell]]) -> list[Row]:
    """Rows without a style."""
    return [Row(list(row)) for row in cells]


def _inert(cell: Cell) -> str:
    """A cell on one line that no terminal obeys and no spreadsheet takes for a formula: words get a
    quote before their first sign."""
    text = printable(str(cell))
    return f"'{text}" if isinstance(cell, str) and _FORMULA.match(cell) else text


def _text_cell(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell
    return Text(str(cell), "blue" if isinstance(cell, Bar) else "")


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {text} |" if text else " |" for text in cells) + "\n"


def _marked(text: str) -> str:
    for char in "\\|*_`<>[]":
        text = text.replace(char, f"\\{char}")
    return text


def _html_head(column: Column) -> str:
    if not column.title:
        return '<th scope="col" aria-label="share of all parameters"></th>'
    return f'<th scope="col"{_html_class(column)}>{escape(column.title)}</th>'


def _html_cell(column: Column, cell: Cell) -> str:
    if isinstance(cell, Bar):
        width = 100 * cell.part / (cell.whole or 1)
        return (
            '<td><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none">'
            f'<rect width="{width:.2f}" height="10" class="good"/></svg></td>'
        )
    return f"<td{_html_class(column)}>{escape(printable(str(cell)))}</td>"


def _html_class(column: Column) -> str:
    return ' class="number"' if column.right else ""
