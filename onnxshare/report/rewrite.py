"""The report of `rewrite`: each site, what was done or why not, and what the comparison says."""

from __future__ import annotations

from pathlib import Path

from onnx import NodeProto
from rich.console import Console
from rich.text import Text

from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.errors import printable
from onnxshare.report import text_tools as numbers
from onnxshare.report.compare import print_comparison
from onnxshare.report.console import make_console
from onnxshare.report.plot import picture, table
from onnxshare.report.plot import tradeoff as tradeoff_picture
from rewrites.base import Change, Site
from rewrites.run import RewriteResult
from rewrites.small_heads.search_result import Search

#: Below this share of unchanged answers an approximation gets a word of warning.
_FINE = 0.95


NOT_COMPARED = (
    "not validated, as --no-validate asks: neither model was run, and only moved weights were "
    "checked, bit for bit; the model's metadata says so"
)


def print_result(
    result: RewriteResult,
    written: tuple[Path, int] | None,
    console: Console | None = None,
    *,
    diff: bool = False,
) -> None:
    """Print the report on stdout, with the nodes that went and came if `diff` is set."""
    console = console or make_console()
    done = {(change.site.rewrite, change.site.node): change for change in result.changes}
    for site in result.sites:
        change = done.get((site.rewrite, site.node))
        for line in _site(site, change):
            console.print(line, soft_wrap=True)
        if change is not None and change.search is not None:
            _tried(change.search, console)
    if not result.sites:
        console.print("Nothing in this model fits what was requested, so there is nothing to do.")
    if result.changes:
        console.print(_parameters(result), soft_wrap=True)
    if diff and result.changes:
        for line in _diff(result):
            console.print(line, soft_wrap=True)
    if result.validation is not None:
        console.print()
        print_comparison(result.validation, console)
        for line in _cost(result.validation):
            console.print(line, soft_wrap=True)
    elif result.changes:
        console.print(Text(NOT_COMPARED, "bold yellow"), soft_wrap=True)
    if written is not None:
        path, count = written
        console.print(
            Text(f"wrote {printable(str(path))} ({numbers.size(count)})", "bold"), soft_wrap=True
        )
    elif result.changes and not result.passed:
        console.print(Text("nothing was written", "bold red"))
    elif not result.changes:
        console.print(Text("nothing was rewritten, and nothing written", "bold"))


def draw(result: RewriteResult, path: Path) -> bool:
    """Draw what the searches tried, if there were any, as SVG or PNG; return whether.

    Raises:
        UsageError: the ending is neither, or PNG needs what is not installed.
        OutputError: the file cannot be written.
    """
    drawn = tradeoff(result)
    if drawn is not None:
        picture.save(drawn, path)
    return drawn is not None


def tradeoff(result: RewriteResult) -> picture.Picture | None:
    """What the searches tried, as a picture; None where there was none."""
    found = [(c.site.node, c.search) for c in result.changes if c.search is not None]
    return tradeoff_picture.draw(found) if found else None


def _site(site: Site, change: Change | None) -> list[Text]:
    name = printable(f"{site.rewrite}  {site.node}: ")
    if change is None:
        reason = site.refused or "left as it is"
        kind = ("nothing to do", "green") if site.nothing_to_do else ("refused", "yellow")
        return [Text.assemble((name, "bold"), kind, printable(f", {reason}"))]
    kind = ("exact", "green") if site.exact else ("approximate", "yellow")
    lines = [Text.assemble((name, "bold"), kind, printable(f", {site.detail}"))]
    if site.params_after is not None and site.params_after != site.params_before:
        lines.append(
            Text(
                f"    {numbers.exact(site.params_before)} → {numbers.exact(site.params_after)} "
                f"parameters here, ÷{site.params_before / max(1, site.params_after):.3g}"
            )
        )
    lines += [Text(printable(f"    note: {note}")) for note in change.notes]
    return lines


def _tried(search: Search, console: Console) -> None:
    """The table of everything that a search tried."""
    console.print()
    console.print(table.table(search).text())
    for line in table.lines(search):
        console.print(line, soft_wrap=True)
    console.print()


def _diff(result: RewriteResult) -> list[Text]:
    """The nodes that went (-) and came (+), each in the order of its graph."""
    old, new = result.original.skeleton.graph.node, result.rewritten.skeleton.graph.node
    before = {node.SerializeToString() for node in old}
    after = {node.SerializeToString() for node in new}
    gone = [Text(f"- {_node(n)}", "red") for n in old if n.SerializeToString() not in after]
    came = [Text(f"+ {_node(n)}", "green") for n in new if n.SerializeToString() not in before]
    return gone + came


def _node(node: NodeProto) -> str:
    reads, makes = ", ".join(node.input), ", ".join(node.output)
    return printable(f"{node.op_type} {node.name}: {reads} → {makes}")


def _cost(validation: Comparison) -> list[Text]:
    """A plain word of warning where an approximation changes many answers."""
    shares = [row.argmax_agreement for row in validation.outputs if not row.internal]
    known = [share for share in shares if share is not None]
    if validation.verdict is not Verdict.APPROXIMATE or not known or min(known) >= _FINE:
        return []
    return [
        Text(
            f"note: {1 - min(known):.1%} of the answers change. Train the new head further, or "
            "use --fc-to-conv, which changes none",
            "yellow",
        )
    ]


def _parameters(result: RewriteResult) -> Text:
    before, after = result.before.params, result.after.params
    if before == after:
        return Text(f"parameters: {numbers.exact(before)}, as before")
    ratio = f"÷{before / after:.3g}" if after < before else f"×{after / before:.3g}"
    return Text(f"parameters: {numbers.exact(before)} → {numbers.exact(after)} ({ratio})")
