"""Numbers, names and documents as people read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.cells import cell_len

from onnxshare.analysis.results import TensorInfo

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def exact(number: int | None) -> str:
    """A count in full, with separators; – where unknown."""
    return "–" if number is None else f"{number:,}"


def rounded(number: int | None) -> str:
    """A large count in three digits with a unit: 19.6 G; – where unknown."""
    if number is None:
        return "–"
    for size, unit in _UNITS:
        if number >= size * 0.9995:
            if number >= 999.5 * size:  # perhaps more than a float can be
                return f"{(number + int(size) // 2) // int(size):,} {unit}"
            return f"{number / size:.3g} {unit}"
    return str(number)


def times(ratio: float | None) -> str:
    """A ratio: 784×, 6.9×; – where unknown."""
    if ratio is None:
        return "–"
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def share(part: int, whole: int) -> str:
    """A share in per cent; "0 %" only for nothing, "100 %" only for all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1 %"
    if percent > 99.9 and part != whole:
        return ">99.9 %"
    return f"{percent:.1f} %" if part not in (0, whole) else f"{percent:.0f} %"


def size(count: int | None) -> str:
    """Bytes in decimal units, as file managers show them."""
    if count is None:
        return "–"
    number, _, unit = rounded(count).partition(" ")
    return f"{number} {unit}B"


def shape(info: TensorInfo, *, batch: bool = True) -> str:
    """A shape as `batch×3×224×224`; without its first axis if `batch` is false."""
    if info.shape is None:
        return "?"
    sizes = info.shape if batch else info.shape[1:]
    return "×".join("?" if item is None else str(item) for item in sizes) or "1"


#: After these a name may be broken; the first are the stronger borders.
_BORDERS = ("/", ".:", "_-")


def folded(name: str, width: int) -> str:
    """A name in lines of at most so many cells; a line is broken at a border in its second half."""
    lines = []
    while cell_len(name) > width:
        at = _break(name, _reach(name, width))
        lines.append(name[:at])
        name = name[at:]
    return "\n".join([*lines, name])


def shortened(name: str, width: int, lines: int) -> str:
    """A name in so many lines of at most so many cells; where they are too few, without its
    middle."""
    text = folded(name, width)
    room = lines * width
    while text.count("\n") >= lines:  # lines that end at a border are not full
        text = folded(_without_middle(name, room), width)
        room -= 1
    return text


def _without_middle(name: str, width: int) -> str:
    if width < 2:
        return name[:width]
    first = width // 2
    last = width - 1 - first
    return name[: _reach(name, first)] + "…" + name[len(name) - _reach(name[::-1], last) :]


def _reach(name: str, width: int) -> int:
    """How many characters have room, at least one."""
    count = width
    while count > 1 and cell_len(name[:count]) > width:
        count -= 1
    return count


def _break(name: str, end: int) -> int:
    for borders in _BORDERS:
        at = max(name.rfind(border, 0, end) for border in borders) + 1
        if at > end // 2:
            return at
    return end


def repeated(keys: Iterable[str]) -> Iterator[int]:
    """For each key how often it has come before."""
    seen: Counter[str] = Counter()
    for key in keys:
        yield seen[key]
        seen[key] += 1
