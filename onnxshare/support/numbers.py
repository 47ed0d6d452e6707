"""Whole numbers in text that a stranger may have written, and quotients of very large ones."""

from __future__ import annotations

import re


def whole_number(text: str) -> int | None:
    """The number that a text is, or None: decimal digits of ASCII alone, up to 18 of them.

    Python's own `int` takes underscores, digits of other scripts, and raises for thousands of
    digits; `str.isdigit` is true for "²".
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text.strip(" \t")) else None


def quotient(number: int | None, by: int) -> float | None:
    """One count by another; None where either is unknown or 0 divides, or no float is so large."""
    if number is None or not by:
        return None
    try:
        return number / by
    except OverflowError:
        return None
