"""The report of `inspect`: a table a person enjoys, and the same rows as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.errors import printable
from onnxshare.report import numbers
from onnxshare.report.console import make_console
from onnxshare.report.summary import describe

#: How `--sort` orders the rows; `graph` keeps the order of the graph.
SORTS = ("graph", "params", "macs", "sharing")

_BAR = 12


def rows(
    report: Inspection, *, every: bool = False, sort: str = "graph", top: int | None = None
) -> list[NodeFacts]:
    """The nodes to show: those that hold parameters or multiply, or all of them.

    Args:
        report: what was found.
        every: show nodes without parameters and MACs too.
        sort: one of `SORTS`; largest first, unknown last.
        top: show only so many.
    """
    chosen = [n for n in report.nodes if every or n.params or n.macs is None or n.macs > 0]
    if sort != "graph":
        chosen.sort(key=lambda node: _rank(node, sort), reverse=True)
    return chosen if top is None else chosen[:top]


def _rank(node: NodeFacts, sort: str) -> float:
    value = {"params": node.params, "macs": node.macs, "sharing": node.sharing_ratio}[sort]
    return -1.0 if value is None else float(value)


def print_table(
    report: Inspection, chosen: Sequence[NodeFacts], console: Console | None = None
) -> None:
    """Print the table and, in words, where the unshared weights are and what changes that."""
    console = console or make_console()
    for line in _title(report):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(_table(report, chosen, console.width))
    console.print(_legend(report, chosen), soft_wrap=True)
    console.print()
    for line in describe(report):
        console.print(line, soft_wrap=not console.is_terminal)


def _title(report: Inspection) -> list[Text]:
    model = report.model
    facts = [
        model.producer,
        ", ".join(f"{domain or 'opset'} {version}" for domain, version in model.opsets.items()),
        numbers.size(model.bytes) if model.bytes is not None else "",
    ]
    inputs = ", ".join(f"{item.name} {numbers.shape(item)}" for item in model.inputs)
    outputs = ", ".join(f"{item.name} {numbers.shape(item)}" for item in model.outputs)
    return [
        Text.assemble(
            (printable(model.path or "model"), "bold"),
            ("  " + printable(" · ".join(filter(None, facts))), "dim"),
        ),
        Text(printable(f"{inputs} → {outputs}"), "dim"),
    ]


#: Columns in their order; numbers stand to the right.
_COLUMNS = ("layer", "operator", "output", "params", "of all", "bar", "sharing", "MACs")
_TO_THE_RIGHT = ("params", "of all", "sharing", "MACs")

#: What is left out first where there is no room for all: half a number would be a wrong one.
_DISPENSABLE = ("bar", "of all", "output", "operator", "MACs")

_GAP = 2
_NARROWEST_LAYER = 12


def _table(report: Inspection, chosen: Sequence[NodeFacts], width: int) -> Table:
    totals = report.totals
    body = [_cells(node, totals.params) for node in chosen]
    footer = {
        "layer": Text("total"),
        "params": Text(numbers.exact(totals.params)),
        "sharing": Text(numbers.times(totals.sharing_ratio)),
        "MACs": Text(numbers.rounded(totals.macs)),
    }
    widths = {
        name: max(cells.get(name, Text(name)).cell_len for cells in [*body, footer, {}])
        for name in _COLUMNS
    }
    kept = _fitting(widths, width)
    table = Table(
        box=None,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        show_footer=True,
        padding=(0, _GAP, 0, 0),
    )
    for name in kept:
        table.add_column(
            "" if name == "bar" else name,
            footer.get(name, ""),
            justify="right" if name in _TO_THE_RIGHT else "left",
            overflow="fold",
            width=_layer_width(widths, kept, width) if name == "layer" else widths[name],
        )
    for node, cells in zip(chosen, body, strict=True):
        table.add_row(*(cells[name] for name in kept), style=_style(node))
    return table


def _fitting(widths: dict[str, int], width: int) -> list[str]:
    """The columns there is room for; names of layers can be folded, numbers cannot."""
    kept = list(_COLUMNS)
    for name in _DISPENSABLE:
        if _layer_width(widths, kept, width) >= min(widths["layer"], _NARROWEST_LAYER):
            break
        kept.remove(name)
    return kept


def _layer_width(widths: dict[str, int], kept: Sequence[str], width: int) -> int:
    others = sum(widths[name] + _GAP for name in kept if name != "layer")
    return max(1, min(widths["layer"], width - others))


def _legend(report: Inspection, chosen: Sequence[NodeFacts]) -> Text:
    shown = f"{len(chosen)} of {len(report.nodes)} nodes (--all shows every one); "
    shown = shown if len(chosen) < len(report.nodes) else ""
    return Text(f"{shown}sharing: uses of a weight per inference", "dim")


def _cells(node: NodeFacts, params: int) -> dict[str, Text]:
    name = f"{node.scope}/{node.name}" if node.scope else node.name
    holds = bool(node.params)
    return {
        "layer": Text(printable(name)),
        "operator": Text(printable(node.op_type)),
        "output": Text(_output(node, batch=False)),
        "params": Text(numbers.exact(node.params) if holds else ""),
        "of all": Text(numbers.share(node.params_new, params) if holds else ""),
        "bar": _bar(node.params_new, params),
        "sharing": Text(numbers.times(node.sharing_ratio) if holds else ""),
        "MACs": Text(numbers.rounded(node.macs) if node.macs != 0 else ""),
    }


def _output(node: NodeFacts, *, batch: bool) -> str:
    return printable(numbers.shape(node.outputs[0], batch=batch)) if node.outputs else ""


def _bar(part: int, whole: int) -> Text:
    filled = round(8 * _BAR * part / whole) if whole else 0
    partial = " ▏▎▍▌▋▊▉"[filled % 8] if filled % 8 else ""
    return Text(("█" * (filled // 8) + partial).ljust(_BAR), "blue")


def _style(node: NodeFacts) -> str:
    """FCs that use each weight once stand out."""
    unshared = node.kind == "fc" and node.sharing_ratio is not None and node.sharing_ratio <= 1
    return "yellow" if unshared else ""


_FIELDS = (
    "name",
    "op_type",
    "scope",
    "kind",
    "output",
    "params",
    "params_new",
    "connections",
    "sharing_ratio",
    "macs",
    "flops",
)


def _record(node: NodeFacts) -> list[str]:
    record = []
    for name in _FIELDS:
        if name == "output":
            record.append(_output(node, batch=True))
            continue
        value = getattr(node, name)
        record.append("" if value is None else printable(str(value)))
    return record


def as_csv(chosen: Sequence[NodeFacts]) -> str:
    """The rows as CSV with a header; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows(_record(node) for node in chosen)
    return text.getvalue()


def as_markdown(report: Inspection, chosen: Sequence[NodeFacts]) -> str:
    """The rows as a Markdown table with the totals as its last row."""
    totals = report.totals
    lines = [
        "| layer | operator | output | params | of all | sharing | MACs |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        "| " + " | ".join(_marked(cell) for cell in _plain(node, totals.params)) + " |"
        for node in chosen
    ]
    lines.append(
        f"| **total** | | | {numbers.exact(totals.params)} | | "
        f"{numbers.times(totals.sharing_ratio)} | {numbers.rounded(totals.macs)} |"
    )
    return "\n".join(lines) + "\n"


def _plain(node: NodeFacts, params: int) -> list[str]:
    return [cell.plain for name, cell in _cells(node, params).items() if name != "bar"]


def _marked(text: str) -> str:
    for char in "\\|*_`<>[]":
        text = text.replace(char, f"\\{char}")
    return text
