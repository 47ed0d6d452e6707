"""`--conv-to-fc`: a convolution over its whole map becomes an FC, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxshare
from onnxshare.runtime.limits import RunLimits
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    floats,
    interface,
    run,
)
from tests.rewrites.forms import C, H, Net, W


def convolutions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)


def covering(net: Net, bias: bool = True, **attributes: Any) -> str:
    """A convolution over the whole map of a trunk."""
    parts = [net.weight(5, C, H, W), *([net.weight(5)] if bias else [])]
    return net.node("Conv", net.trunk(), *parts, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"kernel_shape": [H, W]}, id="kernel_shape"),
        pytest.param({"strides": [2, 3]}, id="strides"),
        pytest.param({"pads": [0, 0, 0, 0]}, id="pads of zero"),
        pytest.param({"auto_pad": "VALID"}, id="valid"),
        pytest.param({"auto_pad": "SAME_UPPER", "strides": [H, W]}, id="same, one position"),
        pytest.param({"bias": False}, id="no bias"),
    ],
)
@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17, 22])
def test_whole_map(attributes: dict[str, Any], opset: int) -> None:
    net = Net(opset=opset)
    net.output(net.node("Tanh", covering(net, **attributes)), "n", 5, 1, 1)
    model = net.model()
    result = onnxshare.rewrite(model, ["conv-to-fc"], provider="cpu")
    assert result.passed
    assert convolutions(result.model) == 1
    assert_untouched_rest(model, result.model)
    assert interface(result.model) == interface(model)
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch))


def test_matrix_by_hand() -> None:
    """Row f of the matrix is filter f, read channel by channel, row by row."""
    net = Net()
    net.output(covering(net), "n", 5, 1, 1)
    model = net.model()
    kernel = numpy_helper.to_array(next(t for t in model.graph.initializer if t.dims[:1] == [5]))
    result = onnxshare.rewrite(model, ["conv-to-fc"], provider="cpu")
    gemm = next(n for n in result.model.graph.node if n.op_type == "Gemm")
    matrix = next(t for t in result.model.graph.initializer if t.name == gemm.input[1])
    expected = np.array(
        [
            [kernel[f, c, y, x] for c in range(C) for y in range(H) for x in range(W)]
            for f in range(5)
        ]
    )
    np.testing.assert_array_equal(numpy_helper.to_array(matrix), expected)


def smaller_kernel(net: Net) -> str:
    return net.node("Conv", net.trunk(), net.weight(5, C, H, W - 1))


def padded(net: Net) -> str:
    return net.node("Conv", net.trunk(), net.weight(5, C, H, W), pads=[1, 1, 1, 1])


def squeeze_and_excite(net: Net) -> str:
    """1×1 convolutions on one position, but not after a whole map: they are no head."""
    x = net.trunk()
    gate = net.node("Conv", net.node("GlobalAveragePool", x), net.weight(C, C, 1, 1))
    return net.node("Mul", x, net.node("Sigmoid", gate))


@pytest.mark.parametrize("build", [smaller_kernel, padded, squeeze_and_excite])
def test_not_a_site(build: Any) -> None:
    net = Net()
    net.output(build(net), "n", None, None, None)
    result = onnxshare.rewrite(net.model(), ["conv-to-fc"], provider="cpu")
    assert result.sites == ()


def test_grouped_is_refused() -> None:
    net = Net()
    x = net.node("Conv", net.trunk(channels=4), net.weight(4, 2, H, W), group=2)
    net.output(x, "n", 4, 1, 1)
    result = onnxshare.rewrite(net.model(), ["conv-to-fc"], provider="cpu")
    assert "grouped" in (result.sites[0].refused or "")


def test_computed_kernel_is_refused() -> None:
    net = Net(batch=1)
    kernel = net.node("Reshape", net.node("Relu", net.input(5 * C * H * W)), net.ints(5, C, H, W))
    net.output(net.node("Conv", net.trunk(), kernel), 1, 5, 1, 1)
    [site] = onnxshare.rewrite(net.model(), ["conv-to-fc"], provider="cpu").sites
    assert site.refused == "its weights are computed"


@pytest.mark.parametrize("name", ["lenet5", "vgg_small"])
def test_bundled_round_trip(bundled: Path, name: str) -> None:
    model = onnx.load(bundled / f"{name}.onnx")
    there = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu").model
    back = onnxshare.rewrite(there, ["conv-to-fc"], provider="cpu")
    assert back.passed
    assert len(back.changes) == 3
    assert sum(n.op_type == "Gemm" for n in back.model.graph.node) == 3
    assert_same_results(model, back.model, feeds(model, 2))


def eight_bits(net: Net, *shape: int) -> str:
    values = np.random.default_rng(2).integers(-127, 128, shape)
    return net.stored(values.astype(np.int8))


def dequantized(net: Net, axis: int | None, **attributes: Any) -> str:
    """A Conv whose kernel is stored in 8 bits: one scale, or one along an axis."""
    count = (5, C, H, W)[axis] if axis is not None else 0
    scale = net.stored(np.linspace(0.01, 0.02, count) if count else 0.01, np.float32)
    zero = net.stored(np.ones(count or (), np.int8))
    given = {} if axis is None else {"axis": axis}
    kernel = net.node("DequantizeLinear", eight_bits(net, 5, C, H, W), scale, zero, **given)
    return net.node("Conv", net.trunk(), kernel, net.weight(5), **attributes)


def reshaped(net: Net) -> str:
    """The integers come through a Reshape, as from a shared weight."""
    one = net.stored(0.01, np.float32)
    kernel = net.node("Reshape", eight_bits(net, 5, C * H * W), net.ints(5, C, H, W))
    return net.node("Conv", net.trunk(), net.node("DequantizeLinear", kernel, one))


def in_uint8(net: Net) -> tuple[str, str, str]:
    scale, zero = net.stored(0.02, np.float32), net.stored(3, np.uint8)
    return net.node("QuantizeLinear", net.trunk(), scale, zero), scale, zero


def integer(net: Net, *, zeros: bool = True) -> str:
    x, _, zero = in_uint8(net)
    points = [zero, net.stored(2, np.int8)] if zeros else []
    x = net.node("ConvInteger", x, eight_bits(net, 5, C, H, W), *points)
    return net.node("Mul", net.node("Cast", x, to=1), net.stored(0.001, np.float32))


def linear(net: Net, *, bias: bool, per_output: bool) -> str:
    x, scale, zero = in_uint8(net)
    scales = net.stored(np.linspace(0.01, 0.02, 5) if per_output else 0.01, np.float32)
    low = net.stored(np.zeros(5 if per_output else (), np.int8))
    step, middle = net.stored(0.05, np.float32), net.stored(128, np.uint8)
    more = [net.stored(np.arange(-200, 300, 100), np.int32)] if bias else []
    kernel = eight_bits(net, 5, C, H, W)
    x = net.node("QLinearConv", x, scale, zero, kernel, scales, low, step, middle, *more)
    return net.node("DequantizeLinear", x, step, middle)


QUANTIZED: dict[str, Callable[[Net], str]] = {
    "one scale": lambda net: dequantized(net, None),
    "a scale per output": lambda net: dequantized(net, 0),
    "a scale per channel": lambda net: dequantized(net, 1),
    "behind a Reshape": reshaped,
    "ConvInteger": integer,
    "ConvInteger without zero points": lambda net: integer(net, zeros=False),
    "QLinearConv": lambda net: linear(net, bias=False, per_output=False),
    "QLinearConv, bias": lambda net: linear(net, bias=True, per_output=False),
    "QLinearConv, a scale per output": lambda net: linear(net, bias=False, per_output=True),
    "QLinearConv, bias, a scale per output": lambda net: linear(net, bias=True, per_output=True),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_integers_stay_integers(name: str) -> None:
    net = Net()
    net.output(QUANTIZED[name](net), "n", 5, 1, 1)
    model = net.model()
    result = onnxshare.rewrite(model, ["conv-to-fc"], run_limits=RunLimits(in_process=True))
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    left = [node.op_type for node in result.model.graph.node if "Conv" in node.op_type]
    assert left == ["Conv"]
    stored = [t for t in result.model.graph.initializer if t.data_type == TensorProto.INT8]
    assert 5 * C * H * W in [int(np.prod(t.dims)) for t in stored]
    assert 5 * C * H * W not in [int(np.prod(t.dims)) for t in floats(result.model)]
    given = feeds(model, 3)
    rounded = 1e-5 if "scale" in name or "Reshape" in name else 0
    for a, b in zip(run(model, given), run(result.model, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=rounded, atol=rounded)


@pytest.mark.parametrize("op_type", ["FusedConv", "NhwcConv"])
def test_what_is_not_rewritten_says_so(op_type: str) -> None:
    net = Net()
    x = net.trunk()
    if op_type == "NhwcConv":
        x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    x = net.node(op_type, x, net.weight(5, C, H, W), domain="com.microsoft")
    net.output(x, None, None, None, None)
    [site] = onnxshare.rewrite(net.model(), ["conv-to-fc"], validate=False).sites
    assert site.refused == f"it is a {op_type}"
