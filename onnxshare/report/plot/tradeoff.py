"""What a search for a small head tried, as a picture: what was to be small against what is kept.

Parameters, or whatever else was to be small, go to the right on a logarithmic scale. Upwards goes
the logarithm of what is lost (one minus the agreement, or the relative error), so that 99 % and
99.9 % are about as far apart as 90 % and 99 %; to all of it one sample is added, or nothing lost at
all would have no place. A bar reaches from each estimate to its bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10

from onnxshare.report import text_tools
from onnxshare.report.plot.picture import LETTER, Dot, Line, Picture, Words
from rewrites.small_heads.search_result import Candidate, Search

_WIDTH, _HEIGHT = 760.0, 440.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 24.0, 84.0, 52.0

#: Agreements that may be marked on the axis; errors are marked at 1, 2 and 5 of each power of ten.
_AGREEMENTS = (0.0, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)

#: Marks on an axis at least this far apart.
_APART = 24.0

_SMALL = 11.0

#: What may be to be small, as text.
_COSTS = {
    "params": "parameters of the head",
    "macs": "multiply-accumulates of the head, per sample",
    "bytes": "bytes of the head's parameters",
    "latency": "time of the whole model, as a share of what it took",
}

_NAMES = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "latency": "time"}

#: What a point can be; those that matter more are named first.
_ROLES = ("chosen", "good", "bad")


@dataclass(frozen=True)
class _Point:
    """A candidate: its name, what it costs, what it loses, and the bound of that."""

    name: str
    cost: float
    loss: float
    bound: float
    role: str
    title: str


@dataclass(frozen=True)
class _Frame:
    """Where values are drawn."""

    left: float  # log10 of the cost at the left edge
    right: float
    low: float  # log10 of the loss at the upper edge
    high: float
    least: float  # the loss that stands for none

    def x(self, cost: float) -> float:
        """Where so much of a cost is."""
        share = (log10(cost) - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        """Where so much of a loss is."""
        share = (log10(loss + self.least) - self.low) / (self.high - self.low)
        return _TOP + min(max(share, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def draw(heads: Sequence[tuple[str, Search]]) -> Picture:
    """One panel for each head, named after its first node, one below the other."""
    shapes: list[Line | Dot | Words] = []
    for place, (name, search) in enumerate(heads):
        for shape in _panel(name, search):
            shapes.append(_moved(shape, place * _HEIGHT))
    names = ", ".join(name for name, _ in heads)
    costs = " and ".join(dict.fromkeys(_COSTS[search.objective] for _, search in heads))
    title = f"{costs[0].upper()}{costs[1:]} against what it keeps: {names}"
    return Picture(_WIDTH, _HEIGHT * len(heads), title, tuple(shapes))


def _panel(name: str, search: Search) -> Iterator[Line | Dot | Words]:
    points = [
        _point(search, item, cost)
        for item in search.candidates
        if item.estimate is not None and (cost := item.cost(search.objective)) is not None
    ]
    chosen = search.chosen == "exact"
    before = search.before or search.params_before
    exact = _Point("exact", before, 0.0, 0.0, "chosen" if chosen else "good", "exact")
    points.append(exact)
    frame = _frame(search, points)
    what = search.target.criteria[0].what if search.target.criteria else "relative error"
    yield Words(
        (_LEFT - 50, 26),
        f"Head of '{_short(name)}': {_NAMES[search.objective]} and {what}",
        "ink",
        16,
        bold=True,
    )
    yield Words((_LEFT - 50, 46), _subtitle(search), "faint")
    yield from _legend()
    yield from _axes(frame, search)
    taken: list[tuple[float, float, float, float]] = []
    for point in points:
        at = frame.x(point.cost), frame.y(point.loss)
        end = at[0], frame.y(point.bound)
        if end[1] - at[1] > 1:
            yield Line(at, end, point.role, 1.5)
            yield Line((end[0] - 3, end[1]), (end[0] + 3, end[1]), point.role, 1.5)
            taken.append((at[0] - 3, at[1], at[0] + 3, end[1]))
        taken.append((at[0] - 6, at[1] - 6, at[0] + 6, at[1] + 6))
    line = frame.y(_target(search))
    taken.append((_LEFT, line - 2, _WIDTH - _RIGHT, line + 2))
    for point in points:
        at = frame.x(point.cost), frame.y(point.loss)
        yield Dot(
            at, 6 if point.role == "chosen" else 4, point.role, point.role != "bad", point.title
        )
    for point in sorted(points, key=lambda point: (point is not exact, _ROLES.index(point.role))):
        yield from _label(point, frame, taken)


def _point(search: Search, item: Candidate, cost: float) -> _Point:
    estimate = item.estimate
    assert estimate is not None
    if search.target.criteria:
        first = search.target.criteria[0]
        measure = estimate.measure(first)
        best = 0.0 if first.paired else 1.0
        loss, bound = (best - x for x in ((measure.value, measure.low) if measure else (0.0, 0.0)))
        loss, bound = max(loss, 0.0), max(bound, 0.0)
        words = f"{first.what} {loss:.1%}, at most {bound:.1%}"
        if _shares(search):
            words = f"{first.what} {1 - loss:.1%}, at least {1 - bound:.1%}"
    else:
        loss, bound = estimate.error or 0.0, estimate.error_high or 0.0
        words = f"error {loss:.1%}, at most {bound:.1%}"
    loss, bound = min(loss, 10.0), min(bound, 10.0)
    good = item.reaches and item.certified is not False
    role = "chosen" if item.chosen else "good" if good else "bad"
    if item.certified is False:
        words += ", failed when certified"
    costs = f"{item.params or 0:,} parameters"
    if search.objective == "latency":
        costs += f", {cost:.2f} of the time"
    elif search.objective != "params":
        costs += f", {cost:,} {_NAMES[search.objective]}"
    title = f"{item.method}: {costs}, {words}, {estimate.samples:,} samples"
    return _Point(item.method, max(cost, 1e-3), loss, bound, role, title)


def _target(search: Search) -> float:
    if not search.target.criteria:
        return search.target.max_error or 0.0
    least = search.target.criteria[0].least
    return 1 - least if _shares(search) else -least


def _shares(search: Search) -> bool:
    """Whether shares that are kept are drawn, not errors or losses."""
    return any(not item.paired for item in search.target.criteria[:1])


def _frame(search: Search, points: Sequence[_Point]) -> _Frame:
    classes = _shares(search)
    small = [point.loss for point in points if point.loss > 0] + [_target(search)]
    least = 1 / search.samples if classes else min(small) / 4
    costs = [log10(point.cost) for point in points]
    pad = 0.06 * max(max(costs) - min(costs), 0.5)
    worst = max(*(point.bound for point in points), _target(search) * 1.5)
    return _Frame(
        min(costs) - pad,
        max(costs) + pad,
        log10(least),
        log10(min(worst, 1.0 if classes else worst) + least) + 0.03,
        least,
    )


def _axes(frame: _Frame, search: Search) -> Iterator[Line | Words]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    last = float("inf")
    for value in sorted(_marks(frame, search), key=frame.y, reverse=True):
        y = frame.y(value)
        if not (_TOP - 1 <= y <= bottom - 4) or (last - y < _APART and value > 0):
            continue
        if value == 0 and last - y < _SMALL + 2:
            continue
        last = y
        share = 1 - value if _shares(search) else value
        yield Line((_LEFT, y), (right, y), "grid")
        yield Words((_LEFT - 8, y + 4), _percent(share), "faint", _SMALL, "end")
    digits = (1, 2, 5) if frame.right - frame.left > 1 else range(1, 10)
    for power in range(floor(frame.left), ceil(frame.right) + 1):
        for digit in digits:
            x = frame.x(digit * 10.0**power)
            if not _LEFT <= x <= right:
                continue
            yield Line((x, _TOP), (x, bottom), "grid")
            cost = digit * 10**power
            words = text_tools.rounded(cost) if power >= 0 else f"{cost:g}"
            yield Words((x, bottom + 18), words, "faint", _SMALL, "middle")
    yield Line((_LEFT, bottom), (right, bottom), "faint")
    middle = (_LEFT + right) / 2
    yield Words((middle, _HEIGHT - 12), _COSTS[search.objective], "faint", 12, "middle")
    y = frame.y(_target(search))
    yield Line((_LEFT, y), (right, y), "target", 1.5, dashed=True)
    yield Words(
        (_LEFT + 6, y - 5), "target " + search.target.words.split(" and ")[0], "target", _SMALL
    )


def _marks(frame: _Frame, search: Search) -> list[float]:
    """Losses that may be marked."""
    if _shares(search):
        return [1 - share for share in _AGREEMENTS]
    powers = range(floor(frame.low), ceil(frame.high) + 1)
    return [0.0, *(digit * 10.0**power for power in powers for digit in (1, 2, 5))]


def _legend() -> Iterator[Dot | Words]:
    x = _LEFT - 45
    for role, words in (
        ("chosen", "chosen"),
        ("good", "keeps the target"),
        ("bad", "does not; bars end at the 95 % bound"),
    ):
        yield Dot((x, 62), 4, role, role != "bad")
        yield Words((x + 10, 66), words, "faint", _SMALL)
        x += 34 + len(words) * _SMALL * 0.5


def _label(
    point: _Point, frame: _Frame, taken: list[tuple[float, float, float, float]]
) -> Iterator[Words]:
    """The name of a point, where there is room: next to it, above or below; else nowhere."""
    x, y = frame.x(point.cost), frame.y(point.loss)
    width, bold = len(point.name) * _SMALL * LETTER, point.role == "chosen"
    width *= 1.08 if bold else 1.0
    places = (
        (x + 9, y + 4, "start", x + 9),
        (x - 9, y + 4, "end", x - 9 - width),
        (x, y - 9, "middle", x - width / 2),
        (x + 6, y - 8, "start", x + 6),
        (x - 6, y - 8, "end", x - 6 - width),
        (x + 8, y + 14, "start", x + 8),
        (x - 8, y + 14, "end", x - 8 - width),
    )
    for left, base, anchor, edge in places:
        rectangle = (edge, base - _SMALL + 2, edge + width, base + 2)
        inside = edge >= _LEFT and edge + width <= _WIDTH - _RIGHT and base - _SMALL > _TOP - 14
        if inside and not any(_overlap(rectangle, other) for other in taken):
            taken.append(rectangle)
            role = "faint" if point.role == "bad" else point.role
            yield Words((left, base), point.name, role, _SMALL, anchor, bold)
            return


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _subtitle(search: Search) -> str:
    if search.chosen == "exact":
        why = "failed when certified" if search.certified is False else "nothing small keeps it"
        words = f"exact form kept: {why}"
    else:
        item = next(item for item in search.candidates if item.chosen)
        words = f"chosen: {item.method}, {_saved(search, item)}"
        if search.certificate is not None:
            words += f", certified on {search.certificate.samples:,} unseen samples"
    return f"{words}; cross-validated on {search.samples:,} samples"


def _saved(search: Search, item: Candidate) -> str:
    """How much less a candidate takes of what was to be small."""
    cost = item.cost(search.objective) or 1
    if search.objective == "latency":
        return f"{cost:.2f} of the time"
    times = (search.before or search.params_before) / cost
    return f"{times:.3g} times fewer {_NAMES[search.objective]}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _moved(shape: Line | Dot | Words, down: float) -> Line | Dot | Words:
    if isinstance(shape, Line):
        start, end = shape.start, shape.end
        return replace(shape, start=(start[0], start[1] + down), end=(end[0], end[1] + down))
    return replace(shape, at=(shape.at[0], shape.at[1] + down))
