"""Numbers as people read them."""

from __future__ import annotations

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
            value = number / size
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
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
