"""Results as plain types: what can be printed."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """What `dataclasses.asdict` gives, without its copies of what cannot change."""
    if isinstance(value, tuple):
        return tuple([plain(item) for item in value])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    names = getattr(value, "__dataclass_fields__", None)
    return value if names is None else {name: plain(getattr(value, name)) for name in names}
