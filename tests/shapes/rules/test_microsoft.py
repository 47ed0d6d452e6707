"""Shapes and types of ONNX Runtime's own operators, against what ONNX Runtime really makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.errors import ModelError
from onnxshare.shapes.types import Shape
from tests.builders import Array, constant, info, model, node, random_array, run, tensor

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """One node: its inputs with their values, stored or fed, and how many outputs it has."""

    op_type: str
    fed: dict[str, Array | None]
    stored: dict[str, Array | None] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    order: str = ""
    domain: str = MICROSOFT

    def model(self) -> onnx.ModelProto:
        """The node, then a Relu of its first output where that is a float."""
        names = self.order or " ".join([*self.fed, *self.stored])
        results = [f"y{position}" for position in range(self.outputs)]
        return model(
            [
                node(self.op_type, names, " ".join(results), domain=self.domain, **self.attributes),
                node("Identity", "y0", "after"),
            ],
            [
                info(name, value.shape, helper.np_dtype_to_tensor_dtype(value.dtype))
                for name, value in self.fed.items()
                if value is not None
            ],
            [*results, "after"],
            [
                constant(name, value, value.dtype)
                for name, value in self.stored.items()
                if value is not None
            ],
            domains=[MICROSOFT],
        )


def floats(*shape: int) -> Array:
    return random_array(*shape)


def bytes_(*shape: int, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(1).integers(1, 100, shape).astype(dtype)


def scale() -> Array:
    return np.array(0.1, np.float32)


def zero(dtype: Any = np.uint8) -> Array:
    return np.array(3, dtype)


def whole(*values: int, dtype: Any = np.int32) -> Array:
    return np.array(values, dtype)


_2 = {"num_heads": 2}

CASES = {
    "FusedConv": Case(
        "FusedConv",
        {"x": floats(1, 3, 9, 8)},
        {"w": floats(4, 3, 3, 3), "b": floats(4)},
        {"strides": [2, 1], "pads": [1, 0, 1, 0], "activation": "Relu"},
    ),
    "FusedConv, groups and a sum": Case(
        "FusedConv",
        {"x": floats(1, 4, 9, 8), "z": floats(1, 6, 7, 6)},
        {"w": floats(6, 2, 3, 3), "b": floats(6)},
        {"group": 2, "activation": "Relu"},
        order="x w b z",
    ),
    "FusedConv, SAME": Case(
        "FusedConv",
        {"x": floats(1, 3, 9, 8)},
        {"w": floats(4, 3, 3, 3)},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2], "activation": "Relu"},
    ),
    "QLinearConv, channels last": Case(
        "QLinearConv",
        {"x": bytes_(1, 9, 8, 3)},
        {
            "xs": scale(), "xz": zero(), "w": bytes_(4, 3, 3, 3), "ws": scale(), "wz": zero(),
            "ys": scale(), "yz": zero(),
        },
        {"channels_last": 1, "strides": [2, 2]},
    ),
    "NhwcMaxPool": Case(
        "NhwcMaxPool", {"x": bytes_(1, 9, 8, 3)}, {}, {"kernel_shape": [3, 2], "strides": [2, 2]}
    ),
    "FusedGemm": Case(
        "FusedGemm",
        {"x": floats(2, 5)},
        {"w": floats(7, 5), "b": floats(7)},
        {"transB": 1, "activation": "Relu"},
    ),
    "FusedMatMul": Case("FusedMatMul", {"x": floats(2, 3, 5)}, {"w": floats(5, 4)}),
    "FusedMatMul, both turned": Case(
        "FusedMatMul",
        {"x": floats(2, 3, 5, 4)},
        {"w": floats(2, 3, 6, 5)},
        {"transA": 1, "transB": 1, "alpha": 0.5},
    ),
    "FusedMatMul, right turned, broadcast": Case(
        "FusedMatMul", {"x": floats(2, 1, 4, 5)}, {"w": floats(3, 6, 5)}, {"transB": 1}
    ),
    "QGemm, float result": Case(
        "QGemm",
        {"x": bytes_(2, 5)},
        {"xs": scale(), "xz": zero(), "w": bytes_(7, 5), "ws": scale(), "wz": zero()},
        {"transB": 1},
    ),
    "QGemm, quantized result": Case(
        "QGemm",
        {"x": bytes_(2, 5)},
        {
            "xs": scale(), "xz": zero(), "w": bytes_(5, 7), "ws": scale(), "wz": zero(),
            "b": whole(*range(7)), "ys": scale(), "yz": zero(),
        },
    ),
    "DynamicQuantizeMatMul": Case(
        "DynamicQuantizeMatMul",
        {"x": floats(2, 3, 5)},
        {"w": bytes_(5, 4), "ws": scale(), "wz": zero(), "b": floats(4)},
    ),
    "MatMulIntegerToFloat": Case(
        "MatMulIntegerToFloat",
        {"x": bytes_(2, 3, 5)},
        {"w": bytes_(5, 4), "xs": scale(), "ws": scale(), "xz": zero(), "wz": zero()},
    ),
    "MatMulNBits": Case(
        "MatMulNBits",
        {"x": floats(2, 3, 32)},
        {"w": bytes_(6, 2, 8), "ws": floats(12)},
        {"K": 32, "N": 6, "bits": 4, "block_size": 16},
    ),
    "MatMulBnb4": Case(
        "MatMulBnb4",
        {"x": floats(3, 32)},
        {"w": bytes_(6 * 32 // 2), "ws": floats(12)},
        {"K": 32, "N": 6, "quant_type": 1, "block_size": 16},
    ),
    "DynamicQuantizeLSTM": Case(
        "DynamicQuantizeLSTM",
        {"x": floats(7, 2, 3)},
        {
            "w": bytes_(2, 3, 16), "r": bytes_(2, 4, 16), "b": floats(2, 32), "h": None, "c": None,
            "p": None, "l": None, "ws": floats(2), "wz": bytes_(2), "rs": floats(2),
            "rz": bytes_(2),
        },
        {"hidden_size": 4, "direction": "bidirectional"},
        outputs=3,
        order="x w r b _ _ _ _ ws wz rs rz",
    ),
    "Attention": Case(
        "Attention", {"x": floats(2, 5, 8)}, {"w": floats(8, 24), "b": floats(24)}, _2
    ),
    "Attention, with its past": Case(
        "Attention",
        {"x": floats(2, 5, 8), "p": floats(2, 2, 2, 3, 4)},
        {"w": floats(8, 24), "b": floats(24)},
        {"num_heads": 2, "unidirectional": 1},
        outputs=2,
        order="x w b _ p",
    ),
    "Attention, values of another size": Case(
        "Attention",
        {"x": floats(2, 5, 8)},
        {"w": floats(8, 28), "b": floats(28)},
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]},
    ),
    "QAttention": Case(
        "QAttention",
        {"x": bytes_(2, 5, 8)},
        {
            "w": bytes_(8, 24), "b": floats(24), "xs": scale(), "ws": scale(), "xz": zero(),
            "wz": zero(),
        },
        _2,
        order="x w b xs ws _ xz wz",
    ),
    "MultiHeadAttention": Case(
        "MultiHeadAttention",
        {"q": floats(2, 5, 8), "k": floats(2, 7, 8), "v": floats(2, 7, 12)},
        {},
        _2,
    ),
    "MultiHeadAttention, keys and values of an encoder": Case(
        "MultiHeadAttention",
        {"q": floats(2, 5, 8), "k": floats(2, 2, 7, 4), "v": floats(2, 2, 7, 4)},
        {},
        _2,
    ),
    "MultiHeadAttention, with its past": Case(
        "MultiHeadAttention",
        {
            "q": floats(2, 5, 8), "k": floats(2, 5, 8), "v": floats(2, 5, 8),
            "pk": floats(2, 2, 3, 4), "pv": floats(2, 2, 3, 4),
        },
        {},
        _2,
        outputs=3,
        order="q k v _ _ _ pk pv",
    ),
    "GroupQueryAttention": Case(
        "GroupQueryAttention",
        {
            "q": floats(2, 5, 64), "k": floats(2, 5, 32), "v": floats(2, 5, 32),
            "l": whole(4, 4), "t": np.array(5, np.int32),
        },
        {},
        {"num_heads": 4, "kv_num_heads": 2},
        outputs=3,
        order="q k v _ _ l t",
    ),
    "GroupQueryAttention, packed": Case(
        "GroupQueryAttention",
        {"q": floats(2, 5, 128), "l": whole(4, 4), "t": np.array(5, np.int32)},
        {},
        {"num_heads": 4, "kv_num_heads": 2},
        outputs=3,
        order="q _ _ _ _ l t",
    ),
    "RotaryEmbedding": Case(
        "RotaryEmbedding",
        {"x": floats(2, 5, 8), "p": whole(0, dtype=np.int64)},
        {"c": floats(9, 2), "s": floats(9, 2)},
        {"num_heads": 2},
    ),
    "SkipLayerNormalization": Case(
        "SkipLayerNormalization",
        {"x": floats(2, 5, 8), "s": floats(2, 5, 8)},
        {"g": floats(8), "b": floats(8)},
        outputs=4,
    ),
    "SkipSimplifiedLayerNormalization": Case(
        "SkipSimplifiedLayerNormalization",
        {"x": floats(2, 5, 8), "s": floats(2, 5, 8)},
        {"g": floats(8)},
    ),
    "SimplifiedLayerNormalization": Case(
        "SimplifiedLayerNormalization", {"x": floats(2, 5, 8)}, {"g": floats(8)}, domain=""
    ),
    "EmbedLayerNormalization": Case(
        "EmbedLayerNormalization",
        {"i": whole(1, 2, 3, 1, 2, 3).reshape(2, 3)},
        {"w": floats(9, 8), "p": floats(6, 8), "g": floats(8), "b": floats(8)},
        order="i _ w p _ g b",
        outputs=3,
    ),
    "MoE": Case(
        "MoE",
        {"x": floats(6, 8), "r": floats(6, 3)},
        {"a": floats(3, 16, 8), "ab": floats(3, 16), "c": floats(3, 8, 16), "cb": floats(3, 8)},
        {"k": 2, "activation_type": "relu"},
    ),
    "QMoE": Case(
        "QMoE",
        {"x": floats(6, 32), "r": floats(6, 3)},
        {
            "a": bytes_(3, 64, 16), "as": floats(3, 64), "ab": floats(3, 64),
            "c": bytes_(3, 32, 32), "cs": floats(3, 32), "cb": floats(3, 32),
        },
        {"k": 2, "activation_type": "relu", "expert_weight_bits": 4},
    ),
    "QLinearAdd": Case(
        "QLinearAdd",
        {"a": bytes_(2, 3, 4), "b": bytes_(3, 1)},
        {"s": scale(), "z": zero()},
        order="a s z b s z s z",
    ),
    "QLinearMul": Case(
        "QLinearMul",
        {"a": bytes_(2, 3, 1), "b": bytes_(3, 4)},
        {"s": scale(), "z": zero()},
        order="a s z b s z s z",
    ),
    "QLinearConcat": Case(
        "QLinearConcat",
        {"a": bytes_(2, 3), "b": bytes_(2, 4)},
        {"s": scale(), "z": zero()},
        {"axis": 1},
        order="s z a s z b s z",
    ),
    "QLinearAveragePool": Case(
        "QLinearAveragePool",
        {"x": bytes_(1, 3, 9, 8)},
        {"s": scale(), "z": zero()},
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
        order="x s z s z",
    ),
    "QLinearAveragePool, channels last": Case(
        "QLinearAveragePool",
        {"x": bytes_(1, 9, 8, 3)},
        {"s": scale(), "z": zero()},
        {"kernel_shape": [3, 2], "channels_last": 1},
        order="x s z s z",
    ),
    "QLinearGlobalAveragePool": Case(
        "QLinearGlobalAveragePool",
        {"x": bytes_(1, 3, 9, 8)},
        {"s": scale(), "z": zero()},
        order="x s z s z",
    ),
    "QLinearSigmoid": Case(
        "QLinearSigmoid", {"x": bytes_(2, 3)}, {"s": scale(), "z": zero()}, order="x s z s z"
    ),
    "QLinearLeakyRelu": Case(
        "QLinearLeakyRelu", {"x": bytes_(2, 3)}, {"s": scale(), "z": zero()}, order="x s z s z"
    ),
    "QLinearWhere": Case(
        "QLinearWhere",
        {"c": np.array([[True], [False]]), "a": bytes_(2, 3), "b": bytes_(3)},
        {"s": scale(), "z": zero()},
        order="c a s z b s z s z",
    ),
    "QLinearSoftmax": Case(
        "QLinearSoftmax",
        {"x": bytes_(2, 3)},
        {"s": scale(), "z": zero()},
        {"axis": -1, "opset": 13},
        order="x s z s z",
    ),
    "QuantizeLinear": Case(
        "QuantizeLinear", {"x": floats(2, 3)}, {"s": scale(), "z": zero(np.uint16)}
    ),
    "DequantizeLinear": Case(
        "DequantizeLinear", {"x": bytes_(2, 3, dtype=np.int16)},
        {"s": scale(), "z": zero(np.int16)},
    ),
    "CDist": Case("CDist", {"x": floats(3, 2)}, {"y": floats(4, 2)}, {"metric": "euclidean"}),
    "Gelu": Case("Gelu", {"x": floats(2, 3)}),
    "QuickGelu": Case("QuickGelu", {"x": floats(2, 3)}),
    "BiasGelu": Case("BiasGelu", {"x": floats(2, 3)}, {"b": floats(3)}),
    "FastGelu": Case("FastGelu", {"x": floats(2, 3)}, {"b": floats(3)}),
    "Inverse": Case("Inverse", {"x": floats(2, 3, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_types_are_those_of_onnx_runtime(name: str) -> None:
    case = CASES[name]
    built = case.model()
    fed = {key: value for key, value in case.fed.items() if value is not None}
    reported = {
        out.name: (out.dtype, out.shape)
        for facts in onnxshare.inspect(built).nodes
        for out in facts.outputs
    }
    real = run(built, **fed)
    wanted = {
        out.name: (str(result.dtype), result.shape)
        for out, result in zip(built.graph.output, real, strict=True)
    }
    assert {name: reported[name] for name in wanted} == wanted


#: What no CPU runs: the shapes are those of the operator's documentation.
ELSEWHERE = {
    "NhwcFusedConv": (
        Case(
            "NhwcFusedConv",
            {"x": floats(1, 9, 8, 3)},
            {"w": floats(4, 3, 3, 3)},
            {"strides": [2, 2], "activation": "Relu"},
        ),
        [(1, 4, 3, 4)],
    ),
    "NhwcConv": (
        Case("NhwcConv", {"x": floats(1, 9, 8, 3)}, {"w": floats(4, 3, 3, 3)}, {"pads": [1] * 4}),
        [(1, 9, 8, 4)],
    ),
    "MultiHeadAttention, packed": (
        Case("MultiHeadAttention", {"q": floats(2, 5, 2, 3, 4)}, {}, _2),
        [(2, 5, 8)],
    ),
    "Attention that shares the buffer of its past": (
        Case(
            "Attention",
            {"x": floats(2, 1, 8), "p": floats(2, 2, 2, 64, 4)},
            {"w": floats(8, 24), "b": floats(24)},
            {"num_heads": 2, "past_present_share_buffer": 1},
            outputs=2,
            order="x w b _ p",
        ),
        [(2, 1, 8), (2, 2, 2, 64, 4)],
    ),
    "GroupQueryAttention, a past of unknown use": (
        Case(
            "GroupQueryAttention",
            {
                "q": floats(2, 1, 64),
                "k": floats(2, 1, 32),
                "p": floats(2, 2, 9, 16),
                "l": whole(4, 4),
                "t": np.array(5, np.int32),
            },
            {},
            {"num_heads": 4, "kv_num_heads": 2},
            outputs=2,
            order="q k k p p l t",
        ),
        [(2, 1, 64), (2, 2, 10, 16)],
    ),
    "BiasSplitGelu": (
        Case("BiasSplitGelu", {"x": floats(2, 5, 8)}, {"b": floats(8)}),
        [(2, 5, 4)],
    ),
    "SkipGroupNorm": (
        Case(
            "SkipGroupNorm",
            {"x": floats(2, 4, 4, 8), "s": floats(2, 4, 4, 8)},
            {"g": floats(8), "b": floats(8)},
            outputs=2,
            order="x g b s",
        ),
        [(2, 4, 4, 8), (2, 4, 4, 8)],
    ),
    "FusedMatMul, rows before the batch": (
        Case("FusedMatMul", {"x": floats(3, 2, 5), "y": floats(2, 5, 4)}, {}, {"transBatchA": 1}),
        [None],
    ),
    "no rule": (Case("MurmurHash3", {"x": whole(3, 2)}), [None]),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_shapes_of_what_no_cpu_runs(name: str) -> None:
    case, wanted = ELSEWHERE[name]
    facts, after = onnxshare.inspect(case.model()).nodes
    assert [numbers(out.shape) for out in facts.outputs] == wanted
    assert numbers(after.outputs[0].shape) == wanted[0]


def numbers(shape: Shape | None) -> tuple[int | None, ...] | None:
    """A shape without the names that inference makes up for sizes it does not know."""
    return (
        None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)
    )


def test_symbolic_sizes_go_through() -> None:
    built = model(
        [
            node("MatMulNBits", "x w s", "h", domain=MICROSOFT, K=32, N=6, bits=4, block_size=16),
            node("FusedMatMul", "h h", "y", domain=MICROSOFT, transB=1),
        ],
        {"x": ["batch", "steps", 32]},
        ["y"],
        [constant("w", bytes_(6, 2, 8), np.uint8), tensor("s", 12)],
        domains=[MICROSOFT],
    )
    product, square = onnxshare.inspect(built).nodes
    assert product.outputs[0].shape == (1, "steps", 6)
    assert square.outputs[0].shape == (1, "steps", "steps")


def test_in_a_branch_and_under_an_old_opset() -> None:
    """The functions are of one opset, whatever the model's; a branch sees weights around it."""
    branch = helper.make_graph(
        [
            node("NhwcConv", "x w", "c", domain=MICROSOFT),
            node("BiasSplitGelu", "c b", "out", domain=MICROSOFT),
        ],
        "branch",
        [],
        [info("out", None)],
    )
    built = model(
        [node("If", "go", "y", then_branch=branch, else_branch=branch)],
        [info("x", [1, 9, 8, 3]), info("go", [], TensorProto.BOOL)],
        ["y"],
        [tensor("w", 4, 3, 3, 3), tensor("b", 4)],
        opset=9,
        domains=[MICROSOFT],
    )
    shapes = [facts.outputs[0].shape for facts in onnxshare.inspect(built).nodes]
    assert shapes[1:3] == [(1, 7, 6, 4), (1, 7, 6, 2)]


