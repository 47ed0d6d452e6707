"""Receptive fields measured: one row of an input is moved, and the outputs that move are found.

All weights are positive and the input is constant, so that an output moves exactly if it sees the
row. Positions whose claimed field lies inside the input must equal it; others may only see less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxshare
from onnxshare.analysis.receptive_field.fields import ReceptiveFields
from onnxshare.analysis.receptive_field.windows import Window
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph
from onnxshare.graph.operator_traits import TRAITS
from onnxshare.io.load import load
from onnxshare.shapes.inference import Shapes, infer
from onnxshare.shapes.input_sizes import Binding
from tests.builders import Array, constant, info, model, node


def run_as_written(built: onnx.ModelProto, images: Array) -> Array:
    """The output without optimisations: fusing Pad into a pooling fails where it pads too much."""
    import onnxruntime as ort

    untyped = onnx.ModelProto()
    untyped.CopyFrom(built)
    untyped.graph.output[0].ClearField("type")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        untyped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": images})[0])


def measured(built: onnx.ModelProto, sizes: list[int], axis: int) -> list[tuple[int, int]]:
    """First and last row of an input axis that moves each position of the output's same axis."""
    length = sizes[axis]
    images = np.ones((length + 1, *sizes[1:]), np.float32)
    for row in range(length):
        np.moveaxis(images[row], axis - 1, 0)[row] = 5
    outputs = run_as_written(built, images)
    moved = np.abs(outputs - outputs[-1:]) > 1e-6 * np.abs(outputs[-1:])
    rest = tuple(other for other in range(1, moved.ndim) if other != axis)
    table = moved.any(axis=rest)[:-1]  # rows of the input × positions of the output
    return [
        (int(rows[0]), int(rows[-1])) if len(rows := np.flatnonzero(column)) else (1, 0)
        for column in table.T
    ]


def claimed(built: onnx.ModelProto, axis: int) -> Window | None:
    graph = Graph(load(built))
    shapes = infer(graph)
    fields = ReceptiveFields(graph, shapes, Values(graph, shapes.fully_known()))
    place = fields.places(built.graph.output[0].name).get(("x", axis))
    return place.window if place is not None else None


def assert_measured(built: onnx.ModelProto, sizes: list[int], margin: int = 0) -> int:
    """Compare along every spatial axis; returns how many positions were held against the claim.

    Args:
        built: a net from x to one output.
        sizes: the sizes of x.
        margin: rows at each end of x where padding inside the net may cut a field.
    """
    compared = 0
    for axis in range(2, len(sizes)):
        window = claimed(built, axis)
        assert window is not None
        for position, (low, high) in enumerate(measured(built, sizes, axis)):
            first, last = window.low(position), window.high(position)
            if first >= margin and last < sizes[axis] - margin:
                assert (low, high) == (first, last), (axis, position, window)
                compared += 1
            elif low <= high and not mirrored(built):
                assert first <= low <= high <= last, (axis, position, window)
    return compared


def mirrored(built: onnx.ModelProto) -> bool:
    """Whether the edges see the inside: a reflected edge does, and a resized one is repeated."""
    return any(item.op_type in ("Pad", "Resize") for item in built.graph.node)


@dataclass
class Net:
    """A net that grows at its end; every weight is positive."""

    rank: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    at: str = "x"
    pace: int = 1
    margin: int = 0

    @property
    def negative(self) -> bool:
        """Whether a row may make an output smaller."""
        resized = [item for item in self.nodes if item.op_type == "Resize"]
        return any(a.s == b"cubic" for item in resized for a in item.attribute)

    def reach(self, positions: int, stride: int = 1) -> None:
        """Note that so many positions at either end may meet padding or be left over."""
        self.margin += positions * self.pace
        self.pace *= stride

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(op_type, " ".join([self.at, *inputs]), name, **attributes))
        self.at = name
        return name

    def weight(self, *sizes: int) -> str:
        name = f"w{len(self.weights)}"
        values = np.random.default_rng(7).uniform(0.5, 1.5, sizes) / np.prod(sizes[2:])
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(constant(name, values))
        return name

    def numbers(self, *values: float) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(constant(name, values, np.float32))
        return name

    def conv(self, kernel: int, **attributes: Any) -> str:
        return self.add("Conv", self.weight(2, 2, *[kernel] * self.rank), **attributes)

    def model(self, sizes: list[int]) -> onnx.ModelProto:
        return model(self.nodes, {"x": ["n", *sizes[1:]]}, [self.at], self.weights, opset=18)


