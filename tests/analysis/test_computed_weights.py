"""Weights that are computed from stored numbers before they are used: none is lost."""

from __future__ import annotations

from dataclasses import dataclass

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
    """An FC of 8 inputs and 4 outputs: 32 products; x and y are 12 floats."""
    nodes = [*before, node("MatMul", "x w", "y")]
    stored = [tensor("W", 8, 4), tensor("V", 8, 4), tensor("one", 1), tensor("g", 4)]
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
