"""Memory of activations, and bytes and arithmetic per node: by hand, and by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.analysis.memory_traffic import MACHINE_BALANCE
from tests.builders import conv, fc, info, model, node, only, random_array, run, tensor

F32 = 4


def chain() -> onnx.ModelProto:
    return model([node("Relu", "x", "a"), node("Abs", "a", "y")], {"x": ["n", 10]}, ["y"])


def shortcut() -> onnx.ModelProto:
    """x is read again at the end, so it lives all the while."""
    return model(
        [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Add", "x b", "y")],
        {"x": ["n", 10]},
        ["y"],
    )


def narrow_middle() -> onnx.ModelProto:
    """10 → 40 → 2: the weights are no activations."""
    return model(
        [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")],
        {"x": ["n", 10]},
        ["y"],
        [tensor("w", 10, 40), tensor("v", 40, 2)],
    )


def half() -> onnx.ModelProto:
    return model([node("Cast", "x", "y", to=TensorProto.FLOAT16)], [info("x", ["n", 10])], ["y"])


def unused_result() -> onnx.ModelProto:
    return model([node("Relu", "x", "dead"), node("Abs", "x", "y")], {"x": ["n", 10]}, ["y"])


def early_output() -> onnx.ModelProto:
    """`a` is an output that is read too: it lives to the end, with b and y."""
    return model(
        [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Neg", "b", "y")],
        {"x": ["n", 10]},
        ["a", "y"],
    )


def turned_weight() -> onnx.ModelProto:
    """4 → 3 with a matrix that is stored transposed."""
    return model(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        {"x": ["n", 4]},
        ["y"],
        [tensor("w", 3, 4)],
    )


@pytest.mark.parametrize(
    ("built", "peak"),
    [
        pytest.param(chain(), (10 + 10) * F32, id="two at a time"),
        pytest.param(shortcut(), (10 + 10 + 10) * F32, id="shortcut"),
        pytest.param(narrow_middle(), (10 + 40) * F32, id="weights left out"),
        pytest.param(early_output(), (10 + 10 + 10) * F32, id="an output that is read too"),
        pytest.param(turned_weight(), (4 + 3) * F32, id="a weight behind a layout node"),
        pytest.param(half(), 10 * F32 + 10 * 2, id="by type"),
        pytest.param(unused_result(), (10 + 10) * F32, id="a result nobody reads"),
    ],
)
def test_peak(built: onnx.ModelProto, peak: int) -> None:
    assert onnxshare.inspect(built).totals.peak_activation_bytes == peak


@pytest.mark.parametrize(
    ("built", "at"),
    [
        pytest.param(shortcut(), "Abs:b", id="the first of equals"),
        pytest.param(narrow_middle(), "MatMul:a", id="the widest"),
    ],
)
def test_where(built: onnx.ModelProto, at: str) -> None:
    assert onnxshare.inspect(built).totals.peak_activation_node == at


def captured() -> onnx.ModelProto:
    """`a` is read only inside the If, so it lives until the If has run."""
    branches: dict[str, Any] = {
        name: helper.make_graph([node(op, "a", out)], name, [], [info(out, [1, 10])])
        for name, op, out in (("then_branch", "Relu", "t"), ("else_branch", "Abs", "e"))
    }
    return model(
        [
            node("Sin", "x", "a"),
            node("Cos", "x", "b"),
            helper.make_node("If", ["c"], ["z"], name="if", **branches),
            node("Add", "b z", "y"),
        ],
        [info("x", ["n", 10]), info("c", [], TensorProto.BOOL)],
        ["y"],
    )


def test_read_inside_a_subgraph() -> None:
    """While Cos runs: x, a, b and the condition; while If runs: a, b, z and the condition."""
    totals = onnxshare.inspect(captured()).totals
    assert totals.peak_activation_bytes == 3 * 10 * F32 + 1
    assert totals.peak_activation_node == "Cos:b"


@pytest.mark.parametrize(
    ("built", "numbers"),
    [
        pytest.param(chain(), (10 + 10, 10 + 10), id="chain"),  # x a | a y
        pytest.param(shortcut(), (20, 30, 30), id="shortcut"),  # x a | x a b | x b y
        pytest.param(early_output(), (20, 20, 30), id="early output"),  # x a | a b | a b y
        pytest.param(narrow_middle(), (10 + 40, 40 + 2), id="narrow middle"),
    ],
)
def test_memory_while_each_node_runs(built: onnx.ModelProto, numbers: tuple[int, ...]) -> None:
    rows = onnxshare.inspect(built).nodes
    assert [row.memory_bytes for row in rows] == [F32 * number for number in numbers]


def test_memory_of_nodes_in_subgraphs_is_unknown() -> None:
    """The If and its neighbours: x a | x a b | a b z | b z y, and the condition until the If."""
    known = {row.name: row.memory_bytes for row in onnxshare.inspect(captured()).nodes}
    assert list(known.values()).count(None) == 2
    assert [size for size in known.values() if size] == [81, 121, 121, 120]


def test_a_tensor_without_batch_is_whole() -> None:
    """Axis 0 of x is 4 rows; the 3 numbers beside it are no rows of theirs."""
    built = model(
        [node("Relu", "x", "a"), node("ReduceMax", "a", "m", keepdims=0), node("Add", "a m", "y")],
        {"x": [4, 10]},
        ["y"],
    )
    assert onnxshare.inspect(built).totals.peak_activation_bytes == (10 + 1 + 10) * F32


def test_peak_is_per_sample() -> None:
    built = chain()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert onnxshare.inspect(built).totals.peak_activation_bytes == 20 * F32


def lenet(*, batch: int | str = "n") -> onnx.ModelProto:
    """LeCun's net, mean pooling and tanh: 32×32 → 28×28 → 14×14 → 10×10 → 5×5 → 120 → 84 → 10."""
    layers = [
        node("Conv", "x c1 b1", "m1"),
        node("Tanh", "m1", "t1"),
        node("AveragePool", "t1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 c3 b3", "m3"),
        node("Tanh", "m3", "t3"),
        node("AveragePool", "t3", "p3", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p3", "f"),
        node("Gemm", "f w5 b5", "h5"),
        node("Gemm", "h5 w6 b6", "h6"),
        node("Gemm", "h6 w7 b7", "y"),
    ]
    sizes: dict[str, tuple[int, ...]] = {
        "c1": (6, 1, 5, 5),
        "b1": (6,),
        "c3": (16, 6, 5, 5),
        "b3": (16,),
        "w5": (400, 120),
        "b5": (120,),
        "w6": (120, 84),
        "b6": (84,),
        "w7": (84, 10),
        "b7": (10,),
    }
    weights = [tensor(name, *shape) for name, shape in sizes.items()]
    return model(layers, {"x": [batch, 1, 32, 32]}, ["y"], weights)


#: Per layer: weights and biases, elements in and out, FLOPs (2 per multiply-add, 1 per bias).
BY_HAND = {
    "Conv:m1": (156, 1024 + 4704, 2 * 784 * 150 + 4704),
    "Conv:m3": (2_416, 1176 + 1600, 2 * 100 * 2400 + 1600),
    "Gemm:h5": (48_120, 400 + 120, 2 * 48_000 + 120),
    "Gemm:h6": (10_164, 120 + 84, 2 * 10_080 + 84),
    "Gemm:y": (850, 84 + 10, 2 * 840 + 10),
}


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_lenet_by_hand(batch: int | str) -> None:
    """Per sample, whatever the batch; the FCs are bound by their weights, C1 and C3 are not."""
    report = onnxshare.inspect(lenet(batch=batch))
    for facts in report.nodes:
        if facts.name in BY_HAND:
            params, elements, flops = BY_HAND[facts.name]
            assert (facts.param_bytes, facts.activation_bytes) == (F32 * params, F32 * elements)
            assert facts.arithmetic_intensity == pytest.approx(flops / (F32 * (params + elements)))
    assert {facts.name: facts.bound_by for facts in report.nodes if facts.params} == {
        "Conv:m1": "arithmetic",  # 240,304 FLOPs for 23,536 bytes: 10.2
        "Conv:m3": "arithmetic",  # 481,600 for 20,768: 23
        "Gemm:h5": "weights",
        "Gemm:h6": "weights",
        "Gemm:y": "weights",
    }
    totals = report.totals
    assert totals.weight_bound_layers == 3
    assert totals.weight_bound_bytes == F32 * (48_120 + 10_164 + 850)
    assert totals.param_bytes_by_dtype == {"float32": F32 * 61_706}
    # the most is alive while tanh reads C1's map and writes its own
    assert totals.peak_activation_bytes == F32 * 2 * 4704
    assert totals.peak_activation_node == "Tanh:t1"


def test_bytes_are_those_that_onnx_runtime_hands_out() -> None:
    """Every activation as an output of the model: the arrays' own sizes."""
    built = lenet(batch=1)
    names = [name for item in built.graph.node for name in item.output]
    open_wide = onnx.ModelProto()
    open_wide.CopyFrom(built)
    del open_wide.graph.output[:]
    open_wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    image = random_array(1, 1, 32, 32)
    sizes = {name: array.nbytes for name, array in zip(names, run(open_wide, x=image), strict=True)}
    sizes["x"] = image.nbytes
    weights = {w.name: numpy_helper.to_array(w).nbytes for w in built.graph.initializer}
    for item, facts in zip(built.graph.node, onnxshare.inspect(built).nodes, strict=True):
        moved = sum(sizes.get(name, 0) for name in [*item.input, *item.output])
        assert facts.activation_bytes == moved
        assert facts.param_bytes == sum(weights.get(name, 0) for name in item.input)


def test_balance() -> None:
    """1×1 convolutions over more and more positions: weights, then activations or arithmetic."""
    bounds = [
        only(onnxshare.inspect(conv(["n", 256, side, side], (256, 256, 1, 1))), "Conv").bound_by
        for side in (1, 2, 16)
    ]
    assert bounds == ["weights", "weights", "arithmetic"]
    few = onnxshare.inspect(conv(["n", 2, 50, 50], (2, 2, 1, 1)))
    assert only(few, "Conv").bound_by == "activations"
    assert MACHINE_BALANCE == 10


def packed(dtype: int, count: int) -> onnx.TensorProto:
    return helper.make_tensor("w", dtype, [count, 3], b"\0" * ((count * 3 + 1) // 2), raw=True)


def four_bits() -> onnx.ModelProto:
    """5·3 numbers of 4 bits: 8 bytes."""
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    return model(
        [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")],
        {"x": ["n", 5]},
        ["y"],
        [packed(TensorProto.INT4, 5), scale],
        opset=21,
        ir_version=10,
    )


def sparse() -> onnx.ModelProto:
    """12 numbers of which 2 are kept, with an int64 index each."""
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 5])
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 4]}, ["y"])
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 3]))
    return built