@pytest.mark.parametrize("op_type", ["Identity", "Relu", "Transpose"])
def test_what_reads_an_unknown_result_is_no_error(op_type: str) -> None:
    """The scores that attention gives out have no rule: what comes after is unknown, not wrong."""
    built = model(
        [
            node("MultiHeadAttention", "q k v", "y _ _ s", domain=MICROSOFT, num_heads=2),
            node(op_type, "s", "z"),
        ],
        {"q": [1, 5, 8], "k": [1, 7, 8], "v": [1, 7, 8]},
        ["y", "z"],
        domains=[MICROSOFT],
    )
    built.graph.node[0].output[:] = ["y", "", "", "s"]
    attention, after = onnxshare.inspect(built).nodes
    assert [out.shape for out in attention.outputs] == [(1, 5, 8), None]
    assert after.outputs[0].shape is None


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"strides": "two"}, id="a text"),
        pytest.param({"strides": [0, 0]}, id="zero"),
        pytest.param({"kernel_shape": [2**62, 2**62]}, id="huge"),
        pytest.param({"dilations": [-1]}, id="negative"),
    ],
)
@pytest.mark.parametrize("op_type", ["FusedConv", "NhwcConv"])
def test_bad_attributes_end_in_one_line_or_an_unknown_shape(
    op_type: str, attributes: dict[str, Any]
) -> None:
    case = Case(op_type, {"x": floats(1, 8, 8, 8)}, {"w": floats(8, 8, 3, 3)}, attributes)
    try:
        facts = onnxshare.inspect(case.model()).nodes[0]
    except ModelError:
        return
    assert facts.outputs[0].shape is None or None in facts.outputs[0].shape
