"""Fused layers, packed batches and transforms of ONNX Runtime: shapes and figures by hand, shapes
also by ONNX Runtime where a CPU runs the operator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxshare
from tests.builders import Array, model, node, run, tensor
from tests.shapes.rules.test_microsoft import Case, bytes_, floats, numbers, whole

Sizes = tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """A node, the shapes of its outputs, and per sample what it holds and does.

    `extra` is the arithmetic beside 2 · MACs; None in `macs`: unknown. `runs`: on a CPU.
    """

    case: Case
    shapes: list[Sizes | None]
    kind: str
    params: int
    connections: int | None
    macs: int | None
    extra: int | None
    runs: bool = False


def flags(*shape: int) -> Array:
    return np.zeros(shape, np.int32)


_HEADS: dict[str, Any] = {"num_heads": 2}
_GROUPED: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2}
_BLOCKS: dict[str, Any] = {"K": 32, "bits": 4, "block_size": 32}

ROWS = {
    # 2 steps of one direction: W 4·3 × (4 + 5) with the attention of 5 beside the 4 features,
    # R 12 × 3, the query layer 3 × 6, the attention layer (7 + 3) × 5; 8 rows of memory of 7
    # features, each turned once by 7 × 6, then scored by 6 and summed up by 7 per step.
    "AttnLSTM": Row(
        Case(
            "AttnLSTM",
            {"x": floats(2, 1, 4), "m": floats(1, 8, 7)},
            {
                "w": floats(1, 12, 9), "r": floats(1, 12, 3), "b": floats(1, 24),
                "qw": floats(1, 3, 6), "mw": floats(1, 7, 6), "v": floats(1, 6),
                "aw": floats(1, 10, 5),
            },
            {"hidden_size": 3},
            outputs=3,
            order="x w r b _ _ _ _ qw mw v m _ aw",
        ),
        [(2, 1, 1, 3), (1, 1, 3), (1, 1, 3)],
        "recurrent",
        108 + 36 + 24 + 18 + 42 + 6 + 50,
        2 * (108 + 36 + 24 + 18 + 50) + 8 * 42 + 2 * 8 * 6,
        2 * (108 + 36 + 18 + 50) + 2 * 8 * (6 + 7) + 8 * 42,
        2 * 3 * 12 + 2 * 8 * (2 * 6 + 3),
        runs=True,
    ),
    "BranchwiseRMSNorm": Row(
        Case("BranchwiseRMSNorm", {"x": floats(1, 5, 3, 4)}, {"s": floats(3, 4)}),
        [(1, 5, 3, 4)], "norm", 12, 60, 0, 120, runs=True,
    ),
    "GatedRMSNorm": Row(
        Case("GatedRMSNorm", {"x": floats(1, 5, 8), "z": floats(1, 5, 8)}, {"s": floats(4)},
             order="x s z"),
        [(1, 5, 8)], "norm", 4, 40, 0, 160, runs=True,
    ),
    "CropAndResize": Row(
        Case(
            "CropAndResize",
            {"x": floats(1, 2, 8, 8), "r": floats(3, 4), "i": flags(3)},
            {"s": whole(4, 5)},
        ),
        [None], "other", 0, 0, 0, None,
    ),
    # An FC of 8 → 24, then 2 heads of 4 over 3 past keys and the new one.
    "DecoderMaskedSelfAttention": Row(
        Case(
            "DecoderMaskedSelfAttention",
            {"x": floats(1, 1, 8), "p": floats(2, 1, 2, 3, 4), "l": whole(3)},
            {"w": floats(8, 24), "b": floats(24)},
            _HEADS,
            outputs=2,
            order="x w b _ p _ l",
        ),
        [(1, 1, 8), (2, 1, 2, 4, 4)], "fc", 216, 216, 192 + 2 * 4 * 8, 24 + 4 * 2 * 4,
    ),
    "DecoderMaskedMultiHeadAttention": Row(
        Case(
            "DecoderMaskedMultiHeadAttention",
            {
                "q": floats(1, 1, 8), "k": floats(1, 1, 8), "v": floats(1, 1, 8),
                "pk": floats(1, 2, 3, 4), "pv": floats(1, 2, 3, 4), "l": whole(3),
            },
            {"b": floats(24)},
            _HEADS,
            outputs=3,
            order="q k v _ _ pk pv l _ _ b",
        ),
        [(1, 1, 8), (1, 2, 4, 4), (1, 2, 4, 4)], "other", 24, 24, 2 * 4 * 8, 4 * 2 * 4 + 24,
    ),
    "DecoderMaskedMultiHeadAttention, of an encoder": Row(
        Case(
            "DecoderMaskedMultiHeadAttention",
            {"q": floats(1, 1, 8), "k": floats(1, 2, 6, 4), "v": floats(1, 2, 6, 4)},
            {},
            _HEADS,
        ),
        [(1, 1, 8)], "other", 0, 0, 2 * 6 * 8, 4 * 2 * 6, runs=True,
    ),
    "QOrderedAttention": Row(
        Case(
            "QOrderedAttention",
            {"x": bytes_(1, 5, 8, dtype=np.int8)},
            {
                **{f"s{n}": np.array(0.5, np.float32) for n in range(9)},
                **{f"w{n}": bytes_(8, 8, dtype=np.int8) for n in range(3)},
                **{f"b{n}": floats(8) for n in range(3)},
            },
            {"num_heads": 2, "order_input": 1, "order_weight": 1, "order_output": 1},
            order="x s0 s1 s2 s3 w0 w1 w2 s4 s5 s6 b0 b1 b2 s7 s7 s8",
        ),
        [(1, 5, 8)], "fc", 216, 5 * 216, 5 * 192 + 2 * 25 * 8, 5 * 24 + 4 * 2 * 25,
    ),
    "DynamicTimeWarping": Row(
        Case("DynamicTimeWarping", {"x": floats(6, 7)}), [None], "other", 0, 0, 0, 3 * 42,
    ),
    "EngramGate": Row(
        Case(
            "EngramGate",
            {"k": floats(1, 5, 2, 8), "q": floats(1, 5, 2, 8), "v": floats(1, 5, 8)},
            {"a": floats(2, 8), "b": floats(2, 8), "c": floats(2, 8)},
            outputs=2,
        ),
        [(1, 5, 2, 8)] * 2, "other", 48, 240, 80, 7 * 80, runs=True,
    ),
    "GatedAdd": Row(
        Case("GatedAdd", {"x": floats(1, 5, 8), "y": floats(1, 5, 8), "g": floats(1, 5, 1)}),
        [(1, 5, 8)], "elementwise", 0, 0, 0, 80, runs=True,
    ),
    "ScaledSiLU": Row(
        Case("ScaledSiLU", {"x": floats(1, 5, 8)}),
        [(1, 5, 8)], "elementwise", 0, 0, 0, 40, runs=True,
    ),
    # 5 tokens, 4 value heads of a 3 × 6 state: written, retrieved, read; scaled by the gate.
    "GatedDeltaNet": Row(
        Case(
            "GatedDeltaNet",
            {
                "q": floats(1, 5, 2, 3), "k": floats(1, 5, 2, 3), "v": floats(1, 5, 4, 6),
                "d": floats(1, 5, 4), "t": floats(1, 5, 4), "i": floats(1, 4, 6, 3),
            },
            {"a": floats(4), "b": floats(4)},
            {"gate_activation": "qwen"},
            outputs=2,
            order="q k v _ d t i a b",
        ),
        [(1, 5, 4, 6), (1, 4, 6, 3)], "other", 8, 40, 5 * 4 * 3 * 18, 5 * 4 * 18,
    ),
    "GatedDeltaNet, packed": Row(
        Case(
            "GatedDeltaNet",
            {"q": floats(1, 5, 36), "i": floats(1, 4, 6, 3)},
            {},
            {"update_rule": "linear"},
            order="q _ _ _ _ _ i",
        ),
        [None], "other", 0, 0, 5 * 4 * 2 * 18, 0,
    ),
    # 5 rows of 2 heads of 4 features: an FC of 4 → 6.
    "GatedRelativePositionBias": Row(
        Case(
            "GatedRelativePositionBias",
            {"q": floats(1, 5, 8), "p": floats(1, 2, 5, 5)},
            {"b": floats(8), "w": floats(4, 6), "c": floats(6), "e": floats(1, 2, 1, 1)},
            _HEADS,
            order="q b p w c e",
        ),
        [(1, 2, 5, 5)], "fc", 8 + 24 + 6 + 2, 40 + 240 + 60 + 10, 240, 40 + 10 * 17 + 50,
    ),
    "GemmaRotaryEmbedding": Row(
        Case(
            "GemmaRotaryEmbedding",
            {
                "e": floats(1, 5, 4), "q": floats(1, 2, 5, 4), "r": floats(1, 2, 5, 4),
                "k": floats(1, 3, 5, 4), "s": floats(1, 3, 5, 4),
            },
            outputs=2,
        ),
        [(1, 2, 5, 4), (1, 3, 5, 4)], "elementwise", 0, 0, 0, 40 + 3 * (40 + 60),
    ),
    "MRotaryEmbedding": Row(
        Case(
            "MRotaryEmbedding",
            {"x": floats(1, 2, 5, 8), "p": np.zeros((3, 1, 5), np.int64)},
            {"c": floats(9, 4), "s": floats(9, 4)},
            {"mrope_section": [2, 1, 1]},
        ),
        [(1, 2, 5, 8)], "elementwise", 72, 160, 0, 240, runs=True,
    ),
    "HyperConnectionPostMix": Row(
        Case(
            "HyperConnectionPostMix",
            {"s": floats(1, 5, 3, 8), "b": floats(1, 5, 8), "p": floats(1, 5, 3),
             "m": floats(1, 5, 3, 3)},
        ),
        [(1, 5, 3, 8)], "other", 0, 0, 5 * 3 * 3 * 8, 240, runs=True,
    ),
    "HyperConnectionPreMix": Row(
        Case("HyperConnectionPreMix", {"s": floats(1, 5, 3, 8), "p": floats(1, 5, 3)}),
        [(1, 5, 8)], "other", 0, 0, 120, 40, runs=True,
    ),
    "HyperConnectionPreMix, flattened": Row(
        Case("HyperConnectionPreMix", {"s": floats(1, 5, 24), "p": floats(1, 5, 3)}, {},
             {"num_branches": 3}),
        [(1, 5, 8)], "other", 0, 0, 120, 40, runs=True,
    ),
    "LinearAttentionGate": Row(
        Case(
            "LinearAttentionGate",
            {"a": floats(1, 5, 4), "r": floats(1, 5, 4)},
            {"b": floats(4), "d": floats(4)},
            outputs=2,
            order="a b d r",
        ),
        [(1, 5, 4)] * 2, "elementwise", 8, 40, 0, 80, runs=True,
    ),
    # 8 points: 5 · 8 · 3 operations, 3 signals.
    "Rfft": Row(
        Case("Rfft", {"x": floats(1, 3, 8)}, {}, {"signal_ndim": 1, "onesided": 1}),
        [(1, 3, 5, 2)], "other", 0, 0, 0, 3 * 120,
    ),
    "Irfft": Row(
        Case("Irfft", {"x": floats(1, 3, 5, 2)}, {}, {"signal_ndim": 1, "onesided": 1}),
        [(1, 3, 8)], "other", 0, 0, 0, 3 * 120,
    ),
    "MatMulBlockQuantizedFp4Weight": Row(
        Case(
            "MatMulBlockQuantizedFp4Weight",
            {"x": floats(1, 5, 32).astype(np.float16)},
            {"w": bytes_(6, 16), "s": bytes_(6, 2), "t": floats(1), "b": floats(6)},
            order="x w s t _ b",
        ),
        [(1, 5, 6)], "fc", 192 + 6, 5 * 198, 5 * 192, 30,
    ),
    "MatMulNBitsMlp": Row(
        Case(
            "MatMulNBitsMlp",
            {"x": floats(1, 5, 32), "k": floats(1, 5, 32)},
            {"n": floats(32), "g": bytes_(6, 1, 16), "gs": floats(6), "gb": floats(6),
             "u": bytes_(6, 1, 16), "us": floats(6), "ub": floats(6)},
            {**_BLOCKS, "N": 6, "activation": "silu"},
            outputs=2,
        ),
        [(1, 5, 6), (1, 5, 32)], "fc", 32 + 2 * 198, 160 + 5 * 2 * 198, 5 * 2 * 192,
        3 * 160 + 2 * 30 + 2 * 30,
    ),
    "MatMulNBitsQkv": Row(
        Case(
            "MatMulNBitsQkv",
            {"x": floats(1, 5, 32)},
            {"n": floats(32), "q": bytes_(6, 1, 16), "qs": floats(6), "k": bytes_(4, 1, 16),
             "ks": floats(4), "v": bytes_(4, 1, 16), "vs": floats(4)},
            {**_BLOCKS, "Nq": 6, "Nkv": 4},
            outputs=3,
            order="x _ n q qs _ k ks _ v vs",
        ),
        [(1, 5, 6), (1, 5, 4), (1, 5, 4)], "fc", 32 + 14 * 32, 160 + 5 * 14 * 32, 5 * 14 * 32, 320,
    ),
    "VarlenCausalConvWithState": Row(
        Case(
            "VarlenCausalConvWithState",
            {"x": floats(7, 4), "l": whole(0, 3, 7), "i": floats(2, 4, 2)},
            {"w": floats(4, 1, 3), "b": floats(4)},
            outputs=2,
            order="x w l b i",
        ),
        [(7, 4), (2, 4, 2)], "conv", 16, 7 * 16, 7 * 12, 28,
    ),
    "NGramRepeatBlock": Row(
        Case("NGramRepeatBlock", {"i": np.ones((1, 5), np.int64), "s": floats(1, 9)}, {},
             {"ngram_size": 3}),
        [(1, 9)], "other", 0, 0, 0, None, runs=True,
    ),
    "RestorePadding": Row(
        Case("RestorePadding", {"x": floats(7, 4), "o": flags(2, 5)}),
        [(2, 5, 4)], "layout", 0, 0, 0, 0,
    ),
    # What follows from data is unknown, but for what is held.
    "LongformerAttention": Row(
        Case(
            "LongformerAttention",
            {"x": floats(1, 8, 8), "m": floats(1, 8), "g": flags(1, 8)},
            {"w": floats(8, 24), "b": floats(24), "v": floats(8, 24), "c": floats(24)},
            {"num_heads": 2, "window": 2},
            order="x w b m v c g",
        ),
        [(1, 8, 8)], "fc", 2 * 216, None, None, None,
    ),
    "PackedAttention": Row(
        Case(
            "PackedAttention",
            {"x": floats(7, 8), "o": flags(2, 5), "l": whole(0, 3, 7)},
            {"w": floats(8, 24), "b": floats(24)},
            _HEADS,
            order="x w b o l",
        ),
        [(7, 8)], "fc", 216, None, None, None,
    ),
    "PackedMultiHeadAttention": Row(
        Case(
            "PackedMultiHeadAttention",
            {"q": floats(7, 2, 3, 4), "o": flags(2, 5), "l": whole(0, 3, 7)},
            {},
            _HEADS,
            order="q _ _ _ o l",
        ),
        [(7, 8)], "other", 0, 0, None, None,
    ),
    "PagedAttention": Row(
        Case(
            "PagedAttention",
            {
                "q": floats(7, 64), "kc": floats(9, 16, 2, 8), "vc": floats(9, 16, 2, 8),
                "l": whole(0, 3, 7), "p": whole(0, 0), "t": flags(2, 4),
            },
            {"c": floats(64, 4), "s": floats(64, 4)},
            {**_GROUPED, "do_rotary": 1},
            outputs=3,
            order="q _ _ kc vc l p t c s",
        ),
        [(7, 32), (9, 16, 2, 8), (9, 16, 2, 8)], "other", 512, None, None, None,
    ),
    "SparseAttention": Row(
        Case(
            "SparseAttention",
            {
                "q": floats(1, 5, 64), "pk": floats(1, 2, 16, 8), "pv": floats(1, 2, 16, 8),
                "r": flags(1, 5), "c": flags(1, 9), "t": np.array(5, np.int32), "n": whole(5),
            },
            {},
            {**_GROUPED, "sparse_block_size": 16},
            outputs=3,
            order="q _ _ pk pv r c t n",
        ),
        [(1, 5, 32), (1, 2, 16, 8), (1, 2, 16, 8)], "other", 0, 0, None, None,
    ),
    # A 2 × 3 window over words of characters, however long they are.
    "WordConvEmbedding": Row(
        Case(
            "WordConvEmbedding",
            {"x": np.ones((4, 5), np.int32)},
            {"w": floats(6, 1, 2, 3), "b": floats(6), "c": floats(9, 3)},
        ),
        [(4, 6)], "embedding", 36 + 6 + 27, None, None, None, runs=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_shapes_and_figures(name: str) -> None:
    row = ROWS[name]
    facts = onnxshare.inspect(row.case.model()).nodes[0]
    assert [numbers(out.shape) for out in facts.outputs] == row.shapes
    assert (facts.kind, facts.params, facts.connections, facts.macs) == (
        row.kind,
        row.params,
        row.connections,
        row.macs,
    )
    if row.extra is not None and row.macs is not None:
        assert facts.flops == 2 * row.macs + row.extra


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.runs])
def test_the_shapes_are_those_of_onnx_runtime(name: str) -> None:
    row = ROWS[name]
    fed = {key: value for key, value in row.case.fed.items() if value is not None}
    results = run(row.case.model(), **fed)
    assert [result.shape for result in results[: row.case.outputs]] == row.shapes


def test_what_the_optimiser_writes_for_a_cpu(tmp_path: Path) -> None:
    """Convolutions with their channels in blocks count what they counted before: 16 → 32 channels,
    which are whole blocks of any processor."""
    import onnxruntime as ort

    built = model(
        [
            node("Conv", "x v", "a", pads=[1] * 4),
            node("Relu", "a", "b"),
            node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "c w", "d"),
            node("GlobalAveragePool", "d", "y"),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        [tensor("v", 32, 16, 3, 3), tensor("w", 64, 32, 1, 1)],
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(built.SerializeToString(), options, providers=["CPUExecutionProvider"])
    before, after = onnxshare.inspect(built), onnxshare.inspect(tmp_path / "optimised.onnx")
    if "com.microsoft.nchwc" not in {node.domain for node in after.nodes}:
        pytest.skip("ONNX Runtime has no blocked kernels for this processor")
    assert after.totals.params == before.totals.params == 32 * 16 * 9 + 64 * 32
    assert after.totals.macs == before.totals.macs == 64 * 32 * 16 * 9 + 16 * 64 * 32
    assert after.totals.connections == before.totals.connections
    assert [facts.kind for facts in after.nodes].count("conv") == 2
