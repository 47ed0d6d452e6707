"""The report of a comparison as text: a row per output, then one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxshare.comparison.results import (
    Comparison,
    Divergence,
    OutputComparison,
    Verdict,
    WeightProof,
)
from onnxshare.errors import printable
from onnxshare.runtime.latency import Latency

_WIDTH_IN_A_PIPE = 100

_STYLES = {
    Verdict.IDENTICAL: "bold green",
    Verdict.EQUIVALENT: "bold green",
    Verdict.APPROXIMATE: "bold yellow",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.DIFFERENT: "bold red",
    Verdict.NOT_RUN: "bold red",
}

_Cell = Callable[[OutputComparison], str | None]

#: Heading and cell of every column after the name; a column that is empty throughout is left out.
_COLUMNS: tuple[tuple[str, _Cell], ...] = (
    ("max error", lambda row: _number(row.max_abs)),
    ("of tolerance", lambda row: _times(row.worst)),
    ("channel", lambda row: None if row.worst_channel is None else str(row.worst_channel)),
    ("relative", lambda row: _number(row.max_rel)),
    ("RMSE", lambda row: _number(row.rmse)),
    ("SQNR", lambda row: _decibels(row.sqnr_db)),
    ("centred", lambda row: _decibels(row.sqnr_centred_db)),
    ("cosine", lambda row: _number(row.cosine, 4)),
    ("live", lambda row: _percent(row.live, 0)),
)


def render_text(comparison: Comparison) -> RenderableType:
    """Return the table and the sentence, ready for a rich console.

    Columns: the largest error; error over tolerance in the channel that comes nearest to its
    own (each has one: 100 % is all that rounding explains), and that channel; largest error over
    largest value; root mean squared error; signal to error, and the same with each channel's mean
    taken off the signal; cosine; the share of channels that move with the inputs. Then a line per
    output that has classes, with 95 % lower bounds.
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
    parts += [Text(printable(line)) for line in map(_classes, comparison.outputs) if line]
    if comparison.accuracy is not None:
        a, b = comparison.accuracy["a"], comparison.accuracy["b"]
        parts.append(Text(f"accuracy: A {a:.2%}, B {b:.2%} ({(b - a) * 100:+.2f} points)"))
    if comparison.weights is not None:
        parts.append(Text(printable(_weights(comparison.weights))))
    parts += [Text(printable(line)) for line in _costs(comparison)]
    if comparison.first_divergence is not None:
        parts.append(Text(printable(_parting(comparison.first_divergence))))
    parts.append(_sentence(comparison))
    return parts


def _classes(row: OutputComparison) -> str:
    """How often an output's largest classes agree, and how low that may be in truth."""
    if row.internal or row.argmax_agreement is None:
        return ""
    words = [f"same class on {row.argmax_agreement:.2%} (at least {row.confidence_low or 0:.2%})"]
    if row.top5_agreement is not None:
        words.append(
            f"same top 5 on {row.top5_agreement:.2%} (at least {row.top5_confidence_low or 0:.2%})"
        )
    return f"{row.name}: {', '.join(words)}"


def _parting(found: Divergence) -> str:
    nodes = f"node '{found.node_a}' of A"
    if found.node_b != found.node_a:
        nodes += f", '{found.node_b}' of B"
    size = found.problem or f"error {found.error:.3g}, tolerance {found.tolerance:.2g}"
    if found.is_output:
        return f"they part at the output '{found.tensor}' ({nodes}): {size}"
    return f"they part at tensor '{found.tensor}' ({nodes}): {size}"


def _costs(comparison: Comparison) -> list[str]:
    """What the models took, a line each: memory, time, and nodes that a GPU did not run."""
    lines = []
    memory = comparison.memory or {}
    if memory.get("a") and memory.get("b"):
        lines.append(f"peak memory: A {_megabytes(memory['a'])}, B {_megabytes(memory['b'])}")
    lines += [_latency(item) for item in comparison.latency or ()]
    for letter, nodes in (comparison.left_to_cpu or {}).items():
        if nodes:
            shown = ", ".join(f"'{name}'" for name in nodes[:5])
            more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
            lines.append(f"left to the CPU in {letter.upper()}: {shown}{more}")
    return lines


def _latency(item: Latency) -> str:
    what = f"latency at batch {item.batch}"
    if item.a is None or item.b is None or item.ratio is None or item.ci95 is None:
        return f"{what}: not measured: {item.reason}"
    low, high = item.ci95
    return (
        f"{what}: A {seconds(item.a)}, B {seconds(item.b)}, B/A {item.ratio:.3f} "
        f"({low:.3f} to {high:.3f}, {item.pairs} pairs): {item.result}"
    )


def _megabytes(size: int | None) -> str:
    return f"{(size or 0) / 1e6:,.0f} MB"


def seconds(time: float) -> str:
    """Return seconds in the largest unit that keeps them above 1, such as `2.1 ms`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if time * factor >= 1:
            return f"{time * factor:.3g} {unit}"
    return f"{time * 1e6:.3g} µs"


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
        if comparison.random:
            made = comparison.origin.replace(",", f" sample{plural},", 1)
            basis.append(f"{comparison.samples} {made}")
        else:
            basis.append(f"{comparison.samples} sample{plural} from {comparison.origin}")
    return Text.assemble(
        (comparison.verdict, _STYLES[comparison.verdict]),
        printable(f": {comparison.reason} ({'; '.join(filter(None, basis))})"),
    )


def _number(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else f"{value:.{digits}g}"


def _decibels(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} dB"


def _times(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0%}" if value < 10 else f"{value:.3g}×"


def _percent(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}%}"
