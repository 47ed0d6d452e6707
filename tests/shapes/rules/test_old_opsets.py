"""Shapes under opsets of before 7, in versions that onnx's inference does not know. The expected
shapes are those of the operators' texts; no runtime of today runs them."""

from __future__ import annotations

from typing import Any

import pytest

import onnxshare
from tests.builders import info, model, node, tensor

#: opset, operator, inputs (a name of an input or a weight), attributes, shapes of the outputs.
CASES: dict[str, tuple[int, str, str, dict[str, Any], list[tuple[int, ...]]]] = {
    "Relu": (5, "Relu", "x", {"consumed_inputs": [0]}, [(1, 4, 6, 6)]),
    "Add along the channels": (5, "Add", "x c", {"broadcast": 1, "axis": 1}, [(1, 4, 6, 6)]),
    "BatchNormalization": (
        5, "BatchNormalization", "x c c c c", {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]},
        [(1, 4, 6, 6)],
    ),
    "Sum": (3, "Sum", "x x", {}, [(1, 4, 6, 6)]),
    "PRelu": (3, "PRelu", "x c", {}, [(1, 4, 6, 6)]),
    "Dropout": (3, "Dropout", "x", {"is_test": 1}, [(1, 4, 6, 6)]),
    "Cast": (3, "Cast", "x", {"to": "DOUBLE"}, [(1, 4, 6, 6)]),
    "Reshape": (4, "Reshape", "x", {"shape": [0, -1]}, [(1, 144)]),
    "Gemm": (5, "Gemm", "rows w b", {"transB": 1, "broadcast": 1}, [(1, 3)]),
    "Concat": (3, "Concat", "x x", {}, [(1, 8, 6, 6)]),
    "Pad": (1, "Pad", "x", {"paddings": [0, 0, 1, 2, 0, 0, 1, 2]}, [(1, 4, 8, 10)]),
    "Split": (1, "Split", "x", {"axis": 1, "split": [1, 3]}, [(1, 1, 6, 6), (1, 3, 6, 6)]),
    "Upsample": (
        1, "Upsample", "x", {"height_scale": 2.0, "width_scale": 3.0, "mode": "nearest"},
        [(1, 4, 12, 18)],
    ),
    "LpPool": (1, "LpPool", "x", {"kernel_shape": [2, 2], "strides": [2, 2]}, [(1, 4, 3, 3)]),
    "GlobalLpPool": (1, "GlobalLpPool", "x", {}, [(1, 4, 1, 1)]),
    "GRU": (1, "GRU", "steps gw gr", {"hidden_size": 2}, [(7, 1, 1, 2), (1, 1, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    opset, op_type, inputs, attributes, shapes = CASES[name]
    results = [f"y{number}" for number in range(len(shapes))]
    given = {"x": [1, 4, 6, 6], "rows": [1, 5], "steps": [7, 1, 3]}
    stored = {
        "c": tensor("c", 4), "w": tensor("w", 3, 5), "b": tensor("b", 3),
        "gw": tensor("gw", 1, 6, 3), "gr": tensor("gr", 1, 6, 2),
    }  # fmt: skip
    built = model(
        [node(op_type, inputs, " ".join(results), **attributes)],
        [info(key, dims) for key, dims in given.items() if key in inputs.split()],
        results,
        [value for key, value in stored.items() if key in inputs.split()],
        opset=opset,
    )
    (facts,) = onnxshare.inspect(built).nodes
    assert [out.shape for out in facts.outputs] == shapes
    assert None not in (facts.macs, facts.connections)


def test_a_network_of_2017() -> None:
    """Convolution, bias along the channels, Relu, Reshape by attribute, Gemm that broadcasts."""
    built = model(
        [
            node("Conv", "x k", "a", kernel_shape=[3, 3]),
            node("Add", "a c", "b", broadcast=1, axis=1),
            node("Relu", "b", "r"),
            node("Reshape", "r", "f", shape=[1, 64]),
            node("Gemm", "f w b0", "y", broadcast=1),
        ],
        {"x": [1, 2, 6, 6]},
        ["y"],
        [tensor("k", 4, 2, 3, 3), tensor("c", 4), tensor("w", 64, 3), tensor("b0", 3)],
        opset=3,
    )
    totals = onnxshare.inspect(built).totals
    assert totals.params == 72 + 4 + 192 + 3
    assert totals.macs == 16 * 72 + 192
    assert totals.connections == 16 * 72 + 64 + 192 + 3
