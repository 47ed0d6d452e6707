"""Graphs of many nodes of the kinds that exporters write, for `analysis.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]


class _Chain:
    """Blocks that follow each other, each reading what the one before it has made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.block = 0

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"/block.{self.block}/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def weight(self, *sizes: int) -> str:
        return self.value(np.ones(sizes, np.float32))

    def value(self, values: Array) -> str:
        name = f"weight.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def model(self, sizes: list[int | str], result: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _repeat(
    count: int, sizes: list[int | str], block: Callable[[_Chain, str], str]
) -> onnx.ModelProto:
    chain, data = _Chain(), "x"
    while len(chain.nodes) < count:
        data = block(chain, data)
        chain.block += 1
    return chain.model(sizes, data)


def _residual(c: _Chain, data: str) -> str:
    attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "group": 1}
    made = c.op("Conv", data, c.weight(4, 4, 3, 3), c.weight(4), **attributes)
    made = c.op("BatchNormalization", made, *(c.weight(4) for _ in range(4)), epsilon=1e-5)
    return c.op("Add", c.op("Relu", made), data)


def _fully_connected(c: _Chain, data: str) -> str:
    made = c.op("Add", c.op("MatMul", data, c.weight(4, 4)), c.weight(4))
    return c.op("Identity", c.op("Relu", made))


def _attention(c: _Chain, data: str) -> str:
    normed = c.op("LayerNormalization", data, c.weight(16), c.weight(16), axis=-1)
    heads = c.value(np.array([0, -1, 4, 4], np.int64))
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        part = c.op("Add", c.op("MatMul", normed, c.weight(16, 16)), c.weight(16))
        parts.append(c.op("Transpose", c.op("Reshape", part, heads), perm=order))
    scores = c.op("Div", c.op("MatMul", parts[0], parts[1]), c.value(np.array(2, np.float32)))
    mixed = c.op("MatMul", c.op("Softmax", scores, axis=-1), parts[2])
    mixed = c.op("Transpose", mixed, perm=[0, 2, 1, 3])
    back = c.op("Reshape", mixed, c.value(np.array([0, -1, 16], np.int64)))
    return c.op("Add", back, data)


def _computed_shapes(c: _Chain, data: str) -> str:
    def constant(values: Array) -> str:
        return c.op("Constant", value=numpy_helper.from_array(values))

    made = c.op("MatMul", data, constant(np.ones((8, 8), np.float32)))
    made = c.op("Add", made, constant(np.ones(8, np.float32)))
    rows = c.op("Gather", c.op("Shape", made), constant(np.array(0, np.int64)), axis=0)
    rows = c.op("Unsqueeze", rows, constant(np.array([0], np.int64)))
    sizes = [constant(np.array([size], np.int64)) for size in (4, -1)]
    made = c.op("Reshape", made, c.op("Concat", rows, *sizes, axis=0))
    return c.op("Reshape", c.op("Relu", made), constant(np.array([0, 8], np.int64)))


#: Makes a graph of about so many nodes, by what it is made of.
KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "Conv, BatchNormalization, Relu, Add": lambda n: _repeat(n, ["n", 4, 16, 16], _residual),
    "MatMul, Add, Relu, Identity": lambda n: _repeat(n, ["n", 4], _fully_connected),
    "attention": lambda n: _repeat(n, ["n", 8, 16], _attention),
    "weights in Constant nodes, computed shapes": lambda n: _repeat(n, ["n", 8], _computed_shapes),
}
