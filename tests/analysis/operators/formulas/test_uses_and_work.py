"""Operators one by one: small models whose figures are written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.analysis.results import Inspection
from tests.builders import (
    Array,
    Dims,
    constant,
    conv,
    info,
    model,
    node,
    only,
    random_array,
    tensor,
)


@dataclass(frozen=True)
class Case:
    """A model, the operator that is looked at, and its figures."""

    built: onnx.ModelProto
    op_type: str
    kind: str
    params: int
    connections: int | None
    macs: int | None
    factors: dict[str, int] = field(default_factory=dict)


def one(
    op_type: str,
    data: Dims,
    *weights: onnx.TensorProto,
    before: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """One node that reads x and the weights in order; `before` puts some ahead of x."""
    names = [weight.name for weight in weights]
    inputs = [*before.split(), "x", *(name for name in names if name not in before.split())]
    opset = attributes.pop("opset", 17)
    return model(
        [node(op_type, " ".join(inputs), "y", **attributes)],
        {"x": data},
        ["y"],
        weights,
        opset=opset,
    )


def recurrent(
    op_type: str, gates: int, *, steps: int = 7, peepholes: bool = False, layout: int = 0
) -> Case:
    """X [steps, 1, 3], hidden 4, one direction: W, R, B and for LSTM the peepholes; with layout 1
    X is [1, steps, 3]."""
    weights = [
        tensor("w", 1, gates * 4, 3),
        tensor("r", 1, gates * 4, 4),
        tensor("b", 1, 2 * gates * 4),
    ]
    inputs = "x w r b"
    params = gates * 4 * (3 + 4 + 2)
    if peepholes:
        weights.append(tensor("p", 1, 3 * 4))
        inputs += " _ _ _ p"
        params += 3 * 4
    cell = node(op_type, inputs, "y", hidden_size=4, layout=layout)
    data = [1, steps, 3] if layout else [steps, 1, 3]
    built = model([cell], {"x": data}, ["y"], weights)
    return Case(
        built,
        op_type,
        "recurrent",
        params,
        steps * params,
        steps * gates * 4 * (3 + 4),
        {"temporal": steps},
    )


LAYERS = {
    "Conv, no bias": Case(
        conv(["n", 2, 6, 6], (3, 2, 3, 3), bias=False), "Conv", "conv",
        54, 16 * 54, 16 * 54, {"spatial": 16},
    ),
    "Conv, groups": Case(
        conv(["n", 4, 6, 6], (6, 2, 3, 3), group=2), "Conv", "conv",
        6 * 18 + 6, 16 * (6 * 18 + 6), 16 * 6 * 18, {"spatial": 16},
    ),
    "Conv, depthwise": Case(
        conv(["n", 4, 6, 6], (4, 1, 3, 3), group=4), "Conv", "conv",
        40, 16 * 40, 16 * 36, {"spatial": 16},
    ),
    "Conv, dilated": Case(
        conv(["n", 2, 9, 9], (3, 2, 3, 3), dilations=[2, 3]), "Conv", "conv",
        57, 5 * 3 * 57, 5 * 3 * 54, {"spatial": 15},
    ),
    "Conv, 1-D": Case(
        conv(["n", 2, 10], (3, 2, 4)), "Conv", "conv", 27, 7 * 27, 7 * 24, {"spatial": 7}
    ),
    "Conv, 3-D": Case(
        conv(["n", 2, 4, 5, 6], (3, 2, 2, 2, 2)), "Conv", "conv",
        51, 3 * 4 * 5 * 51, 3 * 4 * 5 * 48, {"spatial": 60},
    ),
    "Conv, padded: every position uses every weight": Case(
        conv(["n", 1, 4, 4], (1, 1, 3, 3), pads=[1, 1, 1, 1]), "Conv", "conv",
        10, 16 * 10, 16 * 9, {"spatial": 16},
    ),
    "ConvTranspose": Case(
        one("ConvTranspose", ["n", 2, 3, 3], tensor("w", 2, 4, 2, 2), tensor("b", 4),
            strides=[2, 2]),
        "ConvTranspose", "conv", 36, 9 * 32 + 36 * 4, 9 * 32,
    ),
    "Conv, kernel computed": Case(
        model([node("Conv", "x k", "y")], {"x": [1, 2, 6, 6], "k": [3, 2, 3, 3]}, ["y"]),
        "Conv", "conv", 0, 0, 16 * 54, {"spatial": 1},
    ),
    "Gemm": Case(
        one("Gemm", ["n", 5], tensor("w", 5, 3), tensor("b", 3)), "Gemm", "fc", 18, 18, 15
    ),
    "Gemm, transB": Case(
        one("Gemm", ["n", 5], tensor("w", 3, 5), transB=1), "Gemm", "fc", 15, 15, 15
    ),
    "Gemm, transA": Case(
        one("Gemm", [5, 1], tensor("w", 5, 3), transA=1), "Gemm", "fc", 15, 15, 15
    ),
    "Gemm, one bias for all": Case(
        one("Gemm", ["n", 5], tensor("w", 5, 3), tensor("b", 1)), "Gemm", "fc", 16, 18, 15
    ),
    "Gemm, bias as a row": Case(
        one("Gemm", ["n", 5], tensor("w", 5, 3), tensor("b", 1, 3)), "Gemm", "fc", 18, 18, 15
    ),
    "Gemm, bias as a number": Case(
        one("Gemm", ["n", 5], tensor("w", 5, 3), tensor("b")), "Gemm", "fc", 16, 18, 15
    ),
    "Gemm, bias computed": Case(
        model([node("Gemm", "x w k", "y")], {"x": [1, 5], "k": [1, 3]}, ["y"], [tensor("w", 5, 3)]),
        "Gemm", "fc", 15, 15, 15,
    ),
    "Gemm, weight computed": Case(
        model([node("Gemm", "x k", "y")], {"x": [1, 5], "k": [5, 3]}, ["y"]),
        "Gemm", "other", 0, 0, 15,
    ),
    "MatMul, weight right": Case(
        one("MatMul", ["n", 5], tensor("w", 5, 3)), "MatMul", "fc", 15, 15, 15
    ),
    "MatMul, weight left": Case(
        one("MatMul", [5, 1], tensor("w", 3, 5), before="w"), "MatMul", "fc", 15, 15, 15
    ),
    "MatMul over a sequence": Case(
        one("MatMul", ["n", 7, 5], tensor("w", 5, 3)), "MatMul", "fc",
        15, 7 * 15, 7 * 15, {"token": 7},
    ),
    "MatMul, a matrix per position: locally connected": Case(
        one("MatMul", ["n", 7, 1, 5], tensor("w", 7, 5, 3)), "MatMul", "other",
        7 * 15, 7 * 15, 7 * 15,
    ),
    "MatMul of data": Case(
        model([node("MatMul", "x z", "y")], {"x": [1, 4, 5], "z": [1, 5, 3]}, ["y"]),
        "MatMul", "other", 0, 0, 4 * 5 * 3,
    ),
    "Einsum": Case(
        one("Einsum", ["n", 7, 5], tensor("w", 5, 3), equation="bti,io->bto"), "Einsum", "fc",
        15, 7 * 15, 7 * 15,
    ),
    "RNN": recurrent("RNN", 1),
    "GRU": recurrent("GRU", 3),
    "LSTM": recurrent("LSTM", 4),
    "LSTM with peepholes": recurrent("LSTM", 4, peepholes=True),
    "GRU, batch first": recurrent("GRU", 3, layout=1),
    "BatchNormalization": Case(
        one("BatchNormalization", ["n", 3, 4, 4], *(tensor(name, 3) for name in "sbmv")),
        "BatchNormalization", "norm", 6, 2 * 48, 0, {"spatial": 16},
    ),
    "InstanceNormalization": Case(
        one("InstanceNormalization", ["n", 3, 4, 4], tensor("s", 3), tensor("b", 3)),
        "InstanceNormalization", "norm", 6, 2 * 48, 0, {"spatial": 16},
    ),
    "LayerNormalization, scale only": Case(
        one("LayerNormalization", ["n", 7, 5], tensor("s", 5)),
        "LayerNormalization", "norm", 5, 35, 0, {"spatial": 7},
    ),
    "PRelu": Case(
        one("PRelu", ["n", 3, 4, 4], tensor("s", 3, 1, 1)), "PRelu", "elementwise",
        3, 48, 0, {"spatial": 16},
    ),
    "PRelu, one slope": Case(
        one("PRelu", ["n", 3, 4, 4], tensor("s", 1)), "PRelu", "elementwise",
        1, 48, 0, {"spatial": 48},
    ),
    "Add of a map": Case(
        one("Add", ["n", 3, 4], tensor("a", 3, 1)), "Add", "elementwise", 3, 12, 0, {"spatial": 4}
    ),
    "Mul by one number": Case(one("Mul", ["n", 3], tensor("a", 1)), "Mul", "elementwise", 0, 0, 0),
    "Relu": Case(one("Relu", ["n", 3]), "Relu", "elementwise", 0, 0, 0),
    "MaxPool": Case(
        one("MaxPool", ["n", 3, 4, 4], kernel_shape=[2, 2]), "MaxPool", "pool", 0, 0, 0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    case = LAYERS[name]
    report = onnxshare.inspect(case.built)
    facts = only(report, case.op_type)
    assert (facts.kind, facts.params, facts.connections, facts.macs) == (
        case.kind,
        case.params,
        case.connections,
        case.macs,
    )
    factors = {"spatial": 1, "temporal": 1, "token": 1, "tied": 1} | case.factors
    shared = facts.sharing
    if facts.op_type != "ConvTranspose" and facts.op_type != "Einsum":
        assert vars(shared) == factors
    if case.params and case.connections is not None:
        assert facts.sharing_ratio == pytest.approx(case.connections / case.params)
    assert report.totals.params == case.params
    assert report.totals.macs == case.macs


def embedding(tokens: Dims) -> onnx.ModelProto:
    ids = info("ids", tokens, TensorProto.INT64)
    return model([node("Gather", "table ids", "y")], [ids], ["y"], [tensor("table", 100, 8)])


def test_an_embedding_uses_only_the_rows_that_are_looked_up() -> None:
    report = onnxshare.inspect(embedding(["n", 6]))
    facts = only(report, "Gather")
    assert (facts.kind, facts.params, facts.connections) == ("embedding", 800, 6 * 8)
    assert facts.sharing_ratio == pytest.approx(48 / 800)


# Where a weight is stored: the same 5×3 matrix, each time another way to write it.


def stored_in(producer: list[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.ModelProto:
    """MatMul of x with w, which the nodes make."""
    return model([*producer, node("MatMul", "x w", "y")], {"x": ["n", 5]}, ["y"], weights)


W = random_array(5, 3)
QUANTIZED = [
    constant("q", np.round(W * 20), np.int8),
    constant("scale", [0.05, 0.06, 0.07], np.float32),
    constant("zero", [0, 1, 2], np.int8),
]

STORED = {
    "initializer": stored_in([], tensor("w", 5, 3)),
    "Constant": stored_in([node("Constant", "", "w", value=tensor("", 5, 3))]),
    "Constant, a list of floats": stored_in(
        [
            node("Constant", "", "flat", value_floats=[0.5] * 15),
            node("Reshape", "flat to", "w"),
        ],
        constant("to", [5, 3]),
    ),
    "ConstantOfShape": stored_in(
        [node("ConstantOfShape", "size", "w", value=constant("", [0.5], np.float32))],
        constant("size", [5, 3]),
    ),
    "ConstantOfShape of a Constant, no value": stored_in(
        [
            node("Constant", "", "size", value=constant("", [5, 3])),
            node("ConstantOfShape", "size", "w"),
        ]
    ),
    "Identity": stored_in([node("Identity", "v", "w")], tensor("v", 5, 3)),
    "Cast": stored_in(
        [node("Cast", "v", "w", to=TensorProto.FLOAT)],
        numpy_helper.from_array(W.astype(np.float16), "v"),
    ),
    "Transpose": stored_in([node("Transpose", "v", "w")], tensor("v", 3, 5)),
    "Reshape of four axes": stored_in(
        [node("Reshape", "v to", "w")], tensor("v", 5, 1, 3, 1), constant("to", [-1, 3])
    ),
    "Reshape of a flat list": stored_in(
        [node("Reshape", "v to", "w")], tensor("v", 15), constant("to", [5, 3])
    ),
    "Flatten": stored_in([node("Flatten", "v", "w")], tensor("v", 5, 3, 1)),
    "Squeeze": stored_in([node("Squeeze", "v a", "w")], tensor("v", 5, 1, 3), constant("a", [1])),
    "Unsqueeze and Squeeze": stored_in(
        [node("Unsqueeze", "v a", "u"), node("Squeeze", "u a", "w")],
        tensor("v", 5, 3),
        constant("a", [0]),
    ),
    "chain": stored_in(
        [
            node("Transpose", "v", "t"),
            node("Identity", "t", "i"),
            node("Reshape", "i to", "w"),
        ],
        tensor("v", 3, 5),
        constant("to", [5, 3]),
    ),
    "DequantizeLinear": stored_in(
        [node("DequantizeLinear", "q scale zero", "w", axis=1)], *QUANTIZED
    ),
    "QuantizeLinear, DequantizeLinear": stored_in(
        [
            node("QuantizeLinear", "v scale zero", "i", axis=1),
            node("DequantizeLinear", "i scale zero", "w", axis=1),
        ],
        tensor("v", 5, 3),
        *QUANTIZED[1:],
    ),
    "DequantizeLinear, Transpose": stored_in(
        [
            node("DequantizeLinear", "q scale zero", "d", axis=1),
            node("Transpose", "d", "t"),
            node("Transpose", "t", "w"),
        ],
        *QUANTIZED,
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_weights_wherever_they_are_stored(name: str) -> None:
    report = onnxshare.inspect(STORED[name])
    facts = only(report, "MatMul")
    assert (facts.kind, facts.params, facts.connections, facts.macs) == ("fc", 15, 15, 15)
    totals = report.totals
    assert (totals.params, totals.fc_params, totals.weight_layers) == (15, 15, 1)
    assert (totals.unused, totals.constants, totals.statistics) == (0, 0, 0)
    assert totals.quantization == (6 if "quantize" in name.lower() else 0)
    assert [weight.params for weight in report.weights] == [15]


def test_a_sparse_weight_is_counted_as_the_matrix_it_stands_for() -> None:
    built = stored_in([])
    values = constant("w", [1.0, 2.0], np.float32)
    built.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, constant("", [0, 7]), [5, 3])
    )
    report = onnxshare.inspect(built)
    assert only(report, "MatMul").kind == "fc"
    assert (report.totals.params, report.totals.macs) == (15, 15)


# Sharing between nodes.


def tied() -> onnx.ModelProto:
    """One matrix used by two FCs, once behind a Transpose, which does not copy it."""
    return model(
        [
            node("MatMul", "x w", "h"),
            node("Transpose", "w", "t"),
            node("MatMul", "h t", "y"),
        ],
        {"x": ["n", 5]},
        ["y"],
        [tensor("w", 5, 3)],
    )


def siamese() -> onnx.ModelProto:
    """Two images through one convolution."""
    return model(
        [
            node("Conv", "a w b", "left"),
            node("Conv", "c w b", "right"),
            node("Sub", "left right", "y"),
        ],
        {"a": ["n", 1, 6, 6], "c": ["n", 1, 6, 6]},
        ["y"],
        [tensor("w", 2, 1, 3, 3), tensor("b", 2)],
    )


@pytest.mark.parametrize(
    ("build", "params", "uses"),
    [
        pytest.param(tied, 15, 2 * 15, id="tied"),
        pytest.param(siamese, 20, 2 * 16 * 20, id="Siamese"),
    ],
)
def test_shared_by_nodes(build: Callable[[], onnx.ModelProto], params: int, uses: int) -> None:
    report = onnxshare.inspect(build())
    users = [facts for facts in report.nodes if facts.params]
    assert [facts.params for facts in users] == [params, params]
    assert [facts.params_new for facts in users] == [params, 0]
    assert [facts.sharing.tied for facts in users] == [2, 2]
    assert (report.totals.params, report.totals.connections) == (params, uses)
    assert report.totals.sharing_ratio == uses / params
    assert all(len(weight.used_by) == 2 for weight in report.weights)
    assert sum(weight.connections or 0 for weight in report.weights) == uses


# What is not a parameter.


def test_roles_beside_parameters() -> None:
    built = model(
        [
            node("Clip", "x low high", "c"),
            node("Mul", "c factor", "m"),
            node("BatchNormalization", "m s b mean var", "n"),
            node("Reshape", "n to", "y"),
        ],
        {"x": ["n", 3, 4]},
        ["y"],
        [
            *(tensor(name, 3) for name in ("s", "b", "mean", "var")),
            *(tensor(name) for name in ("low", "high", "factor")),
            constant("to", [0, -1]),
            tensor("forgotten", 7, 2),
        ],
    )
    totals = onnxshare.inspect(built).totals
    # The limits of the Clip are constants, as the factor is.
    assert (totals.params, totals.statistics, totals.constants, totals.unused) == (6, 6, 3, 14)


def test_a_mask_among_the_operands_is_no_parameter() -> None:
    """Where: a Boolean constant chooses, and only the floats are used as weights."""
    built = one("Where", ["n", 4], constant("m", [True, False, True, True], np.bool_), before="m")
    built.graph.node[0].input.append("v")
    built.graph.initializer.append(tensor("v", 4))
    facts = only(onnxshare.inspect(built), "Where")
    assert (facts.params, facts.connections) == (4, 4)


# Subgraphs and functions.

BOOL = TensorProto.BOOL


def body(name: str, nodes: list[onnx.NodeProto], *, loop: bool) -> onnx.GraphProto:
    inputs = [info("i", [], TensorProto.INT64), info("go", [], BOOL)] if loop else []
    state = [info("h", [1, 5])] if loop else []
    outputs = [info("on", [], BOOL)] if loop else []
    return helper.make_graph(nodes, name, [*inputs, *state], [*outputs, info("out", None)])


def loop(trips: onnx.TensorProto | None, condition: onnx.NodeProto) -> onnx.ModelProto:
    """h = h · w, with w outside the loop."""
    graph = body("body", [node("MatMul", "h w", "out"), condition], loop=True)
    inputs = [info("x", [1, 5])]
    if trips is None:
        inputs.append(info("trips", [], TensorProto.INT64))
    return model(
        [node("Loop", "trips _ x", "y", body=graph)],
        inputs,
        ["y"],
        [tensor("w", 5, 5), *([trips] if trips is not None else [])],
    )


GOES_ON = node("Identity", "go", "on")
STOPS = node("Constant", "", "on", value=constant("", False, np.bool_))
TRUE = node("Constant", "", "on", value=constant("", True, np.bool_))


@pytest.mark.parametrize(
    ("built", "steps"),
    [
        pytest.param(loop(constant("trips", 6), GOES_ON), 6, id="six steps"),
        pytest.param(loop(constant("trips", 6), TRUE), 6, id="condition is true"),
        pytest.param(loop(constant("trips", 1), GOES_ON), 1, id="one step"),
        pytest.param(loop(None, GOES_ON), None, id="computed number of steps"),
        pytest.param(loop(constant("trips", 6), STOPS), 1, id="condition ends it earlier"),
    ],
)
def test_loop(built: onnx.ModelProto, steps: int | None) -> None:
    report = onnxshare.inspect(built)
    facts = only(report, "MatMul")
    assert facts.params == 25
    assert facts.scope != ""
    if steps is None:
        assert (facts.macs, facts.connections, report.totals.macs) == (None, None, None)
        conditions = [f.macs for f in report.nodes if f.op_type in ("Identity", "Constant")]
        assert conditions == [0]  # nothing stays nothing, however often
        assert any("'Loop:y': how often it runs" in warning for warning in report.warnings)
    else:
        assert (facts.macs, facts.connections) == (25 * steps, 25 * steps)
        assert facts.sharing.temporal == steps
        assert report.totals.macs == 25 * steps


def test_a_loop_that_never_runs_does_nothing() -> None:
    totals = onnxshare.inspect(loop(constant("trips", 0), GOES_ON)).totals
    assert (totals.params, totals.macs, totals.connections) == (25, 0, 0)


def test_scan_uses_its_weights_at_every_step() -> None:
    graph = helper.make_graph(
        [node("MatMul", "step w", "p"), node("Add", "h p", "next"), node("Identity", "next", "o")],
        "body",
        [info("h", [1, 3]), info("step", [1, 5])],
        [info("next", [1, 3]), info("o", [1, 3])],
    )
    built = model(
        [node("Scan", "h0 x", "last y", body=graph, num_scan_inputs=1)],
        [info("h0", [1, 3]), info("x", [9, 1, 5])],
        ["y"],
        [tensor("w", 5, 3)],
    )
    facts = only(onnxshare.inspect(built), "MatMul")
    assert (facts.params, facts.connections, facts.macs) == (15, 9 * 15, 9 * 15)
    assert facts.sharing.temporal == 9


def test_a_scan_of_unknown_length_is_unknown() -> None:
    """Its steps are the second axis here, which is symbolic."""
    graph = helper.make_graph(
        [node("MatMul", "step w", "o")], "body", [info("step", [1, 5])], [info("o", [1, 3])]
    )
    built = model(
        [node("Scan", "x", "y", body=graph, num_scan_inputs=1, scan_input_axes=[1])],
        {"x": [1, "steps", 5]},
        ["y"],
        [tensor("w", 5, 3)],
    )
    report = onnxshare.inspect(built)
    facts = only(report, "MatMul")
    assert (facts.params, facts.macs, facts.connections) == (15, None, None)
    assert any("'Scan:y': how often it runs" in warning for warning in report.warnings)
    known = onnxshare.inspect(built, dims={"steps": 6})
    assert only(known, "MatMul").macs == 6 * 15
    assert not any("how often" in warning for warning in known.warnings)


def test_a_loop_in_a_loop_runs_the_product() -> None:
    """3 times 4 runs of a 5×5 product."""
    inner = body("inner", [node("MatMul", "h w", "out"), GOES_ON], loop=True)
    middle = helper.make_graph(
        [
            node("Loop", "four _ g", "out2", body=inner),
            node("Identity", "go2", "on2"),
        ],
        "middle",
        [info("i2", [], TensorProto.INT64), info("go2", [], BOOL), info("g", [1, 5])],
        [info("on2", [], BOOL), info("out2", None)],
    )
    built = model(
        [node("Loop", "three _ x", "y", body=middle)],
        [info("x", [1, 5])],
        ["y"],
        [tensor("w", 5, 5), constant("three", 3), constant("four", 4)],
    )
    facts = only(onnxshare.inspect(built), "MatMul")
    assert (facts.params, facts.macs, facts.connections) == (25, 12 * 25, 12 * 25)
    assert facts.sharing.temporal == 12


def branches(condition: onnx.TensorProto | None) -> onnx.ModelProto:
    """If: a 5×3 FC in one branch, 5×8×3 in the other; the weights outside."""
    small = body("small", [node("MatMul", "x w", "out")], loop=False)
    large = body("large", [node("MatMul", "x a", "h"), node("MatMul", "h b", "out")], loop=False)
    inputs = [info("x", [1, 5]), *([info("c", [], BOOL)] if condition is None else [])]
    weights = [tensor("w", 5, 3), tensor("a", 5, 8), tensor("b", 8, 3)]
    return model(
        [node("If", "c", "y", then_branch=small, else_branch=large)],
        inputs,
        ["y"],
        [*weights, *([condition] if condition is not None else [])],
    )


@pytest.mark.parametrize(
    ("condition", "macs"),
    [
        pytest.param(None, 5 * 8 + 8 * 3, id="unknown: the larger"),
        pytest.param(constant("c", True, np.bool_), 5 * 3, id="always then"),
        pytest.param(constant("c", False, np.bool_), 5 * 8 + 8 * 3, id="always else"),
    ],
)
def test_one_branch_of_an_if_is_counted(condition: onnx.TensorProto | None, macs: int) -> None:
    report = onnxshare.inspect(branches(condition))
    assert report.totals.params == 15 + 40 + 24  # all are stored
    assert (report.totals.macs, report.totals.connections) == (macs, macs)
    assert any("larger branch" in warning for warning in report.warnings) == (condition is None)
    assert report.totals.weight_layers == (1 if macs == 5 * 3 else 2)


def test_two_ifs_of_one_name_are_not_confused() -> None:
    first = body("first", [node("MatMul", "x w", "out")], loop=False)
    second = body("second", [node("MatMul", "m v", "out")], loop=False)
    nodes = [
        node("If", "c", "m", name="if", then_branch=first, else_branch=first),
        node("If", "c", "y", name="if", then_branch=second, else_branch=second),
    ]
    built = model(
        nodes,
        [info("x", [1, 5]), info("c", [], BOOL)],
        ["y"],
        [tensor("w", 5, 8), tensor("v", 8, 3)],
    )
    assert onnxshare.inspect(built).totals.macs == 5 * 8 + 8 * 3


def test_local_functions_are_expanded() -> None:
    function = helper.make_function(
        "mine",
        "Dense",
        ["data", "weight"],
        ["result"],
        [node("MatMul", "data weight", "p"), node("Relu", "p", "result")],
        [helper.make_opsetid("", 17)],
    )
    built = model(
        [
            node("Dense", "x w", "h", domain="mine"),
            node("Dense", "h v", "y", domain="mine"),
        ],
        {"x": ["n", 5]},
        ["y"],
        [tensor("w", 5, 8), tensor("v", 8, 3)],
        functions=[function],
        domains=["mine"],
    )
    report = onnxshare.inspect(built)
    assert (report.totals.params, report.totals.macs) == (40 + 24, 40 + 24)
    assert [facts.kind for facts in report.nodes if facts.params] == ["fc", "fc"]


def dense(name: str, *calls: str, seed: int = 1) -> onnx.FunctionProto:
    """A function that holds a 5×5 matrix, and calls others after it is multiplied."""
    attribute_weight = node("Constant", "", "w", value=tensor("", 5, 5, seed=seed))
    nodes = [attribute_weight, node("MatMul", "data w", "h0")]
    for position, called in enumerate(calls):
        nodes.append(node(called, f"h{position}", f"h{position + 1}", domain="mine"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["data"], [f"h{len(calls)}"], nodes, opsets)


@pytest.mark.parametrize(
    ("called", "functions", "params", "uses"),
    [
        pytest.param("AA", [dense("A")], 25, 2, id="called twice"),
        pytest.param("AB", [dense("A"), dense("B")], 50, 2, id="two that hold the same"),
        pytest.param("BA", [dense("B", "A", "A"), dense("A", seed=2)], 50, 4, id="nested calls"),
    ],
)
def test_constants_of_a_function_are_stored_once(
    called: str, functions: list[onnx.FunctionProto], params: int, uses: int
) -> None:
    """However often it is called: a file holds one."""
    nodes = [
        node(name, f"t{place}" if place else "x", f"t{place + 1}", domain="mine")
        for place, name in enumerate(called)
    ]
    built = model(
        nodes,
        {"x": [1, 5]},
        [f"t{len(called)}"],
        functions=functions,
        domains=["mine"],
    )
    report = onnxshare.inspect(built)
    assert (report.totals.params, report.totals.connections) == (params, 25 * uses)
    assert sum(facts.params_new for facts in report.nodes) == params
    assert report.totals.unused == 0
    before = built.SerializeToString()
    onnxshare.inspect(built)
    assert built.SerializeToString() == before  # no mark is left


# Batches.


@pytest.mark.parametrize(
    "batch", [pytest.param(size, id=str(size)) for size in ("n", None, 1, 8, -1)]
)
def test_counts_are_per_sample_whatever_the_batch(batch: int | str | None) -> None:
    built = model(
        [
            node("Conv", "x w b", "c"),
            node("BatchNormalization", "c s t m v", "n"),
            node("Flatten", "n", "f"),
            node("MatMul", "f u", "y"),
        ],
        {"x": [batch, 2, 6, 6]},
        ["y"],
        [
            tensor("w", 3, 2, 3, 3),
            *(tensor(name, 3) for name in "bstmv"),
            tensor("u", 48, 4),
        ],
    )
    totals = onnxshare.inspect(built).totals
    assert totals.macs == 16 * 54 + 48 * 4
    assert totals.connections == 16 * 57 + 2 * 48 + 48 * 4


def test_a_batch_given_by_the_user_is_a_batch_too() -> None:
    built = conv(["n", 2, "h", "w"], (3, 2, 3, 3))
    report = onnxshare.inspect(built, input_shapes={"x": (4, 2, 6, 6)})
    assert report.totals.macs == 16 * 54


# Old files, and what nobody knows.


def test_ir_3_lists_weights_among_the_inputs() -> None:
    built = model(
        [node("Gemm", "x w b", "y")],
        [info("x", ["n", 5]), info("w", [5, 3]), info("b", [3])],
        ["y"],
        [tensor("w", 5, 3), tensor("b", 3)],
        ir_version=3,
        opset=9,
    )
    report = onnxshare.inspect(built)
    assert [item.name for item in report.model.inputs] == ["x"]
    assert (report.totals.params, report.totals.macs, report.totals.unused) == (18, 15, 0)


def unknown_operator() -> onnx.ModelProto:
    return model(
        [node("Magic", "x w s", "h", domain="acme"), node("MatMul", "h v", "y")],
        {"x": ["n", 5]},
        ["y"],
        [tensor("w", 5, 8), tensor("s"), tensor("v", 8, 3)],
        domains=["acme"],
    )


def test_an_unknown_operator_is_unknown_and_never_zero() -> None:
    report = onnxshare.inspect(unknown_operator())
    facts = only(report, "Magic")
    assert facts.params == 40
    assert (facts.macs, facts.flops, facts.connections, facts.sharing_ratio) == (None,) * 4
    totals = report.totals
    assert (totals.params, totals.constants) == (40 + 24, 1)
    assert (totals.macs, totals.flops, totals.connections, totals.sharing_ratio) == (None,) * 4
    assert any("acme.Magic" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("array", "params"),
    [
        pytest.param(np.ones((5, 8), np.float32), 40, id="floats"),
        pytest.param(np.ones((5, 8), np.int8), 40, id="8 bits"),
        pytest.param(np.ones((5, 8), np.uint8), 40, id="packed"),
        pytest.param(np.ones((5, 8), np.int64), 0, id="indices"),
        pytest.param(np.ones(1, np.float32), 0, id="one number"),
    ],
)
def test_what_an_unknown_operator_holds(array: Array, params: int) -> None:
    """As an input, and in an attribute."""
    stored = numpy_helper.from_array(array, "w")
    for op in (node("Magic", "x w", "y", domain="acme"), node("Magic", "x", "y", domain="acme")):
        if len(op.input) == 1:
            op.attribute.append(helper.make_attribute("table", stored))
        built = model([op], {"x": [1, 5]}, ["y"], [stored] * (len(op.input) - 1), domains=["acme"])
        report = onnxshare.inspect(built)
        assert (report.nodes[0].params, report.totals.params) == (params, params)
        assert report.nodes[0].macs is None


def weights_by_name(report: Inspection) -> dict[str, tuple[int, int | None]]:
    return {weight.name: (weight.params, weight.connections) for weight in report.weights}


@pytest.mark.parametrize(
    ("built", "uses"),
    [
        pytest.param(conv([1, 2, 6, 6], (3, 2, 3, 3)), {"w": 16 * 54, "b": 16 * 3}, id="Conv"),
        pytest.param(LAYERS["ConvTranspose"].built, {"w": 9 * 32, "b": 36 * 4}, id="ConvTranspose"),
        pytest.param(LAYERS["Gemm, one bias for all"].built, {"w": 15, "b": 3}, id="one bias"),
        pytest.param(
            model(
                [node("Sum", "x a c", "y")],
                {"x": [1, 3, 4]},
                ["y"],
                [tensor("a", 3, 4), tensor("c", 4)],
            ),
            {"a": 12, "c": 12},
            id="two operands",
        ),
    ],
)
def test_uses_of_each_tensor(built: onnx.ModelProto, uses: dict[str, int]) -> None:
    report = onnxshare.inspect(built)
    assert {name: used for name, (_, used) in weights_by_name(report).items()} == uses


def test_a_constant_that_is_an_output_is_used() -> None:
    """Of two constants that no node reads, one is an output."""
    nodes = [
        node("Relu", "x", "y"),
        node("Constant", "", "given", value=tensor("", 7)),
        node("Constant", "", "lost", value=tensor("", 3)),
    ]
    assert onnxshare.inspect(model(nodes, {"x": ["n", 5]}, ["y", "given"])).totals.unused == 3
