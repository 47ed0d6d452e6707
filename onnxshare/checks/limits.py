"""Reads and writes limits: `5M`, `95%`, 0.5, and back into words."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Literal

#: What a limit counts: whole things, a share of a whole, a plain ratio, or another model.
Unit = Literal["count", "share", "ratio", "model"]

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MOST_DIGITS = 30  # 1e999999999 would take for ever to write out
_EXAMPLES = {
    "count": "a whole number such as 5000000 or 5M",
    "share": "a share between 0 and 1, or a percentage such as 95%",
    "ratio": "a number such as 10 or 2.5",
    "model": "the path of a model",
}


def parse_limit(value: object, unit: Unit) -> int | float | str:
    """Return a limit from an option or a policy file.

    Args:
        value: a number, or text: a number with an optional suffix k, M, G or T, or with %.
        unit: what it must be.

    Raises:
        ValueError: it is not; the message says what is expected.
    """
    if unit == "model":
        if isinstance(value, str) and value:
            return value
        raise ValueError(_expected(value, unit))
    number = _number(value, percent=unit == "share")
    if number is None or number < 0:
        raise ValueError(_expected(value, unit))
    if unit == "share":
        if number > 1:
            raise ValueError(_expected(value, unit))
        return float(number)
    if unit == "ratio":
        return float(number)
    if number != number.to_integral_value():
        raise ValueError(_expected(value, unit))
    return int(number)


def show(value: int | float | str, unit: Unit, *, beside: int | float | str | None = None) -> str:
    """Return a value in words: `61,706`, `95.8%`, `2.5`.

    Args:
        value: the value.
        unit: what it counts.
        beside: the value it is shown next to; rounding never makes the two look equal.
    """
    if isinstance(value, str):
        return value
    if unit == "count":
        return f"{value:,.0f}"
    for digits in range(1, 12):
        text = _rounded(value, unit, digits)
        if beside is None or beside == value or isinstance(beside, str):
            break
        if text != _rounded(beside, unit, digits):
            break
    return text


def _rounded(value: float, unit: Unit, digits: int) -> str:
    text = f"{100 * value if unit == 'share' else value:,.{digits}f}"
    text = text.rstrip("0").rstrip(".")
    return text + "%" if unit == "share" else text


def _number(value: object, *, percent: bool) -> Decimal | None:
    """Exact, so that "1.2G" is 1,200,000,000 and not a float beside it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return Decimal(str(value)) if math.isfinite(value) else None
    text = value.strip()
    factor = Decimal(1)
    if text.endswith("%"):
        if not percent:
            return None
        text, factor = text[:-1], Decimal("0.01")
    elif text[-1:].lower() in _SUFFIXES:
        text, factor = text[:-1], Decimal(_SUFFIXES[text[-1].lower()])
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        return None
    return number * factor


def _expected(value: object, unit: Unit) -> str:
    return f"expected {_EXAMPLES[unit]}, not {value!r}"
