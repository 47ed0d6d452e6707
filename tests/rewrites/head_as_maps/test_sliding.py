"""`--fully-convolutional`: on a larger image, each position gives what the original gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.cli.main import run as onnxshare_command
from onnxshare.errors import RewriteError, UsageError
from tests.rewrites.checking import inputs, magnitudes, operations, run
from tests.rewrites.forms import FORMS, C, H, K, Net, W

Array = np.ndarray[Any, np.dtype[Any]]

BUNDLED = ["lenet5", "lenet5-torchscript", "vgg_small", "vgg_small-torchscript"]

#: Both bundled nets halve twice, so an output is 4 pixels from the next.
STRIDE, SIDE = 4, 32


def slid(source: onnx.ModelProto | Path) -> RewriteResult:
    return onnxshare.rewrite(source, ["fc-to-conv"], fully_convolutional=True, provider="cpu")


def image(model: onnx.ModelProto, *sizes: int) -> dict[str, Array]:
    """A picture with gradients and noise, so that no two crops are alike."""
    random = np.random.default_rng(8)
    values = random.standard_normal(sizes) + np.linspace(-1, 1, sizes[-1])
    return {inputs(model)[0].name: values.astype(np.float32)}


def bound(model: onnx.ModelProto, given: dict[str, Array]) -> Array:
    """What rounding may do to the first output of the original, for inputs as large as these."""
    [(name, values)] = given.items()
    sizes = [dim.dim_value or 1 for dim in inputs(model)[0].type.tensor_type.shape.dim]
    full = {name: np.full(sizes, np.abs(values).max())}
    return magnitudes(model, full)[0] * 2 * operations(model) * float(np.finfo(np.float32).eps)


def assert_each_crop(
    model: onnx.ModelProto, new: onnx.ModelProto, given: dict[str, Array], side: Any, stride: Any
) -> None:
    """Every position of every output against the original on the crop that it covers."""
    [(name, whole)] = given.items()
    maps = run(new, given)
    positions = list(np.ndindex(*maps[0].shape[2:]))
    assert len(positions) > 1
    limit = bound(model, given) + 1e-6
    for position in positions:
        starts = [p * s for p, s in zip(position, stride, strict=True)]
        window = tuple(slice(a, a + s) for a, s in zip(starts, side, strict=True))
        crop = {name: np.ascontiguousarray(whole[(slice(None), slice(None), *window)])}
        for old, made in zip(run(model, crop), maps, strict=True):
            here = made[(slice(None), slice(None), *position)]
            assert (np.abs(here - old.reshape(here.shape)) <= limit).all()


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("size", [(48, 44), (32, 32), (33, 59)])
def test_each_position_is_the_original_on_its_crop(
    bundled: Path, name: str, size: tuple[int, int]
) -> None:
    path = bundled / f"{name}.onnx"
    model, result = onnx.load(path), slid(path)
    assert result.validation is not None
    assert result.validation.verdict == "equivalent"
    assert result.changes[0].notes == ()
    onnx.checker.check_model(result.model, full_check=True)
    given = image(model, 2, 1, *size)
    [whole] = given.values()
    maps = run(result.model, given)[0]
    expected = [(length - SIDE) // STRIDE + 1 for length in size]
    assert list(maps.shape) == [2, 10, *expected]
    limit = bound(model, given)
    for row, column in np.ndindex(*expected):
        top, left = row * STRIDE, column * STRIDE
        crop = {"image": whole[:, :, top : top + SIDE, left : left + SIDE].copy()}
        assert (np.abs(maps[:, :, row, column] - run(model, crop)[0]) <= limit).all()


def assert_symbols(model: onnx.ModelProto, input_axes: dict[int, str]) -> None:
    dims = inputs(model)[0].type.tensor_type.shape.dim
    assert {axis: dims[axis].dim_param for axis in input_axes} == input_axes


@pytest.mark.parametrize("opset", [9, 12, 13, 17])
@pytest.mark.parametrize("tail", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_softmax_is_over_the_features(opset: int, tail: str, axis: int | None) -> None:
    net = Net(opset=opset)
    attributes = {} if axis is None else {"axis": axis}
    net.rows(net.node(tail, net.gemm(net.flat(), K, 5), **attributes), 5)
    model = net.model()
    if opset < 11 and axis == -1:
        pytest.skip("a negative axis is allowed from opset 11 on")
    result = slid(model)
    assert result.passed
    assert_symbols(result.model, {2: "height", 3: "width"})
    given = image(model, 2, 2, H + 6, W + 5)
    maps = run(result.model, given)[0]
    assert maps.shape == (2, 5, 5, 4)
    sums = (maps if tail == "Softmax" else np.exp(maps)).sum(axis=1)
    np.testing.assert_allclose(sums, np.ones_like(sums), rtol=1e-5)
    assert_each_crop(model, result.model, given, (H + 2, W + 2), (1, 1))


@pytest.mark.parametrize(
    ("spatial", "more"),
    [
        pytest.param((7,), (4,), id="1-D"),
        pytest.param((2, 3, 2), (1, 2, 3), id="3-D"),
    ],
)
def test_other_ranks(spatial: tuple[int, ...], more: tuple[int, ...]) -> None:
    net = Net()
    size = C * int(np.prod(spatial))
    flat = net.node("Flatten", net.trunk(*spatial))
    net.rows(net.gemm(net.node("Relu", net.gemm(flat, size, 6)), 6, 5), 5)
    model = net.model()
    result = slid(model)
    assert result.passed
    side = tuple(s + 2 for s in spatial)
    given = image(model, 2, 2, *(a + b for a, b in zip(side, more, strict=True)))
    assert_each_crop(model, result.model, given, side, tuple(1 for _ in side))


def test_several_outputs() -> None:
    net = Net()
    flat = net.flat()
    net.rows(net.node("Tanh", net.gemm(flat, K, 5)), 5)
    net.rows(net.gemm(flat, K, 5), 5)
    model = net.model()
    result = slid(model)
    given = image(model, 1, 2, 8, 8)
    assert_each_crop(model, result.model, given, (H + 2, W + 2), (1, 1))


def test_channels_last_input() -> None:
    """Both the image and the flattened map have their channels last."""
    net = Net()
    source = net.input(H + 2, W + 2, 2)
    x = net.trunk(image=net.node("Transpose", source, perm=[0, 3, 1, 2]))
    x = net.node("Flatten", net.node("Transpose", x, perm=[0, 2, 3, 1]))
    net.rows(net.matmul(x, K, 5), 5)
    model = net.model()
    result = slid(model)
    assert result.passed
    assert_symbols(result.model, {1: "height", 2: "width"})
    whole = image(model, 2, H + 4, W + 5, 2)[source]
    maps = run(result.model, {source: whole})[0]
    assert maps.shape == (2, 5, 3, 4)
    limit = bound(model, {source: whole})
    for row, column in np.ndindex(3, 4):
        crop = whole[:, row : row + H + 2, column : column + W + 2].copy()
        old = run(model, {source: crop})[0]
        assert (np.abs(maps[:, :, row, column] - old) <= limit).all()


def padded(**attributes: Any) -> tuple[onnx.ModelProto, str]:
    """A net whose convolution, or pooling, has borders; also the name of its feature map."""
    net = Net()
    kernel = net.weight(C, 2, 3, 3)
    pooling = attributes.pop("pooling", None)
    x = net.node("Conv", net.input(2, 7, 6), kernel, **attributes)
    if pooling:
        x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], **pooling)
    features = {"pads": C * 42, "auto_pad": C * 42, "pooling": C * 3 * 2}
    size = features["pooling"] if pooling else features["pads"]
    net.rows(net.gemm(net.node("Flatten", x), size, 5), 5)
    return net.model(), x


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"pads": [1, 1, 1, 1]}, id="pads"),
        pytest.param({"auto_pad": "SAME_UPPER"}, id="auto_pad"),
        pytest.param({"pooling": {"ceil_mode": 1}}, id="ceil_mode"),
    ],
)
def test_padding_is_said_and_the_head_still_slides(attributes: dict[str, Any]) -> None:
    model, feature_map = padded(**attributes)
    result = slid(model)
    assert result.passed
    assert any("pad" in note for note in result.changes[0].notes)
    given = image(model, 1, 2, 13, 12)
    shown = onnx.ModelProto()
    shown.CopyFrom(result.model)
    shown.graph.output.append(onnx.ValueInfoProto(name=feature_map))
    made, features = run(shown, given)
    weight, bias = (numpy_helper.to_array(t) for t in model.graph.initializer[-2:])
    channels, height, width = (
        int(size) for size in (C, *((7, 6) if "pooling" not in attributes else (3, 2)))
    )
    assert weight.shape == (5, channels * height * width)
    for row, column in np.ndindex(*made.shape[2:]):
        crop = features[:, :, row : row + height, column : column + width].astype(np.float64)
        expected = crop.reshape(1, -1) @ weight.T.astype(np.float64) + bias
        np.testing.assert_allclose(made[:, :, row, column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(5, 10), (5, 2, 5), (1, 50, 1)])
def test_outputs_of_other_ranks_become_maps_of_all_features(sizes: tuple[int, ...]) -> None:
    net = Net()
    net.output(net.node("Reshape", net.gemm(net.flat(), K, 50), net.ints(-1, *sizes)), "n", *sizes)
    model = net.model()
    result = slid(model)
    assert result.passed
    given = image(model, 2, 2, H + 4, W + 3)
    [(name, whole)] = given.items()
    maps = run(result.model, given)[0]
    assert maps.shape == (2, 50, 3, 2)
    for y, x in np.ndindex(3, 2):
        crop = {name: whole[:, :, y : y + H + 2, x : x + W + 2].copy()}
        old = run(model, crop)[0].reshape(2, 50)
        np.testing.assert_allclose(maps[:, :, y, x], old, rtol=1e-4, atol=1e-5)


def test_only_rows_of_features_are_averaged() -> None:
    net = Net()
    x = net.node("Reshape", net.gemm(net.flat(), K, 50), net.ints(-1, 5, 10))
    net.output(x, "n", 5, 10)
    result = onnxshare.rewrite(
        net.model(), ["fc-to-conv"], fully_convolutional=True, pool_outputs=True, provider="cpu"
    )
    assert [site.refused for site in result.sites] == [
        f"output '{x}' is not one row of features per sample"
    ]


def policy_and_value(net: Net) -> None:
    trunk = net.trunk(channels=4)
    for size in (7, 1):
        x = net.node("Relu", net.node("Conv", trunk, net.weight(2, 4, 1, 1)))
        net.rows(net.node("Tanh", net.gemm(net.node("Flatten", x), 2 * H * W, size)), size)


def one_head_for_two_maps(net: Net) -> None:
    """As in a siamese network: one matrix for both."""
    weight, bias, image = net.weight(5, K), net.weight(5), net.input(2, H + 2, W + 2)
    for _ in range(2):
        flat = net.node("Flatten", net.trunk(image=image))
        net.rows(net.node("Gemm", flat, weight, bias, transB=1), 5)


def gated(net: Net) -> None:
    flat = net.flat()
    gate = net.node("Sigmoid", net.gemm(flat, K, 6))
    x = net.node("Mul", net.node("Tanh", net.gemm(flat, K, 6)), gate)
    net.rows(net.gemm(x, 6, 5), 5)


def residual(net: Net) -> None:
    x = net.node("Relu", net.gemm(net.flat(), K, 6))
    x = net.node("Add", x, net.node("Relu", net.gemm(x, 6, 6)))
    net.rows(net.matmul(net.node("Softmax", x, axis=1), 6, 5), 5)


@pytest.mark.parametrize("build", [policy_and_value, one_head_for_two_maps, gated, residual])
def test_all_heads_and_what_joins_them_slide(build: Callable[[Net], None]) -> None:
    net = Net()
    build(net)
    model = net.model()
    result = slid(model)
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    assert not {node.op_type for node in result.model.graph.node} & {"Gemm", "MatMul", "Flatten"}
    onnx.checker.check_model(result.model, full_check=True)
    given = image(model, 2, 2, H + 4, W + 3)
    assert_each_crop(model, result.model, given, (H + 2, W + 2), (1, 1))


def down_to_one_position(net: Net) -> None:
    """As LeNet-5's third convolution: its map has one position at the size it was made for."""
    x = net.node("Relu", net.node("Conv", net.trunk(), net.weight(6, C, H, W)))
    net.rows(net.gemm(net.node("Tanh", net.gemm(net.node("Flatten", x), 6, 5)), 5, 4), 4)


