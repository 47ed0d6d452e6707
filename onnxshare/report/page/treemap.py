"""Treemaps: where the weights sit, as areas, nested by module.

Squarified, so that rectangles are as near to squares as may be: Bruls, Huizing and van Wijk,
"Squarified Treemaps", Joint Eurographics and IEEE TCVG Symposium on Visualization, 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxshare.report.plot.picture import LETTER, Box, Picture, Shape, Words

#: Levels of modules that are told apart.
_LEVELS = 6

#: A label needs so much height, in sizes of its font.
_LINE = 1.5

_SIZE = 12.0

#: The scale of uses per weight, the highest first: from where a color holds, and its role.
_SCALE = ((10_000, "u10000"), (1000, "u1000"), (100, "u100"), (10, "u10"), (1 + 1e-9, "u1"))

#: What the colors mean, for the legend.
LEGEND = (
    ("once", "used once"),
    ("u1", "more than once"),
    ("u10", "10×"),
    ("u100", "100×"),
    ("u1000", "1,000×"),
    ("u10000", "10,000× and more"),
    ("unknown", "unknown"),
    ("unweighted", "no weights"),
)


def color(params: int, connections: float | None) -> str:
    """The role of the color that shows how often each weight is used."""
    if not params:
        return "unweighted"
    if connections is None:
        return "unknown"
    return next((role for least, role in _SCALE if connections >= least * params), "once")


@dataclass(frozen=True)
class Leaf:
    """What one rectangle stands for.

    Attributes:
        name: of the layer, or the path of a module.
        module: the modules around it, the outermost first.
        size: what its area shows; above 0.
        params: its parameters.
        connections: their uses per sample; None where unknown.
        note: figures, for a second line where there is room.
        title: what is said of it in one line.
        row: its row in the table of the page; None for several layers.
    """

    name: str
    module: tuple[str, ...]
    size: float
    params: int
    connections: int | None
    note: str = ""
    title: str = ""
    row: int | None = None

    @property
    def role(self) -> str:
        """What gives it its color."""
        return color(self.params, self.connections)


@dataclass(frozen=True)
class Place:
    """A rectangle: its upper left corner, width and height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def at(self) -> tuple[float, float]:
        """Its upper left corner."""
        return self.x, self.y

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.width, self.height


@dataclass(frozen=True)
class Layout:
    """Where everything is.

    Attributes:
        leaves: each leaf with its place, those of a module next to each other.
        modules: each module that holds several leaves, with its place, outer ones first.
    """

    leaves: tuple[tuple[Leaf, Place], ...]
    modules: tuple[tuple[tuple[str, ...], Place], ...]


def squarify(sizes: Sequence[float], place: Place) -> list[Place]:
    """Cut a rectangle into parts whose areas are as the sizes, nearly square.

    Args:
        sizes: above 0, the largest first.
        place: the whole.
    """
    if not sizes:
        return []
    scale = place.width * place.height / sum(sizes)
    areas = [size * scale for size in sizes]
    found: list[Place] = []
    first = 0
    while first < len(areas):
        side = min(place.width, place.height)
        last, total = first + 1, areas[first]
        worst = _worst(side, areas[first], areas[first], total)
        while last < len(areas):
            wider = _worst(side, areas[first], areas[last], total + areas[last])
            if wider > worst:
                break
            worst, total, last = wider, total + areas[last], last + 1
        row, place = _strip(areas[first:last], total, place)
        found += row
        first = last
    return found


def _worst(side: float, largest: float, smallest: float, total: float) -> float:
    """How far from a square the worst rectangle of a strip along a side is."""
    if not side or not smallest:
        return float("inf")
    return max(side * side * largest / (total * total), total * total / (side * side * smallest))


def _strip(areas: Sequence[float], total: float, place: Place) -> tuple[list[Place], Place]:
    """The rectangles of one strip along the shorter side, and what is left of the whole."""
    upright = place.width >= place.height
    side, room = sorted((place.width, place.height))
    depth = min(total / side, room) if side else 0.0  # of nearly nothing rounding leaves too much
    found, start = [], 0.0
    for area in areas:
        length = side * area / total
        if upright:
            found.append(Place(place.x, place.y + start, depth, length))
        else:
            found.append(Place(place.x + start, place.y, length, depth))
        start += length
    if upright:
        width = max(place.width - depth, 0.0)
        return found, Place(place.x + depth, place.y, width, place.height)
    height = max(place.height - depth, 0.0)
    return found, Place(place.x, place.y + depth, place.width, height)


