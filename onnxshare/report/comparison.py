"""The report of a comparison as text: a row per output, then one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxshare.comparison import Comparison, OutputComparison, WeightProof
from onnxshare.errors import printable

_WIDTH_IN_A_PIPE = 100

_STYLES = {
    "identical": "bold green",
    "equivalent": "bold green",
    "approximate": "bold yellow",
    "inconclusive": "bold yellow",
    "different": "bold red",
    "not run": "bold red",
}

_Cell = Callable[[OutputComparison], str | None]

#: Heading and cell of every column after the name; a column that is empty throughout is left out.
_COLUMNS: tuple[tuple[str, _Cell], ...] = (
    ("max error", lambda row: _number(row.max_abs)),
    ("of tolerance", lambda row: _times(row.worst)),
    ("relative", lambda row: _number(row.max_rel)),
    ("RMSE", lambda row: _number(row.rmse)),
    ("SQNR", lambda row: None if row.sqnr_db is None else f"{row.sqnr_db:.0f} dB"),
    ("live", lambda row: _percent(row.live, 0)),
    ("same class", lambda row: None if row.internal else _percent(row.argmax_agreement, 2)),
    ("at least", lambda row: None if row.internal else _percent(row.confidence_low, 2)),
)


def render_text(comparison: Comparison) -> RenderableType:
    """Return the table and the sentence, ready for a rich console.

    Columns: the largest error; error over tolerance in the channel that comes nearest to its
    own (each has one: 100 % is all that rounding explains); largest error over largest value;
    root mean squared error; signal to error; the share of channels that move with the inputs;
    the share of samples with the same class, and its 95 % lower bound.
    """
    return Group(*_parts(comparison))


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set."""
    console = console or _console()
    for part in _parts(comparison):
        # A sentence is never broken: a pipe's reader wants it in one line.
        console.print(part, soft_wrap=isinstance(part, Text))


def sentence(comparison: Comparison) -> str:
    """Return the verdict, its reason and what it rests on, in one plain sentence."""
    return _sentence(comparison).plain


def _console() -> Console:
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _WIDTH_IN_A_PIPE
    return Console(file=sys.stdout, width=width, highlight=False)


def _parts(comparison: Comparison) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if comparison.outputs:
        parts.append(_table(comparison))
    if comparison.accuracy is not None:
        a, b = comparison.accuracy["a"], comparison.accuracy["b"]
        parts.append(Text(f"accuracy: A {a:.2%}, B {b:.2%} ({(b - a) * 100:+.2f} points)"))
    if comparison.weights is not None:
        parts.append(Text(printable(_weights(comparison.weights))))
    parts.append(_sentence(comparison))
    return parts


def _weights(proof: WeightProof) -> str:
    words = []
    if proof.moved:
        words.append(f"moved, bit-equal ({proof.moved} tensor{'' if proof.moved == 1 else 's'})")
    if proof.recomputed:
        shown = ", ".join(f"'{name}'" for name in proof.recomputed[:3])
        more = len(proof.recomputed) - 3
        words.append(f"recomputed: {shown}{f' and {more} more' if more > 0 else ''}")
    return f"weights: {'; '.join(words) or 'as they were'}"


def _table(comparison: Comparison) -> Table:
    columns = [
        (heading, cell)
        for heading, cell in _COLUMNS
        if any(cell(row) is not None for row in comparison.outputs)
    ]
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("output", overflow="fold", min_width=6)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.outputs:
        name = Text(printable(row.name), "dim" if row.internal else "")
        if row.internal:
            name.append(" (internal)")
        style = "red" if row.worst is not None and row.worst > 1 else ""
        cells = [
            Text(cell(row) or "–", style if index == 0 else "")
            for index, (_, cell) in enumerate(columns)
        ]
        table.add_row(name, *cells)
    return table


def _sentence(comparison: Comparison) -> Text:
    basis = [comparison.provider]
    if comparison.samples:
        plural = "" if comparison.samples == 1 else "s"
        if comparison.origin.startswith("random"):
            made = comparison.origin.replace(",", f" sample{plural},", 1)
            basis.append(f"{comparison.samples} {made}")
        else:
            basis.append(f"{comparison.samples} sample{plural} from {comparison.origin}")
    return Text.assemble(
        (comparison.verdict, _STYLES.get(comparison.verdict, "bold")),
        printable(f": {comparison.reason} ({'; '.join(filter(None, basis))})"),
    )


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2g}"


def _times(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0%}" if value < 10 else f"{value:.3g}×"


def _percent(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}%}"
