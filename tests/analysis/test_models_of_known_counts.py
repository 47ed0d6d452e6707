"""Models of known truth, on each of which some counter of parameters and MACs is wrong: weights
that are no initializers, ties, control flow, functions, quantization, sizes that are open.

Every figure is written out as the arithmetic that a person would do; None is what cannot be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from tests.builders import constant, conv, info, model, node, tensor

BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64


@dataclass(frozen=True)
class Truth:
    """A model, and its figures per sample."""

    built: onnx.ModelProto
    params: int
    macs: int | None


def product(*before: onnx.NodeProto, weights: list[onnx.TensorProto], opset: int = 17) -> Truth:
    """An FC of 5 inputs and 3 outputs whose matrix `w` the nodes before it make."""
    nodes = [*before, node("MatMul", "x w", "y")]
    return Truth(model(nodes, {"x": ["n", 5]}, ["y"], weights, opset=opset), 5 * 3, 5 * 3)


def cell(op_type: str, gates: int) -> Truth:
    """7 steps of 3 features, 4 hidden: W, R and two biases per gate."""
    weights = [tensor("w", 1, gates * 4, 3), tensor("r", 1, gates * 4, 4)]
    built = model(
        [node(op_type, "x w r b", "y", hidden_size=4)],
        {"x": [7, 1, 3]},
        ["y"],
        [*weights, tensor("b", 1, 2 * gates * 4)],
    )
    return Truth(built, gates * 4 * (3 + 4 + 2), 7 * gates * 4 * (3 + 4))


def graph(
    name: str, *nodes: onnx.NodeProto, inputs: tuple[onnx.ValueInfoProto, ...] = ()
) -> onnx.GraphProto:
    outputs = [info(output, None) for output in nodes[-1].output]
    return helper.make_graph(list(nodes), name, list(inputs), outputs)


def branches() -> onnx.ModelProto:
    """5 → 3, or 5 → 8 → 3, as a computed condition says."""
    large = graph("large", node("MatMul", "x a", "h"), node("MatMul", "h b", "e"))
    chosen = node(
        "If", "c", "y", then_branch=graph("small", node("MatMul", "x w", "t")), else_branch=large
    )
    weights = [tensor("w", 5, 3), tensor("a", 5, 8), tensor("b", 8, 3)]
    return model([chosen], [info("x", [1, 5]), info("c", [], BOOL)], ["y"], weights)


def loop(trips: int | None) -> onnx.ModelProto:
    """h = h · w, so many times; None: as often as an input says."""
    body = helper.make_graph(
        [node("MatMul", "h w", "out"), node("Identity", "go", "on")],
        "body",
        [info("i", [], INT64), info("go", [], BOOL), info("h", [1, 5])],
        [info("on", [], BOOL), info("out", None)],
    )
    inputs = [info("x", [1, 5]), *([info("trips", [], INT64)] if trips is None else [])]
    held = [] if trips is None else [constant("trips", trips)]
    return model(
        [node("Loop", "trips _ x", "y", body=body)], inputs, ["y"], [tensor("w", 5, 5), *held]
    )


def scan() -> onnx.ModelProto:
    """One product for each of 9 steps."""
    body = graph("body", node("MatMul", "step w", "o"), inputs=(info("step", [1, 5]),))
    return model(
        [node("Scan", "x", "y", body=body, num_scan_inputs=1)],
        {"x": [9, 1, 5]},
        ["y"],
        [tensor("w", 5, 3)],
    )


def function(calls: int) -> onnx.ModelProto:
    """A local function of one product, called so many times with the same 5×5 matrix."""
    dense = helper.make_function(
        "local", "Dense", ["d", "k"], ["r"], [node("MatMul", "d k", "r")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    names = ["x", *(f"t{call}" for call in range(calls - 1)), "y"]
    nodes = [
        node("Dense", f"{names[call]} w", names[call + 1], domain="local") for call in range(calls)
    ]
    return model(
        nodes, {"x": ["n", 5]}, ["y"], [tensor("w", 5, 5)], functions=[dense], domains=["local"]
    )


def listed_among_inputs() -> onnx.ModelProto:
    """IR version 3: a stored weight is an input, too."""
    inputs = [info("x", ["n", 5]), info("w", [5, 3])]
    return model([node("MatMul", "x w", "y")], inputs, ["y"], [tensor("w", 5, 3)], ir_version=3)


def sparse() -> onnx.ModelProto:
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 5]}, ["y"])
    values = constant("w", [1, 2], np.float32)
    built.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, constant("", [0, 7]), [5, 3])
    )
    return built


def quantized(op_type: str, inputs: str) -> onnx.ModelProto:
    """3×3 filters, 4 on 2 channels, over a map of 8×8: 6×6 positions."""
    weights = [
        constant("s", 0.5, np.float32),
        constant("z", 0, np.uint8),
        constant("w", np.ones((4, 2, 3, 3)), np.uint8),
    ]
    image = info("x", ["n", 2, 8, 8], TensorProto.UINT8)
    used = [item for item in weights if item.name in inputs.split()]
    return model([node(op_type, inputs, "y")], [image], ["y"], used)


def four_bits() -> Truth:
    packed = helper.make_tensor("q", TensorProto.INT4, [5, 3], [1, -2, 3] * 5)
    return product(
        node("DequantizeLinear", "q s", "w"),
        weights=[packed, constant("s", 0.5, np.float32)],
        opset=21,
    )


W = tensor("w", 5, 3)
SHAPE = constant("shape", [5, 3])

MODELS = {
    "initializer": product(weights=[W]),
    "Constant": product(node("Constant", "", "w", value=tensor("", 5, 3)), weights=[]),
    "ConstantOfShape": product(node("ConstantOfShape", "shape", "w"), weights=[SHAPE]),
    "behind Identity": product(node("Identity", "v", "w"), weights=[tensor("v", 5, 3)]),
    "behind Transpose": product(node("Transpose", "v", "w"), weights=[tensor("v", 3, 5)]),
    "behind Cast": product(
        node("Cast", "v", "w", to=TensorProto.FLOAT),
        weights=[numpy_helper.from_array(np.ones((5, 3), np.float16), "v")],
    ),
    "behind DequantizeLinear": product(
        node("DequantizeLinear", "q s", "w"),
        weights=[constant("q", np.ones((5, 3)), np.int8), constant("s", 0.5, np.float32)],
    ),
    "INT4": four_bits(),
    "sparse": Truth(sparse(), 5 * 3, 5 * 3),
    "initializers among the inputs": Truth(listed_among_inputs(), 5 * 3, 5 * 3),
    "tied twice": Truth(
        model(
            [node("MatMul", "x v", "h"), node("MatMul", "h v", "y")],
            {"x": ["n", 5]}, ["y"], [tensor("v", 5, 5)],
        ),
        5 * 5, 2 * 5 * 5,
    ),
    "an embedding tied to the output": Truth(
        model(
            [node("Gather", "v x", "h"), node("Transpose", "v", "t"), node("MatMul", "h t", "y")],
            [info("x", ["n", 6], INT64)], ["y"], [tensor("v", 10, 4)],
        ),
        10 * 4, 6 * 4 * 10,
    ),
    "RNN": cell("RNN", 1),
    "GRU": cell("GRU", 3),
    "LSTM": cell("LSTM", 4),
    "Einsum": Truth(
        model(
            [node("Einsum", "x w", "y", equation="nti,io->nto")],
            {"x": ["n", 6, 5]}, ["y"], [W],
        ),
        5 * 3, 6 * 5 * 3,
    ),
    "If: the larger branch, not both": Truth(branches(), 15 + 40 + 24, 5 * 8 + 8 * 3),
    "Loop: each of its runs": Truth(loop(6), 5 * 5, 6 * 5 * 5),
    "Loop: as often as an input says": Truth(loop(None), 5 * 5, None),
    "Scan": Truth(scan(), 5 * 3, 9 * 5 * 3),
    "a local function": Truth(function(1), 5 * 5, 5 * 5),
    "a local function, called twice": Truth(function(2), 5 * 5, 2 * 5 * 5),
    "a custom operator": Truth(
        model([node("Mystery", "x w", "y", domain="mine")], {"x": ["n", 5]}, ["y"], [W],
              domains=["mine"]),
        5 * 3, None,
    ),
    "an open size": Truth(conv(["n", 2, "rows", 8], (4, 2, 3, 3)), 4 * (18 + 1), None),
    "a batch of 8": Truth(conv([8, 2, 8, 8], (4, 2, 3, 3)), 4 * (18 + 1), 36 * 4 * 18),
    # ShuffleNet's: each filter reads the channels of its group only.
    "grouped convolution": Truth(
        conv(["n", 4, 8, 8], (6, 2, 3, 3), group=2), 6 * (18 + 1), 36 * 6 * 18
    ),
    "depthwise convolution": Truth(
        conv(["n", 4, 8, 8], (4, 1, 3, 3), group=4), 4 * (9 + 1), 36 * 4 * 9
    ),
    "transposed convolution": Truth(
        model(
            [node("ConvTranspose", "x k", "y", strides=[2, 2])],
            {"x": ["n", 2, 4, 4]}, ["y"], [tensor("k", 2, 3, 2, 2)],
        ),
        2 * 3 * 4, 16 * 2 * 3 * 4,
    ),
    "QLinearConv": Truth(quantized("QLinearConv", "x s z w s z s z"), 72, 36 * 72),
    "ConvInteger": Truth(quantized("ConvInteger", "x w"), 72, 36 * 72),
    # 16 to 6, two weights in a byte: they count as the weights they are.
    "MatMulNBits": Truth(
        model(
            [node("MatMulNBits", "x q s", "y", domain="com.microsoft", K=16, N=6, bits=4,
                  block_size=16)],
            {"x": ["n", 16]}, ["y"],
            [constant("q", np.ones((6, 1, 8)), np.uint8), tensor("s", 6)],
            domains=["com.microsoft"],
        ),
        16 * 6, 16 * 6,
    ),
    "running statistics are not parameters": Truth(
        model(
            [node("BatchNormalization", "x a b m v", "y")],
            {"x": ["n", 3, 4, 4]}, ["y"], [tensor(name, 3) for name in "abmv"],
        ),
        2 * 3, 0,
    ),
}  # fmt: skip


def test_there_are_thirty() -> None:
    assert len(MODELS) >= 30


@pytest.mark.parametrize("name", MODELS)
def test_params_and_macs(name: str) -> None:
    truth = MODELS[name]
    report = onnxshare.inspect(truth.built)
    assert (report.totals.params, report.totals.macs) == (truth.params, truth.macs)
    assert sum(facts.params_new for facts in report.nodes) == truth.params
    assert sum(weight.params for weight in report.weights) == truth.params
    if truth.macs is None:
        assert report.warnings


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_in_graph_order(name: str) -> None:
    """The nodes of the main graph, one after the other, and the same ones each time."""
    built = MODELS[name].built
    report = onnxshare.inspect(built)
    main = [facts.outputs[0].name for facts in report.nodes if not facts.scope]
    made = [item.output[0] for item in built.graph.node]
    assert len(main) == len(made)
    if not built.functions:
        assert main == made
    assert onnxshare.inspect(built) == report


def test_a_product_that_cannot_be_is_an_error() -> None:
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 4]}, ["y"], [tensor("w", 5, 3)])
    with pytest.raises(onnxshare.OnnxShareError, match="do not fit"):
        onnxshare.inspect(built)


def test_an_open_size_that_is_given() -> None:
    report = onnxshare.inspect(MODELS["an open size"].built, dims={"rows": 8})
    assert (report.totals.macs, report.totals.dims) == (36 * 4 * 18, {"rows": 8, "n": 1})