def mixed() -> onnx.ModelProto:
    half = numpy_helper.from_array(np.ones((3, 2), np.float16), "h")
    return model(
        [node("MatMul", "x w", "a"), node("Cast", "a", "c", to=10), node("MatMul", "c h", "y")],
        {"x": ["n", 4]},
        ["y"],
        [tensor("w", 4, 3), half],
    )


@pytest.mark.parametrize(
    ("built", "by_dtype"),
    [
        pytest.param(four_bits(), {"int4": 8}, id="int4, two in a byte"),
        pytest.param(sparse(), {"float32": 2 * 4 + 2 * 8}, id="sparse: values and indices"),
        pytest.param(mixed(), {"float32": 48, "float16": 12}, id="two types"),
    ],
)
def test_bytes_of_weights(built: onnx.ModelProto, by_dtype: dict[str, int]) -> None:
    report = onnxshare.inspect(built)
    assert report.totals.param_bytes_by_dtype == by_dtype
    assert report.totals.param_bytes == sum(by_dtype.values())
    assert sum(facts.param_bytes for facts in report.nodes) == sum(by_dtype.values())
    assert sum(weight.bytes for weight in report.weights) == sum(by_dtype.values())


def test_an_embedding_reads_its_rows() -> None:
    """The table is stored whole; what nobody looks up is not moved, and nothing is computed."""
    built = model(
        [node("Gather", "w x", "y")],
        [info("x", ["n", 2], TensorProto.INT64)],
        ["y"],
        [tensor("w", 1000, 8)],
    )
    (facts,) = onnxshare.inspect(built).nodes
    assert facts.param_bytes == 1000 * 8 * F32
    assert facts.activation_bytes == 2 * 8 + 2 * 8 * F32
    assert (facts.arithmetic_intensity, facts.bound_by) == (None, None)


