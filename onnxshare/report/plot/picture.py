"""Small pictures of lines, dots, boxes and words, as SVG or PNG.

SVG is written here: a few elements, text escaped, colours that follow a light or dark background
(`prefers-color-scheme`; a picture that stands alone has its own background). PNG shows the same
elements, drawn by Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from onnxshare.errors import UsageError, printable
from onnxshare.io.atomic_write import replace_file

#: Endings of the formats.
FORMATS = (".svg", ".png")

#: Uses per weight, from once to 10,000 times and more: a scale from red over pale to blue, which
#: colour-blind people tell apart (ColorBrewer's RdYlBu, https://colorbrewer2.org).
_USES = {
    "once": "#d73027",
    "u1": "#f98e52",
    "u10": "#fee090",
    "u100": "#c6e3ef",
    "u1000": "#85b9da",
    "u10000": "#4575b4",
    "unknown": "#a8adb3",
    "unweighted": "#d5d9de",
    "on-pale": "#1f2328",
    "on-strong": "#ffffff",
}

#: Colours by role, on light and on dark.
_LIGHT = _USES | {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "faint": "#6e7781",
    "grid": "#e3e6ea",
    "good": "#0a66c2",
    "bad": "#9aa3ad",
    "chosen": "#c2410c",
    "target": "#1a7f37",
}
_DARK = _USES | {
    "paper": "#0d1117",
    "ink": "#e6edf3",
    "faint": "#9198a1",
    "grid": "#262c36",
    "good": "#58a6ff",
    "bad": "#6e7681",
    "chosen": "#ff9650",
    "target": "#3fb950",
}

#: Width of a letter, in sizes of the font: on the safe side for a sans-serif one.
LETTER = 0.58

#: Pixels of a PNG per unit.
_SCALE = 2


#: Signs that Pillow's own font may lack, and how else to write them; and one that no font has.
_IN_ASCII = {"≥": ">=", "≤": "<=", "÷": "1/", "×": "x", "→": "->", "–": "-", "—": "-", "…": "..."}
_NO_SIGN = "\uffff"


@dataclass(frozen=True)
class Line:
    """A straight line between two points."""

    start: tuple[float, float]
    end: tuple[float, float]
    role: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A circle; `title` is what a browser shows under the mouse, `data` is for scripts."""

    at: tuple[float, float]
    radius: float
    role: str
    filled: bool = True
    title: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """A filled rectangle with a thin border of paper, or with `outline` a border alone.

    Attributes:
        at: its upper left corner.
        size: width and height.
        role: what gives it its colour.
        outline: the width of the border; None for a filled rectangle.
        title: what a browser shows under the mouse.
        data: attributes for scripts, `data-` left out.
    """

    at: tuple[float, float]
    size: tuple[float, float]
    role: str
    outline: float | None = None
    title: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    corners: tuple[tuple[float, float], ...]
    role: str


@dataclass(frozen=True)
class Words:
    """Text on a base line; `anchor` is start, middle or end."""

    at: tuple[float, float]
    text: str
    role: str = "ink"
    size: float = 12.0
    anchor: str = "start"
    bold: bool = False


Shape = Line | Dot | Box | Area | Words


@dataclass(frozen=True)
class Picture:
    """What is drawn, first things first, in units of one pixel, y downwards; the title is for those
    who cannot see it."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def check_format(path: Path) -> None:
    """Make sure that a picture can be written under this name.

    Raises:
        UsageError: its ending is neither `.svg` nor `.png`, or PNG needs what is not installed.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise UsageError(f"{path}: no picture is written with the ending '{ending}'", ".svg, .png")
    if ending == ".png":
        _pillow()


def save(picture: Picture, path: Path) -> int:
    """Write a picture, as SVG or PNG by the ending of its name, and return the bytes written.

    Raises:
        UsageError: another ending, or PNG without Pillow.
        OutputError: it cannot be written.
    """
    check_format(path)
    data = svg(picture).encode() if path.suffix.lower() == ".svg" else png(picture)
    return replace_file(path, data)


def svg(picture: Picture) -> str:
    """The picture as an SVG document (https://www.w3.org/TR/SVG11/)."""
    width, height = _number(picture.width), _number(picture.height)
    return embedded(
        picture,
        f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" class="paper"/>',
    )


