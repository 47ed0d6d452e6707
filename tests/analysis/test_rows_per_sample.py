"""Several rows of axis 0 that belong to one sample: every operator counts all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, tensor

MS = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """Nodes that make `y` of inputs and stored tensors, and what is right of the totals."""

    nodes: list[onnx.NodeProto]
    inputs: Mapping[str, Sequence[int | str]]
    stored: list[onnx.TensorProto]
    macs: int | None
    dims: dict[str, int] | None = None
    also: dict[str, int | float | None] = field(default_factory=dict)

    def report(self) -> onnxshare.Inspection:
        built = model(self.nodes, dict(self.inputs), ["y"], self.stored)
        return onnxshare.inspect(built, dims=self.dims)


def fold(*sizes: int) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """A Reshape of `x` to `r`, and its target."""
    return node("Reshape", "x s", "r"), constant("s", sizes)


def folded(op: str, x: Sequence[int | str], to: Sequence[int], stored: str, **kind: object) -> Case:
    """One operator behind a Reshape. `stored` is its inputs after the data, each as name:1x2x3."""
    reshape, target = fold(*to)
    macs = kind.pop("macs")
    also = kind.pop("also", {})
    weights = [part.split(":") for part in stored.split()]
    names = " ".join(["r", *(name for name, _ in weights)])
    tensors = [tensor(n, *map(int, shape.split("x"))) for n, shape in weights if shape]
    made = node(op, names, "y", **kind)
    return Case([reshape, made], {"x": x}, [target, *tensors], macs, also=also)  # type: ignore[arg-type]


#: On 8x8 maps, a 3x3 kernel has 36 positions of 4·3·9 multiplications.
ROW = 36 * 108
K = "k:4x3x3x3"

CASES = {
    # 5 frames; the bias is used once a position and channel more: 5·36·(108 + 4)
    "frames, Conv with bias": folded(
        "Conv", ["n", 5, 3, 8, 8], [-1, 3, 8, 8], f"{K} b:4", macs=5 * ROW,
        also={"connections": 5 * 36 * 112, "flops": 2 * 5 * ROW + 5 * 36 * 4},
    ),
    # the fourth axis of 4 is rows: 4·(64·3 inputs·4·9)
    "frames, ConvTranspose": folded(
        "ConvTranspose", ["n", 4, 3, 8, 8], [-1, 3, 8, 8], "k:3x4x3x3", macs=4 * 64 * 108
    ),
    "frames, FusedConv": folded(
        "FusedConv", ["n", 6, 3, 8, 8], [-1, 3, 8, 8], K, macs=6 * ROW, domain=MS
    ),
    "windows of a signal, Conv 1-D": folded(
        "Conv", ["n", 1, 160], [-1, 1, 16], "k:2x1x4", macs=10 * 13 * 8
    ),
    "depthwise Conv on tiles": folded(
        "Conv", [1, 12, 8, 8], [4, 3, 8, 8], "k:3x1x3x3", group=3, macs=4 * 36 * 27
    ),
    # 7 rows of 5 steps of 4 gates·8·(3 + 8)
    "rows of an LSTM": Case(
        [fold(-1, 5, 3)[0], node("Transpose", "r", "t", perm=[1, 0, 2]),
         node("LSTM", "t w q", "y", hidden_size=8)],
        {"x": ["n", 7, 15]}, [constant("s", [-1, 5, 3]), tensor("w", 1, 32, 3),
                              tensor("q", 1, 32, 8)], 7 * 5 * 32 * 11,
        also={"connections": 7 * 5 * 32 * 11, "sharing_ratio": 35.0},
    ),
    "rows of an RNN, layout 1": folded(
        "RNN", ["n", 7, 5, 3], [-1, 5, 3], "w:1x8x3 q:1x8x8", hidden_size=8, layout=1,
        macs=7 * 5 * 8 * 11,
    ),
    # 9 windows of 4 tokens of 3·16² and of QK' and AV, 2·4·4·16
    "windows, com.microsoft Attention": folded(
        "Attention", ["n", 9, 4, 16], [-1, 4, 16], "w:16x48 b:48", domain=MS, num_heads=2,
        macs=9 * (4 * 16 * 48 + 2 * 16 * 16), also={"connections": 9 * 4 * (16 * 48 + 48)},
    ),
    "two images on axis 0, Conv then Gemm": Case(
        [node("Concat", "x x2", "r", axis=0), node("Conv", "r k", "c"),
         node("GlobalAveragePool", "c", "p"), node("Flatten", "p", "f"), node("Gemm", "f w", "y")],
        {"x": ["n", 3, 8, 8], "x2": ["n", 3, 8, 8]},
        [tensor("k", 4, 3, 3, 3), tensor("w", 4, 5)], 2 * ROW + 2 * 20,
    ),
    "one sample twice for guidance, Tile": Case(
        [node("Tile", "x t", "r"), node("Conv", "r k", "y")], {"x": ["n", 3, 8, 8]},
        [constant("t", [2, 1, 1, 1]), tensor("k", 4, 3, 3, 3)], 2 * ROW,
    ),
    "one sample three times, Expand": Case(
        [node("Expand", "x t", "r"), node("Conv", "r k", "y")], {"x": [1, 3, 8, 8]},
        [constant("t", [3, 3, 8, 8]), tensor("k", 4, 3, 3, 3)], 3 * ROW,
    ),
    "fixed batch 3 of 4 frames": folded(
        "Conv", [3, 4, 3, 8, 8], [12, 3, 8, 8], K, macs=4 * ROW,
        also={"connections": 4 * ROW, "flops": 8 * ROW},
    ),
    "fixed batch 2 whose rows a GRU reads as columns": Case(
        [fold(12, 5, 1)[0], node("Transpose", "r", "t", perm=[1, 0, 2]),
         node("GRU", "t w q", "y", hidden_size=8)],
        {"x": [2, 6, 5]}, [constant("s", [12, 5, 1]), tensor("w", 1, 24, 1),
                           tensor("q", 1, 24, 8)], 6 * 5 * 24 * 9,
    ),
    "fixed batch 2 behind time": Case(
        [node("LSTM", "x w q", "h", hidden_size=8), node("Squeeze", "h one", "z"),
         node("MatMul", "z v", "y")],
        {"x": [5, 2, 3]}, [tensor("w", 1, 32, 3), tensor("q", 1, 32, 8), constant("one", [1]),
                           tensor("v", 8, 4)], 5 * 32 * 11 + 5 * 32,
    ),
    "fixed batch 2 with a state that has it behind the directions": Case(
        [node("Transpose", "x", "t", perm=[1, 0, 2]),
         node("GRU", "t w q _ _ h0", "h last", hidden_size=8), node("Squeeze", "last zero", "z"),
         node("MatMul", "z v", "y")],
        {"x": [2, 5, 3], "h0": [1, 2, 8]}, [tensor("w", 1, 24, 3), tensor("q", 1, 24, 8),
                                            constant("zero", [0]), tensor("v", 8, 4)],
        5 * 24 * 11 + 32,
    ),
    # no batch at all: an image with its channels last, made twice as large
    "axis 0 that is a height": Case(
        [node("Transpose", "x", "t", perm=[2, 0, 1]), node("Unsqueeze", "t zero", "u"),
         node("ConvTranspose", "u k", "v", strides=[2, 2]), node("Squeeze", "v zero", "q"),
         node("Transpose", "q", "y", perm=[1, 2, 0])],
        {"x": [8, 8, 3]}, [constant("zero", [0]), tensor("k", 3, 3, 2, 2)], 64 * 3 * 3 * 4,
    ),
    "parts of the channels on axis 0, Conv": Case(
        [node("Split", "x parts", "a b c", axis=1), node("Concat", "a b c", "r", axis=0),
         node("Conv", "r k", "y")],
        {"x": ["n", 9, 8, 8]}, [constant("parts", [3, 3, 3]), tensor("k", 4, 3, 3, 3)], 3 * ROW,
    ),
    "overlapping tiles cut out by Slice, Conv": Case(
        [node("Slice", "x low mid axes", "a"), node("Slice", "x four high axes", "b"),
         node("Concat", "a b a", "r", axis=0), node("Conv", "r k", "y")],
        {"x": ["n", 3, 12, 12]},
        [constant("low", [0, 0]), constant("mid", [8, 8]), constant("four", [4, 4]),
         constant("high", [12, 12]), constant("axes", [2, 3]), tensor("k", 4, 3, 3, 3)], 3 * ROW,
    ),
    "windows by Transpose, Conv": Case(
        [node("Reshape", "x cut", "a"), node("Transpose", "a", "b", perm=[0, 2, 4, 1, 3, 5]),
         node("Reshape", "b s", "r"), node("Conv", "r k", "y")],
        {"x": ["n", 3, 16, 24]},
        [constant("cut", [-1, 3, 2, 8, 3, 8]), constant("s", [-1, 3, 8, 8]),
         tensor("k", 4, 3, 3, 3)], 6 * ROW,
    ),
    "repeated along a new axis, Conv": Case(
        [node("Unsqueeze", "x one", "u"), node("Expand", "u five", "v"),
         node("Reshape", "v s", "r"), node("Conv", "r k", "y")],
        {"x": ["n", 3, 8, 8]},
        [constant("one", [1]), constant("five", [1, 5, 1, 1, 1]), constant("s", [-1, 3, 8, 8]),
         tensor("k", 4, 3, 3, 3)], 5 * ROW,
    ),
    "some frames, Conv": Case(
        [node("Gather", "x three", "g", axis=1), node("Reshape", "g s", "r"),
         node("Conv", "r k", "y")],
        {"x": ["n", 8, 3, 8, 8]},
        [constant("three", [0, 3, 7]), constant("s", [-1, 3, 8, 8]), tensor("k", 4, 3, 3, 3)],
        3 * ROW,
    ),
    "frames that a known mask keeps, Conv": Case(
        [node("Compress", "x mask", "g", axis=1), node("Reshape", "g s", "r"),
         node("Conv", "r k", "y")],
        {"x": ["n", 4, 3, 8, 8]},
        [constant("mask", [True, False, True, True], bool), constant("s", [-1, 3, 8, 8]),
         tensor("k", 4, 3, 3, 3)], 3 * ROW,
    ),
    # each frame quantized as it comes: the scales of data are no parameters
    "frames, ConvInteger": Case(
        [fold(-1, 3, 8, 8)[0], node("DynamicQuantizeLinear", "r", "q scale zero"),
         node("ConvInteger", "q kq zero", "y")],
        {"x": ["n", 8, 3, 8, 8]},
        [constant("s", [-1, 3, 8, 8]), constant("kq", np.ones((4, 3, 3, 3)), np.int8)], 8 * ROW,
    ),
    "rows, MatMulInteger": Case(
        [fold(-1, 16)[0], node("DynamicQuantizeLinear", "r", "q scale zero"),
         node("MatMulInteger", "q wq zero", "y")],
        {"x": ["n", 8, 16]},
        [constant("s", [-1, 16]), constant("wq", np.ones((16, 4)), np.int8)], 8 * 64,
    ),
    "clips, Conv 3-D": folded(
        "Conv", ["n", 5, 3, 4, 6, 6], [-1, 3, 4, 6, 6], "k:2x3x3x3x3", macs=5 * 32 * 162
    ),
    "rows, Einsum": folded(
        "Einsum", ["n", 6, 5, 8], [-1, 5, 8], "w:8x4", macs=6 * 5 * 32, equation="btd,de->bte"
    ),
    "rows of a backward RNN": Case(
        [fold(-1, 5, 3)[0], node("Transpose", "r", "t", perm=[1, 0, 2]),
         node("RNN", "t w q", "y", hidden_size=8, direction="reverse")],
        {"x": ["n", 7, 5, 3]}, [constant("s", [-1, 5, 3]), tensor("w", 1, 8, 3),
                                tensor("q", 1, 8, 8)], 7 * 5 * 88,
    ),
    # 6 views of Conv, the largest of which goes into one row of 4·10
    "views, the largest of which a Gemm reads": Case(
        [fold(-1, 3, 8, 8)[0], node("Conv", "r k", "c"), node("GlobalAveragePool", "c", "p"),
         node("Reshape", "p back", "v"), node("ReduceMax", "v", "m", axes=[1], keepdims=0),
         node("Gemm", "m w", "y")],
        {"x": ["n", 6, 3, 8, 8]},
        [constant("s", [-1, 3, 8, 8]), constant("back", [-1, 6, 4]), tensor("k", 4, 3, 3, 3),
         tensor("w", 4, 10)], 6 * ROW + 40,
    ),
    "eight segments that are the inputs": Case(
        [node("Conv", "x k", "c"), node("GlobalAveragePool", "c", "p"),
         node("Reshape", "p back", "v"), node("ReduceMean", "v", "m", axes=[1], keepdims=0),
         node("Gemm", "m w", "y")],
        {"x": [8, 3, 8, 8]},
        [constant("back", [-1, 8, 4]), tensor("k", 4, 3, 3, 3), tensor("w", 4, 10)], 8 * ROW + 40,
    ),
    "fixed batch 2 of 5 frames, frames first": Case(
        [node("Transpose", "x", "t", perm=[1, 0, 2, 3, 4]), node("Reshape", "t s", "r"),
         node("Conv", "r k", "y")],
        {"x": [2, 5, 3, 8, 8]}, [constant("s", [10, 3, 8, 8]), tensor("k", 4, 3, 3, 3)], 5 * ROW,
    ),
    "five texts next to an image": Case(
        [node("MatMul", "t wt", "te"), node("Transpose", "te", "tt"), node("MatMul", "x wx", "xe"),
         node("MatMul", "xe tt", "y")],
        {"x": ["n", 16], "t": [5, 12]}, [tensor("wt", 12, 8), tensor("wx", 16, 8)],
        5 * 96 + 128 + 40,
    ),
    "regions of MaxRoiPool, none given": Case(
        [node("MaxRoiPool", "x rois", "r", pooled_shape=[7, 7]), node("Conv", "r k", "y")],
        {"x": ["n", 3, 32, 32], "rois": ["R", 5]}, [tensor("k", 4, 3, 3, 3)], None,
    ),
    # Speech detection in the form of Silero VAD v6: per frame 7 places of 10·16 and of 8·5·3; four
    # steps of 4 gates·6·(8 + 6); per frame 6.
    **{f"four frames of speech, batch {batch}": Case(
        [node("Reshape", "x frames", "f"), node("Conv", "f basis", "q", strides=[8]),
         node("Split", "q parts", "re im", axis=1), node("Mul", "re re", "r2"),
         node("Mul", "im im", "i2"), node("Add", "r2 i2", "p"), node("Sqrt", "p", "m"),
         node("Conv", "m k", "c", pads=[1, 1]), node("Relu", "c", "a"),
         node("ReduceMean", "a last", "v", keepdims=0), node("Reshape", "v steps", "s"),
         node("Transpose", "s", "t", perm=[1, 0, 2]),
         node("LSTM", "t w q_", "h", hidden_size=6), node("Squeeze", "h one", "z"),
         node("Transpose", "z", "o", perm=[1, 0, 2]), node("Reshape", "o cells", "d"),
         node("Conv", "d head", "e"), node("Sigmoid", "e", "g"), node("Reshape", "g four", "y")],
        {"x": [batch, 256]},
        [constant("frames", [-1, 1, 64]), tensor("basis", 10, 1, 16), constant("parts", [5, 5]),
         tensor("k", 8, 5, 3), constant("last", [-1]), constant("steps", [-1, 4, 8]),
         tensor("w", 1, 24, 8), tensor("q_", 1, 24, 6), constant("one", [1]),
         constant("cells", [-1, 6, 1]), tensor("head", 1, 6, 1), constant("four", [-1, 4])],
        4 * 7 * (160 + 120) + 4 * 24 * 14 + 4 * 6,
        also={"connections": 4 * 7 * (160 + 120) + 4 * 24 * 14 + 4 * 6},
    ) for batch in ("n", 1, 3)},
    "regions of MaxRoiPool, 20 given": Case(
        [node("MaxRoiPool", "x rois", "r", pooled_shape=[7, 7]), node("Conv", "r k", "y")],
        {"x": ["n", 3, 32, 32], "rois": ["R", 5]}, [tensor("k", 4, 3, 3, 3)],
        20 * 25 * 108, dims={"R": 20},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_row_is_counted(case: Case) -> None:
    totals = case.report().totals
    assert totals.macs == case.macs
    assert {name: getattr(totals, name) for name in case.also} == case.also


def each_row(op: str, batch: int | str, rows: int, *, time: bool = False) -> onnx.ModelProto:
    """A loop over `rows` rows of 3x8x8, or steps of all samples, each through a Conv and an FC."""
    taken = node("Gather", "x at", "row", axis=1 if time else 0)
    work = [node("Conv", "one k", "c"), node("Flatten", "c", "f"), node("Gemm", "f w", "z")]
    weights = [tensor("k", 4, 3, 3, 3), tensor("w", 144, 5), constant("first", [0])]
    weights += [constant("rows", rows), constant("go", True, np.bool_), constant("each", 1)]
    widen = node("Identity", "row", "one") if time else node("Unsqueeze", "row first", "one")
    end = info("z", None)
    whole = [batch, rows, 3, 8, 8] if time else [rows if batch != "n" else "n", 3, 8, 8]
    if op == "Loop":
        steps, go = info("at", [], TensorProto.INT64), info("ok", [], TensorProto.BOOL)
        keeps = info("on", [], TensorProto.BOOL)
        nodes = [node("Identity", "ok", "on"), taken, widen, *work]
        body = helper.make_graph(nodes, "body", [steps, go], [keeps, end])
        outer = [node("Loop", "rows go", "y", body=body)]
    elif op == "Scan":
        nodes = [node("Unsqueeze", "row first", "one"), *work]
        body = helper.make_graph(nodes, "body", [info("row", None)], [end])
        outer = [node("Scan", "x", "y", body=body, num_scan_inputs=1)]
    else:
        body = helper.make_graph(work, "body", [info("one", None)], [end])
        outer = [node("SplitToSequence", "x each", "parts"), node("SequenceMap", "parts", "q")]
        outer[1].attribute.append(helper.make_attribute("body", body))
        outer.append(node("ConcatFromSequence", "q", "y", axis=0))
    return model(outer, {"x": whole}, ["y"], weights, opset=17)


#: Of one row: the Conv and the FC behind it.
EACH = ROW + 144 * 5


@pytest.mark.parametrize("op", ["Loop", "Scan", "SequenceMap"])
@pytest.mark.parametrize("batch", [1, 2, 4, 5])
def test_a_fixed_batch_that_a_loop_runs_over(op: str, batch: int) -> None:
    report = onnxshare.inspect(each_row(op, batch, batch))
    assert (report.totals.macs, report.warnings) == (EACH, ())
    assert [facts.connections for facts in report.nodes if facts.params] == [ROW, 720]


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(
    ("steps", "batch", "states"), [(3, 1, 0), (3, 1, 1), (3, 2, 1), (6, 3, 1), (4, 4, 1)]
)
def test_steps_of_a_scan(opset: int, steps: int, batch: int, states: int) -> None:
    """Steps x samples x 8: each step of a sample has a product of 8·8. Steps that need the one
    before are time, and so are steps of one sample each."""
    nodes = [node("MatMul", "row w", "a"), node("Add", "a h" if states else "a a", "o")]
    inputs, outputs = [info("row", [batch, 8])], [info("o", None)]
    if states:
        nodes.append(node("Identity", "o", "h2"))
        inputs.insert(0, info("h", [batch, 8]))
        outputs.insert(0, info("h2", None))
    body = helper.make_graph(nodes, "body", inputs, outputs)
    given = {"x": [steps, batch, 8], **({"h0": [batch, 8]} if states else {})}
    names = ("h0 x", "last y") if states else ("x", "y")
    outer = node("Scan", *names, body=body, num_scan_inputs=1)
    report = onnxshare.inspect(model([outer], given, ["y"], [tensor("w", 8, 8)], opset=opset))
    assert (report.totals.macs, report.warnings) == (steps * 64, ())


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("sums", ["Add", "Max"])
def test_a_state_of_a_loop_over_axis_0(needed: bool, sums: str) -> None:
    """Four steps of 8·8. Where a product reads what the step before has made they are time, and all
    of one sample; where that is only added up they may be samples, and one has one."""
    nodes = [node("Identity", "ok", "on"), node("Gather", "x at", "row", axis=0)]
    nodes += [node("Add", "row h", "u"), node("MatMul", "u w", "h2"), node("Relu", "h2", "o")]
    if not needed:
        nodes[2:] = [node("MatMul", "row w", "o"), node(sums, "o h", "h2")]
    inputs = [info("at", [], TensorProto.INT64), info("ok", [], TensorProto.BOOL)]
    outputs = [info("on", [], TensorProto.BOOL), info("h2", None), info("o", None)]
    body = helper.make_graph(nodes, "body", [*inputs, info("h", [1, 8])], outputs)
    stored = [tensor("w", 8, 8), constant("rows", 4), constant("go", True, np.bool_)]
    outer = node("Loop", "rows go h0", "last y", body=body)
    stored.append(constant("h0", np.zeros((1, 8)), np.float32))
    report = onnxshare.inspect(model([outer], {"x": [4, 1, 8]}, ["y"], stored, opset=17))
    assert report.totals.macs == (4 * 64 if needed else 64)


@pytest.mark.parametrize(("batch", "steps"), [(1, 6), (2, 6), (2, 2), (3, 2)])
def test_steps_of_a_loop_over_all_samples(batch: int, steps: int) -> None:
    """Each step is of the whole batch: a sample has all of them."""
    report = onnxshare.inspect(each_row("Loop", batch, steps, time=True))
    assert report.totals.macs == steps * EACH


def test_the_factors_of_a_ratio_hold_the_rows() -> None:
    conv = CASES["frames, Conv with bias"].report().nodes[-1]
    assert (conv.sharing.spatial, conv.sharing_ratio) == (5 * 36, 180.0)
    cell = CASES["rows of an LSTM"].report().nodes[-1]
    assert (cell.sharing.temporal, cell.sharing.token, cell.sharing_ratio) == (5, 7, 35.0)


def test_regions_are_named_as_open() -> None:
    report = CASES["regions of MaxRoiPool, none given"].report()
    assert "R" not in report.totals.dims
    assert any("sizes that are open: R" in text for text in report.warnings)


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_rows_that_depend_on_data_name_the_node(op: str) -> None:
    made = node(op, "x", "z", name="found")
    nodes = [
        made,
        node("Unsqueeze", "z axes", "u"),
        node("Cast", "u", "c", to=onnx.TensorProto.FLOAT),
        node("Flatten", "c", "f", axis=2),
        node("Gemm", "f w", "y", name="after"),
    ]
    built = model(nodes, {"x": ["n", 3]}, ["y"], [constant("axes", [0]), tensor("w", 1, 4)])
    report = onnxshare.inspect(built)
    assert report.totals.macs is None
    (warning,) = [text for text in report.warnings if "is unknown" in text]
    assert f"'found' ({op})" in warning
    assert "after" in warning