def pooled_by_a_window(net: Net) -> None:
    x = net.node("AveragePool", net.trunk(), kernel_shape=[H, W])
    net.rows(net.matmul(net.node("Squeeze", x, net.ints(2, 3)), C, 4), 4)


def largest_of_a_window(net: Net) -> None:
    """And scaled, as a network that divides by what it was trained on."""
    x = net.node("MaxPool", net.trunk(), kernel_shape=[H, W])
    x = net.node("Mul", net.node("Reshape", x, net.ints(-1, C)), net.weight(C))
    net.rows(net.node("Sigmoid", net.gemm(x, C, 4)), 4)


def one_position_next_to_several(net: Net) -> None:
    trunk = net.trunk()
    one = net.node("Flatten", net.node("Conv", trunk, net.weight(3, C, H, W)))
    x = net.node("Concat", net.node("Flatten", trunk), one, axis=1)
    net.rows(net.gemm(x, K + 3, 4), 4)


def first_of_all(net: Net) -> None:
    """A convolution over the whole image, and nothing before it."""
    x = net.node("Conv", net.input(2, H + 2, W + 2), net.weight(6, 2, H + 2, W + 2))
    net.rows(net.gemm(net.node("Flatten", net.node("Relu", x)), 6, 4), 4)


ONE = [
    first_of_all,
    down_to_one_position,
    pooled_by_a_window,
    largest_of_a_window,
    one_position_next_to_several,
]