@st.composite
def attributes(draw: st.DrawFn, rank: int, *, dilate: bool = True) -> dict[str, Any]:
    chosen: dict[str, Any] = {"strides": [draw(st.integers(1, 2)) for _ in range(rank)]}
    if dilate and draw(st.booleans()):
        chosen["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    padding = draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "pads":
        chosen["pads"] = [draw(st.integers(0, 1)) for _ in range(2 * rank)]
    elif padding != "none":
        chosen["auto_pad"] = padding
        if padding != "VALID":  # ONNX Runtime refuses SAME with dilations
            chosen.pop("dilations", None)
    return chosen


LAYERS = "conv max average transposed pad cut resize branch joined layout normalized blocks".split()


@st.composite
def nets(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[int], int]:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    net = Net(rank)
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4)):
        grow(draw, net, layer)
    net.conv(draw(st.integers(1, 2)))
    length = {1: 150, 2: 64, 3: 20}[rank]
    sizes = [1, 2, *(length + draw(st.integers(0, 3)) for _ in range(rank))]
    return net.model(sizes), sizes, net.margin + net.pace


def grow(draw: st.DrawFn, net: Net, layer: str) -> None:
    rank, spatial = net.rank, [1] * net.rank
    if layer == "conv":
        net.conv(draw(st.integers(1, 3)), **draw(attributes(rank)))
        net.reach(5, 2)
    elif layer in ("max", "average"):
        window = [draw(st.integers(2, 3))] * rank
        chosen = draw(attributes(rank, dilate=False))
        if "auto_pad" not in chosen:
            chosen["ceil_mode"] = draw(st.integers(0, 1))
        net.reach(3, 2)
        # Cubic taps may be negative, and a maximum does not show what only makes one smaller.
        largest = layer == "max" and not net.negative
        net.add("MaxPool" if largest else "AveragePool", kernel_shape=window, **chosen)
    elif layer == "transposed":
        net.reach(3)
        stride, pad = draw(st.integers(1, 3)), draw(st.integers(0, 1))
        kernel = stride + draw(st.integers(0, 2))
        net.add(
            "ConvTranspose",
            net.weight(2, 2, *[kernel] * rank),
            strides=[stride] * rank,
            pads=[pad] * rank + [0] * rank,
        )
    elif layer == "pad":
        before = [draw(st.integers(-1, 2)) for _ in range(rank)]
        mode = draw(st.sampled_from(["constant", "edge"]))
        net.reach(2)
        net.add("Pad", net.integers(0, 0, *before, 0, 0, *spatial), mode=mode)
    elif layer == "cut":
        start, step = draw(st.integers(0, 3)), draw(st.integers(1, 2))
        axis = draw(st.integers(2, rank + 1))
        ends = net.integers(1000)
        net.reach(start + step, step)
        net.add("Slice", net.integers(start), ends, net.integers(axis), net.integers(step))
    elif layer == "resize":
        resize(draw, net)
    elif layer == "branch":
        net.reach(2)
        beginning = net.at
        one = net.conv(3, pads=[1] * 2 * rank)
        net.at = beginning
        net.conv(5, pads=[2] * 2 * rank)
        net.add("Add", one)
    elif layer == "joined":
        net.reach(2)
        beginning = net.at
        one = net.conv(3, pads=[2] * rank + [0] * rank)
        net.at = beginning
        net.add("Concat", one, axis=1)
        net.add("Conv", net.weight(2, 4, *spatial))
    elif layer == "layout":
        order = [0, *range(2, rank + 2), 1]
        net.add("Transpose", perm=order)
        net.add("Mul", net.numbers(2, 3))
        net.add("Transpose", perm=[0, rank + 1, *range(1, rank + 1)])
    elif layer == "normalized":
        scale = net.numbers(1, 2)
        net.add("BatchNormalization", scale, scale, scale, scale)
        net.add("Relu")
    elif rank == 2:
        net.add("Resize", net.numbers(), net.numbers(1, 1, 2, 2), mode="nearest")  # even sizes
        net.add("SpaceToDepth", blocksize=2)
        net.reach(2)
        net.add("Conv", net.weight(8, 8, 1, 1))
        net.add("DepthToSpace", blocksize=2)


