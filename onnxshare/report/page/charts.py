"""The charts of a page: treemaps, uses against parameters, and memory over the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.report import text_tools
from onnxshare.report.page.treemap import LEGEND, Layout, Leaf, Place, color, draw, lay_out
from onnxshare.report.plot.picture import Area, Box, Dot, Line, Picture, Shape, Words

#: What the area of a treemap can show: a field of a node, and its name.
AREAS = {
    "params_new": "parameters",
    "param_bytes": "weight bytes",
    "macs": "MACs",
    "activation_bytes": "activations moved",
}

_TREEMAP = Place(0, 0, 960, 480)

#: So many leaves of a treemap are drawn in a picture that stands still, and in one that a script
#: zooms into.
_STILL, _ZOOMED = 300, 2500

#: Damaged files announce sizes beyond what a float can be.
_ABSURD = 10**30

_WIDTH, _HEIGHT = 560.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 20.0, 30.0, 52.0
_SMALL = 13.0

#: Columns of the chart of memory; of the nodes in one the largest is drawn.
_COLUMNS = 600


def module_of(node: NodeFacts) -> tuple[str, ...]:
    """The path of modules around a node, the outermost first."""
    return tuple(filter(None, (*node.scope.split("/"), *node.module.split("/"))))


def sentence_of(node: NodeFacts) -> str:
    """A node in one line: name, operator, parameters, uses, MACs."""
    facts = [f"{node.name} ({node.op_type})"]
    if node.params:
        facts.append(f"{text_tools.exact(node.params)} parameters")
        facts.append(f"each used {text_tools.times(node.sharing_ratio)}")
    facts.append(f"{text_tools.rounded(node.macs)} MACs")
    return ", ".join(facts)


def layout_of(
    report: Inspection, area: str, place: Place = _TREEMAP, most: int = _ZOOMED
) -> Layout:
    """Where each layer is in a treemap of one of `AREAS`; what is unknown has no area."""
    leaves = (
        Leaf(
            node.name,
            module_of(node),
            _drawable(getattr(node, area)),
            node.params,
            node.connections,
            _note(node, area),
            sentence_of(node),
            row,
        )
        for row, node in enumerate(report.nodes)
    )
    return lay_out(leaves, place, most)


def _drawable(size: int | None) -> int:
    """A size that has an area: not one that is unknown, or that no machine could hold."""
    return size if size is not None and size < _ABSURD else 0


def _note(node: NodeFacts, area: str) -> str:
    shown = text_tools.rounded(getattr(node, area))
    uses = f" · {text_tools.times(node.sharing_ratio)}" if node.params else ""
    return shown + uses


def treemap(report: Inspection, area: str = "params_new") -> Picture:
    """A treemap of a model: areas are as one of `AREAS`, colors say how often a weight is used."""
    title = f"Treemap of the layers of the model: area by {AREAS[area]}, color by uses per weight"
    return draw(layout_of(report, area, most=_STILL), _TREEMAP, title)


def scaled_treemap(report: Inspection, share: float) -> Picture:
    """A treemap of parameters whose area is so large a share of the usual one, up to 1."""
    side = min(share, 1.0) ** 0.5
    place = Place(0, 0, _TREEMAP.width * side, _TREEMAP.height * side)
    title = f"Treemap of the parameters, drawn at {share:.1%} of the area"
    picture = draw(layout_of(report, "params_new", place, _STILL), place, title)
    return Picture(_TREEMAP.width, _TREEMAP.height, title, picture.shapes)


def standalone(report: Inspection) -> Picture:
    """The treemap of parameters with its name and a legend, to stand in a README."""
    moved = 62.0
    place = Place(0, moved, _TREEMAP.width, _TREEMAP.height)
    name = report.model.path or "the model"
    title = f"Where the weights of {name} are, and how often each is used"
    shapes = draw(layout_of(report, "params_new", place, _STILL), place, title).shapes
    totals = report.totals
    words = (
        f"{text_tools.exact(totals.params)} parameters, each used "
        f"{text_tools.times(totals.sharing_ratio)} on average; area: parameters"
    )
    head: list[Shape] = [
        Words((0, 16), title, "ink", 15, bold=True),
        Words((0, 36), words, "faint"),
    ]
    x = 6.0
    for role, meaning in LEGEND[:-1]:
        head += [Dot((x, 50), 5, role), Words((x + 9, 54), meaning, "faint", 11)]
        x += 24 + len(meaning) * 11 * 0.56
    return Picture(_TREEMAP.width, _TREEMAP.height + moved, title, (*head, *shapes))


def scatter(report: Inspection) -> Picture | None:
    """Parameters against uses per weight, both logarithmic; None without a known point.

    Layers at the same place are one dot.
    """
    points: dict[tuple[int, int], list[int]] = {}
    nodes = report.nodes
    known = [
        row for row, node in enumerate(nodes) if node.params and node.sharing_ratio is not None
    ]
    if not known:
        return None
    params = [log10(nodes[row].params) for row in known]
    uses = [log10(max(nodes[row].sharing_ratio or 0.0, 0.1)) for row in known]
    least = floor(min(params))
    x_of = _Axis(least, max(ceil(max(params)), least + 1), _LEFT, _WIDTH - _RIGHT)
    lowest = min(0, floor(min(uses)))
    y_of = _Axis(lowest, max(ceil(max(uses)), 1), _HEIGHT - _BOTTOM, _TOP)
    for row, x, y in zip(known, params, uses, strict=True):
        at = round(x_of.at(x) / 2), round(y_of.at(y) / 2)
        points.setdefault(at, []).append(row)
    shapes: list[Shape] = list(_grid(x_of, y_of))
    for (x, y), rows in points.items():
        node = nodes[rows[0]]
        title = sentence_of(node) + (f", and {len(rows) - 1:,} more" if len(rows) > 1 else "")
        radius = 5 + min(len(rows) ** 0.5, 8)
        data, role = {"row": str(rows[0])}, color(node.params, node.connections)
        shapes.append(Dot((2.0 * x, 2.0 * y), radius, role, title=title, data=data))
    return Picture(
        _WIDTH, _HEIGHT, "Parameters of each layer against uses per weight", tuple(shapes)
    )


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis from one power of ten to another, drawn from `start` to `end`."""

    low: int
    high: int
    start: float
    end: float

    def at(self, power: float) -> float:
        """Where a power of ten is."""
        share = (power - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _grid(x_of: _Axis, y_of: _Axis) -> Iterator[Shape]:
    bottom = _HEIGHT - _BOTTOM
    for power in range(x_of.low, x_of.high + 1):
        x, words = x_of.at(power), text_tools.rounded(10**power)
        yield Line((x, _TOP), (x, bottom), "grid")
        yield Words((x, bottom + 18), words, "faint", _SMALL, "middle")
    for power in range(y_of.low, y_of.high + 1):
        y, words = y_of.at(power), text_tools.times(10.0**power)
        yield Line((_LEFT, y), (_WIDTH - _RIGHT, y), "grid")
        yield Words((_LEFT - 8, y + 4), words, "faint", _SMALL, "end")
    yield Words((_WIDTH / 2, _HEIGHT - 8), "parameters of the layer", "faint", _SMALL, "middle")
    yield Words((_LEFT - 60, 16), "uses per weight", "faint", _SMALL)
    pays = "many parameters, each used once: a rewrite pays"
    yield Words((_WIDTH - _RIGHT - 4, bottom - 22), pays, "bad", _SMALL, "end")


def memory(report: Inspection, *, weights: bool = False) -> Picture | None:
    """Activations in memory while each node runs, with the peak marked; None where unknown.

    Args:
        report: what was found.
        weights: whether the weights stand below them.
    """
    held = [node.memory_bytes for node in report.nodes if node.memory_bytes is not None]
    if not held or max(held) > _ABSURD or report.totals.peak_activation_bytes is None:
        return None
    base = report.totals.param_bytes if weights else 0
    most = max(max(held) + base, 1)
    bottom = _HEIGHT - _BOTTOM
    columns = min(len(held), _COLUMNS)
    step = (_WIDTH - _LEFT - _RIGHT) / columns

    def height(count: float) -> float:
        return bottom - count / most * (bottom - _TOP)

    shapes: list[Shape] = []
    for mark in _marks(most):
        y = height(mark)
        shapes.append(Line((_LEFT, y), (_WIDTH - _RIGHT, y), "grid"))
        words = text_tools.size(round(mark))
        shapes.append(Words((_LEFT - 8, y + 4), words, "faint", _SMALL, "end"))
    tops = [
        max(held[len(held) * column // columns : len(held) * (column + 1) // columns])
        for column in range(columns)
    ]
    if base:
        shapes.append(Box((_LEFT, height(base)), (columns * step, bottom - height(base)), "bad"))
    outline = [(_LEFT, height(base))]
    for column, top in enumerate(tops):
        y = height(base + top)
        outline += [(_LEFT + column * step, y), (_LEFT + (column + 1) * step, y)]
    outline.append((_LEFT + columns * step, height(base)))
    shapes.append(Area(tuple(outline), "good"))
    at = tops.index(max(tops))
    x, y = _LEFT + (at + 0.5) * step, height(base + tops[at])
    shapes.append(Dot((x, y), 5, "chosen"))
    where = report.totals.peak_activation_node
    peak = f"peak {text_tools.size(max(tops))}"
    left = x < _WIDTH / 2
    near, anchor = (x + 10, "start") if left else (x - 10, "end")
    shapes.append(Words((near, y - 6), peak, "chosen", _SMALL, anchor))
    words = f"{len(held):,} nodes in the order in which they run"
    shapes.append(Words((_WIDTH / 2, _HEIGHT - 12), words, "faint", _SMALL, "middle"))
    what = "weights and activations" if weights else "activations"
    title = f"Memory over the graph: {what} per sample, {peak}" + (f" at {where}" if where else "")
    return Picture(_WIDTH, _HEIGHT, title, tuple(shapes))


def _marks(most: float) -> Sequence[float]:
    """Round numbers from 0 up to the most, four to eight of them."""
    power = 10.0 ** floor(log10(most))
    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0) if most / (step * power) <= 8) * power
    return [step * number for number in range(int(most / step) + 1)]
