"""What a search for a small head tried, as a table: parameters against what they keep."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from onnxshare.errors import printable
from onnxshare.report import numbers
from rewrites.search import Candidate, Search

#: What stands in the last column of the chosen candidate.
CHOSEN = "← chosen"


def table(search: Search) -> Table:
    """The candidates that were tried, cheapest first, and the head as it was."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    shown.add_column("method", no_wrap=True)
    for title in ("head params", "÷", *_titles(search), "on"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    for item in search.candidates:
        if item.estimate is not None:
            shown.add_row(*_row(search, item), style=_style(item))
    kept = search.chosen == "exact"
    figures = ["100.0 %", "100.0 %"] * (search.target.keep is not None)
    figures += ["0.0 %", "0.0 %"] * (search.target.max_error is not None)
    shown.add_row(
        "exact",
        numbers.exact(search.params_before),
        "1",
        *figures,
        *([""] * (len(_titles(search)) - len(figures))),
        "",
        CHOSEN if kept else "keeps all",
        style="bold" if kept else "",
    )
    return shown


def lines(search: Search) -> list[Text]:
    """What stands around the table: what was asked for, what was refused, what was certified."""
    found = [
        Text(
            f"target: {search.target.words} with 95 % confidence; cross-validated on "
            f"{search.samples:,} samples, fewer where those already say no"
        )
    ]
    reasons: dict[str, list[str]] = {}
    for item in search.candidates:
        if item.refused is not None:
            reasons.setdefault(item.refused, []).append(item.method)
    for reason, names in reasons.items():
        found.append(Text(printable(f"not tried: {', '.join(names)} ({reason})")))
    return found


def _titles(search: Search) -> list[str]:
    titles = []
    if search.target.keep is not None:
        titles += ["same class", "at least"]
    if search.target.max_error is not None:
        titles += ["error", "at most"]
    if any(item.latency_ms is not None for item in search.candidates):
        titles.append("ms")
    return titles


def _row(search: Search, item: Candidate) -> list[str]:
    estimate, params = item.estimate, item.params or 1
    assert estimate is not None
    row = [item.method, numbers.exact(params), f"{search.params_before / params:.3g}"]
    if search.target.keep is not None:
        row += [_percent(estimate.agreement), _percent(estimate.agreement_low)]
    if search.target.max_error is not None:
        row += [_percent(estimate.error), _percent(estimate.error_high)]
    if any(other.latency_ms is not None for other in search.candidates):
        row.append("–" if item.latency_ms is None else f"{item.latency_ms:.3g}")
    return [*row, numbers.exact(estimate.samples), _mark(search, item)]


def _mark(search: Search, item: Candidate) -> str:
    if item.chosen and search.certified is False:
        return "failed when certified"
    return CHOSEN if item.chosen else "keeps it" if item.reaches else ""


def _style(item: Candidate) -> str:
    return "bold" if item.chosen else "" if item.reaches else "dim"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}".replace("%", " %") if value < 100 else "∞"
