"""Quantized operators, and contrib operators whose shapes the model declares."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxshare
from tests.builders import constant, info, model, node, only, random_array, tensor

U8, I8, I32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32


def small(name: str, *shape: int) -> onnx.TensorProto:
    """Weights of one byte each."""
    return constant(name, np.round(random_array(*shape) * 20), np.int8)


def scale(*names: str) -> list[onnx.TensorProto]:
    return [constant(name, 0.05, np.float32) for name in names]


def zero(*names: str) -> list[onnx.TensorProto]:
    return [constant(name, 0, np.int8) for name in names]


SIGNED = [info("x", ["n", 2, 6, 6], I8)]

CONV = model(
    [node("QLinearConv", "x xs xz w ws wz ys yz b", "y")],
    SIGNED,
    ["y"],
    [
        small("w", 3, 2, 3, 3),
        constant("b", [1, 2, 3], np.int32),
        *scale("xs", "ws", "ys"),
        *zero("xz", "wz", "yz"),
    ],
)
CONV_INTEGER = model(
    [node("ConvInteger", "x w", "y")],
    [info("x", ["n", 2, 6, 6], U8)],
    ["y"],
    [small("w", 3, 2, 3, 3)],
)
MATMUL = model(
    [node("QLinearMatMul", "x xs xz w ws wz ys yz", "y")],
    [info("x", ["n", 7, 5], I8)],
    ["y"],
    [small("w", 5, 3), *scale("xs", "ws", "ys"), *zero("xz", "wz", "yz")],
)
MATMUL_INTEGER = model(
    [node("MatMulInteger", "x w xz wz", "y")],
    [info("x", ["n", 5], I8)],
    ["y"],
    [small("w", 5, 3), *zero("xz", "wz")],
)


@pytest.mark.parametrize(
    ("built", "kind", "params", "uses", "macs", "scales", "stored_bytes"),
    [
        pytest.param(CONV, "conv", 54 + 3, 16 * 57, 16 * 54, 6, 54 + 4 * 3, id="QLinearConv"),
        pytest.param(CONV_INTEGER, "conv", 54, 16 * 54, 16 * 54, 0, 54, id="ConvInteger"),
        pytest.param(MATMUL, "fc", 15, 7 * 15, 7 * 15, 6, 15, id="QLinearMatMul"),
        pytest.param(MATMUL_INTEGER, "fc", 15, 15, 15, 2, 15, id="MatMulInteger"),
    ],
)
def test_quantized_layers(
    built: onnx.ModelProto,
    kind: str,
    params: int,
    uses: int,
    macs: int,
    scales: int,
    stored_bytes: int,
) -> None:
    report = onnxshare.inspect(built)
    (facts,) = report.nodes
    assert (facts.kind, facts.params, facts.connections, facts.macs) == (kind, params, uses, macs)
    totals = report.totals
    assert (totals.params, totals.quantization, totals.constants) == (params, scales, 0)
    assert totals.param_bytes == stored_bytes


def contrib(op_type: str, inputs: str, output: list[int]) -> onnx.ModelProto:
    """A contrib operator with a declared result: onnx's inference does not know it."""
    built = model(
        [node(op_type, inputs, "h", domain="com.microsoft"), node("Identity", "h", "y")],
        {"x": [1, 6, 6, 2] if op_type == "NhwcFusedConv" else [1, 2, 6, 6]},
        ["y"],
        [tensor("w", 3, 2, 3, 3), tensor("b", 3)],
        domains=["com.microsoft"],
    )
    built.graph.value_info.append(info("h", output))
    return built


@pytest.mark.parametrize(
    "built",
    [
        pytest.param(
            contrib("FusedConv", "x w b", [1, 3, 4, 4]),
            id="FusedConv",
        ),
        pytest.param(
            contrib("NhwcFusedConv", "x w b", [1, 4, 4, 3]),
            id="NhwcFusedConv: channels last",
        ),
    ],
)
def test_contrib_convolutions(built: onnx.ModelProto) -> None:
    (facts, _) = onnxshare.inspect(built).nodes
    assert (facts.kind, facts.params, facts.sharing.spatial) == ("conv", 57, 16)
    assert (facts.connections, facts.macs) == (16 * 57, 16 * 54)


def test_a_quantized_bias_and_its_scales_behind_dequantize() -> None:
    """QDQ as quantizers write it: weights of 8 bits, the bias of 32, each with a scale."""
    built = model(
        [
            node("QuantizeLinear", "x xs xz", "xq"),
            node("DequantizeLinear", "xq xs xz", "xd"),
            node("DequantizeLinear", "w ws wz", "wd"),
            node("DequantizeLinear", "b bs", "bd"),
            node("Gemm", "xd wd bd", "y"),
        ],
        {"x": ["n", 5]},
        ["y"],
        [
            small("w", 5, 3),
            constant("b", [1, 2, 3], np.int32),
            *scale("xs", "ws", "bs"),
            *zero("xz", "wz"),
        ],
    )
    report = onnxshare.inspect(built)
    facts = only(report, "Gemm")
    assert (facts.kind, facts.params, facts.connections) == ("fc", 18, 18)
    totals = report.totals
    assert (totals.params, totals.quantization, totals.param_bytes) == (18, 5, 15 + 4 * 3)
