"""Sizes that a graph computes from Shape, in the ways that operators allow; ONNX Runtime says what
they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph
from onnxshare.graph.reference_values import MAX_ELEMENTS
from onnxshare.io.load import load
from tests.builders import constant, info, model, node, only, random_array, run, tensor


def _branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [info(f"{name}_t", None, TensorProto.INT64)])


#: x is 1×4×6×8 and s its shape; what makes a target t of two small sizes from it.
CASES: dict[str, list[onnx.NodeProto]] = {
    "Split": [node("Split", "s two_two", "a t")],
    "Split, the first part": [node("Split", "s", "t a", num_outputs=2)],
    "Split in four": [
        node("Split", "s", "a b c d", num_outputs=4),
        node("Concat", "c b", "t", axis=0),
    ],
    "Mod": [node("Gather", "s last", "g"), node("Mod", "g fives", "t")],
    "Mod as in C": [node("Gather", "s last", "g"), node("Mod", "g fives", "t", fmod=1)],
    "ReduceMax": [node("ReduceMax", "s zero", "m"), node("Concat", "m m", "t", axis=0)],
    "ReduceMin": [
        node("ReduceMin", "s zero", "m", keepdims=0),
        node("Unsqueeze", "m zero", "u"),
        node("Concat", "u u", "t", axis=0),
    ],
    "ReduceSum": [node("ReduceSum", "s zero", "m"), node("Concat", "m m", "t", axis=0)],
    "ReduceProd of the last axis": [
        node("Slice", "s one three", "p"),
        node("ReduceProd", "p minus", "m"),
        node("Concat", "m m", "t", axis=0),
    ],
    "ReduceMean": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("ReduceMean", "f zero", "m"),
        node("Cast", "m", "i", to=TensorProto.INT64),
        node("Concat", "i i", "t", axis=0),
    ],
    "Pow": [node("Gather", "s first", "g"), node("Pow", "g two_two", "t")],
    "Tile": [node("Slice", "s two three", "g"), node("Tile", "g two", "t")],
    "ScatterND": [node("ScatterND", "s where fives", "v"), node("Gather", "v last", "t")],
    "ScatterElements": [
        node("ScatterElements", "s last fives", "v"),
        node("Gather", "v last", "t"),
    ],
    "ArrayFeatureExtractor": [
        node("ArrayFeatureExtractor", "s last", "g", domain="ai.onnx.ml"),
        node("Reshape", "g minus", "t"),
    ],
    "ArrayFeatureExtractor of several rows": [
        node("Reshape", "s two_two", "rows"),
        node("ArrayFeatureExtractor", "rows one", "g", domain="ai.onnx.ml"),
        node("Squeeze", "g one", "t"),
    ],
    "CumSum": [node("CumSum", "s zero_scalar", "c"), node("Gather", "c first", "t")],
    "CumSum, exclusive, from the end": [
        node("CumSum", "s zero_scalar", "c", exclusive=1, reverse=1),
        node("Gather", "c first", "t"),
    ],
    "And": [
        node("Gather", "s last", "g"),
        node("Greater", "g fives", "p"),
        node("Less", "g sevens", "q"),
        node("And", "p q", "both"),
        node("Where", "both g fives", "t"),
    ],
    "Or": [
        node("Gather", "s last", "g"),
        node("GreaterOrEqual", "g sevens", "p"),
        node("LessOrEqual", "g fives", "q"),
        node("Or", "p q", "any"),
        node("Where", "any g fives", "t"),
    ],
    "Xor and Not": [
        node("Gather", "s last", "g"),
        node("Equal", "g fives", "p"),
        node("Not", "p", "q"),
        node("Xor", "p q", "one_of"),
        node("Where", "one_of g fives", "t"),
    ],
    "Clip": [node("Gather", "s last", "g"), node("Clip", "g five_scalar seven_scalar", "t")],
    "Round": [
        node("Gather", "s last", "g"),
        node("Cast", "g", "f", to=TensorProto.FLOAT),
        node("Div", "f fours", "h"),
        node("Round", "h", "r"),
        node("Cast", "r", "t", to=TensorProto.INT64),
    ],
    "GatherND": [node("GatherND", "s where", "t")],
    "GatherElements": [node("GatherElements", "s last", "t")],
    "Pad": [node("Slice", "s two three", "g"), node("Pad", "g one_after five_scalar", "t")],
    "TopK": [node("TopK", "s two", "t at")],
    "the places of TopK": [node("TopK", "s two", "v at"), node("Add", "at fives", "t")],
    "Compress": [node("Compress", "s mask", "t", axis=0)],
    "NonZero": [
        node("Equal", "s sixes", "e"),
        node("NonZero", "e", "n"),
        node("Reshape", "n minus", "p"),
        node("Gather", "s p", "g"),
        node("Concat", "g g", "t", axis=0),
    ],
    "Unique": [node("Unique", "s", "u"), node("Gather", "u first", "t")],
    "OneHot": [
        node("OneHot", "one two_scalar five_seven", "o"),
        node("Reshape", "o minus", "t"),
    ],
    "ArgMax": [node("ArgMax", "s", "m", axis=0), node("Concat", "m m", "t", axis=0)],
    "Sum of three": [node("Gather", "s last", "g"), node("Sum", "f32 f32 f32", "q"),
                     node("Cast", "q", "i", to=TensorProto.INT64), node("Add", "g i", "t")],
    "BitShift": [
        node("Gather", "s last", "g"),
        node("Cast", "g", "u", to=TensorProto.UINT64),
        node("BitShift", "u ones", "h", direction="RIGHT"),
        node("Cast", "h", "t", to=TensorProto.INT64),
    ],
    "Sign and CastLike": [
        node("Gather", "s last", "g"),
        node("Sign", "g", "n"),
        node("CastLike", "n s", "c"),
        node("Mul", "c fives", "t"),
    ],
    "a sequence": [
        node("SequenceConstruct", "s two_two", "q"),
        node("SequenceAt", "q zero_scalar", "e"),
        node("Gather", "e last", "t"),
    ],
    "a split sequence": [
        node("SplitToSequence", "s two_scalar", "q"),
        node("SequenceAt", "q one_scalar", "t"),
    ],
    "a joined sequence": [
        node("Slice", "s two three", "g"),
        node("SequenceConstruct", "g g", "q"),
        node("SequenceInsert", "q g", "more"),
        node("SequenceErase", "more zero_scalar", "less"),
        node("ConcatFromSequence", "less", "t", axis=0),
    ],
    "the length of a sequence": [
        node("SequenceConstruct", "s s s", "q"),
        node("SequenceLength", "q", "n"),
        node("Unsqueeze", "n zero", "u"),
        node("Concat", "u u", "t", axis=0),
    ],
    "MatMul": [node("MatMul", "s picked", "t")],
    "Einsum": [node("Einsum", "s picked", "t", equation="i,ij->j")],
    "Size": [node("Size", "x", "n"), node("Mod", "n sevens", "t")],
    "EyeLike": [
        node("Gather", "s last", "g"),
        node("Unsqueeze", "g zero", "u"),
        node("Expand", "u two_two", "m"),
        node("EyeLike", "m", "e"),
        node("MatMul", "u e", "r"),
        node("Squeeze", "r zero", "t"),
    ],
    "Softmax": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Softmax", "f", "p", axis=0),
        node("Greater", "p half", "g"),
        node("Where", "g sevens_row fives_row", "v"),
        node("Gather", "v last", "t"),
    ],
    "MaxPool": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Unsqueeze", "f zero_one", "u"),
        node("MaxPool", "u", "p", kernel_shape=[2], strides=[2]),
        node("Squeeze", "p zero_one", "q"),
        node("Cast", "q", "t", to=TensorProto.INT64),
    ],
    "Conv": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Unsqueeze", "f zero_one", "u"),
        node("Conv", "u taps", "p", strides=[2]),
        node("Squeeze", "p zero_one", "q"),
        node("Cast", "q", "t", to=TensorProto.INT64),
    ],
    "Resize": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Unsqueeze", "f zero_one", "u"),
        node("Resize", "u _ _ doubled", "p", mode="nearest"),
        node("Squeeze", "p zero_one", "q"),
        node("Cast", "q", "i", to=TensorProto.INT64),
        node("Gather", "i last", "t"),
    ],
    "Det": [
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Gather", "f first", "g"),
        node("EyeLike", "square", "e"),
        node("Mul", "e g", "m"),
        node("Det", "m", "d"),
        node("Cast", "d", "i", to=TensorProto.INT64),
        node("Unsqueeze", "i zero", "j"),
        node("Concat", "j j", "t", axis=0),
    ],
    "an optional": [
        node("Gather", "s last", "g"),
        node("Optional", "g", "o"),
        node("OptionalGetElement", "o", "t"),
    ],
    "the sizes of an optional": [
        node("Optional", "x", "o"),
        node("OptionalGetElement", "o", "e"),
        node("Shape", "e", "z"),
        node("Gather", "z last", "t"),
    ],
    "an If by an optional": [
        node("Optional", "s", "o"),
        node("OptionalHasElement", "o", "has"),
        node(
            "If", "has", "t",
            then_branch=_branch("yes", node("Gather", "s last", "yes_t")),
            else_branch=_branch("no", node("Identity", "two_two", "no_t")),
        ),
    ],
    "the length of a sequence of data": [
        node("SplitToSequence", "x", "q", axis=2, keepdims=0),
        node("SequenceLength", "q", "n"),
        node("Unsqueeze", "n zero", "u"),
        node("Concat", "u two", "t", axis=0),
    ],
    "Trilu": [
        node("Reshape", "s two_two", "m"),
        node("Trilu", "m", "l", upper=0),
        node("Reshape", "l minus", "f"),
        node("Gather", "f ends", "t"),
    ],
}  # fmt: skip


CASES["If"] = [
    node("Gather", "s zero", "n"),
    node("Equal", "n one", "c"),
    node(
        "If", "c", "t",
        then_branch=_branch("then", node("Gather", "s last", "then_t")),
        else_branch=_branch("else", node("Gather", "s first", "else_t")),
    ),
]  # fmt: skip
CASES["If, its condition computed by another"] = [
    node("Gather", "s zero", "n"),
    node("Equal", "n one", "c"),
    node(
        "If", "c", "inner",
        then_branch=_branch("a", node("Gather", "s last", "a_t")),
        else_branch=_branch("b", node("Gather", "s first", "b_t")),
    ),
    node("ReduceMax", "inner zero", "m", keepdims=0),
    node("Greater", "m seven_scalar", "d"),
    node(
        "If", "d", "t",
        then_branch=_branch("then", node("Mod", "inner fives", "then_t")),
        else_branch=_branch("else", node("Identity", "inner", "else_t")),
    ),
]  # fmt: skip

CONSTANTS = [
    constant("two_two", [2, 2]), constant("last", [2, 3]), constant("first", [0, 1]),
    constant("ends", [0, 3]), constant("fives", [5, 5]), constant("sevens", [7, 7]),
    constant("sixes", [6]), constant("zero", [0]), constant("one", [1]), constant("two", [2]),
    constant("three", [3]), constant("minus", [-1]), constant("where", [[2], [3]]),
    constant("zero_scalar", 0), constant("one_scalar", 1), constant("two_scalar", 2),
    constant("five_scalar", 5), constant("seven_scalar", 7), constant("five_seven", [5, 7]),
    constant("one_after", [0, 1]), constant("mask", [False, False, True, True], np.bool_),
    constant("half", [0.5], np.float32), constant("sevens_row", [7] * 4),
    constant("fives_row", [5] * 4), constant("zero_one", [0, 1]), constant("doubled", [1, 1, 8]),
    constant("taps", [[[1.0, 1.0]]], np.float32), constant("square", np.zeros((2, 2)), np.float32),
    constant("fours", [4, 4], np.float32), constant("f32", [1, 1], np.float32),
    constant("ones", [1, 1], np.uint64), constant("picked", [[0, 0], [0, 0], [0, 1], [1, 0]]),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sizes_computed_from_shape(name: str) -> None:
    built = model(
        [node("Shape", "x", "s"), *CASES[name], node("Expand", "w t", "y")],
        {"x": [1, 4, 6, 8], "w": [1, 1]},
        ["y"],
        CONSTANTS,
        opset=18,
        domains=["ai.onnx.ml"],
    )
    (result,) = run(built, x=random_array(1, 4, 6, 8), w=random_array(1, 1))
    facts = onnxshare.inspect(built).nodes[-1]
    assert facts.outputs[0].shape == result.shape


#: x is 1×4×6×8; k is [2], computed from the 6. What takes it as a size, up to y.
TAKEN: dict[str, list[onnx.NodeProto]] = {
    "Tile": [node("Concat", "k k k k", "r", axis=0), node("Tile", "x r", "y")],
    "Pad": [node("Concat", "zeros k k k k", "p", axis=0), node("Pad", "x p", "y")],
    "Pad along axes": [node("Concat", "k k", "p", axis=0), node("Pad", "x p _ k", "y")],
    "Slice": [node("Slice", "x zero k k", "y")],
    "Slice in steps": [node("Slice", "x zero large three k", "y")],
    "Resize to sizes": [
        node("Slice", "s zero two zero", "a"), node("Concat", "a k k", "z", axis=0),
        node("Resize", "x _ _ z", "y"),
    ],
    "Resize by scales": [
        node("Cast", "k", "f", to=TensorProto.FLOAT), node("Concat", "ones f f", "z", axis=0),
        node("Resize", "x _ z", "y"),
    ],
    "OneHot": [node("Squeeze", "k zero", "d"), node("OneHot", "last d both", "y")],
    "Range": [node("Squeeze", "k zero", "d"), node("Range", "at0 d at1", "y")],
    "Split": [
        node("Sub", "h k", "o"), node("Concat", "k o", "p", axis=0),
        node("Split", "x p", "y z", axis=2),
    ],
    "TopK": [node("TopK", "x k", "y i")],
    "ConstantOfShape": [node("Concat", "k three", "r", axis=0), node("ConstantOfShape", "r", "y")],
    "CenterCropPad": [node("CenterCropPad", "x k", "y", axes=[3])],
    "Unsqueeze": [node("Unsqueeze", "x k", "y")],
    "Squeeze": [node("Sub", "k two", "a"), node("Squeeze", "x a", "y")],
    "ReduceSum": [node("ReduceSum", "x k", "y", keepdims=0)],
    "ReduceMax, its axis kept": [node("ReduceMax", "x k", "y")],
    "AffineGrid": [node("Concat", "one one k k", "z", axis=0), node("AffineGrid", "th z", "y")],
    "Col2Im": [
        node("Mul", "k k", "f"), node("Concat", "f f", "im", axis=0),
        node("Concat", "k k", "bl", axis=0), node("Reshape", "x patches", "p"),
        node("Slice", "p zero nine two", "q"), node("Col2Im", "q im bl", "y"),
    ],
    "DFT": [
        node("Squeeze", "h zero", "d"), node("Reshape", "x signal", "v"),
        node("DFT", "v d at1", "y"),
    ],
    "STFT": [
        node("Squeeze", "k zero", "d"), node("Reshape", "x signal", "v"),
        node("STFT", "v d _ sixteen", "y"),
    ],
    "STFT, both halves": [
        node("Squeeze", "k zero", "d"), node("Reshape", "x signal", "v"),
        node("STFT", "v d _ sixteen", "y", onesided=0),
    ],
    "HannWindow": [node("Squeeze", "h zero", "d"), node("HannWindow", "d", "y")],
    "MelWeightMatrix": [
        node("Squeeze", "k zero", "d"), node("MelWeightMatrix", "d sixteen rate low high", "y")
    ],
    "MaxUnpool": [
        node("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
        node("Mul", "k four", "e"), node("Concat", "one four e e", "o", axis=0),
        node("MaxUnpool", "p i o", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ],
    "Reshape": [node("Concat", "zero k minus", "r", axis=0), node("Reshape", "x r", "y")],
    "SplitToSequence": [
        node("Add", "k k", "f"), node("Concat", "k k f", "p", axis=0),
        node("SplitToSequence", "x p", "q", axis=3), node("SequenceAt", "q at2", "y"),
    ],
    "Compress": [
        node("Squeeze", "k zero", "d"), node("Less", "eight d", "m"),
        node("Compress", "x m", "y", axis=3),
    ],
    "Compress of all": [
        node("Squeeze", "k zero", "d"), node("Less", "eight d", "m"), node("Compress", "x m", "y"),
    ],
    "NonZero": [
        node("Squeeze", "k zero", "d"), node("Less", "eight d", "m"), node("NonZero", "m", "n"),
        node("Squeeze", "n zero", "i"), node("Gather", "x i", "y", axis=3),
    ],
    "Unique": [
        node("Concat", "k k one", "a", axis=0), node("Unique", "a", "u"),
        node("Gather", "x u", "y", axis=3),
    ],
}  # fmt: skip

TAKEN_CONSTANTS = [
    constant("zeros", [0] * 4), constant("large", [2**62]), constant("four", [4]),
    constant("nine", [9]), constant("ones", [1, 1], np.float32), constant("at0", 0),
    constant("both", [0, 1], np.float32), constant("at1", 1), constant("at2", 2),
    constant("patches", [1, 4, 48]), constant("signal", [1, 192, 1]), constant("sixteen", 16),
    constant("rate", 16000), constant("low", 0, np.float32), constant("high", 8000, np.float32),
    constant("eight", range(8)), tensor("th", 1, 2, 3),
]  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_computed_sizes_reach_what_takes_them(name: str) -> None:
    built = model(
        [node("Shape", "x", "s"), node("Gather", "s two", "h"), node("Mod", "h four", "k"),
         *TAKEN[name]],
        {"x": [1, 4, 6, 8]}, ["y"],
        [*(t for t in CONSTANTS if t.name != "ones"), *TAKEN_CONSTANTS], opset=20,
    )  # fmt: skip
    (result,) = run(built, x=random_array(1, 4, 6, 8))
    report = onnxshare.inspect(built)
    found = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    assert found["y"] == result.shape
    assert report.totals.peak_activation_bytes is not None


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([node("Tile", "wide many", "v")], id="Tile of a large size"),
        pytest.param(
            [node("Einsum", "block block block block", "v", equation="ab,cd,ef,gh->ah")],
            id="Einsum of many indices",
        ),
        pytest.param(
            [node("MaxPool", "row", "v", kernel_shape=[10**6], pads=[5 * 10**5] * 2)],
            id="a wide window",
        ),
        pytest.param(
            [node("Conv", "row row", "v", pads=[2**30] * 2, strides=[2**30])], id="wide pads"
        ),
        pytest.param(
            [node("RoiAlign", "map regions first_map", "v", sampling_ratio=2**20)], id="RoiAlign"
        ),
        pytest.param([node("Add", "wide tall", "a"), node("Relu", "a", "v")], id="broadcasting"),
        pytest.param([node("OneHot", "wide huge both", "v")], id="OneHot"),
        pytest.param([node("Exp", "large", "v")], id="a large constant"),
        pytest.param([node("RandomUniform", "", "v", shape=[2])], id="random numbers"),
        pytest.param([node("RandomUniformLike", "wide", "v")], id="as many random numbers"),
        pytest.param([node("Bernoulli", "wide", "v")], id="Bernoulli"),
        pytest.param([node("Dropout", "wide half true", "v")], id="Dropout in training"),
    ],
)
def test_what_is_not_evaluated(nodes: list[onnx.NodeProto]) -> None:
    stored = [
        constant("wide", np.ones((1, 100), np.float32), np.float32),
        constant("tall", np.ones((100, 1), np.float32), np.float32),
        constant("large", np.ones(MAX_ELEMENTS + 1, np.float32), np.float32),
        constant("many", [10**6, 10**6]), constant("huge", 10**12),
        constant("both", [0.0, 1.0], np.float32), tensor("block", 32, 32), tensor("row", 1, 1, 9),
        tensor("map", 1, 1, 4, 4), tensor("regions", 1, 4), constant("first_map", [0]),
        constant("half", 0.5, np.float32), constant("true", True, np.bool_),
    ]  # fmt: skip
    graph = Graph(load(model([*nodes, node("Add", "x v", "y")], {"x": [1]}, ["y"], stored)))
    assert Values(graph).get(graph.main, "v") is None


def branch(name: str, kernel: int) -> onnx.GraphProto:
    """A convolution, whose result must be one position."""
    return helper.make_graph(
        [
            node("Conv", f"x k{name}", f"c{name}"),
            node("Squeeze", f"c{name} two", f"q{name}"),
            node("Reshape", f"q{name} flat", f"o{name}"),
        ],
        name,
        [],
        [info(f"o{name}", None)],
        [tensor(f"k{name}", 2, 1, kernel)],
    )


def by_rate(*before: onnx.NodeProto, then: int = 6, other: int = 3) -> onnx.ModelProto:
    """Two branches, each for one number of samples; 6 and 3 unless said otherwise."""
    chosen = node("If", "c", "h", then_branch=branch("t", then), else_branch=branch("e", other))
    return model(
        [*before, chosen, node("MatMul", "h w", "y")],
        [info("x", [1, 1, "n"]), info("rate", [], TensorProto.INT64)],
        ["y"],
        [
            constant("two", [2]), constant("flat", [1, 2]), constant("high", 16000),
            constant("length", 6), constant("last", 2), tensor("w", 2, 5),
        ],
    )  # fmt: skip


BY_RATE = [node("Equal", "rate high", "c")]
BY_LENGTH = [node("Shape", "x", "s"), node("Gather", "s last", "n"), node("Equal", "n length", "c")]


@pytest.mark.parametrize(
    ("built", "n", "macs"),
    [
        pytest.param(by_rate(*BY_RATE), 6, 2 * 6 + 10, id="only the first can run"),
        pytest.param(by_rate(*BY_RATE), 3, 2 * 3 + 10, id="only the second can run"),
        pytest.param(by_rate(*BY_LENGTH), 6, 2 * 6 + 10, id="the first runs"),
        pytest.param(by_rate(*BY_LENGTH), 3, 2 * 3 + 10, id="the second runs"),
        pytest.param(by_rate(*BY_RATE, then=3, other=6), 6, 2 * 6 + 10, id="swapped"),
    ],
)
def test_a_branch_that_cannot_run(built: onnx.ModelProto, n: int, macs: int) -> None:
    report = onnxshare.inspect(built, dims={"n": n})
    assert report.totals.macs == macs
    assert report.totals.params == 2 * 6 + 2 * 3 + 10
    assert only(report, "MatMul").outputs[0].shape == (1, 5)
    by_size = built.graph.node[0].op_type == "Shape"
    assert any("cannot run with these sizes" in line for line in report.warnings) != by_size
    rates = []
    for rate in (16000, 8000):
        try:
            run(built, x=random_array(1, 1, n), rate=np.array(rate))
            rates.append(rate)
        except Exception:
            continue
    assert len(rates) == (2 if by_size else 1)  # what ONNX Runtime can run


@pytest.mark.parametrize("before", [BY_RATE, BY_LENGTH], ids=["unknown", "known"])
def test_no_branch_can_run(before: list[onnx.NodeProto]) -> None:
    with pytest.raises(onnxshare.ModelError, match="Squeeze"):
        onnxshare.inspect(by_rate(*before), dims={"n": 9})


def cache_attention(total: int | None, packed: bool) -> onnx.ModelProto:
    """4 query heads and 2 of keys and values, of 16 features each, after a cache."""
    inputs = {"q": ["batch", "seq", 128 if packed else 64]}
    cache: Any = {name: ["batch", 2, "past", 16] for name in ("pk", "pv")}
    others: Any = {} if packed else {name: ["batch", "seq", 32] for name in ("k", "v")}
    ends = [info("lens", ["batch"], TensorProto.INT32)]
    ends += [info("total", [1], TensorProto.INT32)] if total is None else []
    attention = helper.make_node(
        "GroupQueryAttention",
        ["q", "" if packed else "k", "" if packed else "v", "pk", "pv", "lens", "total"],
        ["y", "nk", "nv"],
        domain="com.microsoft",
        num_heads=4,
        kv_num_heads=2,
    )
    given = [info(name, dims) for name, dims in {**inputs, **others, **cache}.items()]
    stored = [] if total is None else [constant("total", [total], np.int32)]
    return model([attention], [*given, *ends], ["y", "nk", "nv"], stored, domains=["com.microsoft"])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("seq", "past", "total", "keys"),
    [(1, 31, None, 32), (4, 0, None, 4), (1, 16, 16, 16), (1, 31, 32, 32), (1, 0, None, 1)],
)
def test_a_cache_grows(packed: bool, seq: int, past: int, total: int | None, keys: int) -> None:
    built = cache_attention(total, packed)
    report = onnxshare.inspect(built, dims={"seq": seq, "past": past})
    feed = {
        "q": random_array(1, seq, 128 if packed else 64),
        **{name: random_array(1, 2, past, 16) for name in ("pk", "pv")},
        **({} if packed else {name: random_array(1, seq, 32) for name in ("k", "v")}),
        "lens": np.array([keys - 1], np.int32),
        **({"total": np.array([keys], np.int32)} if total is None else {}),
    }
    results = run(built, **feed)
    assert [out.shape for out in report.nodes[0].outputs] == [item.shape for item in results]
    assert report.totals.macs == 2 * 64 * seq * keys
    assert report.totals.peak_activation_bytes is not None


def test_a_cache_of_open_size_stays_open() -> None:
    totals = onnxshare.inspect(cache_attention(None, packed=True), dims={"seq": 1}).totals
    assert (totals.macs, totals.peak_activation_bytes) == (None, None)


def loop(*body: onnx.NodeProto, stored: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    """Six trips over a state whose shape is not declared."""
    inner = helper.make_graph(
        [*body, node("Identity", "going", "goes")],
        "body",
        [info("trip", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("h", None)],
        [info("goes", [], TensorProto.BOOL), info("h2", None)],
    )
    return model(
        [helper.make_node("Loop", ["n", "", "x"], ["h6"], body=inner), node("Relu", "h6", "y")],
        {"x": [1, 8]},
        ["y"],
        [constant("n", 6), *(stored or [])],
    )


@pytest.mark.parametrize(
    ("built", "macs"),
    [
        pytest.param(
            loop(node("MatMul", "h w", "h2"), stored=[tensor("w", 8, 8)]), 6 * 64, id="kept"
        ),
        pytest.param(
            loop(
                node("MatMul", "h v", "a"), node("MatMul", "a w", "h2"),
                stored=[tensor("v", 8, 3), tensor("w", 3, 8)],
            ),
            6 * 48,
            id="kept, through another size",
        ),
        pytest.param(
            loop(
                node("Shape", "h", "s"), node("MatMul", "h w", "a"), node("Mod", "s many", "t"),
                node("Reshape", "a t", "h2"),
                stored=[tensor("w", 8, 8), constant("many", [99, 99])],
            ),
            6 * 64,
            id="kept, by sizes that are computed",
        ),
        pytest.param(
            loop(
                node("MatMul", "h w", "a"), node("Concat", "h a", "h2", axis=0),
                stored=[tensor("w", 8, 8)],
            ),
            None,
            id="grows",
        ),
        pytest.param(
            loop(
                node("MatMul", "h w", "a"), node("NonZero", "a", "at"),
                node("Cast", "at", "f", to=TensorProto.FLOAT), node("ReduceSum", "f one", "r"),
                node("Expand", "r row", "e"), node("MatMul", "e w", "h2"),
                stored=[tensor("w", 8, 8), constant("one", [1]), constant("row", [1, 8])],
            ),
            None,
            id="of as many rows as data says",
        ),
    ],
)  # fmt: skip
def test_states_of_a_loop_without_a_shape(built: onnx.ModelProto, macs: int | None) -> None:
    report = onnxshare.inspect(built)
    assert report.totals.macs == macs
    (result,) = run(built, x=random_array(1, 8))
    assert only(report, "Relu").outputs[0].shape == (result.shape if macs is not None else None)
