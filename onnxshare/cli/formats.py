"""How `inspect` can print its report, and what of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["table", "json", "csv", "markdown", "html"]

#: The same, to look through.
FORMATS: tuple[Format, ...] = ("table", "json", "csv", "markdown", "html")

By = Literal["node", "weight", "op", "scope", "layer"]

Sort = Literal["graph", "params", "macs", "sharing"]


@dataclass(frozen=True)
class Wanted:
    """What of a report is printed; JSON always holds everything.

    Attributes:
        by: what a row is.
        columns: names of columns; None for the usual ones.
        summary: the totals instead of rows.
        every: nodes without parameters and MACs too.
        sort: the order of the rows.
        top: so many rows only.
        depth: levels of modules; None for the usual number.
    """

    by: By = "node"
    columns: tuple[str, ...] | None = None
    summary: bool = False
    every: bool = False
    sort: Sort = "graph"
    top: int | None = None
    depth: int | None = None
