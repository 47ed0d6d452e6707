"""What a file declares of inner and output shapes is no evidence, at any opset; and pools that
round up have the windows that a runtime makes."""

from __future__ import annotations

import itertools
from typing import Any

import onnx
import pytest

import onnxshare
from tests.builders import Dims, constant, info, model, node, only, random_array, run, tensor


def time_distributed(opset: int, data: Dims, declared: dict[str, Dims]) -> onnx.ModelProto:
    """A Gemm on each step of [T, b, 4], as exporters of recurrent networks write it."""

    def unsqueezed(name: str, result: str) -> onnx.NodeProto:
        if opset < 13:
            return node("Unsqueeze", name, result, axes=[0])
        return node("Unsqueeze", f"{name} first", result)

    built = model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "t"),
            node("Gather", "s one", "b"),
            node("Mul", "t b", "tb"),
            unsqueezed("tb", "rows"),
            node("Concat", "rows features", "flat", axis=0),
            node("Reshape", "x flat", "q"),
            node("Gemm", "q w bias", "a"),
            unsqueezed("t", "ut"),
            unsqueezed("b", "ub"),
            node("Concat", "ut ub rest", "steps", axis=0),
            node("Reshape", "a steps", "y"),
        ],
        {"x": data},
        ["y"],
        [
            tensor("w", 4, 8), tensor("bias", 8), constant("zero", 0), constant("one", 1),
            constant("features", [4]), constant("rest", [-1]), constant("first", [0]),
        ],
        opset=opset,
    )  # fmt: skip
    for name, dims in declared.items():
        if name == "y":
            built.graph.output[0].CopyFrom(info(name, dims))
        else:
            built.graph.value_info.append(info(name, dims))
    return built


#: What the file declares; y is 6×1×8, q 6×4, a 6×8.
WRONG: dict[str, dict[str, Dims]] = {
    "nothing": {},
    "the rank of the output": {"y": [1, 48]},
    "a symbol in the output": {"y": [1, "n"]},
    "a size of the output": {"y": [6, 1, 9]},
    "an inner tensor": {"q": [7, 4]},
    "the rank of an inner tensor": {"a": [6, 1, 8]},
    "two": {"q": [24], "y": [1, 48]},
}


@pytest.mark.parametrize("opset", [9, 12, 13, 20])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_declarations_are_a_warning(opset: int, wrong: str) -> None:
    declared = WRONG[wrong]
    report = onnxshare.inspect(time_distributed(opset, [6, 1, 4], declared))
    found = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    assert (found["q"], found["a"], found["y"]) == ((6, 4), (6, 8), (6, 1, 8))
    certain = {name for name, dims in declared.items() if "n" not in dims or len(dims) != 3}
    assert any("declares a wrong shape" in line for line in report.warnings) == bool(certain)


@pytest.mark.parametrize("declared", [{"y": [1, 48]}, {"q": [7, 4]}, {"a": [7, 8], "y": [7, 1, 8]}])
def test_while_sizes_are_open_declarations_are_not_used(declared: dict[str, Dims]) -> None:
    totals = onnxshare.inspect(time_distributed(12, ["T", "b", 4], declared)).totals
    assert (totals.macs, totals.peak_activation_bytes) == (None, None)


#: operator, opset, attributes
POOLS: list[tuple[str, int, dict[str, Any]]] = [
    ("MaxPool", 10, {}),
    ("MaxPool", 12, {"dilations": [2, 2]}),
    ("MaxPool", 21, {"storage_order": 1}),
    ("MaxPool", 22, {}),
    ("AveragePool", 10, {}),
    ("AveragePool", 18, {"count_include_pad": 1}),
    ("AveragePool", 19, {"dilations": [2, 2]}),
    ("LpPool", 18, {}),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pools_that_round_up(pool: tuple[str, int, dict[str, Any]]) -> None:
    op_type, opset, attributes = pool
    for size, stride, pads in itertools.product(
        (7, 8, 9), (1, 2, 3), ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0))
    ):
        window = {"kernel_shape": [2, 3], "strides": [stride] * 2, "pads": pads, "ceil_mode": 1}
        built = model(
            [node(op_type, "x", "y", **window, **attributes)],
            {"x": [1, 2, size, size]},
            ["y"],
            opset=opset,
        )
        (result,) = run(built, x=random_array(1, 2, size, size))
        facts = only(onnxshare.inspect(built), op_type)
        assert facts.outputs[0].shape == result.shape, window


def test_the_indices_of_a_pool_that_rounds_up() -> None:
    built = model(
        [node("MaxPool", "x", "y at", kernel_shape=[2], strides=[2], pads=[1, 1], ceil_mode=1)],
        {"x": [1, 1, 9]},
        ["y", "at"],
        opset=12,
    )
    facts = only(onnxshare.inspect(built), "MaxPool")
    assert [out.shape for out in facts.outputs] == [(1, 1, 5), (1, 1, 5)]
    assert facts.outputs[1].dtype == "int64"


def _inner(name: str, wrong: Dims) -> onnx.ModelProto:
    """A subgraph whose output declares a wrong shape."""
    relu = [node("Relu", "x", "a")], [node("Neg", "x", "b")]
    going = [info("i", [], onnx.TensorProto.INT64), info("c", [], onnx.TensorProto.BOOL)]
    goes = info("c2", [], onnx.TensorProto.BOOL)
    body = [node("MatMul", "x w", "s2"), node("Identity", "c", "c2")]
    made = {
        "If": node(
            "If", "yes", "r",
            then_branch=onnx.helper.make_graph(relu[0], "t", [], [info("a", wrong)]),
            else_branch=onnx.helper.make_graph(relu[1], "e", [], [info("b", wrong)]),
        ),
        "Loop": node(
            "Loop", "three _", "r",
            body=onnx.helper.make_graph(body, "b", going, [goes, info("s2", wrong)]),
        ),
        "Scan": node(
            "Scan", "x", "r", num_scan_inputs=1,
            body=onnx.helper.make_graph(
                [node("Exp", "row", "o")], "b", [info("row", [8])], [info("o", wrong)]
            ),
        ),
    }[name]  # fmt: skip
    built = model(
        [made, node("MatMul", "r w", "y")], {"x": [1, 8]}, ["y"],
        [tensor("w", 8, 8), constant("three", 3), constant("yes", True, bool)],
    )  # fmt: skip
    built.graph.value_info.append(info("r", [5, 5]))
    return built


@pytest.mark.parametrize("wrong", [[1, 9], [8], [1, 1, 8], [2, 9]], ids=str)
@pytest.mark.parametrize("op_type", ["If", "Loop", "Scan"])
def test_wrong_declarations_in_subgraphs(op_type: str, wrong: Dims) -> None:
    report = onnxshare.inspect(_inner(op_type, wrong))
    assert report.nodes[-1].outputs[0].shape == ((3, 1, 8) if op_type == "Loop" else (1, 8))
    assert report.totals.macs is not None
    assert any("declares a wrong shape" in line for line in report.warnings)
