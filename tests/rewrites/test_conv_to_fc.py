"""`--conv-to-fc`: a convolution over its whole map becomes an FC, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    interface,
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


def test_computed_kernel_is_not_a_site() -> None:
    net = Net(batch=1)
    kernel = net.node("Reshape", net.node("Relu", net.input(5 * C * H * W)), net.ints(5, C, H, W))
    net.output(net.node("Conv", net.trunk(), kernel), 1, 5, 1, 1)
    assert onnxshare.rewrite(net.model(), ["conv-to-fc"], provider="cpu").sites == ()


@pytest.mark.parametrize("name", ["lenet5", "vgg_small"])
def test_bundled_round_trip(bundled: Path, name: str) -> None:
    model = onnx.load(bundled / f"{name}.onnx")
    there = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu").model
    back = onnxshare.rewrite(there, ["conv-to-fc"], provider="cpu")
    assert back.passed
    assert len(back.changes) == 3
    assert sum(n.op_type == "Gemm" for n in back.model.graph.node) == 3
    assert_same_results(model, back.model, feeds(model, 2))
