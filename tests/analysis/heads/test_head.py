"""Heads: what counts as one, and when the order of its columns is not that of one sample."""

from __future__ import annotations

import onnx
import pytest

import onnxshare
from onnxshare.analysis.heads.head import ONE_POSITION
from tests.builders import constant, model, node, tensor
from tests.rewrites.forms import C, Net

_CONV = node("Conv", "x k", "map")
_WEIGHTS = [tensor("k", 4, 1, 3, 3), tensor("w", 36, 5), constant("to", [-1, 36])]


def after_conv(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A map [n, 4, 3, 3], then some nodes, of which the last makes y with the weight w."""
    return model([_CONV, *nodes], {"x": ["n", 1, 5, 5]}, ["y"], _WEIGHTS)


FC = node("Gemm", "flat w", "y")
TO_ROWS = node("Reshape", "t to", "flat")


@pytest.mark.parametrize(
    ("built", "layout"),
    [
        pytest.param(after_conv(node("Flatten", "map", "flat"), FC), "NCHW", id="Flatten"),
        pytest.param(
            after_conv(node("Transpose", "map", "t", perm=[0, 2, 3, 1]), TO_ROWS, FC),
            "NHWC",
            id="channels last",
        ),
        pytest.param(
            after_conv(node("Transpose", "map", "t", perm=[0, 1, 3, 2]), TO_ROWS, FC),
            "permuted",
            id="height and width swapped",
        ),
        pytest.param(
            after_conv(node("Relu", "map", "t"), TO_ROWS, FC), "NCHW", id="behind an activation"
        ),
    ],
)
def test_order_of_columns(built: onnx.ModelProto, layout: str) -> None:
    report = onnxshare.inspect(built)
    (head,) = report.heads
    assert (head.channels, head.spatial, head.layout) == (4, (3, 3), layout)
    assert report.totals.fc_after_conv_params == 36 * 5
    assert head.rewrites["fc-to-conv"]["exact"] is True


def test_rows_that_mix_samples_are_refused() -> None:
    """The batch moved behind the channels: with two samples, a row holds parts of both."""
    built = after_conv(node("Transpose", "map", "t", perm=[1, 0, 2, 3]), TO_ROWS, FC)
    (head,) = onnxshare.inspect(built).heads
    assert "mixes samples" in head.rewrites["fc-to-conv"]["refused"]
    assert head.uniformity is None


def test_an_fc_at_every_position_is_refused() -> None:
    """[n, 4, 9] · [9, 5]: a 1-D layer shared by the channels, not one that reads whole maps."""
    built = model(
        [_CONV, node("Reshape", "map to", "rows"), node("MatMul", "rows w", "y")],
        {"x": ["n", 1, 5, 5]},
        ["y"],
        [tensor("k", 4, 1, 3, 3), tensor("w", 9, 5), constant("to", [0, 4, 9])],
    )
    report = onnxshare.inspect(built)
    (head,) = report.heads
    assert "applied to 4 rows of each sample" in head.rewrites["fc-to-conv"]["refused"]
    assert "applied to 4 rows of each sample" in head.rewrites["fc-to-gap"]["refused"]
    assert report.totals.fc_after_conv_params == 0


@pytest.mark.parametrize(
    ("over_space", "share"),
    [
        pytest.param([1.0] * 9, 1.0, id="constant over space"),
        pytest.param([1.0, -1.0] * 4 + [0.0], 0.0, id="zero mean over space"),
        pytest.param([3.0] + [0.0] * 8, 1 / 9, id="one place of nine"),
    ],
)
def test_uniformity(over_space: list[float], share: float) -> None:
    """1 where a mean over the map is enough, 0 where it says nothing."""
    built = after_conv(node("Flatten", "map", "flat"), FC)
    rows = [[channel * place] * 5 for channel in (1.0, 2.0, 3.0, 4.0) for place in over_space]
    built.graph.initializer[1].CopyFrom(constant("w", rows, "float32"))
    (head,) = onnxshare.inspect(built).heads
    assert head.uniformity == pytest.approx(share)


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("relu", [False, True])
def test_pooling_over_channels_last_is_one_position(
    op_type: str, keepdims: int, relu: bool
) -> None:
    """As Keras exports it: a Transpose, then a mean over axes 1 and 2, which are kept or not."""
    net = Net()
    x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    x = net.node(op_type, x, axes=[1, 2], keepdims=keepdims)
    x = net.node("Relu", x) if relu else x
    x = net.node("Reshape", x, net.ints(-1, C)) if keepdims else x
    net.rows(net.matmul(x, C, 5), 5)
    (head,) = onnxshare.inspect(net.model()).heads
    assert {fit.get("refused") for fit in head.rewrites.values()} == {ONE_POSITION}
