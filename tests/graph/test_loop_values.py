"""Sizes that go through the bodies of loops, and how many trips a Loop makes; ONNX Runtime says
what is right.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, only, random_array, run, tensor

INT = TensorProto.INT64
STORED = {
    name: constant(name, value)
    for name, value in {
        "zero": [0], "one": [1], "two": [2], "last": [2, 3], "at0": 0, "at1": 1, "at2": 2, "at3": 3,
        "four": 4, "five": 5, "start": 24, "first_last": [0, 4], "minus": [-1],
    }.items()
} | {"true": constant("true", True, np.bool_)}  # fmt: skip


def body(
    *nodes: onnx.NodeProto, states: str = "", results: str = "", dtype: int = INT
) -> onnx.GraphProto:
    """The body of a Loop: `i` counts trips, `c` goes on as `c2`."""
    if not any("c2" in made.output for made in nodes):
        nodes = (*nodes, node("Identity", "c", "c2"))
    inputs = [info("i", [], INT), info("c", [], TensorProto.BOOL)]
    return helper.make_graph(
        nodes,
        "body",
        [*inputs, *(info(name, None, dtype) for name in states.split())],
        [info("c2", [], TensorProto.BOOL), *(info(n, None, dtype) for n in results.split())],
    )


def loop(inputs: str, outputs: str, inner: onnx.GraphProto) -> onnx.NodeProto:
    return node("Loop", inputs, outputs, body=inner)


def pair(name: str) -> list[onnx.NodeProto]:
    """A target `t` of two sizes from one number."""
    return [node("Unsqueeze", f"{name} zero", "u"), node("Concat", "u two", "t", axis=0)]


PRODUCT = body(node("Gather", "s i", "d"), node("Mul", "a d", "a2"), states="a", results="a2")
HALVED = body(node("Div", "a at2", "a2"), node("Greater", "a2 at1", "c2"), states="a", results="a2")
COUNTED = body(
    node("Gather", "s i", "d"),
    node("Less", "i at2", "c2"),
    node("Add", "a d", "a2"),
    states="a",
    results="a2 d",
)
WITH_DATA = body(node("Relu", "h", "h2"), node("Add", "a at2", "a2"), states="a h", results="a2 h2")
for value in (*WITH_DATA.input, *WITH_DATA.output):
    if value.name in ("h", "h2"):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
SUMS = helper.make_graph(
    [node("Add", "acc d", "a2"), node("Identity", "a2", "o2")],
    "body",
    [info("acc", [], INT), info("d", [], INT)],
    [info("a2", [], INT), info("o2", [], INT)],
)
EACH = helper.make_graph(
    [node("Add", "e one", "e2")], "body", [info("e", None, INT)], [info("e2", None, INT)]
)
OUTER = body(
    node(
        "Loop",
        "at2 _ a",
        "a3",
        body=helper.make_graph(
            [node("Add", "b i", "b2"), node("Identity", "cc", "cc2")],
            "inner",
            [info("ii", [], INT), info("cc", [], TensorProto.BOOL), info("b", [], INT)],
            [info("cc2", [], TensorProto.BOOL), info("b2", [], INT)],
        ),
    ),
    states="a",
    results="a3",
)

#: x is 1×4×6×8 and s its shape; what makes a target t of two small sizes from it.
SIZES: dict[str, list[onnx.NodeProto]] = {
    "the product of sizes": [loop("four _ at1", "p", PRODUCT), *pair("p")],
    "what trips make": [
        loop("four _", "p", body(node("Gather", "s i", "d"), results="d")),
        node("Gather", "p last", "t"),
    ],
    "as long as a number is large": [loop("_ true start", "h", HALVED), *pair("h")],
    "ends before its count": [
        loop("four _ at1", "h all", COUNTED), node("ReduceMax", "all zero", "m"),
        node("Concat", "m m", "t", axis=0),
    ],
    "next to data": [loop("four _ at1 x", "h y0", WITH_DATA), *pair("h")],
    "no trip": [loop("at0 _ at3", "p", PRODUCT), *pair("p")],
    "one loop in another": [loop("at3 _ at1", "p", OUTER), *pair("p")],
    "a Scan that sums": [
        node("Scan", "at0 s", "f all", body=SUMS, num_scan_inputs=1),
        node("Gather", "all last", "t"),
    ],
    "a Scan from the end": [
        node("Scan", "at0 s", "f all", body=SUMS, num_scan_inputs=1, scan_input_directions=[1],
             scan_output_directions=[1]),
        node("Gather", "all last", "t"),
    ],
    "a SequenceMap": [
        node("SplitToSequence", "s", "q", axis=0), node("SequenceMap", "q", "q2", body=EACH),
        node("ConcatFromSequence", "q2", "all", axis=0), node("Gather", "all last", "t"),
    ],
    "the sizes of what trips make": [
        loop("five _", "p", body(node("Relu", "x", "r"), results="r", dtype=TensorProto.FLOAT)),
        node("Shape", "p", "z"), node("Gather", "z first_last", "t"),
    ],
}  # fmt: skip


def built(nodes: list[onnx.NodeProto], *, opset: int = 18) -> onnx.ModelProto:
    nodes = [node("Shape", "x", "s"), *nodes, node("Expand", "w t", "y")]
    return model(nodes, {"x": [1, 4, 6, 8], "w": [1, 1]}, ["y"], [*STORED.values()], opset=opset)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_through_a_loop(name: str) -> None:
    made = built(SIZES[name])
    (result,) = run(made, x=random_array(1, 4, 6, 8), w=random_array(1, 1))
    report = onnxshare.inspect(made)
    assert report.nodes[-1].outputs[0].shape == result.shape
    assert report.totals.peak_activation_bytes is not None


def test_the_work_of_a_loop_that_ends_by_a_size() -> None:
    """x has 24 rows, halved while more than 1 is left: 24, 12, 6, 3, 1 are 4 trips of 8·8."""
    inner = body(
        node("Div", "a at2", "a2"), node("Greater", "a2 at1", "c2"), node("MatMul", "h w", "h2"),
        states="a h", results="a2 h2",
    )  # fmt: skip
    for value in (*inner.input, *inner.output):
        if value.name in ("h", "h2"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s at0", "n"),
        loop("_ true n v", "k y", inner),
    ]
    stored = [tensor("w", 8, 8), *(STORED[name] for name in ("at0", "at1", "at2", "true"))]
    report = onnxshare.inspect(model(nodes, {"x": [24, 8], "v": [1, 8]}, ["y"], stored))
    assert only(report, "MatMul").macs == 4 * 64


ENDLESS = {
    "without an end": [
        loop("_ true one", "t", body(node("Add", "a one", "a2"), states="a", results="a2"))
    ],
    "doubles": [
        loop("many _ one", "t", body(node("Concat", "a a", "a2", axis=0), states="a", results="a2"))
    ],
    "grows": [
        loop(
            "many _ one", "t",
            body(node("Concat", "a large", "a2", axis=0), states="a", results="a2"),
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize("nodes", ENDLESS.values(), ids=ENDLESS)
def test_loops_that_are_not_followed(nodes: list[onnx.NodeProto]) -> None:
    stored = [*STORED.values(), constant("many", 10**12), constant("large", np.ones(10**6))]
    nodes = [*nodes, node("Reshape", "x t", "y")]
    before = time.process_time()
    report = onnxshare.inspect(model(nodes, {"x": ["n", 4]}, ["y"], stored))
    assert time.process_time() - before < 5
    assert not any(isinstance(size, int) for size in report.nodes[-1].outputs[0].shape or ())
