"""Weights that are computed from stored numbers before they are used: none is lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, tensor


@dataclass(frozen=True)
class Case:
    """Nodes that make `y` of `x`, what is stored, and what is right of the totals."""

    nodes: list[onnx.NodeProto]
    x: list[int | str]
    stored: list[onnx.TensorProto]
    params: int
    constants: int = 0
    macs: int | None = None
    peak: int | None = None


def product(*before: onnx.NodeProto, **right: int) -> Case:
    """An FC of 8 inputs and 4 outputs: 32 products, whatever is done once to make its weight; x and
    y are 12 floats."""
    nodes = [*before, node("MatMul", "x w", "y")]
    stored = [
        tensor("W", 8, 4),
        tensor("V", 8, 4),
        tensor("one", 1),
        tensor("g", 4),
        tensor("A", 8, 2),
        tensor("B", 2, 4),
        constant("mask", np.eye(8, 4), np.bool_),
        tensor("short", 6, 4),
        constant("pads", [1, 0, 1, 0]),
        constant("rows", [[0], [3]]),
        tensor("some", 2, 4),
        tensor("long", 12, 4),
        constant("eight", [8]),
        constant("axis", 0),
        tensor("scaled", 4),
        tensor("mean", 4),
        constant("var", np.ones(4), "f4"),
        tensor("A2", 3, 4),
        tensor("B2", 5, 4),
        tensor("codes", 16),
        constant("index", np.ones((8, 4))),
        constant("which", range(8)),
        constant("values", [0, 1], "f4"),
    ]
    used = {name for n in nodes for name in n.input}
    return Case(
        nodes, ["n", 8], [t for t in stored if t.name in used],
        **{"params": 32, "macs": 32, "peak": 48, **right},
    )  # fmt: skip


CASES = {
    "Tanh": product(node("Tanh", "W", "w")),
    "Neg of Exp": product(node("Exp", "W", "e"), node("Neg", "e", "w")),
    "Softplus behind a Reshape": product(
        node("Softplus", "W", "e"), node("Identity", "e", "w")
    ),
    "LogSoftmax": product(node("LogSoftmax", "W", "w", axis=0)),
    "a normalized weight: W / |W| · g": product(
        node("ReduceL2", "W", "norm", axes=[0], keepdims=1), node("Div", "W norm", "u"),
        node("Mul", "u g", "w"), params=36,
    ),
    "a sum of two": product(node("Sub", "W V", "w"), params=64),
    "times one number, which is not a parameter": product(node("Mul", "W one", "w"), constants=1),
    "two images of one weight count it once": product(
        node("Exp", "W", "a"), node("Sin", "W", "b"), node("Add", "a b", "w")
    ),
    "low rank: W + A · B": product(
        node("MatMul", "A B", "ab"), node("Add", "W ab", "w"), params=56
    ),
    "outer product by Einsum": product(
        node("Einsum", "A B", "w", equation="ir,rj->ij"), params=24
    ),
    "masked": product(node("Where", "mask W V", "w"), params=64),
    "padded": product(node("Pad", "short pads", "w"), params=24),
    "rows written over others": product(
        node("ScatterND", "W rows some", "w"), params=32 + 8
    ),
    "the largest of its rows": product(node("TopK", "long eight", "w at", axis=0), params=48),
    "cumulative": product(node("CumSum", "W axis", "w")),
    "normalized by learned numbers": product(
        node("LayerNormalization", "W g scaled", "w"), params=32 + 8
    ),
    "with running statistics": product(
        node("BatchNormalization", "W g scaled mean var", "w"), params=32 + 8
    ),
    "rounded to 16 bits and back": product(
        node("Cast", "W", "h", to=TensorProto.FLOAT16), node("Cast", "h", "w", to=1)
    ),
    "quantized as it runs": product(
        node("DynamicQuantizeLinear", "W", "q qs qz"), node("DequantizeLinear", "q qs qz", "w")
    ),
    "an optional": product(node("Optional", "W", "o"), node("OptionalGetElement", "o", "w")),
    "joined from a sequence": product(
        node("SequenceConstruct", "A2 B2", "q"), node("ConcatFromSequence", "q", "w", axis=0)
    ),
    "limits by Min and Max": product(
        node("Min", "W one", "m"), node("Max", "m one", "w"), constants=1
    ),
    "rows that are told by numbers": product(node("Gather", "codes index", "w"), params=16),
    "one of several, by stored indices": product(
        node("OneHot", "which eight values", "o"), node("MatMul", "o W", "w"),
        constants=2,
    ),
    "a kernel that is resized": Case(
        [node("Resize", "K _ up", "k", mode="linear"), node("Conv", "x k", "y")],
        ["n", 3, 6, 6], [tensor("K", 2, 3, 3, 3), constant("up", [1, 1, 2, 2], "f4")], 54,
        constants=4, macs=2 * 3 * 36,
    ),
    "a bias of a computed cell": Case(
        [node("Tanh", "W", "w"), node("Exp", "r", "q"), node("LSTM", "x w q", "y", hidden_size=2)],
        [5, 1, 3], [tensor("W", 1, 8, 3), tensor("r", 1, 8, 2)], 40, macs=5 * 40,
    ),
    "a table of which a part is read": Case(
        [node("Tanh", "W", "e"), node("Slice", "e from to", "p"), node("Add", "x p", "y")],
        ["n", 3, 4], [tensor("W", 9, 4), constant("from", [0]), constant("to", [3])], 36, macs=0,
    ),
    "a kernel that is averaged": Case(
        [node("ReduceMean", "K", "m", axes=[1], keepdims=1), node("Conv", "x m", "y")],
        ["n", 1, 5, 5], [tensor("K", 2, 3, 3, 3)], 54, macs=9 * 2 * 9, peak=4 * (25 + 18),
    ),
    "a table made as large as the input": Case(
        [node("Shape", "x", "s"), node("Resize", "P _ _ s", "p", mode="nearest"),
         node("Mul", "x p", "y")],
        [1, 2, 6, 6], [tensor("P", 1, 2, 3, 3)], 18,
    ),
    "limits and scales are constants": Case(
        [node("Clip", "x low high", "c"), node("Resize", "c _ scales", "r"),
         node("Reshape", "r to", "y")],
        ["n", 2, 4], [constant("low", 0, "f4"), constant("high", 6, "f4"),
                      constant("scales", [1, 1, 2], "f4"), constant("to", [-1, 4])], 0, constants=5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_stored_numbers_that_are_computed_with(case: Case) -> None:
    totals = onnxshare.inspect(model(case.nodes, {"x": case.x}, ["y"], case.stored)).totals
    assert (totals.params, totals.constants, totals.other) == (case.params, case.constants, 0)
    assert case.macs in (None, totals.macs)
    assert case.peak in (None, totals.peak_activation_bytes)


def test_an_if_that_picks_what_it_computes() -> None:
    branches = [
        helper.make_graph([node("Exp", name, "o" + name)], name, [], [info("o" + name, [8, 4])])
        for name in ("W", "V")
    ]
    nodes = [
        node("If", "c", "w", then_branch=branches[0], else_branch=branches[1]),
        node("MatMul", "x w", "y"),
    ]
    inputs = [info("x", ["n", 8]), info("c", [], TensorProto.BOOL)]
    totals = onnxshare.inspect(
        model(nodes, inputs, ["y"], [tensor("W", 8, 4), tensor("V", 8, 4)])
    ).totals
    assert (totals.params, totals.macs, totals.unused, totals.other) == (64, 32, 0, 0)


def test_an_if_whose_branch_gives_less_than_it_announces_is_refused() -> None:
    branches = [
        helper.make_graph([node("Exp", "W", "t")], "then", [], [info("t", [8, 4])]),
        helper.make_graph([], "else", [], []),
    ]
    nodes = [
        node("If", "c", "w", then_branch=branches[0], else_branch=branches[1]),
        node("MatMul", "x w", "y"),
    ]
    inputs = [info("x", ["n", 8]), info("c", [], TensorProto.BOOL)]
    with pytest.raises(onnxshare.ModelError, match="no runtime can run this model"):
        onnxshare.inspect(model(nodes, inputs, ["y"], [tensor("W", 8, 4)]))


def test_each_step_of_a_scan_has_weights_of_its_own() -> None:
    """5 layers of 4·4, and a bias of 4 each: each is used once."""
    inner = [node("MatMul", "h w", "m"), node("Add", "m b", "h2"), node("Identity", "h2", "o")]
    body = helper.make_graph(
        inner, "layer",
        [info("h", [1, 4]), info("w", [4, 4]), info("b", [4])],
        [info("h2", [1, 4]), info("o", [1, 4])],
    )  # fmt: skip
    scan = node("Scan", "x W B", "y all", body=body, num_scan_inputs=2)
    report = onnxshare.inspect(
        model([scan], {"x": [1, 4]}, ["y"], [tensor("W", 5, 4, 4), tensor("B", 5, 4)])
    )
    totals = report.totals
    assert (totals.params, totals.macs, totals.connections, totals.other) == (100, 80, 100, 0)
    (product,) = [facts for facts in report.nodes if facts.op_type == "MatMul"]
    assert (product.sharing.temporal, product.sharing_ratio) == (1, 1.0)


def _loop(*nodes: onnx.NodeProto, states: str = "", results: str) -> onnx.GraphProto:
    return helper.make_graph(
        [*nodes, node("Identity", "c", "c2")], "body",
        [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL),
         *(info(name, None) for name in states.split())],
        [info("c2", [], TensorProto.BOOL), *(info(name, None) for name in results.split())],
    )  # fmt: skip


def _scan(*nodes: onnx.NodeProto, given: str, results: str) -> onnx.GraphProto:
    return helper.make_graph(
        nodes, "body", [info(name, None) for name in given.split()],
        [info(name, None) for name in results.split()],
    )  # fmt: skip


EACH = _scan(node("Exp", "row", "e"), node("Mul", "e g", "o"), given="row", results="o")
SUMMED = _scan(
    node("Add", "sum row", "s2"), node("Identity", "s2", "o"), given="sum row", results="s2 o"
)
STEP = _scan(
    node("MatMul", "h R", "a"), node("Add", "a row", "h2"), node("Identity", "h2", "o"),
    given="h row", results="h2 o",
)  # fmt: skip
POWER = _loop(node("Mul", "st V", "st2"), states="st", results="st2")
ROWS = _loop(node("Gather", "W i", "r"), node("Exp", "r", "e"), results="e")
LEARNED = _loop(node("MatMul", "st R", "a"), node("Add", "a x", "st2"), states="st", results="st2")

#: What makes w of stored tensors; parameters and constants.
IN_LOOPS = {
    "each row by a Scan": ([node("Scan", "W", "w", body=EACH, num_scan_inputs=1)], 36, 0),
    "rows summed up, from learned ones": (
        [node("Scan", "g W", "last w", body=SUMMED, num_scan_inputs=1)], 36, 0,
    ),
    "from the last row on": (
        [node("Scan", "W", "w", body=EACH, num_scan_inputs=1, scan_input_directions=[1])], 36, 0,
    ),
    "a power by a Loop": ([node("Loop", "three _ W", "w", body=POWER)], 64, 0),
    "rows stacked by a Loop": ([node("Loop", "eight _", "w", body=ROWS)], 32, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_LOOPS)
def test_weights_that_a_loop_makes(name: str) -> None:
    nodes, params, constants = IN_LOOPS[name]
    stored = [tensor("W", 8, 4), *([tensor("g", 4)] if params == 36 else [])]
    stored += [tensor("V", 8, 4), constant("three", 3)] if params == 64 else []
    stored += [constant("eight", 8)] if "eight" in nodes[0].input[0] else []
    built = model([*nodes, node("MatMul", "x w", "y")], {"x": ["n", 8]}, ["y"], stored)
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants, totals.macs) == (params, constants, 32)
    assert (totals.unused, totals.other) == (0, 0)


@pytest.mark.parametrize(
    ("made", "x"),
    [
        pytest.param(node("Loop", "three _ h0", "y", body=LEARNED), [1, 8], id="Loop"),
        pytest.param(
            node("Scan", "h0 x", "last y", body=STEP, num_scan_inputs=1), [3, 1, 8], id="Scan"
        ),
    ],
)
def test_a_state_that_starts_from_learned_numbers_is_data(
    made: onnx.NodeProto, x: list[int | str]
) -> None:
    """Three steps of 8·8: after the first the state is data, and R is what it is multiplied by."""
    stored = [tensor("h0", 1, 8), tensor("R", 8, 8), constant("three", 3)]
    report = onnxshare.inspect(model([made], {"x": x}, ["y"], stored))
    assert report.totals.macs == 3 * 64
    assert {w.name: w.connections for w in report.weights}["R"] == 3 * 64
    assert report.totals.params + report.totals.constants == 64 + 8


def test_outputs_that_are_stored_as_they_stand() -> None:
    built = model([node("Relu", "x", "y")], {"x": ["n", 4]}, ["y", "p"], [tensor("p", 16, 4)])
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants, totals.unused, totals.other) == (0, 64, 0, 0)


@pytest.mark.parametrize(("mode", "taps"), [("linear", 4), ("nearest", 1), ("cubic", 16)])
def test_a_stored_volume_is_looked_up_by_grid_sample(mode: str, taps: int) -> None:
    """5×7 positions of 3 channels, each a weighted sum of so many elements."""
    built = model(
        [node("GridSample", "volume grid", "y", mode=mode)],
        {"grid": ["n", 5, 7, 2]},
        ["y"],
        [tensor("volume", 1, 3, 4, 6)],
        opset=20,
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants) == (72, 0)
    assert totals.connections == 5 * 7 * 3 * taps
