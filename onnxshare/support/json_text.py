"""JSON, written by orjson, with what a terminal, a reader or a CI system may obey escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from onnxshare.support.dataclass_tools import plain

#: What JSON leaves as it is, and that moves or hides text, or is a mark of a CI system.
_OBEYED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]|#(?=#(?:vso)?\\[)"
)


def json_text(value: Any, *, indented: bool = False) -> str:
    """A value as JSON: plain types, and dataclasses field by field. NaN and infinities are null;
    C1 controls, marks of direction, characters of no width, tags and line separators are escaped.

    Args:
        value: what to write.
        indented: whether each value stands on a line of its own.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else None).decode()
    except TypeError:  # a whole number of more than 64 bits, or a path whose bytes are not text
        given = _finite(plain(value))
        marks = (",", ": ") if indented else (",", ":")
        indent = 2 if indented else None
        text = json.dumps(given, ensure_ascii=False, indent=indent, separators=marks)
    return _escaped(text)


def json_items(values: Sequence[Any], between: str) -> str:
    """Values as JSON, with a text between them: of thousands quicker than one by one."""
    try:
        return _escaped(between.encode().join(map(orjson.dumps, values)).decode())
    except TypeError:
        return between.join(map(json_text, values))


def _escaped(text: str) -> str:
    if text.isascii() and "\x7f" not in text and "##" not in text:
        return text
    return _OBEYED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
