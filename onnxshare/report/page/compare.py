"""The page of `compare`: the verdict, both models, errors by channel, time, where they part."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import PurePath
from typing import Any

from onnxshare.analysis.results import Inspection
from onnxshare.comparison.results import Comparison, OutputComparison
from onnxshare.report.compare import lines_of, sentence_of, table_of
from onnxshare.report.page.document import chart, render, tabulated
from onnxshare.report.page.inspect import figures
from onnxshare.report.plot.picture import Box, Dot, Line, Picture, Shape, Words
from onnxshare.runtime.latency import Latency

_WIDTH, _LEFT, _RIGHT = 560.0, 70.0, 20.0

#: Errors below this share of the tolerance have no height.
_LEAST = 1e-3

#: Outputs that are drawn; the table has all.
_DRAWN = 6


def as_html(comparison: Comparison, a: Inspection, b: Inspection) -> str:
    """The page of a comparison of two models, A that is right and B that is judged by it."""
    path = b.model.path or "B"
    return render(
        "compare",
        title=PurePath(path).name,
        about=[path, f"compared with {a.model.path or 'A'}"],
        figures=figures(a.totals, b.totals),
        notes=[],
        warnings=[],
        **evidence(comparison),
    )


def evidence(comparison: Comparison) -> dict[str, Any]:
    """What a template shows of a comparison: its sentence, the table and the pictures."""
    rows = [row for row in comparison.outputs if row.channel_errors]
    return {
        "standing": "pass" if comparison.passed else "open" if comparison.verdict.open else "fail",
        "sentence": sentence_of(comparison).plain,
        "outputs": tabulated(table_of(comparison)) if comparison.outputs else None,
        "errors": [(row.name, chart(errors_by_channel(row))) for row in rows[:_DRAWN]],
        "latency": chart(intervals(comparison.latency or ())),
        "lines": list(lines_of(comparison)),
    }


def errors_by_channel(row: OutputComparison) -> Picture:
    """The error of each channel as a share of its tolerance, on a logarithmic scale; the line is
    all that rounding explains."""
    top, bottom = 24.0, 170.0
    finite = [min(error, 1e9) for error in row.channel_errors]
    high = log10(max(10.0, *finite))
    low = log10(_LEAST)

    def height(error: float) -> float:
        return bottom - (log10(max(error, _LEAST)) - low) / (high - low) * (bottom - top)

    step = (_WIDTH - _LEFT - _RIGHT) / len(finite)
    shapes: list[Shape] = []
    for power in range(-3, int(high) + 1, max(1, round(high / 3))):
        y = height(10.0**power)
        shapes.append(Line((_LEFT, y), (_WIDTH - _RIGHT, y), "grid"))
        shapes.append(Words((_LEFT - 8, y + 4), f"{10.0**power:g}×", "faint", 13, "end"))
    for at, error in enumerate(finite):
        y = height(error)
        if bottom - y > 0.5:
            width = max(step - (1 if step > 4 else 0), 0.5)
            role = "chosen" if error > 1 else "good"
            place = (_LEFT + at * step, y)
            shapes.append(Box(place, (width, bottom - y), role, title=f"{error:.3g}×"))
    line = height(1.0)
    shapes.append(Line((_LEFT, line), (_WIDTH - _RIGHT, line), "target", 1.5, dashed=True))
    shapes.append(Words((_WIDTH - _RIGHT, top - 8), "-- tolerance", "target", 13, "end"))
    words = f"{len(finite)} channels or groups of channels"
    shapes.append(Words((_WIDTH / 2, bottom + 20), words, "faint", 13, "middle"))
    title = f"Error of each channel of {row.name} over its tolerance, at most {max(finite):.3g}"
    return Picture(_WIDTH, bottom + 30, title, tuple(shapes))


def intervals(latency: Sequence[Latency]) -> Picture | None:
    """The ratio of B's time to A's with its 95 % interval, a line for each batch size."""
    timed = [item for item in latency if item.ratio is not None and item.ci95 is not None]
    if not timed:
        return None
    ends = [end for item in timed for end in (item.ci95 or ())]
    low, high = min(0.8, *ends) * 0.95, max(1.25, *ends) * 1.05

    def x(ratio: float) -> float:
        share = log10(ratio / low) / log10(high / low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    bottom = 34.0 * len(timed) + 20
    shapes: list[Shape] = [Line((x(1), 10), (x(1), bottom), "target", 1.5, dashed=True)]
    shapes.append(Words((x(1), bottom + 16), "as fast as A", "target", 13, "middle"))
    shapes.append(Words((_LEFT, bottom + 36), "← faster", "faint", 13))
    shapes.append(Words((_WIDTH - _RIGHT, bottom + 36), "slower →", "faint", 13, "end"))
    for at, item in enumerate(timed):
        y = 28.0 + 34 * at
        first, last = item.ci95 or (0.0, 0.0)
        shapes.append(Words((_LEFT - 8, y + 4), f"batch {item.batch}", "faint", 13, "end"))
        shapes.append(Line((x(first), y), (x(last), y), "good", 3))
        title = f"B/A {item.ratio:.3f}, {first:.3f} to {last:.3f}: {item.result}"
        shapes.append(Dot((x(item.ratio or 1), y), 5, "good", title=title))
    title = "Time of B over time of A, with 95 % intervals"
    return Picture(_WIDTH, bottom + 44, title, tuple(shapes))