@pytest.mark.parametrize("build", ONE)
def test_maps_of_one_position_slide_where_the_image_may_grow(
    build: Callable[[Net], None],
) -> None:
    net = Net()
    build(net)
    model = net.model()
    result = slid(model)
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    given = image(model, 2, 2, H + 4, W + 5)
    assert_each_crop(model, result.model, given, (H + 2, W + 2), (1, 1))


def averaged(net: Net) -> None:
    x = net.node("GlobalAveragePool", net.trunk())
    net.rows(net.gemm(net.node("Flatten", x), C, 4), 4)


def averaged_and_mixed(net: Net) -> None:
    """As MobileNetV3 does."""
    x = net.node("Conv", net.node("GlobalAveragePool", net.trunk()), net.weight(6, C, 1, 1))
    x = net.node("Mul", x, net.node("HardSigmoid", x))
    net.rows(net.gemm(net.node("Flatten", x), 6, 4), 4)


def averaged_by_a_reduction(net: Net) -> None:
    x = net.node("ReduceMax", net.trunk(), axes=[2, 3])
    net.rows(net.gemm(net.node("Flatten", net.node("Relu", x)), C, 4), 4)


@pytest.mark.parametrize("build", [averaged, averaged_and_mixed, averaged_by_a_reduction])
def test_maps_that_are_pooled_whatever_the_size_have_nothing_to_slide(
    build: Callable[[Net], None],
) -> None:
    net = Net()
    build(net)
    result = slid(net.model())
    assert "its feature map has one position" in str(result.sites[0].refused)
    assert result.changes == ()