def resize(draw: st.DrawFn, net: Net) -> None:
    factor = draw(st.sampled_from([2.0, 3.0, 0.5]))
    mode = draw(st.sampled_from(["nearest", "linear"] + ["cubic"] * (net.rank == 2)))
    if mode == "cubic":  # at other factors it reads one position here and four there
        factor = 2.0
    mapping = draw(
        st.sampled_from(["half_pixel", "pytorch_half_pixel"] + ["asymmetric"] * (mode != "cubic"))
    )
    rounding = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    chosen = {"nearest_mode": rounding} if mode == "nearest" else {}
    net.reach(2)
    empty = net.numbers()
    scales = net.numbers(1, 1, *[factor] * net.rank)
    net.add("Resize", empty, scales, mode=mode, coordinate_transformation_mode=mapping, **chosen)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(nets())
def test_random_nets(case: tuple[onnx.ModelProto, list[int], int]) -> None:
    built, sizes, margin = case
    assert_measured(built, sizes, margin)


def chain(*nodes: onnx.NodeProto, sizes: list[int | str], **weights: tuple[int, ...]) -> Any:
    """A model of these nodes; a name starting with w is a positive weight of the given sizes."""
    held = [
        numpy_helper.from_array(
            np.random.default_rng(3).uniform(0.5, 1.5, shape).astype(np.float32), name
        )
        for name, shape in weights.items()
    ]
    return model(nodes, {"x": sizes}, ["y"], held, opset=18)


LINE, SQUARE = [1, 2, 40], [1, 2, 24, 24]

