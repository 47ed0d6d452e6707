"""What makes of each sample a result of its own slides: each position against the crop under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.rewrites.forms import K, Net
from tests.rewrites.head_as_maps.test_features import assert_slides, scores, slid

Build = Callable[[Net], None]


def padded(*pads: int, mode: str = "constant", features: int = 9) -> Build:
    """Zeros, or copies, before and after the features."""

    def build(net: Net) -> None:
        x = net.node("Pad", scores(net), net.ints(*pads), mode=mode)
        net.rows(x, features)

    return build


def padded_by_attributes(net: Net) -> None:
    """As before opset 11, where sizes that are computed are not followed by onnx either."""
    net.rows(net.node("Pad", scores(net), pads=[0, 1, 0, 2], value=0.25), 9)


def padded_along_named_axes(net: Net) -> None:
    half = net.stored(0.5, np.float32)
    net.rows(net.node("Pad", scores(net), net.ints(1, 2), half, net.ints(-1)), 9)


def shortcut(net: Net) -> None:
    """A residual sum of unequal widths: the narrow side is filled up with zeros."""
    x = scores(net)
    wide = net.gemm(net.node("Tanh", x), 6, 8)
    net.rows(net.node("Add", net.node("Pad", x, net.ints(0, 0, 0, 2)), wide), 8)


def expected_value(net: Net) -> None:
    """A product with a vector, which leaves one number per sample."""
    shares = net.node("Softmax", scores(net), axis=1)
    net.output(net.node("MatMul", shares, net.weight(6)), "n")


def digits(net: Net, *shape: int) -> str:
    return net.node("Reshape", scores(net), net.ints(-1, *(shape or (3, 2))))


def each_digit(net: Net) -> None:
    """A later FC, applied to each row of a result."""
    x = net.node("Relu", digits(net))
    net.output(net.matmul(x, 2, 4), "n", 3, 4)


def inner_product(net: Net) -> None:
    """Of two embeddings, as a batched product."""
    flat = net.flat()
    one = net.node("Unsqueeze", net.gemm(flat, K, 6), net.ints(1))
    other = net.node("Unsqueeze", net.gemm(flat, K, 6), net.ints(2))
    net.rows(net.node("Squeeze", net.node("MatMul", one, other), net.ints(2)), 1)


def einsum(equation: str, *shape: int) -> Build:
    def build(net: Net) -> None:
        net.rows(net.node("Einsum", scores(net), net.weight(*shape), equation=equation), 4)

    return build


def gram(net: Net) -> None:
    x = digits(net)
    net.output(net.node("Einsum", x, x, equation="bij,bkj->bik"), "n", 3, 3)


def one_hot(net: Net) -> None:
    best = net.node("ArgMax", scores(net), axis=1, keepdims=0)
    values = net.stored([0.0, 1.0], np.float32)
    net.rows(net.node("OneHot", best, net.stored(6, np.int64), values), 6)


def classes_of_a_table(net: Net) -> None:
    best = net.node("ArgMax", scores(net), axis=1, keepdims=0)
    net.rows(net.node("Gather", net.weight(6, 4), best, axis=0), 4)


def on_channels(op_type: str, *shape: int, **attributes: Any) -> Build:
    """An operator of images on a result of several axes."""

    def build(net: Net) -> None:
        weights = [net.weight(shape[0]), net.weight(shape[0])] if "Inst" in op_type else []
        x = net.node(op_type, digits(net, *shape), *weights, **attributes)
        net.rows(net.node("Flatten", x), 3 if "Pool" in op_type else 6)

    return build


def convolved(net: Net) -> None:
    """Efficient channel attention: a convolution along the features."""
    x = scores(net)
    gate = net.node("Conv", net.node("Unsqueeze", x, net.ints(1)), net.weight(1, 1, 3), pads=[1, 1])
    gate = net.node("Sigmoid", net.node("Squeeze", gate, net.ints(1)))
    net.rows(net.node("Mul", x, gate), 6)


def triangle(net: Net) -> None:
    net.output(net.node("Trilu", digits(net)), "n", 3, 2)


BUILDS: dict[str, tuple[Build, dict[str, Any]]] = {
    "Pad": (padded(0, 1, 0, 2), {}),
    "Pad, edge": (padded(0, 1, 0, 2, mode="edge"), {}),
    "Pad, reflect": (padded(0, 3, 0, 0, mode="reflect"), {}),
    "Pad that cuts": (padded(0, -1, 0, 2, features=7), {}),
    "Pad by attributes": (padded_by_attributes, {"opset": 10, "ir": 5}),
    "Pad along named axes": (padded_along_named_axes, {"opset": 18}),
    "a shortcut that is filled up": (shortcut, {}),
    "MatMul with a vector": (expected_value, {}),
    "an FC for each row": (each_digit, {}),
    "MatMul of two embeddings": (inner_product, {}),
    "Einsum with a matrix": (einsum("nf,fg->ng", 6, 4), {}),
    "Einsum with its matrix turned": (einsum("nf, gf -> ng", 4, 6), {}),
    "Einsum of a result with itself": (gram, {}),
    "OneHot": (one_hot, {}),
    "Gather from a table": (classes_of_a_table, {}),
    "InstanceNormalization": (on_channels("InstanceNormalization", 2, 3), {}),
    "LRN": (on_channels("LRN", 6, 1, 1, size=3, alpha=3.0), {}),
    "DepthToSpace": (on_channels("DepthToSpace", 6, 1, 1, blocksize=1), {}),
    "MaxPool": (on_channels("MaxPool", 1, 6, kernel_shape=[2], strides=[2]), {}),
    "GlobalAveragePool": (on_channels("GlobalAveragePool", 3, 2), {}),
    "Conv": (convolved, {}),
    "Trilu": (triangle, {}),
}


@pytest.mark.parametrize("name", BUILDS)
def test_slides(name: str) -> None:
    build, options = BUILDS[name]
    net = Net(**options)
    build(net)
    assert_slides(net.model())


def padded_samples(net: Net) -> None:
    net.output(net.node("Pad", scores(net), net.ints(0, 0, 1, 0)), None, 6)


def pairs_of_samples(net: Net) -> None:
    """As a contrastive loss compares each sample with each other one."""
    x = scores(net)
    net.output(net.node("MatMul", x, net.node("Transpose", scores(net), perm=[1, 0])), None, None)


def summed_over_samples(net: Net) -> None:
    x = net.node("Einsum", scores(net), net.weight(6, 4), equation="nf,fg->g")
    net.output(x, 4)


def largest_and_where(net: Net) -> None:
    """The second output counts elements through all samples."""
    x = digits(net)
    values, places = net.nodes("MaxPool", 2, x, kernel_shape=[2])
    net.output(values, "n", 3, 1)
    net.output(places, "n", 3, 1, elem=7)


@pytest.mark.parametrize(
    "build", [padded_samples, pairs_of_samples, summed_over_samples, largest_and_where]
)
def test_what_mixes_samples_is_refused(build: Build) -> None:
    net = Net()
    build(net)
    result = slid(net.model())
    assert "cannot work on a map of outputs" in str(result.sites[0].refused)
    assert result.changes == ()
