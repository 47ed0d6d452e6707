"""Dataclasses to plain types, which can be printed, and quickly made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

Made = TypeVar("Made")

#: What most fields hold, and what is plain already.
_PLAIN = frozenset((str, int, float, bool, type(None)))


class Result:
    """A dataclass that can be had as plain types.

    Attributes:
        SHOWN: the fields and properties that are shown, in this order, as `NAME` or `KEY=NAME`;
            empty for all fields.
    """

    SHOWN: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Keep `dataclass` from writing a `__repr__` of all fields, which may be megabytes."""
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """One line of less than 300 characters: plain values, and how many a sequence has."""
        found = ((item.name, getattr(self, item.name)) for item in fields(cast("Any", self)))
        brief = ", ".join(f"{name}={_brief(value)}" for name, value in found)
        return f"{type(self).__name__}({brief if len(brief) < 250 else brief[:246] + ' ...'})"

    def to_dict(self) -> dict[str, Any]:
        """The result as types that JSON has: dicts, lists, text, numbers and None."""
        return {key: plain(getattr(self, name)) for key, name in _shown(cast("Any", type(self)))}


@cache
def _shown(kind: Any) -> list[tuple[str, str]]:
    """Under which key which field or property of a class of results is shown."""
    names = kind.SHOWN or [item.name for item in fields(kind)]
    return [(key, name or key) for key, _, name in (word.partition("=") for word in names)]


def _brief(value: Any) -> str:
    if isinstance(value, (tuple, list, Mapping)):
        return f"<{len(value)}>"
    text = repr(value) if type(value) in _PLAIN else f"<{type(value).__name__}>"
    return (
        str(value) if isinstance(value, Enum) else text if len(text) <= 80 else text[:76] + "...'"
    )


def plain(value: Any) -> Any:
    """A value as types that JSON has."""
    if isinstance(value, (tuple, list)):
        return [item if type(item) in _PLAIN else plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Result):
        return value.to_dict()
    names = getattr(value, "__dataclass_fields__", None)
    if names is None:
        return str(value) if isinstance(value, Enum) else value
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
