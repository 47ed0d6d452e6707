"""What a search for a small head tried, as a table: parameters against what they keep."""

from __future__ import annotations

from statistics import median

from rich.text import Text

from onnxshare.comparison.target import Criterion
from onnxshare.errors import printable
from onnxshare.report import text_tools
from onnxshare.report.compare import seconds
from onnxshare.report.table import Cell, Column, Row, Table, named
from onnxshare.runtime.latency import MARGIN
from rewrites.small_heads.certificate import Estimate
from rewrites.small_heads.search_result import Candidate, Search

#: What stands in the last column of the chosen candidate.
CHOSEN = "← chosen"


def table(search: Search) -> Table:
    """The candidates that were tried, cheapest first, and the head as it was."""
    rows = [
        Row(_row(search, item), _style(item))
        for item in search.candidates
        if item.estimate is not None
    ]
    figures = [
        cell
        for item in search.target.criteria
        for cell in ["0.0 %" if item.paired else "100.0 %"] * 2
    ]
    figures += ["0.0 %", "0.0 %"] * (search.target.max_error is not None)
    if any(item.latency is not None for item in search.candidates):
        before = [item.latency.a for item in search.candidates if item.latency and item.latency.a]
        figures += [seconds(median(before)), "1"] if before else ["–", "–"]
    exact = search.chosen == "exact"
    mark = CHOSEN if exact else "keeps all"
    cells = ["exact", text_tools.exact(search.params_before), "1", *figures, "", mark]
    if _in_bytes(search):
        cells.insert(3, "")
    columns = [*named("method", "head params", "÷", *_titles(search), "on"), Column()]
    return Table(columns, [*rows, Row([*cells], "bold" if exact else "")], ruled=True)


def lines(search: Search) -> list[Text]:
    """What stands around the table: what was requested, what was refused, what was certified."""
    found = [
        Text(
            f"target: {search.target.words} with 95 % confidence; cross-validated on "
            f"{search.samples:,} samples, fewer where those already say no"
        )
    ]
    found += _certified(search)
    found += _timed(search)
    reasons: dict[str, list[str]] = {}
    for item in search.candidates:
        if item.refused is not None:
            reasons.setdefault(item.refused, []).append(item.method)
    for reason, names in reasons.items():
        found.append(Text(printable(f"not tried: {', '.join(names)} ({reason})")))
    return found


def _certified(search: Search) -> list[Text]:
    """What was measured on held-out samples, the largest head first."""
    tested = [item for item in search.candidates if item.certificate is not None]
    if not tested:
        return []
    words = []
    for item in reversed(tested):
        assert item.certificate is not None
        bounds = []
        for criterion in search.target.criteria:
            least = _measured(item.certificate, criterion)[1]
            bounds.append(f"{'change' if criterion.paired else ''} at least {least}".strip())
        if search.target.max_error is not None:
            bounds.append(f"error at most {_percent(item.certificate.error_high)}")
        passed = "chosen" if item.chosen else "keeps it" if item.certified else "failed"
        words.append(f"{item.method} {', '.join(bounds)} ({passed})")
    count = max(item.certificate.samples for item in tested if item.certificate is not None)
    return [Text(f"on {count:,} samples that the search never saw: {'; '.join(words)}")]


def _timed(search: Search) -> list[Text]:
    """Where and how candidates were timed, and which could not be."""
    timed = [item.latency for item in search.candidates if item.latency is not None]
    found = []
    done = [item for item in timed if item.ratio is not None]
    if done:
        samples = "1 sample" if done[0].batch == 1 else f"{done[0].batch} samples"
        found.append(
            Text(
                printable(
                    f"timed whole, in {min(item.pairs for item in done)} and more pairs with the "
                    f"model as it was: {samples} per run, {search.timed_on}, threads "
                    f"{done[0].threads}; of times within {MARGIN:.0%} of each other the smaller "
                    "head counts as the faster"
                )
            )
        )
    reasons = dict.fromkeys(item.reason for item in timed if item.ratio is None)
    return found + [Text(printable(f"not timed: {reason}")) for reason in reasons]


def _in_bytes(search: Search) -> bool:
    """Whether bytes are not as many times fewer as parameters, as of small heads in 8 bits."""
    return any(
        item.method.endswith(("+int8", "+w8a8")) and item.bytes for item in search.candidates
    )


def _titles(search: Search) -> list[str]:
    titles = ["bytes"] if _in_bytes(search) else []
    for item in search.target.criteria:
        named_ = {"keep": "same class", "keep_top": f"top {item.count}", "max_loss": "accuracy"}
        titles += [named_.get(item.kind, f"within {item.count}"), "at least"]
    if search.target.max_error is not None:
        titles += ["error", "at most"]
    if any(item.latency is not None for item in search.candidates):
        titles += ["time", "ratio"]
    return titles


def _row(search: Search, item: Candidate) -> list[Cell]:
    estimate, params = item.estimate, item.params or 1
    assert estimate is not None
    row: list[Cell] = [
        item.method,
        text_tools.exact(params),
        f"{search.params_before / params:.3g}",
    ]
    if _in_bytes(search):
        row.append(text_tools.exact(item.bytes or 0))
    for criterion in search.target.criteria:
        row += _measured(estimate, criterion)
    if search.target.max_error is not None:
        row += [_percent(estimate.error), _percent(estimate.error_high)]
    if any(other.latency is not None for other in search.candidates):
        row += _latency(item)
    return [*row, text_tools.exact(estimate.samples), _mark(item)]


def _latency(item: Candidate) -> list[str]:
    """The time of a run, and the interval of its ratio to that of the model as it was."""
    found = item.latency
    if found is None or found.b is None or found.ci95 is None:
        return ["–", "–"]
    low, high = found.ci95
    return [seconds(found.b), f"{low:.2f}-{high:.2f}"]


def _measured(found: Estimate, criterion: Criterion) -> list[str]:
    """What was measured of a criterion, and its lower bound."""
    measure = found.measure(criterion)
    return [_percent(value) for value in (measure.value, measure.low)] if measure else ["–", "–"]


def _mark(item: Candidate) -> str:
    if item.certified is False:
        return "failed"
    return CHOSEN if item.chosen else "keeps it" if item.reaches else ""


def _style(item: Candidate) -> str:
    return "bold" if item.chosen else "" if item.reaches else "dim"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}".replace("%", " %") if value < 100 else "∞"
