"""The report of a comparison as text: a row per output, then one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from onnxshare.comparison.results import (
    Comparison,
    Divergence,
    OutputComparison,
    Verdict,
    WeightProof,
)
from onnxshare.errors import printable
from onnxshare.report.console import make_console, say
from onnxshare.report.table import Cell, Column, Row, Table, named
from onnxshare.runtime.latency import Latency

_STYLES = {
    Verdict.IDENTICAL: "bold green",
    Verdict.EQUIVALENT: "bold green",
    Verdict.APPROXIMATE: "bold yellow",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.DIFFERENT: "bold red",
    Verdict.NOT_RUN: "bold red",
}


def _shown(form: str) -> Callable[[float | None], str | None]:
    return lambda value: None if value is None else form.format(value)


_number, _decibels = _shown("{:.2g}"), _shown("{:.0f} dB")
_cosine, _percent, _channel = _shown("{:.4g}"), _shown("{:.0%}"), _shown("{}")


def _times(value: float | None) -> str | None:
    return _percent(value) if value is None or value < 10 else f"{value:.3g}×"


#: Heading and cell of every column after the name; a column that is empty throughout is left out.
_COLUMNS: dict[str, Callable[[OutputComparison], str | None]] = {
    "max error": lambda row: _number(row.max_abs),
    "of tolerance": lambda row: _times(row.worst),
    "channel": lambda row: _channel(row.worst_channel),
    "relative": lambda row: _number(row.max_rel),
    "RMSE": lambda row: _number(row.rmse),
    "SQNR": lambda row: _decibels(row.sqnr_db),
    "less mean": lambda row: _decibels(row.sqnr_centred_db),
    "cosine": lambda row: _cosine(row.cosine),
    "moving": lambda row: _percent(row.live),
}

#: Columns about rounding, which is not what an approximation is judged by.
_ABOUT_ROUNDING = ("of tolerance", "channel")


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set.

    Columns: the largest error; error over tolerance in the channel that comes nearest to its
    own (each has one: 100 % is all that rounding explains), and that channel, both not of an
    approximation; largest error over largest value; root mean squared error; signal to error, and
    the same with each channel's mean taken off the signal; cosine; the share of channels that move
    with the inputs. Then a line per output that has classes, with 95 % lower bounds.
    """
    console = console or make_console()
    if comparison.outputs:
        console.print(table_of(comparison).text())
    for line in lines_of(comparison):
        say(console, line)
    say(console, sentence_of(comparison))


def lines_of(comparison: Comparison) -> Iterator[str]:
    """What stands below the table: classes, accuracy, weights, costs, where the models part."""
    yield from filter(None, map(_classes, comparison.outputs))
    if comparison.accuracy is not None:
        a, b = comparison.accuracy["a"], comparison.accuracy["b"]
        yield f"accuracy: A {a:.2%}, B {b:.2%} ({(b - a) * 100:+.2f} points)"
    if comparison.weights is not None:
        yield _weights(comparison.weights)
    yield from _costs(comparison)
    if comparison.first_divergence is not None:
        yield _parting(comparison.first_divergence)


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
    if comparison.cpu is not None:
        shares = {"A": comparison.cpu.a, "B": comparison.cpu.b}
        said = [f"{name} {share:.2g}" for name, share in shares.items() if share is not None]
        if comparison.cpu.problem:
            said.append(f"not known of {comparison.cpu.problem}")
        if said:
            lines.append(f"difference from the CPU, of the largest value: {', '.join(said)}")
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


def table_of(comparison: Comparison) -> Table:
    """A row per output; columns without a figure are left out."""
    approximate = comparison.verdict is Verdict.APPROXIMATE

    def style(row: OutputComparison) -> str:
        """Red where the row is beyond its tolerance, and that counts."""
        return "red" if row.worst is not None and row.worst > 1 and not approximate else ""

    columns = {
        heading: cell
        for heading, cell in _COLUMNS.items()
        if any(cell(row) is not None for row in comparison.outputs)
        if not (approximate and heading in _ABOUT_ROUNDING)
    }
    return Table(
        [Column("output", folds=True, least=6), *named("", *columns)[1:]],
        [
            Row([_name(row), *_marked([cell(row) or "–" for cell in columns.values()], style(row))])
            for row in comparison.outputs
        ],
    )


def _name(row: OutputComparison) -> Text:
    name = Text(printable(row.name), "dim" if row.internal else "")
    return name.append(" (internal)") if row.internal else name


def _marked(cells: list[str], style: str) -> list[Cell]:
    """The figures, the first in a style."""
    return [Text(cell, "" if place else style) for place, cell in enumerate(cells)]


def sentence_of(comparison: Comparison) -> Text:
    """The verdict, why, and on what it rests."""
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
