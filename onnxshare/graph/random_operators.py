"""Tensors that differ from run to run because the model draws random numbers."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.node_reader import subgraphs


def random_tensors(proto: onnx.ModelProto) -> dict[str, str]:
    """The tensors of a main graph that depend on a random operator, and the operator's name."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    tainted: dict[str, str] = {}
    constants = _constants(proto.graph)
    for node in proto.graph.node:
        cause = next((tainted[name] for name in node.input if name in tainted), None)
        cause = cause or _draws(node, constants, functions)
        if cause is not None:
            tainted.update(dict.fromkeys(filter(None, node.output), cause))
    return tainted


def _draws(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
) -> str | None:
    """The random operator that a node is, or holds in a subgraph or as a function."""
    if traits_of(node).effect is Effect.RANDOM:
        return str(node.op_type)
    if node.op_type == "Dropout" and _trains(node, constants):
        return "Dropout in training mode"
    inner = [item for graph in subgraphs(node) for item in graph.node]
    if (node.domain, node.op_type) in functions:
        inner += functions[node.domain, node.op_type].node
    # Functions cannot call themselves: a model with such ones is refused when it is loaded.
    return next((found for item in inner if (found := _draws(item, constants, functions))), None)


def _trains(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether Dropout is told to drop: since opset 12 by its third input."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    told = constants.get(node.input[2])
    return told is None or bool(numpy_helper.to_array(told).any())


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors of one element."""
    found = {t.name: t for t in graph.initializer if not t.dims or max(t.dims) == 1}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found
