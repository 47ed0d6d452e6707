"""Breaks long names where their parts meet, not inside a word."""

from __future__ import annotations

from rich.cells import cell_len

#: After these a name may be broken; the first are the stronger borders.
_BORDERS = ("/", ".:", "_-")


def folded(name: str, width: int) -> str:
    """A name in lines of at most so many cells; a line is broken at a border in its second half.

    Args:
        name: one line of text.
        width: cells of a terminal, at least 1.
    """
    lines = []
    while cell_len(name) > width:
        at = _break(name, _reach(name, width))
        lines.append(name[:at])
        name = name[at:]
    return "\n".join([*lines, name])


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
