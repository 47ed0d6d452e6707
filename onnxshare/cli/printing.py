"""Data to stdout, words to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from onnxshare.errors import printable


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout; NaN and infinities become null.

    Lists of records are written a record a line: readable, and several times faster than one
    value a line, for which Python has no encoder in C.
    """
    try:
        text = _document(data)
    except ValueError:  # NaN and infinities
        text = _document(_finite(data))
    # A path may hold bytes that are no text: they come as escapes.
    sys.stdout.write(text.encode(errors="backslashreplace").decode())


def note(text: str) -> None:
    """Print words for the user on stderr, which keeps stdout for data."""
    print(printable(text), file=sys.stderr)


def _document(data: Mapping[str, Any]) -> str:
    fields = (f"  {_value(key)}: {_lines(value)}" for key, value in data.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _lines(value: Any) -> str:
    """A list of records, or a record, with a line for each of its items."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + ",\n".join(f"    {_value(item)}" for item in value) + "\n  ]"
    if isinstance(value, Mapping) and value:
        items = (f"    {_value(str(key))}: {_value(item)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + "\n  }"
    return _value(value)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