def test_rows_that_are_looked_up_are_what_is_moved() -> None:
    """EmbedLayerNormalization adds rows of two tables (1,000 words, 512 positions) and normalizes:
    4 operations for each of 2·8 results; of the 12,112 parameters 4·16 are used."""
    built = model(
        [node("EmbedLayerNormalization", "x _ w p _ g b", "y m", domain="com.microsoft")],
        [info("x", ["n", 2], TensorProto.INT32)],
        ["y"],
        [tensor("w", 1000, 8), tensor("p", 512, 8), tensor("g", 8), tensor("b", 8)],
        domains=["com.microsoft"],
    )
    (facts,) = onnxshare.inspect(built).nodes
    assert facts.params == 12_112
    assert facts.activation_bytes is not None
    moved = 4 * 16 * F32 + facts.activation_bytes
    assert facts.arithmetic_intensity == pytest.approx(4 * 16 / moved)


def test_layers_of_the_branch_that_is_not_counted_bind_nothing() -> None:
    """The branches of an If: one FC of 40×30, or two, of 40×80 and 80×30."""
    branches: dict[str, Any] = {
        "then_branch": helper.make_graph(
            [node("MatMul", "x w", "t")], "small", [], [info("t", None)]
        ),
        "else_branch": helper.make_graph(
            [node("MatMul", "x a", "h"), node("MatMul", "h b", "e")], "large", [], [info("e", None)]
        ),
    }
    built = model(
        [node("If", "c", "y", **branches)],
        [info("x", [1, 40]), info("c", [], TensorProto.BOOL)],
        ["y"],
        [tensor("w", 40, 30), tensor("a", 40, 80), tensor("b", 80, 30)],
    )
    totals = onnxshare.inspect(built).totals
    assert totals.weight_bound_layers == 2
    assert totals.weight_bound_bytes == (40 * 80 + 80 * 30) * F32


