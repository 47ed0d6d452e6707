"""Small models that make ONNX Runtime crash, hang or ask for all the memory there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _model(nodes: Sequence[onnx.NodeProto], **weights: Any) -> onnx.ModelProto:
    """x [n, 3] → y, both float32, so that any two of these models can be compared."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "hostile",
        [info("x", TensorProto.FLOAT, ["n", 3])],
        [info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def harmless() -> onnx.ModelProto:
    """A product, which runs."""
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(3, dtype=np.float32))


def crash() -> onnx.ModelProto:
    """The smallest int32 modulo -1, known only at run time: x86 traps on the division."""
    node = helper.make_node
    return _model(
        [
            node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
            node("Mul", ["whole", "zero"], ["zeros"]),
            node("Add", ["zeros", "smallest"], ["a"]),
            node("Add", ["zeros", "minus"], ["b"]),
            node("Mod", ["a", "b"], ["d"]),
            node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
        ],
        zero=np.int32(0),
        smallest=np.int32(-(2**31)),
        minus=np.int32(-1),
    )


def hang() -> onnx.ModelProto:
    """A loop of 2^62 steps."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["again"]),
            helper.make_node("Identity", ["v"], ["next"]),
        ],
        "body",
        [
            info("step", TensorProto.INT64, []),
            info("more", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, None),
        ],
        [info("again", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["steps", "", "x"], ["y"], body=body)
    return _model([loop], steps=np.int64(2**62))


def gorge() -> onnx.ModelProto:
    """A tensor of 2 TB, of which one sum is left."""
    node = helper.make_node
    return _model(
        [
            node("ConstantOfShape", ["sizes"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        sizes=np.array([10**5, 10**5, 50]),
    )


def swell() -> onnx.ModelProto:
    """A loop that doubles its tensor: memory runs out little by little."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["again"]),
            helper.make_node("Concat", ["v", "v"], ["next"], axis=0),
        ],
        "body",
        [
            info("step", TensorProto.INT64, []),
            info("more", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, None),
        ],
        [info("again", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Loop", ["steps", "", "x"], ["huge"], body=body),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return _model(nodes, steps=np.int64(50))


def poisoned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the crash before it: its first input passes through that."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    name = found.graph.input[0].name
    for inner in found.graph.node:
        inner.input[:] = ["poisoned" if word == name else word for word in inner.input]
    before = crash()
    for inner in before.graph.node:
        inner.input[:] = [name if word == "x" else word for word in inner.input]
    nodes = [
        *before.graph.node,
        helper.make_node("Add", [name, "y.crash"], ["poisoned"]),
        *found.graph.node,
    ]
    nodes[len(before.graph.node) - 1].output[0] = "y.crash"
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    found.graph.initializer.extend(before.graph.initializer)
    return found