def embedded(picture: Picture, attributes: str = "", *before: str) -> str:
    """The picture as an `svg` element of a page whose style sheet holds `STYLE`.

    Args:
        picture: what is drawn.
        attributes: further attributes of the element, as markup.
        before: elements that come before the shapes, as markup.
    """
    width, height = _number(picture.width), _number(picture.height)
    lines = [
        f'<svg {attributes} viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>{_text(picture.title)}</title>",
        *before,
        *(_element(shape) for shape in picture.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def png(picture: Picture) -> bytes:
    """The picture as PNG, on white.

    Raises:
        UsageError: Pillow is not installed.
    """
    image_module, draw_module, font_module = _pillow()
    size = (round(picture.width * _SCALE), round(picture.height * _SCALE))
    image = image_module.new("RGB", size, _LIGHT["paper"])
    pen = draw_module.Draw(image)
    fonts: dict[float, Any] = {}
    for shape in picture.shapes:
        if isinstance(shape, Line):
            for start, end in _dashes(shape):
                pen.line([*_scaled(start), *_scaled(end)], _LIGHT[shape.role], _pixels(shape.width))
        elif isinstance(shape, Dot):
            (x, y), radius = _scaled(shape.at), shape.radius * _SCALE
            box = [x - radius, y - radius, x + radius, y + radius]
            colour = _LIGHT[shape.role]
            pen.ellipse(box, colour if shape.filled else _LIGHT["paper"], colour, _pixels(1.5))
        elif isinstance(shape, Area):
            pen.polygon([_scaled(corner) for corner in shape.corners], _LIGHT[shape.role])
        elif isinstance(shape, Box):
            (x, y), (wide, high) = _scaled(shape.at), _scaled(shape.size)
            if wide >= 1 and high >= 1:
                colour = _LIGHT[shape.role]
                paper = _LIGHT["paper"]
                fill, edge = (colour, paper) if shape.outline is None else (None, colour)
                pen.rectangle([x, y, x + wide, y + high], fill, edge, _pixels(shape.outline or 1))
        else:
            font = fonts.setdefault(shape.size, font_module.load_default(shape.size * _SCALE))
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            stroke = 1 if shape.bold else 0
            pen.text(
                _scaled(shape.at),
                _plain(printable(shape.text), font),
                _LIGHT[shape.role],
                font,
                anchor,
                stroke_width=stroke / 2,
            )
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        dash = ' stroke-dasharray="5 4"' if shape.dashed else ""
        ends = zip(("x1", "y1", "x2", "y2"), (*shape.start, *shape.end), strict=True)
        return f'<line {_places(ends)} class="{shape.role} line" {_width(shape.width)}{dash}/>'
    if isinstance(shape, Dot):
        kind = "fill" if shape.filled else "ring"
        places = _places(zip(("cx", "cy", "r"), (*shape.at, shape.radius), strict=True))
        return _titled("circle", f'{places} class="{shape.role} {kind}"', shape)
    if isinstance(shape, Area):
        corners = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.corners)
        return f'<polygon points="{corners}" class="{shape.role}"/>'
    if isinstance(shape, Box):
        names = ("x", "y", "width", "height")
        places = _places(zip(names, (*shape.at, *shape.size), strict=True))
        kind, width = shape.role, ""
        if shape.outline is not None:
            kind, width = f"{shape.role} outline", f" {_width(shape.outline)}"
        return _titled("rect", f'{places} class="{kind}"{width}', shape)
    places = _places(zip(("x", "y", "font-size"), (*shape.at, shape.size), strict=True))
    bold = ' font-weight="600"' if shape.bold else ""
    return (
        f"<text {places} text-anchor={quoteattr(shape.anchor)}{bold} "
        f'class="{shape.role}">{_text(shape.text)}</text>'
    )


def _titled(name: str, attributes: str, shape: Dot | Box) -> str:
    data = "".join(f" data-{key}={quoteattr(printable(v))}" for key, v in shape.data.items())
    if not shape.title:
        return f"<{name} {attributes}{data}/>"
    return f"<{name} {attributes}{data}><title>{_text(shape.title)}</title></{name}>"


def _rules(colours: Mapping[str, str]) -> str:
    """Style rules: text is filled, lines are stroked, rings are both."""
    rules = [f".{role}{{fill:{colour}}}" for role, colour in colours.items()]
    rules += [
        f".{role}.line,.{role}.fill,.{role}.ring{{stroke:{colour}}}"
        for role, colour in colours.items()
    ]
    rules.append(f".ring{{fill:{colours['paper']} !important;stroke-width:1.5}}")
    rules.append(f"rect{{stroke:{colours['paper']}}}")
    rules += [f".{role}.outline{{stroke:{colour};fill:none}}" for role, colour in colours.items()]
    return "".join(rules)


#: The colours of all roles, for the style sheet of a page.
STYLE = f"{_rules(_LIGHT)}@media (prefers-color-scheme: dark) {{{_rules(_DARK)}}}"


def _places(pairs: Iterable[tuple[str, float]]) -> str:
    return " ".join(f'{name}="{_number(value)}"' for name, value in pairs)


def _width(value: float) -> str:
    return f'stroke-width="{_number(value)}"'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    return escape(printable(text))


def _plain(text: str, font: Any) -> str:
    """The text in signs that Pillow's own font has: a box for one that it lacks says nothing."""
    if text.isascii():
        return text
    lacking = bytes(font.getmask(_NO_SIGN))
    return "".join(
        sign if bytes(font.getmask(sign)) != lacking else _IN_ASCII.get(sign, "?") for sign in text
    )


def _scaled(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * _SCALE, point[1] * _SCALE


def _pixels(width: float) -> int:
    return max(1, round(width * _SCALE))


def _dashes(line: Line) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The pieces of a line, all of it or dashes of 5 with gaps of 4."""
    if not line.dashed:
        return [(line.start, line.end)]
    (x, y), (far_x, far_y) = line.start, line.end
    length = ((far_x - x) ** 2 + (far_y - y) ** 2) ** 0.5
    step_x, step_y = (far_x - x) / max(length, 1e-9), (far_y - y) / max(length, 1e-9)
    found = []
    done = 0.0
    while done < length:
        end = min(done + 5, length)
        found.append(((x + step_x * done, y + step_y * done), (x + step_x * end, y + step_y * end)))
        done += 9
    return found


def _pillow() -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UsageError(
            "PNG pictures are drawn by Pillow, which is not installed",
            "pip install 'onnxshare[plot]', or name an .svg",
        ) from None
    return Image, ImageDraw, ImageFont
