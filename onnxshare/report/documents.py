"""Documents as text: JSON that is readable, and what their writers share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any


def json_text(document: Any) -> str:
    """A document as indented JSON; NaN and infinities become null."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def repeated(keys: Iterable[str]) -> Iterator[int]:
    """For each key how often it has come before."""
    seen: Counter[str] = Counter()
    for key in keys:
        yield seen[key]
        seen[key] += 1
