"""What attributes are where a node does not say, and their values, to be compared."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import onnx
from onnx import defs

from onnxshare.io.node_reader import value_of


@cache
def schema_defaults(op_type: str, domain: str, version: int) -> dict[str, Any]:
    """What the attributes of an operator are where they are not given, as far as that is fixed."""
    try:
        schema = defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return {}
    return {
        name: attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute, to be compared."""
    value = value_of(attribute)
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return list(value)
    # Tensors, strings and whatever comes next are equal if their bytes are.
    data = attribute.SerializeToString(deterministic=True)
    return f"hash {hashlib.blake2b(data, digest_size=6).hexdigest()}"
