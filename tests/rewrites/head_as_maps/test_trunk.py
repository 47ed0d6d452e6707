"""Each position of a sliding network equals what the original gives on the crop under it, or a
note says why it may not, or the network is refused: for many operators before the head, judged by
ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxshare
from tests.rewrites.checking import inputs, run
from tests.rewrites.forms import Net

#: Channels and sides of the map that the operators work on, and how much larger images are.
C, SIDE, GROW = 4, 8, 4

Build = Callable[[Net, str], str]


@dataclass(frozen=True)
class Case:
    """An operator between a convolution and the head.

    Attributes:
        build: adds it to a net, after a tensor `[n, 4, 8, 8]`.
        says: what the note must contain; None where there must be none.
        differs: whether positions really are not what their crops give, by ONNX Runtime.
        stride: positions of the image between those of the map.
    """

    build: Build
    says: str | None = None
    differs: bool = True
    stride: int = 1


def op(op_type: str, *more: Any, **attributes: Any) -> Build:
    """One operator; further inputs are given as arrays, or as functions of the net and the map."""

    def build(net: Net, x: str) -> str:
        operands = [
            item(net, x) if callable(item) else net.stored(item) if item is not None else ""
            for item in more
        ]
        return net.node(op_type, x, *operands, **attributes)

    return build


def chain(*parts: Build) -> Build:
    """One after the other."""

    def build(net: Net, x: str) -> str:
        for part in parts:
            x = part(net, x)
        return x

    return build


def beside(op_type: str, *parts: Build, **attributes: Any) -> Build:
    """Several branches that meet in an operator."""
    return lambda net, x: net.node(op_type, *(part(net, x) for part in parts), **attributes)


def kept(net: Net, x: str) -> str:
    return x


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def weights(*shape: int) -> Build:
    return lambda net, x: net.weight(*shape)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def size_of(axis: int) -> Build:
    """The size of the map along an axis, as a vector of one."""
    return chain(op("Shape"), op("Gather", ints(axis)))


def zeros(net: Net, x: str) -> str:
    return net.node("ConstantOfShape", net.node("Shape", x))


def coordinates(net: Net, x: str) -> str:
    """The number of each column, as networks with coordinate channels take it in."""
    width = net.node("Squeeze", size_of(3)(net, x), net.ints(0))
    columns = net.node("Range", net.stored(0, np.int64), width, net.stored(1, np.int64))
    return net.node("Mul", x, net.node("Cast", columns, to=TensorProto.FLOAT))


def counted(net: Net, x: str) -> str:
    """The same by counting ones."""
    filled = net.node("Add", zeros(net, x), net.stored(ones(1)))
    return net.node("Mul", x, net.node("CumSum", filled, net.stored(3, np.int64)))


def self_attention(net: Net, x: str) -> str:
    flat = net.node("Reshape", x, net.ints(0, 0, -1))
    scores = net.node("MatMul", net.node("Transpose", flat, perm=[0, 2, 1]), flat)
    mixed = net.node("MatMul", flat, net.node("Softmax", scores, axis=-1))
    return net.node("Reshape", mixed, net.node("Shape", x))


def recurrent(net: Net, x: str) -> str:
    """A GRU along the width, a row at a time."""
    rows = net.node("ReduceMean", x, net.ints(2), keepdims=0)
    rows = net.node("Transpose", rows, perm=[2, 0, 1])
    states = net.node("GRU", rows, net.weight(1, 3 * C, C), net.weight(1, 3 * C, C), hidden_size=C)
    states = net.node("Transpose", net.node("Squeeze", states, net.ints(1)), perm=[1, 2, 0])
    return net.node("Add", x, net.node("Unsqueeze", states, net.ints(2)))


def deformed(**attributes: Any) -> Build:
    def build(net: Net, x: str) -> str:
        side = 3 if "pads" in attributes else 1
        at = net.node("Conv", x, net.weight(2 * side * side, C, 1, 1))
        return net.node("DeformConv", x, net.weight(C, C, side, side), at, **attributes)

    return build


def sampled(net: Net, x: str) -> str:
    """Each position looks where a convolution tells it to."""
    grid = net.node("Tanh", net.node("Conv", x, net.weight(2, C, 1, 1)))
    return net.node("GridSample", x, net.node("Transpose", grid, perm=[0, 2, 3, 1]))


def best_values(net: Net, x: str, axis: int = 3) -> str:
    values, _ = net.nodes("TopK", 2, x, net.ints(2), axis=axis)
    return net.node("Mul", x, net.node("ReduceMax", values, net.ints(axis)))


def where_largest(net: Net, x: str) -> str:
    """The second output of MaxPool: numbers of positions within the whole map."""
    _, places = net.nodes("MaxPool", 2, x, kernel_shape=[2, 2])
    return net.node("Cast", places, to=TensorProto.FLOAT)


def unpooled(net: Net, x: str) -> str:
    values, places = net.nodes("MaxPool", 2, x, kernel_shape=[2, 2], strides=[2, 2])
    return net.node("MaxUnpool", values, places, kernel_shape=[2, 2], strides=[2, 2])


def cast(to: int = TensorProto.FLOAT) -> Build:
    return op("Cast", to=to)


def halves(net: Net, x: str) -> str:
    first, second = net.nodes("Split", 2, x, axis=1, num_outputs=2)
    return net.node("Concat", second, first, axis=1)


def channels_last(*parts: Build) -> Build:
    return chain(op("Transpose", perm=[0, 2, 3, 1]), *parts, op("Transpose", perm=[0, 3, 1, 2]))


POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}


def resized(scales: tuple[float, float] = (2, 2), **attributes: Any) -> Build:
    return op("Resize", None, np.array([1, 1, *scales], np.float32), **attributes)


def upsample_of(**attributes: Any) -> Build:
    return op("ConvTranspose", weights(C, C, 2, 2), **attributes)


EXACT = {
    "Relu": Case(op("Relu")),
    "Softmax over channels": Case(op("Softmax", axis=1)),
    "LogSoftmax over channels": Case(op("LogSoftmax", axis=1)),
    "Hardmax over channels": Case(op("Hardmax", axis=1)),
    "ArgMax over channels": Case(chain(op("ArgMax", axis=1), cast())),
    "ReduceMean over channels": Case(op("ReduceMean", ints(1))),
    "ReduceL2 over channels": Case(op("ReduceL2", ints(1))),
    "LpNormalization over channels": Case(op("LpNormalization", axis=1)),
    "MeanVarianceNormalization over channels": Case(op("MeanVarianceNormalization", axes=[1])),
    "LayerNormalization over channels": Case(
        channels_last(op("LayerNormalization", ones(C), axis=-1))
    ),
    "MatMul over channels": Case(channels_last(op("MatMul", weights(C, C)))),
    "LRN": Case(op("LRN", size=3)),
    "BatchNormalization": Case(op("BatchNormalization", *[ones(C)] * 4)),
    "Split of channels": Case(halves),
    "Slice of a border": Case(op("Slice", ints(1, 1), ints(-1, -1), ints(2, 3))),
    "Slice with steps": Case(
        op("Slice", ints(0, 0), ints(2**62, 2**62), ints(2, 3), ints(2, 2)), stride=2
    ),
    "Transpose of both sides and back": Case(
        chain(op("Transpose", perm=[0, 1, 3, 2]), op("Relu"), op("Transpose", perm=[0, 1, 3, 2]))
    ),
    "Conv with dilation": Case(op("Conv", weights(C, C, 3, 3), dilations=[2, 2])),
    "MaxPool": Case(op("MaxPool", **POOL), stride=2),
    "AveragePool": Case(op("AveragePool", **POOL), stride=2),
    "LpPool": Case(op("LpPool", **POOL), stride=2),
    "SpaceToDepth": Case(
        chain(op("SpaceToDepth", blocksize=2), op("Conv", weights(C, 4 * C, 1, 1))), stride=2
    ),
    "Upsampled and halved again": Case(
        chain(resized(mode="nearest"), op("MaxPool", **POOL)),
    ),
    "Pad of channels": Case(
        chain(op("Pad", ints(0, 1, 0, 0, 0, 1, 0, 0)), op("Conv", weights(C, C + 2, 1, 1)))
    ),
    "Negative Pad": Case(op("Pad", ints(0, 0, -1, -1, 0, 0, -1, -1))),
    "residual of an unpadded branch": Case(
        beside(
            "Add",
            op("Slice", ints(1, 1), ints(-1, -1), ints(2, 3)),
            op("Conv", weights(C, C, 3, 3)),
        )
    ),
    "zeros of the size of the map": Case(beside("Concat", kept, zeros, axis=1)),
    "Shape of something that sees everything": Case(
        lambda net, x: net.node(
            "Reshape",
            x,
            net.node(
                "Concat",
                net.node("Shape", net.node("GlobalAveragePool", x), end=2),
                net.node("Shape", x, start=2),
                axis=0,
            ),
        )
    ),
}

SAID = {
    "Softmax over the width": Case(op("Softmax", axis=3), "whole image"),
    "Softmax over the height": Case(op("Softmax", axis=2), "whole image"),
    "LogSoftmax over the width": Case(op("LogSoftmax", axis=-1), "whole image"),
    "Hardmax over the width": Case(op("Hardmax", axis=3), "whole image"),
    "ArgMax over the width": Case(
        beside("Add", kept, chain(op("ArgMax", axis=3), cast())), "(ArgMax) looks at the whole"
    ),
    "InstanceNormalization": Case(
        op("InstanceNormalization", ones(C), ones(C)), "InstanceNormalization"
    ),
    "GroupNormalization": Case(
        op("GroupNormalization", ones(C), ones(C), num_groups=2), "GroupNormalization"
    ),
    "MeanVarianceNormalization": Case(
        op("MeanVarianceNormalization", axes=[0, 2, 3]), "whole image"
    ),
    "LpNormalization over the width": Case(op("LpNormalization", axis=3), "whole image"),
    "ReduceMean over the width": Case(
        beside("Sub", kept, op("ReduceMean", ints(3))), "(ReduceMean) looks at the whole image"
    ),
    "ReduceMax over everything": Case(
        beside("Div", kept, op("ReduceMax", ints(1, 2, 3))), "(ReduceMax)"
    ),
    "GlobalAveragePool as a gate": Case(
        beside("Mul", kept, chain(op("GlobalAveragePool"), op("Sigmoid"))), "(GlobalAveragePool)"
    ),
    "GlobalMaxPool as a gate": Case(beside("Mul", kept, op("GlobalMaxPool")), "(GlobalMaxPool)"),
    "CumSum over the width": Case(op("CumSum", np.array(3, np.int64)), "CumSum"),
    "TopK over the width": Case(best_values, "TopK"),
    "Einsum that sums over the width": Case(
        lambda net, x: net.node("Einsum", x, x, equation="nchw,nchv->nchw"), "Einsum"
    ),
    "MatMul of the map with itself": Case(
        chain(beside("MatMul", kept, op("Transpose", perm=[0, 1, 3, 2])), op("Tanh")),
        "(MatMul) looks at the whole image",
    ),
    "self-attention": Case(self_attention, "Reshape"),
    "GRU over the width": Case(recurrent, "whole image"),
    "DeformConv with padding": Case(deformed(pads=[1, 1, 1, 1]), "DeformConv"),
    "DeformConv without padding": Case(deformed(), "DeformConv"),
    "GridSample": Case(sampled, "GridSample"),
    "MaxPool's places": Case(where_largest, "places within the whole map"),
    "MaxUnpool": Case(unpooled, "places within the whole map"),
    "padded Conv": Case(op("Conv", weights(C, C, 3, 3), pads=[1, 1, 1, 1]), "(Conv) pads"),
    "SAME Conv": Case(op("Conv", weights(C, C, 3, 3), auto_pad="SAME_UPPER"), "(Conv) pads"),
    "padded MaxPool": Case(op("MaxPool", kernel_shape=[3, 3], pads=[1] * 4), "(MaxPool) pads"),
    "padded AveragePool": Case(
        op("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), "(AveragePool) pads"
    ),
    "pool with ceil_mode": Case(
        op("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "(MaxPool) pads", stride=2
    ),
    "padded ConvTranspose": Case(
        op("ConvTranspose", weights(C, C, 3, 3), pads=[1, 1, 1, 1]), "(ConvTranspose) pads"
    ),
    "ConvTranspose with a stride": Case(upsample_of(strides=[2, 2]), "ConvTranspose"),
    **{
        f"Pad, {mode}": Case(
            op("Pad", ints(0, 0, 1, 1, 0, 0, 1, 1), mode=mode), "(Pad) pads its borders"
        )
        for mode in ("constant", "reflect", "edge", "wrap")
    },
    "Pad after a cut": Case(
        chain(op("Slice", ints(1), ints(-1), ints(3)), op("Pad", ints(0, 0, 0, 1, 0, 0, 0, 1))),
        "(Pad) pads its borders",
    ),
    "Resize, nearest": Case(resized(mode="nearest"), "Resize"),
    "Resize, linear": Case(resized(mode="linear"), "Resize"),
    "Resize, cubic": Case(resized(mode="cubic"), "Resize"),
    "Resize by an odd factor": Case(resized((1.5, 1.5), mode="linear"), "Resize"),
    "halved and upsampled": Case(chain(op("MaxPool", **POOL), resized(mode="nearest")), "Resize"),
    "halved and upsampled, beside a wider window": Case(
        beside(
            "Add",
            chain(
                op("MaxPool", **POOL),
                resized(mode="nearest"),
                op("Slice", ints(2, 2), ints(-2, -2), ints(2, 3)),
            ),
            op("Conv", weights(C, C, 5, 5)),
        ),
        "Add",
    ),
    "DepthToSpace": Case(op("DepthToSpace", blocksize=2), "DepthToSpace"),
    "Tile along the width": Case(op("Tile", ints(1, 1, 1, 2)), "Tile"),
    "one position beside all": Case(
        beside("Add", kept, op("Slice", ints(0, 0), ints(1, 1), ints(2, 3))), "Add"
    ),
    "Gather of one column": Case(
        beside("Mul", kept, chain(op("Gather", ints(2), axis=3))), "Gather"
    ),
    "Gather of columns": Case(op("Gather", ints(*range(SIDE)), axis=3), "Gather"),
    "reversed": Case(op("Slice", ints(-1), ints(-(2**62)), ints(3), ints(-1)), "reversed"),
    "rolled": Case(
        beside(
            "Concat",
            op("Slice", ints(-1), ints(2**62), ints(3)),
            op("Slice", ints(0), ints(-1), ints(3)),
            axis=3,
        ),
        "Concat",
    ),
    "coordinates by Range": Case(coordinates, "size of the image"),
    "coordinates by CumSum": Case(counted, "size of the image"),
    "divided by the width": Case(beside("Div", kept, chain(size_of(3), cast())), "size of the"),
    "Trilu": Case(op("Trilu"), "Trilu"),
    # Exact, but padded, or not followed by the receptive fields.
    "a border that is cut off again": Case(
        chain(
            op("MaxPool", kernel_shape=[3, 3], pads=[1] * 4),
            op("Slice", ints(1, 1), ints(-1, -1), ints(2, 3)),
        ),
        "an output that sees them",
        differs=False,
    ),
    "TopK over channels": Case(lambda net, x: best_values(net, x, axis=1), "TopK", differs=False),
    "CumSum over channels": Case(op("CumSum", np.array(1, np.int64)), "CumSum", differs=False),
}

REFUSED = {
    "LayerNormalization over the width": op("LayerNormalization", ones(SIDE), axis=-1),
    "MatMul over the width": op("MatMul", weights(SIDE, SIDE)),
    "Resize to fixed sizes": op("Resize", None, None, ints(1, C, 9, 9), mode="nearest"),
    "Slice from the end": op("Slice", ints(-5), ints(2**62), ints(3)),
    "Slice of a fixed part": op("Slice", ints(1, 1), ints(6, 6), ints(2, 3)),
    "Split of the width": lambda net, x: net.nodes("Split", 2, x, axis=3, num_outputs=2)[1],
    "position embedding": op("Add", weights(1, C, SIDE, SIDE)),
    "Reshape to fixed sizes": op("Reshape", ints(-1, C, SIDE, SIDE)),
}


def network(build: Build) -> onnx.ModelProto:
    """A convolution, what is built, another convolution, and a head."""
    net = Net(opset=21, ir=10)
    source = net.input(2, SIDE + 2, SIDE + 2)
    x = net.node("Conv", source, net.weight(C, 2, 3, 3), net.weight(C))
    x = build(net, net.node("Relu", x))
    net.output(x, *[None] * 4)
    sizes = run(net.model(), {source: np.zeros((1, 2, SIDE + 2, SIDE + 2), np.float32)})[0].shape
    net = Net(opset=21, ir=10)
    x = net.node("Conv", net.input(2, SIDE + 2, SIDE + 2), net.weight(C, 2, 3, 3), net.weight(C))
    x = build(net, net.node("Relu", x))
    x = net.node("Conv", x, net.weight(3, sizes[1], 1, 1))
    net.rows(net.gemm(net.node("Flatten", x), 3 * sizes[2] * sizes[3], 5), 5)
    return net.model()


def slid(model: onnx.ModelProto) -> onnxshare.RewriteResult:
    return onnxshare.rewrite(model, ["fc-to-conv"], fully_convolutional=True, provider="cpu")


def from_crops(model: onnx.ModelProto, new: onnx.ModelProto, stride: int) -> float:
    """How far the positions of the new outputs are from what the original gives on their crops;
    infinite where there are more or fewer positions than crops."""
    name, side = inputs(model)[0].name, SIDE + 2
    image = np.random.default_rng(5).standard_normal((2, 2, side + GROW, side + GROW))
    image += np.linspace(-1, 1, side + GROW)
    whole = image.astype(np.float32)
    [made] = run(new, {name: whole})
    if made.shape != (2, 5, GROW // stride + 1, GROW // stride + 1):
        return float("inf")
    worst = 0.0
    for row, column in np.ndindex(*made.shape[2:]):
        top, left = row * stride, column * stride
        crop = np.ascontiguousarray(whole[:, :, top : top + side, left : left + side])
        [old] = run(model, {name: crop})
        far = np.abs(made[:, :, row, column] - old).max() / np.abs(old).max()
        worst = max(worst, float(far))
    return worst


@pytest.mark.parametrize("name", EXACT)
def test_what_slides_exactly_has_no_note(name: str) -> None:
    model = network(EXACT[name].build)
    result = slid(model)
    assert result.passed
    assert result.changes[0].notes == ()
    assert from_crops(model, result.model, EXACT[name].stride) < 1e-4


@pytest.mark.parametrize("name", SAID)
def test_what_does_not_is_said(name: str) -> None:
    case = SAID[name]
    assert case.says is not None
    model = network(case.build)
    result = slid(model)
    assert result.passed
    assert any(case.says in note for note in result.changes[0].notes), result.changes[0].notes
    assert (from_crops(model, result.model, case.stride) > 1e-4) == case.differs


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_no_other_size_is_refused(name: str) -> None:
    result = slid(network(REFUSED[name]))
    assert not result.changes
    [*_, refused] = [site.refused or "" for site in result.sites]
    assert re.search(r"other input sizes: node '\w+' \(\w+\) is tied to the size", refused)


def signal(net: Net) -> str:
    x = net.node("Unsqueeze", net.input(16), net.ints(1))
    return net.node("Conv", x, net.weight(C, 1, 5))


def keras_signal(net: Net) -> str:
    x = net.node("Unsqueeze", net.input(16, 3), net.ints(-3))
    x = net.node("Conv", net.node("Transpose", x, perm=[0, 3, 1, 2]), net.weight(C, 3, 1, 5))
    return net.node("Squeeze", x, net.ints(2))


def turned_by_reshape(net: Net, *sizes: int) -> str:
    """A single channel at the end, brought to the front by a Reshape to fixed sizes."""
    x = net.node("Reshape", net.input(*sizes, 1), net.ints(-1, 1, *sizes))
    return net.node("Conv", x, net.weight(C, 1, *(5 for _ in sizes)))


def shape_of_the_batch(net: Net) -> str:
    """The same, its batch computed and its sizes not."""
    x = net.input(9, 8)
    batch = net.node("Slice", net.node("Shape", x), net.ints(0), net.ints(1))
    x = net.node("Reshape", x, net.node("Concat", batch, net.ints(1, 9, 8), axis=0))
    return net.node("Conv", x, net.weight(C, 1, 5, 5))


def back_and_forth(net: Net) -> str:
    """A convolution over a signal as one over an image of one row."""
    x = net.node("Reshape", net.input(16, 3), net.ints(-1, 1, 16, 3))
    x = net.node("Conv", net.node("Transpose", x, perm=[0, 3, 1, 2]), net.weight(C, 3, 1, 5))
    return net.node("Tanh", net.node("Reshape", x, net.ints(-1, C, 12)))


def axes_taken_out_and_put_in(net: Net) -> str:
    """The axis of a single channel, as NumPy code moves it."""
    x = net.node("Squeeze", net.input(9, 8, 1), net.ints(3))
    return net.node("Conv", net.node("Unsqueeze", x, net.ints(1)), net.weight(C, 1, 5, 5))


def row_of_a_signal(net: Net) -> str:
    x = net.node("Transpose", net.input(16, 3), perm=[0, 2, 1])
    x = net.node("Conv", net.node("Unsqueeze", x, net.ints(2)), net.weight(C, 3, 1, 5))
    return net.node("Squeeze", x, net.ints(2))


def colours_reversed(net: Net) -> str:
    """RGB as BGR, by a Slice backwards along the last axis."""
    back = (net.ints(-1), net.ints(-(2**31)), net.ints(-1), net.ints(-1))
    x = net.node("Slice", net.input(9, 8, 3), *back)
    return net.node("Conv", net.node("Transpose", x, perm=[0, 3, 1, 2]), net.weight(C, 3, 5, 5))


LAID_OUT: dict[str, Callable[[Net], str]] = {
    "[N, W]": signal,
    "[N, W, C] by Keras": keras_signal,
    "[N, W, 1]": lambda net: turned_by_reshape(net, 16),
    "[N, H, W, 1]": lambda net: turned_by_reshape(net, 9, 8),
    "[N, D, H, W, 1]": lambda net: turned_by_reshape(net, 7, 6, 7),
    "[N, H, W], its batch computed": shape_of_the_batch,
    "a row": back_and_forth,
    "a row by Unsqueeze": row_of_a_signal,
    "axes of NumPy": axes_taken_out_and_put_in,
    "BGR": colours_reversed,
}


@pytest.mark.parametrize(
    ("name", "opset"), [*((name, 17) for name in LAID_OUT), ("[N, H, W, 1]", 11)]
)
def test_inputs_that_are_laid_out_before_the_convolution(name: str, opset: int) -> None:
    net = Net(opset=opset)
    x = LAID_OUT[name](net)
    images = ("[N, H, W, 1]", "[N, H, W], its batch computed", "axes of NumPy", "BGR")
    size = {"[N, D, H, W, 1]": 18, **dict.fromkeys(images, 20)}
    net.rows(net.gemm(net.node("Flatten", net.node("Relu", x)), C * size.get(name, 12), 5), 5)
    model = net.model()
    result = slid(model)
    assert [site.refused for site in result.sites] == [None]
    assert result.passed
    assert result.changes[0].notes == ()
    source = inputs(model)[0]
    sizes = [dim.dim_value for dim in source.type.tensor_type.shape.dim[1:]]
    axes = [axis for axis, size in enumerate(sizes) if size > 3]
    large = [size + 2 * (axis in axes) for axis, size in enumerate(sizes)]
    whole = np.random.default_rng(6).standard_normal((2, *large)).astype(np.float32)
    [made] = run(result.model, {source.name: whole})
    made = made.reshape(2, 5, *(3 for _ in axes))
    for place in np.ndindex(*(3 for _ in axes)):
        crop = whole
        for axis, start in zip(axes, place, strict=True):
            crop = crop.take(range(start, start + sizes[axis]), axis + 1)
        [old] = run(model, {source.name: np.ascontiguousarray(crop)})
        np.testing.assert_allclose(made[(..., *place)], old, rtol=1e-4, atol=1e-5)


def test_a_vector_that_is_cut_into_rows_names_what_cuts_it() -> None:
    net = Net()
    x = net.node("Reshape", net.input(32), net.ints(-1, 2, 16))
    x = net.node("Relu", net.node("Conv", x, net.weight(C, 2, 5)))
    net.rows(net.gemm(net.node("Flatten", x), C * 12, 5), 5)
    [site] = slid(net.model()).sites
    assert re.search(r"other input sizes: node '\w+' \(Reshape\) is tied", site.refused or "")
