"""The worked numbers this project grew from: each row a model built by hand, each figure written
out from the row's own formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, prod
from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from tests import builders
from tests.builders import only, shape_of


def left_out(dims: list[int]) -> onnx.TensorProto:
    """A weight w whose values are in another file, which nobody reads."""
    weight = onnx.TensorProto(name="w", data_type=1, dims=dims, data_location="EXTERNAL")
    weight.external_data.add(key="location", value="w.bin")
    return weight


@dataclass(frozen=True)
class Row:
    """A layer and its figures; None where the row states none."""

    built: onnx.ModelProto
    op_type: str
    params: int
    output: tuple[int, ...]
    connections: int | None = None
    ratio: float | None = None
    unshared: int | None = None
    dense: int | None = None
    macs: int | None = None


ROWS = {
    "1: LeNet-5 C1": Row(
        builders.conv(["n", 1, 32, 32], (6, 1, 5, 5)),
        "Conv",
        params=(25 + 1) * 6,
        output=(1, 6, 28, 28),
        connections=122_304,
        ratio=784,
        unshared=25 * 6 * 28 * 28,
        dense=1024 * 6 * 28 * 28,
        macs=25 * 6 * 28 * 28,
    ),
    "2: two 3x3 filters, same": Row(
        builders.conv(["n", 3, 8, 8], (2, 3, 3, 3), auto_pad="SAME_UPPER"),
        "Conv",
        params=56,
        output=(1, 2, 8, 8),
        macs=9 * 3 * 2 * 64,
    ),
    "3: one 3x3 filter": Row(
        builders.conv(["n", 1, 32, 32], (1, 1, 3, 3)), "Conv", params=10, output=(1, 1, 30, 30)
    ),
    "4: FC on an image": Row(
        builders.fc(["n", 1, 32, 32], 1024, 1000, bias=False),
        "Gemm",
        params=1_024_000,
        output=(1, 1000),
        connections=1_024_000,
        ratio=1,
        unshared=1_024_000,
        dense=1_024_000,
        macs=1_024_000,
    ),
    "5: one 3x3x3 filter": Row(
        builders.conv(["n", 3, 32, 32], (1, 3, 3, 3)),
        "Conv",
        params=28,
        output=(1, 1, 30, 30),
        ratio=900,
        unshared=24_300,
    ),
    "6: ten 5x5x3 filters, same": Row(
        builders.conv(["n", 3, 32, 32], (10, 3, 5, 5), pads=[2, 2, 2, 2]),
        "Conv",
        params=760,
        output=(1, 10, 32, 32),
        ratio=1024,
        unshared=768_000,
    ),
    "7: FC on a large image": Row(
        builders.fc(["n", 3, 100, 100], 30_000, 1000, bias=False),
        "Gemm",
        params=30_000_000,
        output=(1, 1000),
        connections=30_000_000,
        ratio=1,
    ),
    "9: FC after convolution": Row(
        builders.model(
            [builders.node("Flatten", "x", "f"), builders.node("Gemm", "f w", "y")],
            [builders.info("x", ["n", 512, 7, 7])],
            ["y"],
            [left_out([25_088, 4096])],
        ),
        "Gemm",
        params=102_760_448,
        output=(1, 4096),
        ratio=1,
        macs=102_760_448,
    ),
    "9: as a 7x7 convolution": Row(
        builders.model(
            [builders.node("Conv", "x w", "y")],
            {"x": ["n", 512, 7, 7]},
            ["y"],
            [left_out([4096, 512, 7, 7])],
        ),
        "Conv",
        params=102_760_448,
        output=(1, 4096, 1, 1),
        ratio=1,
        macs=102_760_448,
    ),
    "9: as a 1x1 convolution": Row(
        builders.model(
            [builders.node("Conv", "x w", "c"), builders.node("GlobalAveragePool", "c", "y")],
            {"x": ["n", 512, 7, 7]},
            ["y"],
            [left_out([4096, 512, 1, 1])],
        ),
        "Conv",
        params=102_760_448 // 49,
        output=(1, 4096, 7, 7),
        ratio=49,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_layers(name: str) -> None:
    row = ROWS[name]
    report = onnxshare.inspect(row.built)
    facts = only(report, row.op_type)
    assert (facts.params, shape_of(facts)) == (row.params, row.output)
    assert report.totals.params == row.params
    stated = {
        "connections": row.connections,
        "sharing_ratio": row.ratio,
        "unshared_params": row.unshared,
        "dense_params": row.dense,
        "macs": row.macs,
    }
    wanted = {field: figure for field, figure in stated.items() if figure is not None}
    assert {field: getattr(facts, field) for field in wanted} == wanted


def stacked() -> onnx.ModelProto:
    """Row 8: `[64, 64, 'M']`."""
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    return builders.model(
        [
            builders.node("Conv", "x w1 b1", "c1", **same),
            builders.node("Relu", "c1", "r1"),
            builders.node("Conv", "r1 w2 b2", "c2", **same),
            builders.node("Relu", "c2", "r2"),
            builders.node("MaxPool", "r2", "y", kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {"x": ["n", 3, 32, 32]},
        ["y"],
        [
            builders.tensor("w1", 64, 3, 3, 3),
            builders.tensor("b1", 64),
            builders.tensor("w2", 64, 64, 3, 3),
            builders.tensor("b2", 64),
        ],
    )


def test_row_8_two_convolutions_and_a_pool() -> None:
    report = onnxshare.inspect(stacked())
    first, _, second, _, pool = report.nodes
    assert [facts.params for facts in (first, second, pool)] == [1_792, 36_928, 0]
    assert [shape_of(facts) for facts in (first, second, pool)] == [
        (1, 64, 32, 32),
        (1, 64, 32, 32),
        (1, 64, 16, 16),
    ]
    assert report.totals.weight_layers == 2
    assert report.totals.params == 1_792 + 36_928
    assert report.totals.connections == 1024 * (1_792 + 36_928)


@pytest.mark.parametrize(
    ("kernel", "channels", "filters", "map_size", "features", "more"),
    [
        pytest.param(3, 2, 4, 5, 7, 3, id="small"),
        pytest.param(1, 3, 2, 1, 1, 5, id="1x1"),
        pytest.param(5, 1, 6, 2, 9, 1, id="5x5"),
    ],
)
def test_row_10_general_formulas(
    kernel: int, channels: int, filters: int, map_size: int, features: int, more: int
) -> None:
    size = map_size * 2 + kernel - 1
    flat = map_size**2 * filters
    built = builders.model(
        [
            builders.node("Conv", "x w1 b1", "c"),
            builders.node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
            builders.node("Flatten", "p", "f"),
            builders.node("Gemm", "f w2 b2", "g", transB=1),
            builders.node("Gemm", "g w3 b3", "y"),
        ],
        {"x": ["n", channels, size, size]},
        ["y"],
        [
            builders.tensor("w1", filters, channels, kernel, kernel),
            builders.tensor("b1", filters),
            builders.tensor("w2", features, flat),
            builders.tensor("b2", features),
            builders.tensor("w3", features, more),
            builders.tensor("b3", more),
        ],
    )
    params = [facts.params for facts in onnxshare.inspect(built).nodes]
    assert params == [
        kernel**2 * channels * filters + filters,
        0,
        0,
        map_size**2 * filters * features + features,
        features * more + more,
    ]


# Row 11: sizes of outputs. `by_hand` is the seeds' formula, ONNX Runtime the judge of both.
Pads = tuple[int, int]


def explicit(size: int, window: int, stride: int, pads: Pads = (0, 0), dilation: int = 1) -> int:
    """(I − K + 2P) / S + 1 with floor."""
    return floor((size - (dilation * (window - 1) + 1) + sum(pads)) / stride) + 1


def same(size: int, stride: int) -> int:
    """ceil(I / S)."""
    return ceil(size / stride)


def valid(size: int, window: int, stride: int) -> int:
    """ceil((I − K + 1) / S)."""
    return ceil((size - window + 1) / stride)


SIZES = [
    pytest.param("Conv", 3, {}, explicit(11, 3, 1), id="plain"),
    pytest.param("Conv", 3, {"strides": [2, 2]}, explicit(11, 3, 2), id="stride"),
    pytest.param("Conv", 4, {"strides": [3, 3]}, explicit(11, 4, 3), id="floor"),
    pytest.param(
        "Conv", 3, {"pads": [1] * 4, "strides": [2, 2]}, explicit(11, 3, 2, (1, 1)), id="pads"
    ),
    pytest.param("Conv", 3, {"pads": [0, 0, 2, 2]}, explicit(11, 3, 1, (0, 2)), id="asymmetric"),
    pytest.param(
        "Conv", 3, {"dilations": [3, 3]}, explicit(11, 3, 1, dilation=3), id="dilation"
    ),
    pytest.param(
        "Conv", 3, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, same(11, 2), id="SAME_UPPER"
    ),
    pytest.param(
        "Conv", 4, {"auto_pad": "SAME_LOWER", "strides": [3, 3]}, same(11, 3), id="SAME_LOWER"
    ),
    pytest.param("Conv", 3, {"auto_pad": "VALID", "strides": [2, 2]}, valid(11, 3, 2), id="VALID"),
    pytest.param("MaxPool", 2, {"strides": [2, 2]}, explicit(11, 2, 2), id="pool floor"),
    pytest.param(
        "MaxPool", 2, {"strides": [2, 2], "ceil_mode": 1}, ceil((11 - 2) / 2) + 1, id="pool ceil"
    ),
    pytest.param(
        "MaxPool", 3, {"strides": [2, 2], "pads": [1, 1, 0, 0]}, explicit(11, 3, 2, (1, 0)),
        id="pool asymmetric",
    ),
    pytest.param(
        "AveragePool", 3, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, same(11, 2),
        id="pool SAME",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "window", "attributes", "by_hand"), SIZES)
def test_row_11_output_sizes(
    op_type: str, window: int, attributes: dict[str, Any], by_hand: int
) -> None:
    if op_type == "Conv":
        built = builders.conv([1, 2, 11, 11], (3, 2, window, window), **attributes)
        channels = 3
    else:
        kernel = builders.node(op_type, "x", "y", kernel_shape=[window, window], **attributes)
        built = builders.model([kernel], {"x": [1, 2, 11, 11]}, ["y"])
        channels = 2
    reported = shape_of(only(onnxshare.inspect(built), op_type))
    assert reported == (1, channels, by_hand, by_hand)
    (result,) = builders.run(built, x=builders.random_array(1, 2, 11, 11))
    assert result.shape == reported


def test_row_12_receptive_field() -> None:
    """Three 1-D convolutions of kernel 3: each widens the field by 2, from 1 to 7."""
    built = builders.model(
        [
            builders.node("Conv", "x w", "a"),
            builders.node("Conv", "a w", "b"),
            builders.node("Conv", "b w", "y"),
        ],
        {"x": ["n", 1, "length"]},
        ["y"],
        [builders.tensor("w", 1, 1, 3)],
    )
    fields = [facts.receptive_field for facts in onnxshare.inspect(built).nodes]
    assert fields == [{"size": [size], "stride": [1], "start": [0]} for size in (3, 5, 7)]


@pytest.mark.parametrize(
    ("data", "weight"),
    [
        pytest.param((3, 9, 9), (4, 3, 3, 3), id="2-D"),
        pytest.param((2, 17), (5, 2, 4), id="1-D"),
        pytest.param((2, 6, 7, 8), (3, 2, 2, 3, 4), id="3-D"),
    ],
)
def test_row_13_multiply_adds(data: Sequence[int], weight: Sequence[int]) -> None:
    """K² · Cin · Cout · Hout · Wout, without the bias."""
    facts = only(onnxshare.inspect(builders.conv(["n", *data], weight)), "Conv")
    positions = prod(i - k + 1 for i, k in zip(data[1:], weight[2:], strict=True))
    assert facts.macs == prod(weight) * positions
    assert facts.flops == 2 * facts.macs + weight[0] * positions  # and the additions of the bias


# LeNet-5: 32×32 input, 5×5 convolutions of 6 and 16 filters, mean pooling, 120, 84, 10.
LENET = (25 + 1) * 6 + (25 * 6 + 1) * 16 + (25 * 16 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10


def test_lenet_5_holds_61706_params(lenet: onnx.ModelProto) -> None:
    totals = onnxshare.inspect(lenet).totals
    assert LENET == 61_706
    assert (totals.params, totals.weight_layers) == (61_706, 5)


def lenet_with_c5(lenet: onnx.ModelProto) -> onnx.ModelProto:
    """The same net with C5 as LeCun wrote it: a 5×5 convolution over the 5×5 map."""
    built = onnx.ModelProto()
    built.CopyFrom(lenet)
    f5 = next(node for node in built.graph.node if node.name == "F5")
    flatten = next(node for node in built.graph.node if node.op_type == "Flatten")
    for weight in built.graph.initializer:
        if weight.name == "f5.w":
            weight.dims[:] = [120, 16, 5, 5]
    convolution = builders.node("Conv", f"{flatten.input[0]} f5.w f5.b", "c5")
    flatten.input[0], f5_output = "c5", f5.output[0]
    flatten.output[0] = f5_output
    kept = [convolution if node is f5 else node for node in built.graph.node]
    kept.remove(flatten)
    kept.insert(kept.index(convolution) + 1, flatten)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del built.graph.node[:]
    built.graph.node.extend(nodes)
    onnx.checker.check_model(built)
    return built


def test_c5_as_a_convolution_is_the_fc(lenet: onnx.ModelProto) -> None:
    head_map = lenet_with_c5(lenet)
    images = builders.random_array(3, 1, 32, 32)
    (fc,), (convolution,) = builders.run(lenet, x=images), builders.run(head_map, x=images)
    np.testing.assert_allclose(convolution, fc, rtol=1e-4, atol=1e-5)  # the twin is built right
    report = onnxshare.inspect(head_map)
    c5 = next(facts for facts in report.nodes if facts.name == "Conv:c5")
    assert (c5.params, c5.sharing_ratio) == ((25 * 16 + 1) * 120, 1)
    assert report.totals.params == LENET


@pytest.mark.parametrize(
    ("rewrite", "as_convolution", "before", "after"),
    [
        pytest.param("fc-to-conv", False, "Gemm", "Conv", id="FC to C5"),
        pytest.param("conv-to-fc", True, "Conv", "Gemm", id="C5 to FC"),
    ],
)
def test_c5_both_ways(
    rewrite: str, as_convolution: bool, before: str, after: str, lenet: onnx.ModelProto
) -> None:
    original = lenet_with_c5(lenet) if as_convolution else lenet
    changed = onnxshare.rewrite(original, [rewrite], validate=False).model
    images = builders.random_array(4, 1, 32, 32)
    (old,), (new,) = builders.run(original, x=images), builders.run(changed, x=images)
    np.testing.assert_allclose(new.reshape(old.shape), old, rtol=1e-4, atol=1e-5)
    report = onnxshare.inspect(changed)
    assert report.totals.params == LENET
    holders = {facts.op_type for facts in report.nodes if facts.params == (25 * 16 + 1) * 120}
    held = {
        facts.op_type
        for facts in onnxshare.inspect(original).nodes
        if facts.params == (25 * 16 + 1) * 120
    }
    assert (held, holders) == ({before}, {after})