def test_one_position_is_nothing_to_do_and_names_the_way_to_slide() -> None:
    net = Net()
    down_to_one_position(net)
    result = onnxshare.rewrite(net.model(), ["fc-to-conv"], provider="cpu")
    assert "fully_convolutional=True writes it as one, which slides" in str(result.sites[0].refused)


def other_ranks(net: Net) -> None:
    net.rows(net.gemm(net.flat(), K, 5), 5)
    net.rows(net.gemm(net.node("Flatten", net.trunk(7)), 7 * C, 5), 5)


def test_heads_on_maps_of_other_ranks_do_not_slide_together() -> None:
    net = Net()
    other_ranks(net)
    (site,) = slid(net.model()).sites
    assert site.refused == "its heads are on maps of different ranks or batches"


def squeeze_and_excite(net: Net) -> None:
    """The trunk weighs its channels by their mean over the whole picture."""
    x = net.trunk()
    gate = net.node("Sigmoid", net.node("GlobalAveragePool", x))
    net.rows(net.gemm(net.node("Flatten", net.node("Mul", x, gate)), K, 5), 5)


def instance_norm(net: Net) -> None:
    x = net.node("InstanceNormalization", net.trunk(), net.weight(C), net.weight(C))
    net.rows(net.gemm(net.node("Flatten", x), K, 5), 5)


@pytest.mark.parametrize("build", [squeeze_and_excite, instance_norm])
def test_what_looks_at_the_whole_picture_is_said(build: Callable[[Net], None]) -> None:
    net = Net()
    build(net)
    result = slid(net.model())
    said = [*result.changes[0].notes] if result.changes else [result.sites[0].refused or ""]
    assert any("whole" in text for text in said)


def softmax_over_samples(net: Net) -> None:
    x = net.node("Transpose", net.gemm(net.flat(), K, 5), perm=[1, 0])
    net.output(net.node("Softmax", x, axis=1), 5, "n")


def slope_per_element(net: Net) -> None:
    net.rows(net.gemm(net.node("PRelu", net.flat(), net.weight(K)), K, 5), 5)


