"""The reports of `family`: what several models hold once, and what a folder of them saves."""

from __future__ import annotations

from rich.console import Console

from onnxshare.differences.family import Family
from onnxshare.errors import printable
from onnxshare.model_family.results import WrittenFamily
from onnxshare.report import text_tools as numbers
from onnxshare.report.console import make_console
from onnxshare.report.diff import ROWS
from onnxshare.report.table import Table, named, rows


def print_family(family: Family, console: Console | None = None, *, every: bool = False) -> None:
    """Print what models share, on stdout if there is no console; `every` lists also the tensors
    that one model alone holds."""
    console = console or make_console(answers=False)
    console.print(_members(family).text())
    console.print()
    console.print(_together(family), soft_wrap=True)
    shared = [weight for weight in family.weights if every or len(weight.models) > 1]
    if not shared:
        return
    shown = shared if every else shared[:ROWS]
    cells = (
        (
            printable(weight.name),
            numbers.exact(weight.params),
            str(len(weight.models)),
            str(weight.times),
            numbers.exact(weight.connections),
        )
        for weight in shown
    )
    console.print()
    titles = named("weight", "params", "models", "copies", "connections")
    console.print(Table(titles, rows(cells)).text())
    if len(shared) > len(shown):
        console.print(f"… and {len(shared) - len(shown)} more; --all lists them")


def _members(family: Family) -> Table:
    cells = (
        (
            printable(member.name),
            numbers.exact(member.params),
            numbers.exact(member.shared),
            numbers.exact(member.own),
            numbers.rounded(member.macs),
        )
        for member in family.members
    )
    return Table(named("model", "params", "shared", "own", "MACs"), rows(cells))


def _together(family: Family) -> str:
    together, once = family.params_together, family.params_once
    if together == once:
        return f"The files hold {numbers.exact(together)} parameters; none is in two of them."
    return (
        f"Together the files hold {numbers.exact(together)} parameters, of which "
        f"{numbers.exact(once)} are different: each is held {numbers.times(family.sharing_ratio)} "
        f"on average. Every model holds {numbers.exact(family.shared_by_all)} of them."
    )


def print_written(found: WrittenFamily, console: Console | None = None) -> None:
    """Print what writing a family did, or would do, on stdout if there is no console."""
    console = console or make_console(answers=False)
    cells = (
        (
            printable(model.file),
            printable(model.source),
            numbers.size(model.shared_bytes),
            numbers.size(model.own_bytes),
            model.action,
        )
        for model in found.models
    )
    titles = named("model", "made of", "shared", "own", "")
    console.print(Table(titles, rows(cells)).text())
    console.print()
    before, after = numbers.size(found.bytes_before), numbers.size(found.bytes_after)
    share = found.saved_bytes / found.bytes_before if found.bytes_before else 0.0
    verb = "take" if found.written else "would take"
    console.print(
        f"The files {verb} {after} in {printable(found.folder)} instead of {before}: "
        f"{share:.1%} less. {found.data} has {numbers.size(found.shared_bytes)}, of which "
        f"{numbers.size(found.added_bytes)} {'are' if found.written else 'would be'} new.",
        soft_wrap=True,
        markup=False,
    )
    for words in sorted({model.validation for model in found.models if model.validation}):
        console.print(f"Proven: {words}.", soft_wrap=True, markup=False)
    for item in found.kept_apart[:ROWS]:
        names = ", ".join(map(printable, item.tensors))
        size = numbers.size(item.bytes)
        console.print(
            f"stored apart: {names}: {item.reason} ({size})", soft_wrap=True, markup=False
        )
    if len(found.kept_apart) > ROWS:
        console.print(f"… and {len(found.kept_apart) - ROWS} more; --format json has all")