def unknown_size() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], {"x": ["n", "length"]}, ["y"])


def strings() -> onnx.ModelProto:
    """Strings have no fixed width."""
    return model([node("Identity", "x", "y")], [info("x", ["n"], TensorProto.STRING)], ["y"])


@pytest.mark.parametrize("built", [unknown_size(), strings()], ids=["symbolic size", "strings"])
def test_unknown_is_null(built: onnx.ModelProto) -> None:
    report = onnxshare.inspect(built)
    (facts,) = report.nodes
    assert (facts.activation_bytes, facts.arithmetic_intensity, facts.bound_by) == (None,) * 3
    assert (report.totals.peak_activation_bytes, report.totals.peak_activation_node) == (None, None)


def test_weights_behind_layout_nodes_are_no_activations() -> None:
    built = model(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        {"x": ["n", 4]},
        ["y"],
        [tensor("w", 3, 4)],
    )
    turn, product = onnxshare.inspect(built).nodes
    assert (turn.param_bytes, turn.activation_bytes) == (0, 0)
    assert (product.param_bytes, product.activation_bytes) == (12 * F32, (4 + 3) * F32)


def loop(trips: int) -> onnx.ModelProto:
    """A product with a 4×4 matrix, so many times."""
    body = helper.make_graph(
        [node("MatMul", "s w", "s2"), node("Identity", "c", "c2")],
        "body",
        [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("s", [1, 4])],
        [info("c2", [], TensorProto.BOOL), info("s2", [1, 4])],
    )
    return model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)],
        {"x": [1, 4]},
        ["y"],
        [tensor("w", 4, 4), numpy_helper.from_array(np.array(trips), "trips")],
    )


def test_a_loop_moves_its_activations_each_time() -> None:
    def inside(trips: int) -> Any:
        return only(onnxshare.inspect(loop(trips)), "MatMul")

    one, three = inside(1), inside(3)
    assert (one.param_bytes, three.param_bytes) == (64, 64)
    assert (one.activation_bytes, three.activation_bytes) == (32, 96)
    assert one.arithmetic_intensity == three.arithmetic_intensity == 2 * 16 / (64 + 32)


def test_an_fc_is_bound_by_its_weights() -> None:
    report = onnxshare.inspect(fc(["n", 3, 20, 20], 1200, 100))
    gemm = only(report, "Gemm")
    assert gemm.bound_by == "weights"
    assert gemm.arithmetic_intensity == pytest.approx(
        (2 * 120_000 + 100) / (F32 * (120_100 + 1200 + 100))
    )


@pytest.mark.parametrize("first", ["left out", "unknown"])
def test_an_input_that_is_left_out_is_not_taken_for_one_of_unknown_size(first: str) -> None:
    """Two nodes that differ in nothing else: of one the traffic is known, 2 × 4 floats."""
    clips = {"left out": node("Clip", "x _ most", "a"), "unknown": node("Clip", "x u most", "b")}
    order = sorted(clips, key=lambda name: name != first)
    built = model(
        [helper.make_node("Made", ["x"], ["u"], domain="mine"), *(clips[name] for name in order)],
        {"x": [1, 4]},
        ["a", "b"],
        [helper.make_tensor("most", onnx.TensorProto.FLOAT, [], [6.0])],
    )
    built.opset_import.append(helper.make_opsetid("mine", 1))
    rows = [row for row in onnxshare.inspect(built).nodes if row.op_type == "Clip"]
    found = {name: row.activation_bytes for name, row in zip(order, rows, strict=True)}
    assert found == {"left out": 2 * 4 * 4, "unknown": None}
