"""Dataclasses to plain types, which can be printed, and quickly made of them."""

from __future__ import annotations

from typing import Any, TypeVar

Made = TypeVar("Made")

#: What most fields hold, and what is plain already.
_PLAIN = frozenset((str, int, float, bool, type(None)))


def plain(value: Any) -> Any:
    """What `dataclasses.asdict` gives, without its copies of what cannot change."""
    if isinstance(value, tuple):
        return tuple([item if type(item) in _PLAIN else plain(item) for item in value])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    names = getattr(value, "__dataclass_fields__", None)
    if names is None:
        return value
    return {
        name: item if type(item := getattr(value, name)) in _PLAIN else plain(item)
        for name in names
    }


def made(kind: type[Made], values: dict[str, Any]) -> Made:
    """A frozen dataclass of these values, several times as fast as by its constructor: large models
    take thousands. Fields that are left out have their defaults; nothing is checked."""
    found = object.__new__(kind)
    object.__setattr__(found, "__dict__", values)
    return found
