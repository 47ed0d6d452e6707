"""The attributes of two nodes: a default that is written out is the default."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import onnx
from onnx import defs

from onnxshare.differences.results import Change
from onnxshare.graph.index import Node
from onnxshare.io.node_reader import STANDARD_DOMAINS, value_of


def attribute_changes(
    left: Node, right: Node, before: onnx.ModelProto, after: onnx.ModelProto
) -> list[Change]:
    """The attributes that differ, subgraphs left out, whose nodes are compared.

    Args:
        left: a node of model A.
        right: a node of the same operator in model B.
        before: model A, for the version of its operators.
        after: model B.
    """
    # A version without an attribute does what the default of the one that brought it says.
    first, second = _defaults(left, before), _defaults(right, after)
    old = {**second, **first, **_given(left.proto)}
    new = {**first, **second, **_given(right.proto)}
    return [
        Change(name, old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _defaults(node: Node, model: onnx.ModelProto) -> dict[str, Any]:
    domain = "" if node.proto.domain in STANDARD_DOMAINS else node.proto.domain
    for opset in model.opset_import:
        known = "" if opset.domain in STANDARD_DOMAINS else opset.domain
        if known == domain:
            return _of_schema(node.op_type, domain, opset.version)
    return {}


@cache
def _of_schema(op_type: str, domain: str, version: int) -> dict[str, Any]:
    try:
        schema = defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return {}
    return {
        name: _plain(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def _given(node: onnx.NodeProto) -> dict[str, Any]:
    return {
        attribute.name: _plain(attribute)
        for attribute in node.attribute
        if not attribute.HasField("g") and not attribute.graphs
    }


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = value_of(attribute)
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return list(value)
    # Tensors, strings and whatever comes next are equal if their bytes are.
    data = attribute.SerializeToString(deterministic=True)
    return f"hash {hashlib.blake2b(data, digest_size=6).hexdigest()}"