NETS = {
    "dilated, strided, padded on one side": (
        chain(
            node("Conv", "x w", "y", strides=[2, 3], dilations=[3, 1], pads=[4, 0, 1, 2]),
            sizes=["n", 2, 24, 24],
            w=(2, 2, 3, 3),
        ),
        SQUARE,
        {"size": [7, 3], "stride": [2, 3], "start": [-4, 0]},
    ),
    "pooling, ceil_mode": (
        chain(
            node("Conv", "x w", "a"),
            node("MaxPool", "a", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
            sizes=["n", 2, 24, 24],
            w=(2, 2, 2, 2),
        ),
        SQUARE,
        {"size": [4, 4], "stride": [2, 2], "start": [0, 0]},
    ),
    "SAME_UPPER: the odd row is at the end": (
        chain(
            node("Conv", "x w", "y", strides=[2, 2], auto_pad="SAME_UPPER"),
            sizes=["n", 2, 24, 24],
            w=(2, 2, 3, 3),
        ),
        SQUARE,
        {"size": [3, 3], "stride": [2, 2], "start": [0, 0]},
    ),
    "SAME_LOWER: the odd row is at the beginning": (
        chain(
            node("Conv", "x w", "y", strides=[2, 2], auto_pad="SAME_LOWER"),
            sizes=["n", 2, 24, 24],
            w=(2, 2, 3, 3),
        ),
        SQUARE,
        {"size": [3, 3], "stride": [2, 2], "start": [-1, -1]},
    ),
    "a transposed convolution that undoes a stride": (
        chain(
            node("Conv", "x w", "a", strides=[2]),
            node("ConvTranspose", "a v", "y", strides=[2]),
            sizes=["n", 2, 40],
            w=(2, 2, 2),
            v=(2, 2, 2),
        ),
        LINE,
        {"size": [2], "stride": [1], "start": [0]},
    ),
    "a transposed convolution, padded as SAME_UPPER": (
        chain(
            node("ConvTranspose", "x v", "a", strides=[2], auto_pad="SAME_UPPER"),
            node("MaxPool", "a", "y", kernel_shape=[2], strides=[2]),
            sizes=["n", 2, 40],
            v=(2, 2, 5),
        ),
        LINE,
        {"size": [3], "stride": [1], "start": [-1]},
    ),
    "a transposed convolution to a size": (
        chain(
            node("ConvTranspose", "x v", "a", strides=[2], output_shape=[80]),
            node("MaxPool", "a", "y", kernel_shape=[2], strides=[2]),
            sizes=["n", 2, 40],
            v=(2, 2, 5),
        ),
        LINE,
        None,
    ),
    "a shortcut past a strided block": (
        chain(
            node("Conv", "x w", "a", strides=[2], pads=[1, 1]),
            node("Conv", "a w", "b", pads=[1, 1]),
            node("Conv", "x v", "c", strides=[2]),
            node("Add", "b c", "y"),
            sizes=["n", 2, 40],
            w=(2, 2, 3),
            v=(2, 2, 1),
        ),
        LINE,
        {"size": [7], "stride": [2], "start": [-3]},
    ),
    "slices side by side (focus)": (
        model(
            [
                node("Slice", "x s0 e axis t", "a"),
                node("Slice", "x s1 e axis t", "b"),
                node("Concat", "a b", "c", axis=1),
                node("Conv", "c w", "y"),
            ],
            {"x": ["n", 2, 40]},
            ["y"],
            [
                constant("s0", [0]),
                constant("s1", [1]),
                constant("e", [40]),
                constant("axis", [2]),
                constant("t", [2]),
                numpy_helper.from_array(np.ones((2, 4, 3), np.float32), "w"),
            ],
        ),
        LINE,
        {"size": [6], "stride": [2], "start": [0]},
    ),
    "1-D written as 2-D": (
        model(
            [
                node("Unsqueeze", "x two", "a"),
                node("Conv", "a w", "b", dilations=[1, 2]),
                node("Squeeze", "b two", "y"),
            ],
            {"x": ["n", 2, 40]},
            ["y"],
            [
                constant("two", [2]),
                numpy_helper.from_array(np.ones((2, 2, 1, 3), np.float32), "w"),
            ],
        ),
        LINE,
        {"size": [5], "stride": [1], "start": [0]},
    ),
    "channels shuffled by Reshape and Transpose": (
        model(
            [
                node("Conv", "x w", "a"),
                node("Reshape", "a apart", "b"),
                node("Transpose", "b", "c", perm=[0, 2, 1, 3, 4]),
                node("Reshape", "c together", "d"),
                node("AveragePool", "d", "y", kernel_shape=[2, 2]),
            ],
            {"x": ["n", 2, 24, 24]},
            ["y"],
            [
                constant("apart", [-1, 2, 2, 22, 22]),
                constant("together", [-1, 4, 22, 22]),
                numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w"),
            ],
        ),
        SQUARE,
        {"size": [4, 4], "stride": [1, 1], "start": [0, 0]},
    ),
    "split and cut along an axis": (
        model(
            [
                node("Split", "x parts", "a b", axis=3),
                node("Conv", "b w", "y", strides=[1, 2]),
            ],
            {"x": ["n", 2, 24, 24]},
            ["y"],
            [
                constant("parts", [10, 14]),
                numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w"),
            ],
        ),
        SQUARE,
        {"size": [3, 3], "stride": [1, 2], "start": [0, 10]},
    ),
    "3-D": (
        chain(
            node("Conv", "x w", "a", pads=[1, 0, 0, 1, 0, 0]),
            node("AveragePool", "a", "y", kernel_shape=[1, 2, 2], strides=[1, 2, 2]),
            sizes=["n", 2, 8, 9, 10],
            w=(2, 2, 3, 2, 1),
        ),
        [1, 2, 8, 9, 10],
        {"size": [3, 3, 2], "stride": [1, 2, 2], "start": [-1, 0, 0]},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    built, sizes, field = NETS[name]
    assert assert_measured(built, sizes) > 4
    if field is not None:
        assert onnxshare.inspect(built).nodes[-1].receptive_field == field


def test_uneven_after_upsampling() -> None:
    """A kernel of 3 over doubled rows sees 2 of them: by turns 1 and 2, 2 and 2 … of size 2 all."""
    built = chain(node("ConvTranspose", "x v", "y", strides=[2]), sizes=["n", 2, 20], v=(2, 2, 3))
    assert assert_measured(built, [1, 2, 20]) > 30
    (facts,) = onnxshare.inspect(built).nodes
    assert facts.receptive_field == {"size": [2], "stride": [0.5], "start": [-1]}
    assert str(facts.receptive_field_note).startswith("differs between positions")


ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
RESIZES = [
    *((factor, "nearest", rounding) for factor in (2.0, 3.0, 0.5) for rounding in ROUNDINGS),
    *((factor, "linear", "floor") for factor in (2.0, 3.0, 0.5)),
    (2.0, "cubic", "floor"),
    (0.5, "cubic", "floor"),
]


@pytest.mark.parametrize("mapping", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize(("factor", "mode", "rounding"), RESIZES)
def test_resize(factor: float, mode: str, rounding: str, mapping: str) -> None:
    """Every way of rounding and interpolating reads what ONNX Runtime makes it read."""
    net = Net(2)
    net.conv(1)
    attributes = {"nearest_mode": rounding} if mode == "nearest" else {}
    scales = net.numbers(1, 1, factor, factor)
    empty = net.numbers()
    how = {"mode": mode, "coordinate_transformation_mode": mapping}
    net.add("Resize", empty, scales, **how, **attributes)
    built = net.model([1, 2, 12, 12])
    if (factor, mode, mapping) == (2.0, "cubic", "asymmetric"):
        assert claimed(built, 2) is None  # one position here and four there
    else:
        assert assert_measured(built, [1, 2, 12, 12], margin=1) > 4


@pytest.mark.parametrize(
    ("mode", "note"), [("constant", ""), ("edge", ""), ("reflect", "mirrored"), ("wrap", "wrapped")]
)
@pytest.mark.parametrize("ends", [(2, 3), (3, 0), (0, 2)])
def test_padded_edges(mode: str, note: str, ends: tuple[int, int]) -> None:
    """What positions at the edges see, as NumPy pads, is what ONNX Runtime lets them see."""
    before, after = ends
    nodes = [
        node("Pad", "x pads", "a", mode=mode),
        node("Conv", "a w", "b", strides=[2]),
        node("Relu", "b", "c"),
        node("MaxPool", "c", "d", kernel_shape=[1]),
        node("Add", "d c", "y"),
    ]
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "w"),
        constant("pads", [0, 0, before, 0, 0, after]),
    ]
    sizes = [1, 2, 11]
    built = model(nodes, {"x": ["n", *sizes[1:]]}, ["y"], weights, opset=19)
    field = onnxshare.inspect(built).nodes[-1]
    assert field.receptive_field == {"size": [3], "stride": [2], "start": [-before]}
    assert str(field.receptive_field_note or "").startswith(note)
    assert bool(field.receptive_field_note) == bool(note)
    how: dict[str, Any] = {"constant_values": -1} if mode == "constant" else {}
    rows = np.pad(np.arange(sizes[2]), ends, mode=mode, **how)  # type: ignore[call-overload]
    for position, seen in enumerate(measured(built, sizes, 2)):
        inside = [row for row in rows[2 * position : 2 * position + 3] if row >= 0]
        assert seen == ((min(inside), max(inside)) if inside else (1, 0))


def test_a_cut_edge_is_not_mirrored() -> None:
    """Pad with negative sizes cuts, whatever its mode; the note goes along other axes' padding."""
    weights = [numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "w")]
    for pads, noted in (([0, 0, -1, 0, 0, -2], False), ([0, 0, -1, 0, 0, 1], True)):
        built = model(
            [node("Pad", "x pads", "a", mode="reflect"), node("Conv", "a w", "y")],
            {"x": ["n", 2, 11]},
            ["y"],
            [*weights, constant("pads", pads)],
            opset=19,
        )
        assert bool(onnxshare.inspect(built).nodes[-1].receptive_field_note) == noted


def test_channels_last() -> None:
    """The spatial axes are those that a convolution slides over, wherever they are."""
    built = chain(
        node("Transpose", "x", "a", perm=[0, 3, 2, 1]),
        node("Conv", "a w", "b", strides=[1, 2]),
        node("Transpose", "b", "y", perm=[0, 3, 2, 1]),
        sizes=["n", 20, 30, 2],
        w=(2, 2, 5, 3),
    )
    first, conv, last = onnxshare.inspect(built).nodes
    assert first.receptive_field == {"size": [1, 1], "stride": [1, 1], "start": [0, 0]}
    assert conv.receptive_field == {"size": [3, 5], "stride": [2, 1], "start": [0, 0]}
    assert last.receptive_field == conv.receptive_field


CONV = node("Conv", "x w", "a")
AFTER = {
    "global pooling": ([node("GlobalAveragePool", "a", "y")], "whole input"),
    "mean over space": ([node("ReduceMean", "a", "y", axes=[2, 3])], "whole input"),
    "instance normalization": ([node("InstanceNormalization", "a c c", "y")], "whole input"),
    "layer normalization over all but the batch": (
        [node("LayerNormalization", "a scale", "y", axis=1)],
        "whole input",
    ),
    "softmax over columns": ([node("Softmax", "a", "y", axis=3)], "whole input"),
    "squeeze and excitation": (
        [
            node("GlobalAveragePool", "a", "g"),
            node("Sigmoid", "g", "s"),
            node("Mul", "a s", "y"),
        ],
        "whole input",
    ),
    "flattened": ([node("Flatten", "a", "y")], "positions reshaped"),
    "FC": ([node("Flatten", "a", "f"), node("Gemm", "f m", "y")], "whole input"),
    "one row beside many": (
        [node("AveragePool", "a", "p", kernel_shape=[8, 1]), node("Add", "a p", "y")],
        "strides differ",
    ),
    "branches of different strides": (
        [
            node("MaxPool", "a", "p", kernel_shape=[1, 1], strides=[2, 2]),
            node("Slice", "a zero one spatial", "o"),
            node("Slice", "a zero four spatial", "q"),
            node("Add", "p q", "y"),
        ],
        "strides differ",
    ),
    "reversed": ([node("Slice", "a last first spatial minus", "y")], "reversed"),
    "an operator that is not followed": (
        [node("CumSum", "a axis", "y")],
        "not followed through CumSum",
    ),
    "an odd factor": (
        [node("Resize", "a _ scales", "y")],
        "resized by a factor that is not an integer",
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_null_says_why(name: str) -> None:
    nodes, note = AFTER[name]
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.ones(2, np.float32), "c"),
        numpy_helper.from_array(np.ones((2, 8, 8), np.float32), "scale"),
        numpy_helper.from_array(np.ones((2 * 8 * 8, 5), np.float32), "m"),
        constant("zero", [0, 0]),
        constant("one", [1, 1]),
        constant("four", [4, 4]),
        constant("spatial", [2, 3]),
        constant("last", [-1, -1]),
        constant("first", [-100, -100]),
        constant("minus", [-1, -1]),
        constant("axis", 2),
        constant("scales", [1, 1, 1.5, 1.5], np.float32),
    ]
    built = model([CONV, *nodes], {"x": ["n", 2, 10, 10]}, ["y"], weights, opset=17)
    facts = onnxshare.inspect(built).nodes[-1]
    assert (facts.receptive_field, facts.receptive_field_note) == (None, note)


def test_a_quantized_kernel_without_kernel_shape() -> None:
    """Its weight is input 3: 5 rows and 3 columns, each second row."""
    built = model(
        [node("QLinearConv", "x s z w s z s z", "y", strides=[2, 1])],
        [info("x", ["n", 2, 24, 24], onnx.TensorProto.UINT8)],
        ["y"],
        [
            constant("s", 0.5, np.float32),
            constant("z", 0, np.uint8),
            constant("w", np.ones((4, 2, 5, 3)), np.uint8),
        ],
    )
    (facts,) = onnxshare.inspect(built).nodes
    assert facts.receptive_field == {"size": [5, 3], "stride": [2, 1], "start": [0, 0]}


def test_free_sizes() -> None:
    """Sizes are needed only where SAME has to pad by them."""
    nodes = [
        node("Conv", "x w", "a", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", "a w", "b", auto_pad="SAME_UPPER"),
        node("MaxPool", "b", "y", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    ]
    built = chain(*nodes, sizes=["n", 2, "h", "w"], w=(2, 2, 3, 3))
    _, even, pooled = onnxshare.inspect(built).nodes
    assert even.receptive_field == {"size": [7, 7], "stride": [2, 2], "start": [-3, -3]}
    assert pooled.receptive_field is None
    assert "sizes of inputs set them" in str(pooled.receptive_field_note)
    known = onnxshare.inspect(built, input_shapes={"x": [1, 2, 18, 18]}).nodes[-1]
    assert known.receptive_field == {"size": [9, 9], "stride": [4, 4], "start": [-3, -3]}


def test_several_images() -> None:
    """Two inputs that meet: the first in `receptive_field`, each under its name beside it."""
    built = model(
        [
            node("Conv", "left w", "a"),
            node("Conv", "right w", "b", pads=[2, 0]),
            node("Conv", "b w", "c"),
            node("Add", "a c", "y"),
        ],
        {"left": ["n", 2, 20], "right": ["n", 2, 20]},
        ["y"],
        [numpy_helper.from_array(np.ones((2, 2, 3), np.float32), "w")],
    )
    a, b, _, y = onnxshare.inspect(built).nodes
    left = {"size": [3], "stride": [1], "start": [0]}
    right = {"size": [5], "stride": [1], "start": [-2]}
    assert (a.receptive_field, a.receptive_fields) == (left, {"left": left})
    assert b.receptive_field == {"size": [3], "stride": [1], "start": [-2]}
    assert (y.receptive_field, y.receptive_fields) == (left, {"left": left, "right": right})


def test_not_an_image() -> None:
    built = model([node("Relu", "x", "y")], {"x": ["n", 3, 8, 8]}, ["y"])
    (facts,) = onnxshare.inspect(built).nodes
    assert (facts.receptive_field, facts.receptive_field_note) == (None, "not an image")


def test_numbers_stay_within_bounds() -> None:
    """Strides that multiply beyond all bounds are given up, not printed."""
    nodes = [
        node("MaxPool", name, after, kernel_shape=[1], strides=[2**31])
        for name, after in zip(["x", *"abcde"], [*"abcde", "y"], strict=True)
    ]
    built = model(nodes, {"x": ["n", 2, "length"]}, ["y"])
    facts = onnxshare.inspect(built).nodes
    assert facts[0].receptive_field == {"size": [1], "stride": [2**31], "start": [0]}
    assert facts[-1].receptive_field_note == "strides beyond all bounds"


# Kernels and strides along the deepest path, from the papers (AlexNet: Krizhevsky et al., 2012;
# VGG-19: Simonyan and Zisserman, 2014; ResNet-50: He et al., 2015, with the stride in the 3×3;
# Inception v1: Szegedy et al., 2014, whose deepest path takes the 5×5 of each module; v2: two 3×3
# in each; ZFNet: Zeiler and Fergus, 2013, here with 2×2 as the last pool; SqueezeNet 1.1: a 3×3 in
# each of 8 fires). Araujo et al. publish AlexNet's 195 and Inception v2's 699 too.
POOL, THREE = (3, 2), (3, 1)
PATHS = {
    "light_bvlc_alexnet": (
        [(11, 4), POOL, (5, 1), POOL, THREE, THREE, THREE, POOL],
        ("MaxPool", -1),
        195,
    ),
    "light_vgg19": (
        [*[THREE] * 2, (2, 2), *[THREE] * 2, (2, 2)] + [*[THREE] * 4, (2, 2)] * 3,
        ("MaxPool", -1),
        268,
    ),
    "light_resnet50": (
        [(7, 2), POOL, *[THREE] * 3, POOL, *[THREE] * 3, POOL, *[THREE] * 5, POOL, *[THREE] * 2],
        ("Conv", -1),
        427,
    ),
    "light_inception_v1": (
        [(7, 2), POOL, THREE, POOL, *[(5, 1)] * 2, POOL, *[(5, 1)] * 5, POOL, *[(5, 1)] * 2],
        ("Concat", -1),
        715,
    ),
    "light_inception_v2": (
        [(7, 2), POOL, THREE, POOL, *[THREE] * 5, POOL, *[THREE] * 9, POOL, *[THREE] * 4],
        ("Concat", -1),
        699,
    ),
    "light_zfnet512": (
        [(7, 2), POOL, (5, 2), POOL, THREE, THREE, THREE, (2, 2)],
        ("MaxPool", -1),
        155,
    ),
    "light_squeezenet": (
        [(3, 2), POOL, *[THREE] * 2, POOL, *[THREE] * 2, POOL, *[THREE] * 4],
        ("Concat", -1),
        207,
    ),
}


def closed_form(path: list[tuple[int, int]]) -> tuple[int, int]:
    """Size and stride of a path: 1 + Σ (k - 1) · Π of the strides before (Araujo et al., eq. 2)."""
    size, stride = 1, 1
    for index, (kernel, _) in enumerate(path):
        size += (kernel - 1) * int(np.prod([s for _, s in path[:index]], dtype=int))
        stride = int(np.prod([s for _, s in path[: index + 1]], dtype=int))
    return size, stride


@pytest.mark.parametrize("file", PATHS)
def test_published_networks(file: str, onnx_light: Any) -> None:
    path, (op_type, which), published = PATHS[file]
    size, stride = closed_form(path)
    report = onnxshare.inspect(onnx_light / f"{file}.onnx")
    facts = [facts for facts in report.nodes if facts.op_type == op_type][which]
    assert facts.receptive_field is not None
    assert facts.receptive_field["size"] == [size, size]
    assert facts.receptive_field["stride"] == [stride, stride]
    assert size == published


def odd_attribute(draw: st.DrawFn, name: str) -> onnx.AttributeProto:
    numbers = st.integers(-(2**62), 2**62) | st.integers(-2, 4)
    value = draw(
        numbers
        | st.lists(numbers, min_size=1, max_size=5)
        | st.sampled_from(["SAME_UPPER", "half_pixel", "?", 0.5])
    )
    return onnx.helper.make_attribute(name, value)


ODD = (
    "kernel_shape strides pads dilations auto_pad axis axes perm blocksize ends starts keepdims "
    "output_shape output_padding scales mode noop_with_empty_axes transA channels_last"
).split()


@st.composite
def damaged(draw: st.DrawFn) -> onnx.NodeProto:
    op_type = draw(st.sampled_from(sorted(name for domain, name in TRAITS if not domain)))
    operands = draw(st.lists(st.sampled_from(["x", "i", "w", "x"]), min_size=1, max_size=4))
    item = onnx.helper.make_node(op_type, ["x", *operands[1:]], ["y"], name="odd")
    item.attribute.extend(
        odd_attribute(draw, name)
        for name in draw(st.lists(st.sampled_from(ODD), max_size=4, unique=True))
    )
    return item


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_attributes_without_sense(item: onnx.NodeProto) -> None:
    """No attribute, of whatever type and value, makes the walk fail or loop."""
    built = model(
        [node("MaxPool", "x", "p", kernel_shape=[1, 1]), item],
        {"x": ["n", 2, 8, 8]},
        ["p", "y"],
        [constant("i", [1, 2]), numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")],
    )
    try:
        graph = Graph(load(built))
    except onnxshare.OnnxShareError:
        return  # too few or too many inputs
    shapes = Shapes(1, Binding({}, (), {}, {}))
    shapes.put("", "x", onnx.TensorProto.FLOAT, (1, 2, 8, 8))
    shapes.put("", "w", onnx.TensorProto.FLOAT, (2, 2, 1, 1))
    fields = ReceptiveFields(graph, shapes, Values(graph, shapes.fully_known()))
    found = fields.of(graph.main.nodes[-1])
    assert found.field is not None or found.note
