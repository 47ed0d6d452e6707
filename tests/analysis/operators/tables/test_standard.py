"""Operators of the standard beside layers: attention, transforms, losses, interpolation. Figures by
hand; uses of weights measured by moving them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxshare
from tests.analysis.test_measured_uses import assert_measured, measured_connections
from tests.builders import Dims, constant, info, model, node, only, random_array, tensor


@dataclass(frozen=True)
class Case:
    """A model, the operator that is looked at, and its MACs and FLOPs per sample."""

    built: onnx.ModelProto
    op_type: str
    macs: int
    flops: int | None


def one(
    op_type: str,
    inputs: dict[str, Dims],
    *stored: onnx.TensorProto,
    order: str = "",
    opset: int = 20,
    outputs: str = "y",
    **attributes: Any,
) -> onnx.ModelProto:
    """One node; `order` names its inputs where they are not the fed ones, then the stored ones."""
    names = order or " ".join([*inputs, *(tensor.name for tensor in stored)])
    return model(
        [node(op_type, names, outputs, **attributes)],
        inputs,
        outputs.split(),
        stored,
        opset=opset,
    )


def attention(heads: int, rows: int, keys: int, size: int, value_size: int) -> tuple[int, int]:
    """MACs: each of heads · rows queries meets each key, and the values are summed. Beside them
    one scaling and three operations of a softmax per score."""
    scores = heads * rows * keys
    macs = sum(size + value_size for _ in range(scores))
    return macs, 2 * macs + 4 * scores


SIGNAL = 5 * 16 * 4  # a fast transform of 16 points: 5 n log2 n

CASES = {
    "Attention of heads": Case(
        one("Attention", {"q": [1, 2, 5, 4], "k": [1, 2, 7, 4], "v": [1, 2, 7, 6]}, opset=23),
        "Attention", *attention(2, 5, 7, 4, 6),
    ),
    "Attention, flat, with fewer key heads": Case(
        one(
            "Attention", {"q": [1, 5, 16], "k": [1, 7, 8], "v": [1, 7, 12]},
            opset=23, q_num_heads=4, kv_num_heads=2,
        ),
        "Attention", *attention(4, 5, 7, 4, 6),
    ),
    "Attention, with its past": Case(
        one(
            "Attention",
            {
                "q": [1, 2, 1, 4], "k": [1, 2, 1, 4], "v": [1, 2, 1, 4],
                "pk": [1, 2, 9, 4], "pv": [1, 2, 9, 4],
            },
            order="q k v _ pk pv", outputs="y k2 v2", opset=23,
        ),
        "Attention", *attention(2, 1, 10, 4, 4),
    ),
    "GridSample, linear": Case(
        one("GridSample", {"x": [1, 2, 5, 5], "g": [1, 3, 4, 2]}, mode="linear"),
        "GridSample", 0, 2 * 4 * (2 * 3 * 4),
    ),
    "GridSample, nearest": Case(
        one("GridSample", {"x": [1, 2, 5, 5], "g": [1, 3, 4, 2]}, mode="nearest"),
        "GridSample", 0, 0,
    ),
    "Resize, linear": Case(
        one("Resize", {"x": [1, 2, 5, 5]}, constant("s", [1, 1, 2, 2], np.float32),
            order="x _ s", mode="linear"),
        "Resize", 0, 2 * 4 * (2 * 10 * 10),
    ),
    "Resize, cubic, one axis": Case(
        one("Resize", {"x": [1, 2, 5, 5]}, constant("s", [1, 1, 1, 2], np.float32),
            order="x _ s", mode="cubic"),
        "Resize", 0, 2 * 4 * (2 * 5 * 10),
    ),
    "Resize, nearest": Case(
        one("Resize", {"x": [1, 2, 5, 5]}, constant("s", [1, 1, 2, 2], np.float32),
            order="x _ s", mode="nearest"),
        "Resize", 0, 0,
    ),
    "AffineGrid": Case(
        one("AffineGrid", {"t": [1, 2, 3]}, constant("s", [1, 1, 4, 5])),
        "AffineGrid", 4 * 5 * 2 * 2, 2 * 4 * 5 * 2 * 2 + 4 * 5 * 2,
    ),
    # An exponential, a sum and a division each.
    "Softmax": Case(one("Softmax", {"x": [1, 4, 5]}), "Softmax", 0, 3 * 20),
    "DFT": Case(one("DFT", {"x": [1, 16, 1]}, opset=17), "DFT", 0, SIGNAL),
    "DFT along an axis of several": Case(
        one("DFT", {"x": [1, 3, 16, 2]}, opset=17, axis=2), "DFT", 0, 3 * SIGNAL
    ),
    "STFT": Case(
        one("STFT", {"x": [1, 40, 1]}, constant("step", 8), tensor("w", 16), opset=17),
        "STFT", 0, 4 * (SIGNAL + 16),
    ),
    "Det": Case(one("Det", {"x": [1, 3, 6, 6]}), "Det", 0, 3 * 2 * 216 // 3),
    "Col2Im": Case(
        one("Col2Im", {"x": [1, 5, 5]}, constant("i", [5, 5]), constant("b", [1, 5])),
        "Col2Im", 0, 25,
    ),
    "NegativeLogLikelihoodLoss": Case(
        model(
            [node("NegativeLogLikelihoodLoss", "x t", "y", reduction="none")],
            [info("x", [1, 5, 3]), info("t", [1, 3], TensorProto.INT64)],
            ["y"],
        ),
        "NegativeLogLikelihoodLoss", 0, 2 * 3,
    ),
    "SoftmaxCrossEntropyLoss": Case(
        model(
            [node("SoftmaxCrossEntropyLoss", "x t", "y", reduction="none")],
            [info("x", [1, 5, 3]), info("t", [1, 3], TensorProto.INT64)],
            ["y"],
        ),
        "SoftmaxCrossEntropyLoss", 0, 4 * 5 * 3 + 2 * 3,
    ),
    "NonMaxSuppression": Case(
        one("NonMaxSuppression", {"b": [1, 6, 4], "s": [1, 1, 6]}), "NonMaxSuppression", 0, None
    ),
    "HannWindow": Case(one("HannWindow", {}, constant("n", 10)), "HannWindow", 0, 0),
    # Two heads of keys of 4 and values of 6, three steps: the state is written, read by the delta
    # rule, and read by each of four query heads.
    "LinearAttention": Case(
        one(
            "LinearAttention",
            {"q": [1, 3, 16], "k": [1, 3, 8], "v": [1, 3, 12], "d": [1, 3, 2], "b": [1, 3, 2]},
            order="q k v _ d b", outputs="y s", opset=27, q_num_heads=4, kv_num_heads=2,
            update_rule="gated_delta",
        ),
        "LinearAttention", 3 * (2 + 2 + 4) * 24, 2 * 3 * (2 + 2 + 4) * 24 + 3 * 2 * 24,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_arithmetic(name: str) -> None:
    case = CASES[name]
    facts = only(onnxshare.inspect(case.built), case.op_type)
    assert (facts.macs, facts.flops) == (case.macs, case.flops)


def test_a_learned_bias_of_the_scores() -> None:
    """A float mask is added to every score: one use each. A Boolean one chooses, and is none."""
    shapes: dict[str, Dims] = {"q": [1, 2, 5, 4], "k": [1, 2, 7, 4], "v": [1, 2, 7, 4]}
    learned = one("Attention", shapes, tensor("m", 5, 7), opset=23)
    facts = only(onnxshare.inspect(learned), "Attention")
    assert (facts.params, facts.connections) == (35, 2 * 35)
    chosen = one("Attention", shapes, constant("m", np.ones((5, 7)), np.bool_), opset=23)
    facts = only(onnxshare.inspect(chosen), "Attention")
    assert (facts.params, facts.connections) == (0, 0)


# Measured uses.


@pytest.mark.parametrize("size", [(1, 3, 2, 4), (1, 3, 8)], ids=["heads apart", "heads joined"])
def test_rotary_embedding(size: tuple[int, ...]) -> None:
    """[batch, heads, steps, 4], or [batch, steps, 2 heads of 4]."""
    steps = size[2] if len(size) == 4 else size[1]
    attributes: dict[str, Any] = {} if len(size) == 4 else {"num_heads": 2}
    built = one(
        "RotaryEmbedding", {"x": list(size)}, tensor("c", 1, steps, 2), tensor("s", 1, steps, 2,
        seed=9), opset=23, **attributes,
    )  # fmt: skip
    assert_measured(built, "RotaryEmbedding", *size)


@pytest.mark.parametrize(
    ("op_type", "sizes", "weights", "opset"),
    [
        pytest.param("RMSNormalization", (1, 3, 4), [(4,)], 23, id="RMSNormalization"),
        pytest.param("GroupNormalization", (1, 4, 3), [(4,), (4,)], 21, id="GroupNormalization"),
        pytest.param("SwiGLU", (1, 3, 4), [(1, 3, 4)], 28, id="SwiGLU"),
    ],
)
def test_norms(
    op_type: str, sizes: tuple[int, ...], weights: list[tuple[int, ...]], opset: int
) -> None:
    names = [f"w{position}" for position in range(len(weights))]
    attributes: dict[str, Any] = {"num_groups": 2} if op_type == "GroupNormalization" else {}
    built = one(
        op_type,
        {"x": list(sizes)},
        *(tensor(name, *shape) for name, shape in zip(names, weights, strict=True)),
        opset=opset,
        **attributes,
    )
    assert_measured(built, op_type, *sizes)


def test_deformable_convolution() -> None:
    """With offsets of 0 it is a convolution, and uses its weights as one."""
    built = model(
        [node("DeformConv", "x w o b", "y")],
        [info("x", [1, 2, 4, 4]), info("o", [1, 8, 3, 3])],
        ["y"],
        [tensor("w", 2, 2, 2, 2), tensor("b", 2)],
        opset=19,
    )
    facts = only(onnxshare.inspect(built), "DeformConv")
    zeros = np.zeros((1, 8, 3, 3))
    assert facts.connections == measured_connections(built, random_array(1, 2, 4, 4), o=zeros)
    assert facts.macs == 9 * 16
    assert facts.flops == 2 * facts.macs + 9 * 2 + 9 * 2 * 4 * 8  # biases, interpolated taps


def test_causal_convolution() -> None:
    built = one(
        "CausalConvWithState", {"x": [1, 3, 6]}, tensor("w", 3, 1, 4), tensor("b", 3),
        opset=27, outputs="y s",
    )  # fmt: skip
    facts = only(onnxshare.inspect(built), "CausalConvWithState")
    assert (facts.kind, facts.params, facts.connections, facts.macs) == ("conv", 15, 90, 72)


def test_weights_of_classes() -> None:
    built = model(
        [node("NegativeLogLikelihoodLoss", "x t w", "y", reduction="none")],
        [info("x", [1, 5, 3]), info("t", [1, 3], TensorProto.INT64)],
        ["y"],
        [tensor("w", 5)],
    )
    facts = only(onnxshare.inspect(built), "NegativeLogLikelihoodLoss")
    moved = measured_connections(built, random_array(1, 5, 3), t=np.array([[0, 2, 4]]))
    assert (facts.params, facts.connections) == (5, moved)


EQUATIONS = [
    pytest.param("bti,io->bto", (1, 3, 4), (4, 2), id="sequence"),
    pytest.param("...i,io->...o", (1, 3, 4), (4, 2), id="ellipsis"),
    pytest.param("bti,tio->bto", (1, 3, 4), (3, 4, 2), id="a matrix per position"),
    pytest.param("bij,io->bo", (1, 4, 3), (4, 2), id="an axis of the data is summed"),
    pytest.param("bi,i->b", (1, 4), (4,), id="inner product"),
    pytest.param("bi,oi", (1, 4), (2, 4), id="implicit result"),
    pytest.param("bii,io->bo", (1, 4, 4), (4, 2), id="a diagonal"),
    pytest.param("b...,...->b...", (1, 3, 4), (3, 4), id="element-wise"),
]


@pytest.mark.parametrize(("equation", "data", "weight"), EQUATIONS)
def test_einsum(equation: str, data: tuple[int, ...], weight: tuple[int, ...]) -> None:
    built = one("Einsum", {"x": list(data)}, tensor("w", *weight), equation=equation)
    assert_measured(built, "Einsum", *data)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_einsum(data: st.DataObject) -> None:
    """A stored operand of any indices: each of its elements is used once per output it reaches."""
    sizes = {letter: data.draw(st.integers(1, 3), label=letter) for letter in "ijkl"}
    left = "b" + "".join(data.draw(st.lists(st.sampled_from("ijkl"), unique=True, max_size=3)))
    right = "".join(
        data.draw(st.lists(st.sampled_from("ijkl"), unique=True, min_size=1, max_size=3))
    )
    kept = sorted(set(left[1:] + right))
    result = "b" + "".join(letter for letter in kept if data.draw(st.booleans(), label=letter))
    shape = [1, *(sizes[letter] for letter in left[1:])]
    built = one(
        "Einsum",
        {"x": shape},
        tensor("w", *(sizes[letter] for letter in right)),
        equation=f"{left},{right}->{result}",
    )
    assert_measured(built, "Einsum", *shape)


def test_einsum_of_one_operand_multiplies_nothing() -> None:
    """A sum over one axis: additions only."""
    facts = only(onnxshare.inspect(one("Einsum", {"x": [1, 3, 4]}, equation="bij->bi")), "Einsum")
    assert (facts.macs, facts.flops) == (0, 12)


@pytest.mark.parametrize(("split", "macs"), [("", 6 * 15), ("by_data", None)])
def test_a_sequence_map_runs_its_body_as_often_as_the_sequence_is_long(
    split: str, macs: int | None
) -> None:
    """Where that is data, the work of its nodes is unknown; their parameters are not."""
    body = helper.make_graph(
        [node("MatMul", "item w", "out")], "body", [info("item", None)], [info("out", None)]
    )
    built = model(
        [
            node("SplitToSequence", f"x {split}", "s", axis=1),
            node("SequenceMap", "s", "m", body=body),
            node("ConcatFromSequence", "m", "y", axis=1),
        ],
        [info("x", ["n", 6, 5]), *([info("by_data", [6], TensorProto.INT64)] if split else [])],
        ["y"],
        [tensor("w", 5, 3)],
    )
    facts = only(onnxshare.inspect(built), "MatMul")
    assert (facts.params, facts.macs) == (15, macs)


def test_no_macs_where_sizes_are_unknown_but_nothing_multiplies() -> None:
    """A Relu of unknown size has no multiply-accumulates, and an unknown number of FLOPs."""
    built = model(
        [node("NonZero", "x", "i"), node("Cast", "i", "f", to=1), node("Relu", "f", "y")],
        {"x": [1, 5]},
        ["y"],
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.macs, totals.flops) == (0, None)
