"""What works over the features of a result slides: each position against the crop under it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxshare
from onnxshare.runtime.limits import RunLimits
from tests.rewrites.checking import inputs, run
from tests.rewrites.forms import H, K, Net, W

#: By how much the image is larger than a crop.
MORE = (2, 1)


def slid(model: onnx.ModelProto) -> onnxshare.RewriteResult:
    limits = RunLimits(in_process=True)
    return onnxshare.rewrite(model, ["fc-to-conv"], fully_convolutional=True, run_limits=limits)


def assert_slides(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every position of every output is what the model gives on the crop there."""
    result = slid(model)
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    onnx.checker.check_model(result.model, full_check=True)
    random = np.random.default_rng(4)
    shapes = {
        v.name: [d.dim_value or 2 for d in v.type.tensor_type.shape.dim] for v in inputs(model)
    }
    sides = next(shape[2:] for shape in shapes.values() if len(shape) == 4)
    whole = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            shape = [2, 2, *(side + more for side, more in zip(sides, MORE, strict=True))]
        whole[name] = random.standard_normal(shape).astype(np.float32)
    maps = run(result.model, whole)
    for y, x in np.ndindex(*(more + 1 for more in MORE)):
        crop = {
            name: values[:, :, y : y + sides[0], x : x + sides[1]].copy()
            if values.ndim == 4
            else values
            for name, values in whole.items()
        }
        for old, made in zip(run(model, crop), maps, strict=True):
            assert made.shape[2:] == tuple(more + 1 for more in MORE)
            assert made.dtype == old.dtype
            here = made[:, :, y, x]
            np.testing.assert_allclose(here, old.reshape(here.shape), rtol=1e-4, atol=1e-5)
    return result.model


def scores(net: Net, features: int = 6) -> str:
    return net.gemm(net.flat(), K, features)


def normalized(net: Net) -> None:
    """`torch.nn.functional.normalize`, as TorchScript exports it."""
    x = scores(net)
    norm = net.node("Clip", net.node("ReduceL2", x, axes=[1]), net.stored(1e-6, np.float32))
    net.rows(net.node("Div", x, net.node("Expand", norm, net.node("Shape", x))), 6)


def normalized_by_parts(net: Net) -> None:
    x = scores(net)
    square = net.node("ReduceSum", net.node("Mul", x, x), net.ints(-1), keepdims=1)
    net.rows(net.node("Div", x, net.node("Sqrt", square)), 6)


def dueling(net: Net) -> None:
    flat = net.flat()
    value = net.gemm(net.node("Relu", net.gemm(flat, K, 5)), 5, 1)
    best = net.gemm(net.node("Relu", net.gemm(flat, K, 5)), 5, 4)
    mean = net.node("ReduceMean", best, axes=[1], keepdims=1)
    net.rows(net.node("Add", value, net.node("Sub", best, mean)), 4)


def dueling_of_one_layer(net: Net) -> None:
    """Value and advantages are parts of one result, cut with a Slice and a Gather."""
    x = scores(net)
    value = net.node(
        "Unsqueeze", net.node("Gather", x, net.stored(0, np.int64), axis=1), net.ints(1)
    )
    best = net.node("Slice", x, net.ints(1), net.ints(6), net.ints(1))
    least = net.node("Sub", best, net.node("ReduceMax", best, axes=[1], keepdims=1))
    net.rows(net.node("Add", value, least), 5)


def captcha(net: Net) -> None:
    """A softmax for each of three letters, and its best class."""
    x = net.node("Reshape", scores(net, 12), net.ints(-1, 3, 4))
    net.output(net.node("Softmax", x, axis=2), "n", 3, 4)
    best = net.node("ArgMax", x, axis=-1, keepdims=0)
    net.output(best, "n", 3, elem=TensorProto.INT64)


def captcha_of_several_heads(net: Net) -> None:
    flat = net.flat()
    letters = [net.node("Unsqueeze", net.gemm(flat, K, 4), net.ints(1)) for _ in range(3)]
    net.output(net.node("LogSoftmax", net.node("Concat", *letters, axis=1), axis=-1), "n", 3, 4)


def joined_along_classes(net: Net) -> None:
    """The second axis of a Concat, so that channels change places."""
    parts = [net.node("Reshape", scores(net, 6), net.ints(-1, 3, 2)) for _ in range(1)]
    parts.append(net.node("Neg", parts[0]))
    x = net.node("Concat", *parts, axis=2)
    net.output(net.node("ReduceSum", x, net.ints(1), keepdims=0), "n", 4)


def turned(net: Net) -> None:
    """An output whose features stand in another order than the FC makes them."""
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    net.output(net.node("Transpose", x, perm=[0, 2, 1]), "n", 3, 2)


def box_and_class(net: Net) -> None:
    box, kind = net.nodes("Split", 2, scores(net), net.ints(2, 4), axis=1)
    net.rows(net.node("Sigmoid", box), 2)
    net.rows(net.node("Softmax", kind, axis=1), 4)


