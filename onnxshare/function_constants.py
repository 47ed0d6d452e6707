"""Constants of local functions: stored once in the file, however often the function is called.

Expanding a call copies its Constant nodes. They are marked before, so that the copies of one node
can be told from constants that happen to be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import onnx

#: The metadata of a node that marks it while functions are expanded.
_MARK = "onnxshare.function_constant"

#: Elements of types that hold no weights are not looked at.
_NUMBERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL)


def marked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose functions' constants are marked; itself, where they hold none."""
    if not any(True for _ in _constants(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for number, node in enumerate(_constants(copy)):
        mark = node.metadata_props.add()
        mark.key, mark.value = _MARK, str(number)
    return copy


def unmarked(graph: onnx.GraphProto) -> dict[str, str]:
    """Take the marks off the nodes of a graph, subgraphs included.

    Returns:
        The mark of each marked constant, by its name, which no other tensor of the model has.
    """
    found: dict[str, str] = {}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= unmarked(attribute.g)
        for place, entry in enumerate(node.metadata_props):
            if entry.key == _MARK:
                found[node.output[0]] = entry.value
                del node.metadata_props[place]
                break
    return found


def _constants(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in proto.functions:
        yield from _weights(function.node)


def _weights(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The Constant nodes that hold tensors of several elements, in subgraphs too."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _weights(attribute.g.node)
            elif (
                node.op_type == "Constant"
                and attribute.name == "value"
                and prod(attribute.t.dims) > 1
                and attribute.t.data_type not in _NUMBERS
            ):
                yield node
