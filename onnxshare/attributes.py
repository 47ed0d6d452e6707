"""Values of a node's attributes, which a file may give any type."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any

import onnx
from onnx import helper

# What an attribute may be, by the type of its default.
_KINDS: dict[type, type | UnionType] = {
    int: int,
    float: int | float,
    str: str,
    list: Sequence,
}


def value_of(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute, strings decoded; None where its type is not known."""
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of the default that stands for it elsewhere."""
    return value is not None and isinstance(value, _KINDS.get(type(default), object))