def map_is_an_output(net: Net) -> None:
    x = net.trunk()
    net.rows(net.gemm(net.node("Flatten", x), K, 5), 5)
    net.output(x, "n", C, H, W)


def flat_has_a_dead_reader(net: Net) -> None:
    flat = net.flat()
    net.rows(net.gemm(flat, K, 5), 5)
    net.node("ReduceMax", flat, axes=[1])


def fixed_reshape_in_trunk(net: Net) -> None:
    x = net.node("Reshape", net.trunk(), net.ints(-1, C, H * W))
    x = net.node("Reshape", net.node("Tanh", x), net.ints(-1, C, H, W))
    x = net.node("MaxPool", x, kernel_shape=[2, 2])
    net.rows(net.gemm(net.node("Flatten", x), C * 6, 5), 5)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (softmax_over_samples, "not over the features"),
        (slope_per_element, "a number for each position"),
        (map_is_an_output, "does not come from the head"),
        (flat_has_a_dead_reader, "reads"),
        (fixed_reshape_in_trunk, "do not accept other input sizes"),
    ],
)
def test_refused(build: Callable[[Net], None], reason: str) -> None:
    net = Net()
    build(net)
    model = net.model()
    result = slid(model)
    assert reason in (result.sites[0].refused or "")
    assert result.model.SerializeToString() == model.SerializeToString()
    with pytest.raises(RewriteError):
        result.save("unused.onnx")


def test_needs_the_rewrite_it_belongs_to(bundled: Path) -> None:
    with pytest.raises(UsageError, match="'fc-to-conv'"):
        onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-gap"], fully_convolutional=True)


def test_command(bundled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "slides.onnx"
    words = ["rewrite", bundled / "lenet5.onnx", "--fc-to-conv", "--fully-convolutional"]
    code = onnxshare_command([*map(str, words), "-o", str(target), "--provider", "cpu"])
    assert code == 0
    assert "equivalent" in capfd.readouterr().out
    assert run(onnx.load(target), {"image": np.zeros((1, 1, 40, 36), np.float32)})[0].shape == (
        1,
        10,
        3,
        2,
    )


def test_tensors_that_ir_3_does_not_list_as_inputs() -> None:
    """As ONNX Runtime's quantizer leaves models of that version: shape inference sees none."""
    model = FORMS["IR 3"].model()
    stored = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    result = slid(model)
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    assert result.model.ir_version == 3


def shaped(perm: list[int], of: str, start: int = 0) -> onnx.ModelProto:
    """A head whose Reshape takes its batch from a tensor inside of the head."""
    net = Net()
    turned = net.node("Transpose", net.trunk(), perm=perm)
    read = net.node("Identity", turned) if of == "twice" else turned
    batch = net.node("Shape", read, start=start, end=start + 1)
    flat = net.node("Reshape", turned, net.node("Concat", batch, net.ints(-1), axis=0))
    scores = net.gemm(flat, K, 5)
    if of == "scores":
        batch = net.node("Shape", scores, start=0, end=1)
        scores = net.node("Reshape", scores, net.node("Concat", batch, net.ints(5), axis=0))
    net.rows(scores, 5)
    return net.model()


@pytest.mark.parametrize("of", ["turned", "twice", "scores"])
@pytest.mark.parametrize("perm", [[0, 3, 2, 1], [0, 2, 3, 1]])
def test_what_only_shapes_the_head_goes_with_it(perm: list[int], of: str) -> None:
    model = shaped(perm, of)
    result = slid(model)
    assert result.passed, result.sites
    assert "Shape" not in {node.op_type for node in result.model.graph.node}
    sides = [dim.dim_value for dim in inputs(model)[0].type.tensor_type.shape.dim[2:]]
    channels = inputs(model)[0].type.tensor_type.shape.dim[1].dim_value
    given = image(model, 2, channels, *(side + 2 for side in sides))
    assert_each_crop(model, result.model, given, sides, [1] * len(sides))


def test_a_shape_that_something_else_needs_keeps_the_head() -> None:
    net = Net()
    turned = net.node("Transpose", net.trunk(), perm=[0, 3, 2, 1])
    batch = net.node("Shape", turned, start=0, end=1)
    flat = net.node("Reshape", turned, net.node("Concat", batch, net.ints(-1), axis=0))
    scores = net.gemm(flat, K, 5)
    net.rows(net.node("Mul", scores, net.node("Cast", net.node("Neg", batch), to=1)), 5)
    result = slid(net.model())
    assert result.changes == ()
    assert "comes from the image and not from the head" in str(result.sites[0].refused)
