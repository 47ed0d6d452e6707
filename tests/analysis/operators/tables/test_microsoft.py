"""Operators of ONNX Runtime: figures by hand, and uses measured by moving weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxshare
from tests.builders import Array, constant, info, model, node, only, random_array, run, tensor
from tests.shapes.rules.test_microsoft import CASES, ELSEWHERE, MICROSOFT, bytes_, floats


@dataclass(frozen=True)
class Figures:
    """What a node holds and does, per sample; `extra` is its arithmetic beside 2 · MACs."""

    kind: str
    params: int
    connections: int
    macs: int
    extra: int | None = None


def conv(positions: int, weights: int, biases: int = 0, filters: int = 0) -> Figures:
    """Every position uses every weight and bias once; the biases are additions beside."""
    return Figures(
        "conv",
        weights + biases,
        positions * (weights + biases),
        positions * weights,
        positions * filters if biases else 0,
    )


def attention(
    rows: int, keys: int, heads: int, size: int, value_size: int, projection: int = 0, bias: int = 0
) -> Figures:
    """One FC for query, key and value, then heads · rows · keys · (size + value size)."""
    return Figures(
        "fc" if projection else "other",
        projection + bias,
        rows * (projection + bias),
        rows * projection + heads * rows * keys * (size + value_size),
    )


# The cases are models that ONNX Runtime ran; batches of 2 count once.
FIGURES = {
    # 3·3·3·4 weights; (9 + 2 − 3) / 2 + 1 = 5 rows, 8 − 3 + 1 = 6 columns
    "FusedConv": conv(5 * 6, 108, 4, 4),
    "QLinearConv, channels last": conv(4 * 3, 108),
    "NhwcFusedConv": conv(4 * 3, 108),
    "FusedGemm": Figures("fc", 42, 42, 35),
    "FusedMatMul": Figures("fc", 20, 60, 60),
    # A matrix of 6×5 for each of three positions of axis 1, for four rows each.
    "FusedMatMul, right turned, broadcast": Figures("other", 90, 3 * 4 * 30, 3 * 4 * 30),
    "QGemm, float result": Figures("fc", 35, 35, 35),
    "QGemm, quantized result": Figures("fc", 42, 42, 35),
    "DynamicQuantizeMatMul": Figures("fc", 24, 3 * 24, 3 * 20, 12),
    "MatMulIntegerToFloat": Figures("fc", 20, 60, 60),
    "MatMulNBits": Figures("fc", 32 * 6, 3 * 32 * 6, 3 * 32 * 6),
    "MatMulBnb4": Figures("fc", 32 * 6, 32 * 6, 32 * 6),
    # Two directions of four gates of 4 units that read 3 features: W, R, and two biases each.
    "DynamicQuantizeLSTM": Figures(
        "recurrent", 2 * 16 * (3 + 4 + 2), 7 * 2 * 16 * (3 + 4 + 2), 7 * 2 * 16 * (3 + 4)
    ),
    "Attention": attention(5, 5, 2, 4, 4, 8 * 24, 24),
    "Attention, with its past": attention(5, 3 + 5, 2, 4, 4, 8 * 24, 24),
    "Attention, values of another size": attention(5, 5, 2, 4, 6, 8 * 28, 28),
    "QAttention": attention(5, 5, 2, 4, 4, 8 * 24, 24),
    "MultiHeadAttention": attention(5, 7, 2, 4, 6),
    "MultiHeadAttention, packed": attention(5, 5, 2, 4, 4),
    "MultiHeadAttention, keys and values of an encoder": attention(5, 7, 2, 4, 4),
    "MultiHeadAttention, with its past": attention(5, 3 + 5, 2, 4, 4),
    "GroupQueryAttention": attention(5, 5, 4, 16, 16),
    "GroupQueryAttention, packed": attention(5, 5, 4, 16, 16),
    "SkipLayerNormalization": Figures("norm", 16, 2 * 40, 0),
    "SkipSimplifiedLayerNormalization": Figures("norm", 8, 40, 0),
    "SimplifiedLayerNormalization": Figures("norm", 8, 40, 0),
    # Rows of two tables, scale and shift, for each of 3 tokens of 8 features.
    "EmbedLayerNormalization": Figures("embedding", 72 + 48 + 16, 4 * 24, 0),
    # Two of three experts, each 8→16→8; a row is a sample.
    "MoE": Figures("fc", 3 * (144 + 136), 2 * (144 + 136), 2 * (128 + 128), 2 * (16 + 8)),
    # 32→64→32, two weights in a byte.
    "QMoE": Figures("fc", 3 * (2048 + 2048 + 96), 2 * (4096 + 96), 2 * 4096),
    "QLinearAveragePool": Figures("pool", 0, 0, 0, 3 * 4 * 4 * 6),
    "QLinearGlobalAveragePool": Figures("pool", 0, 0, 0, 3 * 9 * 8),
    "QLinearSigmoid": Figures("elementwise", 0, 0, 0),
    "BiasGelu": Figures("elementwise", 3, 3, 0),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str) -> None:
    case = CASES[name] if name in CASES else ELSEWHERE[name][0]
    wanted = FIGURES[name]
    facts = onnxshare.inspect(case.model()).nodes[0]
    assert (facts.kind, facts.params, facts.connections, facts.macs) == (
        wanted.kind,
        wanted.params,
        wanted.connections,
        wanted.macs,
    )
    if wanted.extra is not None:
        assert facts.flops == 2 * wanted.macs + wanted.extra


def test_every_case_has_known_work() -> None:
    """None of the operators that shapes are known of is left without MACs and connections."""
    unknown = [
        name
        for name, case in CASES.items()
        if None
        in (facts := onnxshare.inspect(case.model()).nodes[0], facts.macs, facts.connections)
    ]
    assert unknown == []


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [
        pytest.param("MatMulNBits", (6, 32), 32 * 6 // 2, id="MatMulNBits"),
        pytest.param("MatMulBnb4", (6, 32), 32 * 6 // 2, id="MatMulBnb4"),
        pytest.param("QMoE", (3, 64, 32), 3 * 64 * 32 // 2, id="QMoE"),
    ],
)
def test_weights_of_four_bits(name: str, weights: tuple[int, ...], size: int) -> None:
    """Two weights in each stored byte; the scales are no parameters."""
    report = onnxshare.inspect(CASES[name].model())
    first = report.weights[0]
    assert (first.shape, first.dtype, first.bytes) == (weights, "uint4", size)
    assert report.totals.quantization > 0


def test_hashes_of_packed_weights() -> None:
    """What is compared is what is stored: two equal ones are found."""
    attributes = {"domain": MICROSOFT, "K": 32, "N": 6, "bits": 4, "block_size": 16}
    weight = bytes_(6, 2, 8)
    built = model(
        [
            node("MatMulNBits", "x v s", "h", **attributes),
            node("MatMulNBits", "x w s", "y", **attributes),
        ],
        {"x": [1, 32]},
        ["h", "y"],
        [
            constant("v", weight, np.uint8),
            constant("w", weight, np.uint8),
            tensor("s", 12),
        ],
        domains=[MICROSOFT],
    )
    first, second = onnxshare.inspect(built, hashes=True).weights
    assert (first.same_as, second.same_as) == (None, "v")


@pytest.mark.parametrize(
    ("bits", "packed", "dtype"), [(4, 16, "uint4"), (8, 32, "uint8"), (2, 8, "uint2")]
)
def test_bits_of_a_blockwise_weight(bits: int, packed: int, dtype: str) -> None:
    built = model(
        [
            node(
                "MatMulNBits", "x w s", "y",
                domain=MICROSOFT, K=32, N=6, bits=bits, block_size=32,
            )
        ],
        {"x": [1, 32]},
        ["y"],
        [constant("w", bytes_(6, 1, packed), np.uint8), tensor("s", 6)],
        domains=[MICROSOFT],
    )  # fmt: skip
    (weight,) = onnxshare.inspect(built).weights
    assert (weight.params, weight.dtype, weight.bytes) == (192, dtype, 6 * packed)


def test_rows_of_a_blockwise_table() -> None:
    built = model(
        [node("GatherBlockQuantized", "w i s", "y", domain=MICROSOFT, block_size=16, bits=4)],
        [info("i", [1, 3], TensorProto.INT64)],
        ["y"],
        [constant("w", bytes_(10, 8), np.uint8), tensor("s", 10, 1)],
        domains=[MICROSOFT],
    )
    facts = only(onnxshare.inspect(built), "GatherBlockQuantized")
    assert (facts.kind, facts.params) == ("embedding", 10 * 16)


def test_the_past_in_a_shared_buffer_is_unknown() -> None:
    """How much of the buffer is in use is data."""
    case, _ = ELSEWHERE["Attention that shares the buffer of its past"]
    facts = onnxshare.inspect(case.model()).nodes[0]
    assert (facts.params, facts.macs, facts.connections) == (8 * 24 + 24, None, None)


# Measured: each stored element is moved in turn.


def moved(built: onnx.ModelProto, **fed: Array) -> int:
    """Output elements that change when a weight does, summed over all elements of all weights."""
    before = run(built, **fed)[0]
    count = 0
    for weight in built.graph.initializer:
        values = numpy_helper.to_array(weight)
        for index in np.ndindex(*values.shape):
            changed = onnx.ModelProto()
            changed.CopyFrom(built)
            other = values.copy()
            other[index] += 0.5
            where = next(t for t in changed.graph.initializer if t.name == weight.name)
            where.CopyFrom(numpy_helper.from_array(other, weight.name))
            count += int((run(changed, **fed)[0] != before).sum())
    return count


def contrib(
    op_type: str, inputs: str, x: Array, *weights: onnx.TensorProto, **attributes: Any
) -> onnx.ModelProto:
    return model(
        [node(op_type, inputs, "y", domain=MICROSOFT, **attributes)],
        {"x": list(x.shape)},
        ["y"],
        weights,
        domains=[MICROSOFT],
    )


_MAP, _ROWS = floats(1, 2, 4, 3), floats(1, 3, 4)

MEASURED = {
    "FusedConv": (
        contrib("FusedConv", "x w b", _MAP, tensor("w", 2, 2, 2, 2), tensor("b", 2, seed=3)),
        _MAP,
    ),
    "FusedConv, a stored sum": (
        contrib(
            "FusedConv", "x w b z", _MAP,
            tensor("w", 2, 1, 2, 2), tensor("b", 2, seed=3), tensor("z", 1, 2, 3, 2, seed=5),
            group=2,
        ),
        _MAP,
    ),
    "FusedGemm": (
        contrib(
            "FusedGemm", "x w b", random_array(1, 4), tensor("w", 3, 4), tensor("b", 3, seed=3),
            transB=1, alpha=0.5, activation="Tanh",
        ),
        random_array(1, 4),
    ),
    "FusedMatMul": (
        contrib("FusedMatMul", "x w", _ROWS, tensor("w", 2, 4, seed=3), transB=1), _ROWS
    ),
    "FusedMatMul, data turned": (
        contrib("FusedMatMul", "x w", _ROWS, tensor("w", 3, 2, seed=3), transA=1), _ROWS
    ),
    "SkipLayerNormalization": (
        contrib(
            "SkipLayerNormalization", "x x g b", _ROWS, tensor("g", 4), tensor("b", 4, seed=3)
        ),
        _ROWS,
    ),
    "BiasGelu": (contrib("BiasGelu", "x b", _ROWS, tensor("b", 4)), _ROWS),
    "BiasAdd-like FastGelu": (contrib("FastGelu", "x b", _ROWS, tensor("b", 4)), _ROWS),
    "RotaryEmbedding": (
        contrib(
            "RotaryEmbedding", "x p c s", floats(1, 2, 3, 4), constant("p", [0]),
            tensor("c", 3, 2), tensor("s", 3, 2, seed=3),
        ),
        floats(1, 2, 3, 4),
    ),
    "CDist": (
        contrib("CDist", "x w", random_array(5, 3), tensor("w", 4, 3, seed=3), metric="euclidean"),
        random_array(5, 3),
    ),
    "BranchwiseRMSNorm": (contrib("BranchwiseRMSNorm", "x w", _ROWS, tensor("w", 3, 4)), _ROWS),
    "GatedRMSNorm": (contrib("GatedRMSNorm", "x w x", _ROWS, tensor("w", 2)), _ROWS),
    "LinearAttentionGate": (
        contrib("LinearAttentionGate", "x b s", _ROWS, tensor("b", 4), tensor("s", 4, seed=3)),
        _ROWS,
    ),
    "HyperConnectionPreMix": (
        contrib("HyperConnectionPreMix", "x w", _ROWS, tensor("w", 1, 3, 4)), _ROWS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_uses_are_measured(name: str) -> None:
    built, data = MEASURED[name]
    samples = data.shape[0]  # rows of a batch are counted once
    weights = [
        tensor for tensor in built.graph.initializer if tensor.data_type == TensorProto.FLOAT
    ]
    if len(weights) != len(built.graph.initializer):
        built = with_fixed(built)
    facts = onnxshare.inspect(built).nodes[-1]
    assert facts.params == sum(int(np.prod(tensor.dims)) for tensor in weights)
    assert (facts.connections or 0) * samples == moved(built, x=data)


def with_fixed(built: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose integers are Constant nodes, so that only weights are moved."""
    copy = onnx.ModelProto()
    copy.CopyFrom(built)
    integers = [
        tensor for tensor in copy.graph.initializer if tensor.data_type != TensorProto.FLOAT
    ]
    for item in integers:
        copy.graph.node.insert(0, node("Constant", "", item.name, value=item))
        copy.graph.initializer.remove(item)
    return copy


def test_keys_are_the_past_and_the_new_ones() -> None:
    case, _ = ELSEWHERE["GroupQueryAttention, a past of unknown use"]
    facts = only(onnxshare.inspect(case.model()), "GroupQueryAttention")
    assert (facts.params, facts.macs, facts.connections) == (0, 4 * (9 + 1) * (16 + 16), 0)
