"""The report of `family`: what several models hold once, and how many times over."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxshare.differences.family import Family
from onnxshare.errors import printable
from onnxshare.report import numbers
from onnxshare.report.console import make_console

#: Shared tensors that are listed, unless all are asked for.
ROWS = 20


def print_family(family: Family, console: Console | None = None, *, every: bool = False) -> None:
    """Print what models share on stdout.

    Args:
        family: what was found.
        console: where to; None for stdout.
        every: list all tensors, also those that one model alone holds.
    """
    console = console or make_console(answers=False)
    console.print(_members(family))
    console.print()
    console.print(_together(family), soft_wrap=True)
    shared = [weight for weight in family.weights if every or len(weight.models) > 1]
    if not shared:
        return
    rows = shared if every else shared[:ROWS]
    table = _table("weight", "params", "models", "copies", "connections")
    for weight in rows:
        table.add_row(
            Text(printable(weight.name)),
            numbers.exact(weight.params),
            str(len(weight.models)),
            str(weight.times),
            numbers.exact(weight.connections),
        )
    console.print()
    console.print(table)
    if len(shared) > len(rows):
        console.print(f"… and {len(shared) - len(rows)} more; --all lists them")


def _members(family: Family) -> Table:
    table = _table("model", "params", "shared", "own", "MACs")
    for member in family.members:
        table.add_row(
            Text(printable(member.name)),
            numbers.exact(member.params),
            numbers.exact(member.shared),
            numbers.exact(member.own),
            numbers.rounded(member.macs),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _together(family: Family) -> str:
    together, once = family.params_together, family.params_once
    if together == once:
        return f"The files hold {numbers.exact(together)} parameters; none is in two of them."
    return (
        f"Together the files hold {numbers.exact(together)} parameters, of which "
        f"{numbers.exact(once)} are different: each is held {numbers.times(family.sharing_ratio)} "
        f"on average. Every model holds {numbers.exact(family.shared_by_all)} of them."
    )
