"""The report of `diff`: what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from onnxshare.differences.results import (
    Change,
    Difference,
    LayerChange,
    PortChange,
    TotalChange,
    WeightChange,
)
from onnxshare.errors import printable
from onnxshare.report import text_tools as numbers
from onnxshare.report.console import make_console
from onnxshare.report.inspect_views import for_sizes, words_of
from onnxshare.report.table import Table, named, rows

#: Rows of a section, unless all are requested.
ROWS = 20

_MARKS = {"added": ("+", "green"), "copied": ("+", "green"), "removed": ("-", "red")}
#: What happened to a weight that a layer reads, in a few words.
_WEIGHTS = {
    "changed": "has other values",
    "requantized": "is the same once dequantized",
    "quantized": "is quantized",
    "dequantized": "is dequantized",
    "retyped": "has another element type",
    "resized": "has another size",
    "reordered": "has another order of elements",
    "reshaped": "is reshaped",
    "transposed": "is transposed",
    "transposed and reshaped": "is transposed and reshaped",
}


def print_difference(
    difference: Difference, console: Console | None = None, *, every: bool = False
) -> None:
    """Print what changed, on stdout if there is no console; `every` prints all rows of every
    section."""
    console = console or make_console()
    names = f"{difference.a} → {difference.b}"
    console.print(Text(printable(names), "bold"), soft_wrap=True)
    held = for_sizes(difference.dims)
    if held:
        console.print(Text(printable(held), "dim"), soft_wrap=True)
    if not difference.differs:
        console.print("No differences.")
        return
    limit = None if every else ROWS
    kinds = {(item.before, item.after): item.change for item in difference.weights}
    changed = [total for total in difference.totals if total.before != total.after]
    if changed:
        console.print()
        console.print(_totals(changed).text())
    _section(
        console,
        _head("nodes", difference.layers, difference.same_layers),
        [_layer(item, kinds) for item in difference.layers],
        limit,
    )
    _section(
        console,
        _head("stored tensors", difference.weights, difference.same_weights),
        [_weight(item) for item in difference.weights],
        limit,
    )
    _section(console, "Inputs and outputs", [_port(item) for item in difference.ports], None)
    _section(console, "Model", [_line("~", "", _change(item)) for item in difference.model], None)
    for note in difference.notes:
        console.print()
        console.print(printable(note), soft_wrap=True)


def _totals(changed: Sequence[TotalChange]) -> Table:
    return Table(named("total", "before", "after", "change", ""), rows(map(_total, changed)))


def _total(total: TotalChange) -> list[str]:
    delta = total.delta
    show = _figure if not isinstance(delta, int) else numbers.exact
    change = "–" if delta is None else f"{'+' if delta > 0 else ''}{show(delta)}"
    ratio = "" if total.ratio is None else _factor(total.ratio)
    return [words_of(total.name), show(total.before), show(total.after), change, ratio]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _factor(ratio: float) -> str:
    if not ratio:
        return ""
    return f"÷{1 / ratio:.3g}" if ratio < 1 else f"×{ratio:.3g}"


def _head(what: str, items: Sequence[LayerChange | WeightChange], same: int) -> str:
    counts: dict[str, int] = {}
    for item in items:
        counts[item.change] = counts.get(item.change, 0) + 1
    said = ", ".join(f"{count} {change}" for change, count in counts.items())
    return f"{what.capitalize()}: {said}; {same} as before"


def _section(console: Console, head: str, lines: Sequence[Text], limit: int | None) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(head, "bold"), soft_wrap=True)
    for line in lines[:limit]:
        console.print(line, soft_wrap=True)
    if limit is not None and len(lines) > limit:
        console.print(Text(f"  and {len(lines) - limit} more: --all shows them", "dim"))


def _line(mark: str, name: str, rest: str) -> Text:
    colour = {"+": "green", "-": "red"}.get(mark, "yellow")
    return Text.assemble((f"{mark} ", colour), (printable(name), ""), printable(rest))


def _layer(item: LayerChange, kinds: Mapping[tuple[str | None, str | None], str]) -> Text:
    mark = _MARKS.get(item.change, ("~", ""))[0]
    name = _names(item.before, item.after)
    if mark != "~":
        held = f", {numbers.exact(item.params)} parameters" if item.params else ""
        return _line(mark, name, f"  {item.op_type}{held}")
    words = "; ".join(
        f"'{change.before}' {_WEIGHTS.get(kinds.get((change.before, change.after), ''), 'differs')}"
        if change.field == "weights"
        else _change(change)
        for change in item.changes
    )
    words = words or "renamed"
    return _line(mark, name, f"  {item.op_type}: {words}")


def _names(before: str | None, after: str | None) -> str:
    if before is None or after is None or before == after:
        return str(after if before is None else before)
    return f"{before} → {after}"


def _change(change: Change) -> str:
    words = {"op_type": "operator", "macs": "MACs", "sharing_ratio": "sharing"}
    name = words.get(change.field, change.field)
    before, after = _value(change.field, change.before), _value(change.field, change.after)
    return f"{name} {before} → {after}"


def _value(field: str, value: Any) -> str:
    if field == "sharing_ratio":
        return numbers.times(value)
    if field in ("macs", "params") and isinstance(value, int):
        return numbers.exact(value)
    if field == "shape" and isinstance(value, tuple):
        return "×".join("?" if size is None else str(size) for size in value) or "1"
    if isinstance(value, list):
        return "[" + ", ".join(str(item) for item in value) + "]"
    if value == "":
        return "(empty)"
    return "(none)" if value is None else str(value)


def _weight(item: WeightChange) -> Text:
    mark = _MARKS.get(item.change, ("~", ""))[0]
    name = _names(item.before, item.after)
    if item.change == "merged":
        mark, name = "-", str(item.before)
    if item.change == "copied":
        name = str(item.after)
    return _line(mark, name, f"  {_size(item)}: {_happened(item)}")


def _size(item: WeightChange) -> str:
    def one(side: int) -> str | None:
        shape = item.shape[side]
        return None if shape is None else f"{'×'.join(map(str, shape)) or '1'} {item.dtype[side]}"

    before, after = one(0), one(1)
    return _names(before, after)


def _happened(item: WeightChange) -> str:
    order = f" ({', '.join(map(str, item.permutation))})" if item.permutation else ""
    turned = f", transposed{order}" if order else ""
    words = {
        "renamed": "the same bytes, another name",
        "merged": f"merged with '{item.after}'{turned}",
        "copied": f"holds the same as '{item.before}'",
        "reshaped": "the same bytes, reshaped",
        "transposed": f"the same weights, transposed{order}",
        "transposed and reshaped": "the same weights, transposed and reshaped",
        "requantized": f"the same weights once dequantized{turned}",
        "quantized": f"quantized{turned}",
        "dequantized": f"dequantized{turned}",
        "reordered": "the same values, in another order",
        "retyped": "another element type",
        "resized": "another size",
        "changed": "other values",
    }
    said = words.get(item.change, item.change)
    if item.max_abs is not None:
        said += f", off by up to {item.max_abs:.3g}"
    if item.max_rel is not None:
        said += f" ({100 * item.max_rel:.3g} % of the largest)"
    return said


def _port(item: PortChange) -> Text:
    mark = _MARKS.get(item.change, ("~", ""))[0]
    words = "; ".join(_change(change) for change in item.changes)
    return _line(mark, f"{item.side} {item.name}", f"  {words}" if words else "")