def lay_out(leaves: Iterable[Leaf], place: Place, most: int) -> Layout:
    """Place leaves by module: areas are as the sizes, throughout.

    Args:
        leaves: what is shown; those of no size are left out.
        place: the whole.
        most: so many are drawn: where there are more, the deepest modules are one leaf each, and
            in the end the smallest leaves are one.
    """
    placed: list[tuple[Leaf, Place]] = []
    modules: list[tuple[tuple[str, ...], Place]] = []
    _fill(_folded([leaf for leaf in leaves if leaf.size > 0], most), place, 0, placed, modules)
    return Layout(tuple(placed), tuple(modules))


def _folded(leaves: list[Leaf], most: int) -> list[Leaf]:
    level = min(max((len(leaf.module) for leaf in leaves), default=0), _LEVELS)
    while len(leaves) > most and level > 0:
        groups: dict[tuple[str, ...], list[Leaf]] = {}
        for number, leaf in enumerate(leaves):
            deep = len(leaf.module) >= level
            groups.setdefault(leaf.module[:level] if deep else ("", str(number)), []).append(leaf)
        leaves = [
            group[0] if len(group) == 1 else _together("/".join(path), path[:-1], group)
            for path, group in groups.items()
        ]
        level -= 1
    if len(leaves) > most:
        ordered = sorted(leaves, key=lambda leaf: -leaf.size)
        rest = ordered[most - 1 :]
        leaves = [*ordered[: most - 1], _together(f"{len(rest):,} smaller layers", (), rest)]
    return leaves


def _together(name: str, module: tuple[str, ...], group: Sequence[Leaf]) -> Leaf:
    uses = [leaf.connections for leaf in group if leaf.params]
    known = [count for count in uses if count is not None]
    return Leaf(
        name,
        module,
        sum(leaf.size for leaf in group),
        sum(leaf.params for leaf in group),
        sum(known) if len(known) == len(uses) else None,
        title=name,
    )


def _fill(
    leaves: Sequence[Leaf],
    place: Place,
    level: int,
    placed: list[tuple[Leaf, Place]],
    modules: list[tuple[tuple[str, ...], Place]],
) -> None:
    groups: dict[tuple[str, ...], list[Leaf]] = {}
    for number, leaf in enumerate(leaves):
        inside = len(leaf.module) > level and level < _LEVELS
        # A leaf outside all modules of this level is a group of its own.
        key = leaf.module[: level + 1] if inside else ("", str(number))
        groups.setdefault(key, []).append(leaf)
    ordered = sorted(groups.items(), key=lambda item: -sum(leaf.size for leaf in item[1]))
    sizes = [sum(leaf.size for leaf in group) for _, group in ordered]
    for (key, group), part in zip(ordered, squarify(sizes, place), strict=True):
        if key[0] == "" or len(group) == 1:
            placed += [(leaf, part) for leaf in group]
            continue
        if len(ordered) > 1:
            modules.append((key, part))
        _fill(group, part, level + 1, placed, modules)


def draw(layout: Layout, place: Place, title: str) -> Picture:
    """A treemap as a picture.

    Args:
        layout: where everything is.
        place: the whole.
        title: as text, for those who cannot see it.
    """
    shapes: list[Shape] = [
        Box(part.at, part.size, leaf.role, title=leaf.title) for leaf, part in layout.leaves
    ]
    for path, part in layout.modules:
        shapes.append(Box(part.at, part.size, "paper", 3.0 if len(path) == 1 else 1.5))
    for leaf, part in layout.leaves:
        shapes += _label(leaf, part)
    return Picture(place.width, place.height, title, tuple(shapes))


#: Colors that dark words cannot be read on.
_STRONG = ("once", "u10000")


def _label(leaf: Leaf, part: Place) -> Iterator[Words]:
    """The name of a leaf and its figures, where there is room for them."""
    role = "on-strong" if leaf.role in _STRONG else "on-pale"
    lines = [
        text
        for text in (leaf.name.rpartition("/")[2], leaf.note)
        if text and len(text) * _SIZE * LETTER + 8 <= part.width
    ]
    fitting = lines[: int(part.height / (_SIZE * _LINE))]
    middle, top = part.x + part.width / 2, part.y + part.height / 2 + _SIZE * 0.35
    for number, text in enumerate(fitting):
        shift = (number - (len(fitting) - 1) / 2) * _SIZE * 1.25
        yield Words((middle, top + shift), text, role, _SIZE, "middle", bold=number == 0)