def best_three(net: Net) -> None:
    values, places = net.nodes("TopK", 2, scores(net), net.ints(3), axis=1)
    net.rows(values, 3)
    net.rows(places, 3, elem=TensorProto.INT64)


def distance(net: Net) -> None:
    """A Siamese net: one head on two images, and how far its embeddings are apart."""
    kernel, weight = net.weight(3, 2, 3, 3), net.weight(5, K)
    one, other = (
        net.node(
            "Gemm",
            net.node(
                "Flatten", net.node("Relu", net.node("Conv", net.input(2, H + 2, W + 2), kernel))
            ),
            weight,
            transB=1,
        )
        for _ in range(2)
    )
    apart = net.node("Sub", one, other)
    net.rows(net.node("ReduceL2", apart, axes=[1], keepdims=1), 1)
    net.rows(net.node("Sigmoid", net.gemm(net.node("Abs", apart), 5, 1)), 1)


def thresholds(net: Net) -> None:
    """A Where of two results and a constant, all of whom broadcast."""
    x = scores(net)
    above = net.node("Greater", x, net.node("ReduceMean", x, axes=[1]))
    net.rows(net.node("Where", above, x, net.weight(1, 6)), 6)


def layer_norm(net: Net) -> None:
    x = net.node("LayerNormalization", scores(net), net.weight(6), net.weight(6), axis=-1)
    net.rows(net.gemm(x, 6, 4), 4)


def batch_norm_of_three_axes(net: Net) -> None:
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    spread = net.stored([0.5, 2.0], np.float32)
    made = net.node("BatchNormalization", x, net.weight(2), net.weight(2), net.weight(2), spread)
    net.output(made, "n", 2, 3)


def softmax_over_rows(net: Net) -> None:
    """Over the middle axis: neither all features nor neighbours."""
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    net.output(net.node("Softmax", x, axis=1), "n", 2, 3)


def running_sum(net: Net) -> None:
    net.rows(net.node("CumSum", scores(net), net.stored(1, np.int64), reverse=1), 6)


def expected_age(net: Net) -> None:
    """A mean over classes, by their shares, without an axis for it."""
    shares = net.node("Softmax", scores(net), axis=1)
    ages = net.stored(np.arange(6), np.float32)
    net.output(net.node("ReduceSum", net.node("Mul", shares, ages), net.ints(1), keepdims=0), "n")


def repeated(net: Net) -> None:
    x = net.node("Tile", scores(net, 3), net.ints(1, 2))
    net.rows(net.node("Mul", x, net.weight(6)), 6)


def mean_of_all(net: Net) -> None:
    """One number per sample, without an axis for features."""
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    net.output(net.node("ReduceMean", x, axes=[1, 2], keepdims=0), "n")


def largest_of_each(net: Net) -> None:
    x = net.node("Reshape", scores(net, 12), net.ints(-1, 2, 3, 2))
    net.output(net.node("ReduceMax", x, axes=[3, 1], keepdims=0), "n", 3)


def further_input(net: Net) -> None:
    """Such as an angle, or what was done last."""
    net.rows(net.node("Tanh", net.node("Add", scores(net), net.input(6))), 6)


def further_number(net: Net) -> None:
    """Such as a temperature: one per sample."""
    net.rows(net.node("Softmax", net.node("Div", scores(net), net.input(1)), axis=1), 6)


def computed_gate(net: Net) -> None:
    gate = net.node("Sigmoid", net.gemm(net.input(3), 3, 6))
    net.rows(net.gemm(net.node("Mul", gate, scores(net)), 6, 4), 4)


def joined_with_an_input(net: Net) -> None:
    more = net.node("Relu", net.gemm(net.input(3), 3, 5))
    x = net.node("Concat", more, net.node("Relu", scores(net)), axis=1)
    net.rows(net.gemm(x, 11, 4), 4)


def mask_of_several_axes(net: Net) -> None:
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    wanted = net.node("Greater", net.input(2, 3), net.stored(0, np.float32))
    net.output(net.node("Where", wanted, x, net.stored(-9, np.float32)), "n", 2, 3)


def laid_out_otherwise(net: Net) -> None:
    x = net.gemm(net.flat(), K, 6)
    turned = net.node("Reshape", net.node("Reshape", x, net.ints(-1, 2, 3)), net.ints(-1, 3, 2))
    turned = net.node("Transpose", turned, perm=[0, 2, 1])
    x = net.node("Mul", x, net.node("Reshape", turned, net.ints(-1, 6)))
    net.rows(x, 6)


def then_argmax(net: Net) -> None:
    best = net.node("ArgMax", net.gemm(net.flat(), K, 5), axis=1, keepdims=0)
    net.output(best, "n", elem=TensorProto.INT64)


def mixed_digits(net: Net) -> None:
    """An FC on a softmax of several axes, which is no feature map of its own."""
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    x = net.node("Softmax", net.node("Transpose", x, perm=[0, 2, 1]), axis=1)
    net.rows(net.gemm(net.node("Flatten", x), 6, 4), 4)


def twice(net: Net) -> None:
    """One result under two names."""
    x = scores(net)
    net.rows(x, 6)
    net.output(net.node("Reshape", x, net.ints(-1, 2, 3)), "n", 2, 3)


