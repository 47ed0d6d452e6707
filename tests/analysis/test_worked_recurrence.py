"""Weights that are shared over time: one cell, written in every way that there is."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, tensor

# Recurrent: 5 steps of a cell of 4 units that reads 3 features: h' = tanh(W x + U h + b).
STEPS, FEATURES, UNITS = 5, 3, 4
CELL = UNITS * (FEATURES + UNITS + 1)
CELL_MACS = UNITS * (FEATURES + UNITS)


def unrolled() -> onnx.ModelProto:
    """Five copies of the cell's nodes, one set of weights."""
    nodes = [node("Split", "x parts", " ".join(f"x{n}" for n in range(STEPS)), axis=1)]
    for step in range(STEPS):
        before = "h" if step == 0 else f"h{step - 1}"
        nodes += [
            node("Reshape", f"x{step} flat", f"f{step}"),
            node("Gemm", f"f{step} w b", f"a{step}", transB=1),
            node("Gemm", f"{before} u", f"c{step}", transB=1),
            node("Add", f"a{step} c{step}", f"s{step}"),
            node("Tanh", f"s{step}", "y" if step == STEPS - 1 else f"h{step}"),
        ]
    return model(
        nodes,
        {"x": ["n", STEPS, FEATURES], "h": ["n", UNITS]},
        ["y"],
        [*cell(), constant("parts", [1] * STEPS), constant("flat", [0, FEATURES])],
    )


def cell() -> list[onnx.TensorProto]:
    return [tensor("w", UNITS, FEATURES), tensor("u", UNITS, UNITS), tensor("b", UNITS)]


def as_scan() -> onnx.ModelProto:
    """The cell as the body of a Scan over the steps."""
    body = helper.make_graph(
        [
            node("Gemm", "f w b", "a", transB=1),
            node("Gemm", "h u", "c", transB=1),
            node("Add", "a c", "s"),
            node("Tanh", "s", "next"),
        ],
        "body",
        [info("h", [1, UNITS]), info("f", [1, FEATURES])],
        [info("next", [1, UNITS])],
    )
    return model(
        [node("Scan", "h0 x", "y", body=body, num_scan_inputs=1)],
        {"h0": [1, UNITS], "x": [STEPS, 1, FEATURES]},
        ["y"],
        cell(),
    )


def as_loop() -> onnx.ModelProto:
    """The cell as the body of a Loop that picks its step."""
    body = helper.make_graph(
        [
            node("Gather", "x i", "f", axis=0),
            node("Gemm", "f w b", "a", transB=1),
            node("Gemm", "h u", "c", transB=1),
            node("Add", "a c", "s"),
            node("Tanh", "s", "next"),
            node("Identity", "go", "on"),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("h", [1, UNITS])],
        [info("on", [], TensorProto.BOOL), info("next", [1, UNITS])],
    )
    return model(
        [node("Loop", "steps _ h0", "y", body=body)],
        {"h0": [1, UNITS], "x": [STEPS, 1, FEATURES]},
        ["y"],
        [*cell(), constant("steps", STEPS)],
    )


def as_rnn() -> onnx.ModelProto:
    """The standard's own cell, which holds a second bias: here a stored zero."""
    return model(
        [node("RNN", "x w u b", "y", hidden_size=UNITS)],
        {"x": [STEPS, "n", FEATURES]},
        ["y"],
        [
            tensor("w", 1, UNITS, FEATURES),
            tensor("u", 1, UNITS, UNITS),
            tensor("b", 1, 2 * UNITS),
        ],
    )


@pytest.mark.parametrize(
    ("built", "second_bias"),
    [
        pytest.param(unrolled(), 0, id="unrolled"),
        pytest.param(as_scan(), 0, id="Scan"),
        pytest.param(as_loop(), 0, id="Loop"),
        pytest.param(as_rnn(), UNITS, id="RNN"),
    ],
)
def test_a_cell_in_time(built: onnx.ModelProto, second_bias: int) -> None:
    """Stored once and used at every step, however the recurrence is written."""
    totals = onnxshare.inspect(built).totals
    held = CELL + second_bias
    assert (totals.params, totals.macs) == (held, STEPS * CELL_MACS)
    assert totals.connections == STEPS * held
    assert totals.sharing_ratio == STEPS


def test_unrolled_steps_are_ties_and_looped_ones_time() -> None:
    of_ties = {f.sharing.tied for f in onnxshare.inspect(unrolled()).nodes if f.params}
    of_time = {f.sharing.temporal for f in onnxshare.inspect(as_scan()).nodes if f.params}
    assert (of_ties, of_time) == ({STEPS}, {STEPS})


def test_gates_have_their_own_weights() -> None:
    """An RNN, a GRU of three gates and an LSTM of four: 1, 3 and 4 times the weights."""
    for op_type, gates in {"RNN": 1, "GRU": 3, "LSTM": 4}.items():
        weights = [
            tensor("w", 1, gates * UNITS, FEATURES),
            tensor("u", 1, gates * UNITS, UNITS),
        ]
        built = model(
            [node(op_type, "x w u", "y", hidden_size=UNITS)],
            {"x": [STEPS, "n", FEATURES]},
            ["y"],
            weights,
        )
        totals = onnxshare.inspect(built).totals
        assert (totals.params, totals.macs) == (gates * CELL_MACS, gates * CELL_MACS * STEPS)
