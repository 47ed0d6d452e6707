"""Reads and writes limits: `5M`, `95%`, `20MiB`, 0.5, `true`, and back into words."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

from onnxshare.checks.targets import parse_target

if TYPE_CHECKING:
    from decimal import Decimal

#: What a limit is: a count of things, bytes, a share of a whole, a plain ratio, another model, a
#: target runtime, a list of names, any text, or just whether the rule is on.
Unit = Literal["count", "bytes", "share", "ratio", "model", "target", "names", "text", "flag"]

#: A limit as it is kept; `onnxshare.checks.results.Limit`.
Parsed = bool | int | float | str | tuple[str, ...]

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BYTES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}
_MOST_DIGITS = 30  # 1e999999999 would take for ever to write out
_EXAMPLES = {
    "count": "a whole number such as 5000000 or 5M",
    "share": "a share between 0 and 1, or a percentage such as 95%",
    "ratio": "a number such as 10 or 2.5",
    "bytes": "a size such as 20MiB, 5MB or 1048576",
    "model": "the path of a model",
    "target": "a target such as 'onnxruntime 1.20'",
    "names": "a list of names",
    "text": "text",
    "flag": "true or false",
}


#: A limit relative to what the baseline says was measured: `baseline`, `baseline + 2%`.
_RELATIVE = re.compile(r"baseline(?:\s*([+-])\s*(\d{1,6}(?:\.\d{1,6})?)\s*%)?")


def parse_limit(value: object, unit: Unit, *, relative: bool = False) -> Parsed:
    """Return a limit from an option or a policy file: a number, or text, a number with an optional
    suffix k, M, G or T, or with %; for names a list, or text with commas.

    Args:
        value: what the user gave.
        unit: what the limit is.
        relative: whether it may be relative to the baseline, such as `baseline + 2%`, which then
            is what is returned.

    Raises:
        ValueError: it is not what the unit wants; the message says what is expected.
    """
    words = unit in ("model", "target", "names", "text", "flag")
    if relative and isinstance(value, str) and (found := _RELATIVE.fullmatch(value.strip())):
        return f"baseline {found[1]} {found[2]}%" if found[1] else "baseline"
    parsed = _word(value, unit) if words else _amount(value, unit)
    if parsed is None:
        more = ", or 'baseline + 2%'" if relative else ""
        raise ValueError(f"expected {_EXAMPLES[unit]}{more}, not {value!r}")
    return parsed


def resolved(limit: str, before: float, *, whole: bool) -> float:
    """The number that a limit relative to the baseline stands for, given what was measured: the
    largest whole number that keeps it, if only these are measured."""
    from decimal import ROUND_FLOOR, Decimal

    found = _RELATIVE.fullmatch(limit)
    assert found is not None
    percent = Decimal(f"{found[1] or '+'}{found[2] or 0}")
    exact = Decimal(str(before)) * (1 + percent / 100)
    return int(exact.to_integral_value(ROUND_FLOOR)) if whole else float(exact)


def _amount(value: object, unit: Unit) -> Parsed | None:
    """A limit that is a number; None if the value is not one of this unit."""
    number = _number(value, unit)
    if number is None or number < 0:
        return None
    if unit in ("share", "ratio"):
        return float(number) if unit == "ratio" or number <= 1 else None
    return int(number) if number == number.to_integral_value() else None


def _word(value: object, unit: Unit) -> Parsed | None:
    """A limit that is not a number; None if the value is not one."""
    if unit == "flag":
        spelled = {"true": True, "false": False}
        value = spelled.get(value.lower(), value) if isinstance(value, str) else value
        return value if isinstance(value, bool) else None
    if unit == "names":
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not names:
            return None
        words = [name.strip() for name in names if isinstance(name, str)]
        return tuple(words) if len(words) == len(names) and all(words) else None
    if not isinstance(value, str) or not value:
        return None
    if unit == "target":
        parse_target(value)  # its own words say what is wrong
    return value


def show(value: Parsed, unit: Unit, *, near: Parsed | None = None) -> str:
    """Return a value as text: `61,706`, `95.8%`, `2.5`; rounding never makes it look equal to the
    value that it is shown next to."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "bytes":
        return _size(value, near if isinstance(near, (int, float)) else None)
    for digits in range(1, 12):
        text = _rounded(value, unit, digits)
        if not isinstance(near, (int, float)) or near == value:
            break
        if text != _rounded(near, unit, digits):
            break
    return text


def _rounded(value: float, unit: Unit, digits: int) -> str:
    text = f"{100 * value if unit == 'share' else value:,.{digits}f}"
    text = text.rstrip("0").rstrip(".")
    return text + "%" if unit == "share" else text


def _size(value: float, near: float | None) -> str:
    """Bytes in the largest unit that keeps them above 1, exact where rounding would hide a
    difference."""
    for name, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= factor:
            text, other = f"{value / factor:,.1f}", f"{(near or 0) / factor:,.1f}"
            same = near is not None and near != value and text == other
            return f"{value:,.0f} bytes" if same else f"{text} {name}"
    return f"{value:,.0f} bytes"


def _number(value: object, unit: Unit) -> Decimal | None:
    """Exact, so that "1.2G" is 1,200,000,000 and not a float near it."""
    from decimal import Decimal, InvalidOperation  # the options of `check` do not need it

    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return Decimal(str(value)) if math.isfinite(value) else None
    text = value.strip()
    factor = Decimal(1)
    if text.endswith("%"):
        if unit != "share":
            return None
        text, factor = text[:-1], Decimal("0.01")
    elif unit == "bytes" and (named := re.fullmatch(r"([\d.]+)\s*([kmgt]i?b|b)", text.lower())):
        text, factor = named[1], Decimal(_BYTES[named[2]])
    elif text[-1:].lower() in _SUFFIXES:
        text, factor = text[:-1], Decimal(_SUFFIXES[text[-1].lower()])
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        return None
    return number * factor