def joined_and_quantized(net: Net) -> None:
    one, zero = net.stored(0.05, np.float32), net.stored(100, np.uint8)
    x = net.node("QuantizeLinear", scores(net), one, zero)
    y = net.node("QLinearSigmoid", x, one, zero, one, zero, domain="com.microsoft")
    x = net.node(
        "QLinearConcat", one, zero, x, one, zero, y, one, zero, domain="com.microsoft", axis=1
    )
    net.rows(x, 12, elem=TensorProto.UINT8)


def normalized_by_expand(net: Net) -> None:
    """As PyTorch's `normalize` is exported: the norm is as large as the data again."""
    x = scores(net)
    norm = net.node("ReduceL2", x, axes=[1], keepdims=1)
    norm = net.node("Clip", norm, net.stored(1e-12, np.float32))
    net.rows(net.node("Div", x, net.node("Expand", norm, net.node("Shape", x))), 6)


def gated_halves(net: Net) -> None:
    one, other = net.nodes("Split", 2, scores(net), net.ints(3, 3), axis=-1)
    net.rows(net.node("Mul", one, net.node("Sigmoid", other)), 3)


def softmax_by_hand(net: Net) -> None:
    x = scores(net)
    x = net.node("Exp", net.node("Sub", x, net.node("ReduceMax", x, axes=[1], keepdims=1)))
    net.rows(net.node("Div", x, net.node("ReduceSum", x, net.ints(1), keepdims=1)), 6)


def larger_half(net: Net) -> None:
    net.rows(net.node("Max", *net.nodes("Split", 2, scores(net), axis=1)), 3)


BUILDS = [
    twice, joined_and_quantized, normalized_by_expand, gated_halves, softmax_by_hand, larger_half,
    laid_out_otherwise, then_argmax, mixed_digits,
    normalized, normalized_by_parts, dueling, dueling_of_one_layer, captcha, turned, best_three,
    captcha_of_several_heads, joined_along_classes, box_and_class, distance, thresholds, layer_norm,
    batch_norm_of_three_axes, softmax_over_rows, running_sum, expected_age, repeated,
    mean_of_all, largest_of_each, further_input, further_number, computed_gate,
    joined_with_an_input, mask_of_several_axes,
]  # fmt: skip


@pytest.mark.parametrize("build", BUILDS)
def test_slides(build: Callable[[Net], None]) -> None:
    net = Net()
    build(net)
    assert_slides(net.model())


@pytest.mark.parametrize("op_type", ["Softmax", "Hardmax"])
@pytest.mark.parametrize("axis", [1, 2])
def test_axes_before_opset_13_go_to_the_last(op_type: str, axis: int) -> None:
    """There axis 1 of three means: over both that follow."""
    net = Net(opset=11)
    x = net.node("Reshape", scores(net), net.ints(-1, 2, 3))
    net.output(net.node(op_type, x, axis=axis), "n", 2, 3)
    assert_slides(net.model())


@pytest.mark.parametrize("axis", [1, -1])
def test_quantized_results(axis: int) -> None:
    net = Net()
    one, zero = net.stored(0.05, np.float32), net.stored(100, np.uint8)
    x = net.node("QuantizeLinear", scores(net), one, zero)
    share, low = net.stored(1 / 256, np.float32), net.stored(0, np.uint8)
    x = net.node(
        "QLinearSoftmax", x, one, zero, share, low, domain="com.microsoft", opset=13, axis=axis
    )
    net.rows(x, 6, elem=TensorProto.UINT8)
    assert_slides(net.model())


def over_samples(net: Net) -> None:
    x = net.node("Transpose", scores(net), perm=[1, 0])
    net.output(net.node("Softmax", x, axis=1), 6, "n")


def mean_of_samples(net: Net) -> None:
    x = scores(net)
    net.rows(net.node("Sub", x, net.node("ReduceMean", x, axes=[0])), 6)


def every_second_sample(net: Net) -> None:
    x = net.node("Slice", scores(net), net.ints(0), net.ints(99), net.ints(0), net.ints(2))
    net.output(x, None, 6)


def scaled_by_the_image(net: Net) -> None:
    flat = net.flat()
    largest = net.node("ReduceMax", net.node("Tanh", flat), axes=[1], keepdims=1)
    net.rows(net.node("Mul", net.gemm(flat, K, 6), largest), 6)


def scaled_alike(net: Net) -> None:
    """Six numbers that are the same for all samples, and computed."""
    x = net.node("ReduceMean", net.input(6), axes=[0], keepdims=0)
    net.rows(net.node("Mul", scores(net), x), 6)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (over_samples, "is not over the features"),
        (mean_of_samples, "is not over the features"),
        (every_second_sample, "mixes samples"),
        (scaled_by_the_image, "which comes from the image and not from the head"),
        (scaled_alike, "which is not one row per sample"),
    ],
)
def test_refused(build: Callable[[Net], None], reason: str) -> None:
    net = Net()
    build(net)
    result = slid(net.model())
    assert reason in str(result.sites[0].refused)
    assert result.changes == ()
