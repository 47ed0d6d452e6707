"""Shapes: what inference finds, what it is told, and what it must not believe."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.errors import UsageError
from onnxshare.graph.index import Graph
from onnxshare.io.load import load
from onnxshare.shapes.inference import InputShapes, Shape, infer
from tests.builders import Dims, constant, conv, info, model, node, random_array, run, tensor


def shapes_of(built: onnx.ModelProto, given: InputShapes | None = None) -> dict[str, Shape]:
    """The shapes of all tensors of the main graph."""
    return {
        name: shape
        for (scope, name), shape in infer(Graph(load(built)), given).known.items()
        if not scope
    }


def lying() -> onnx.ModelProto:
    """A Conv whose inner and output shapes are declared wrongly."""
    built = model(
        [node("Conv", "x w", "h"), node("Relu", "h", "y")],
        {"x": ["n", 2, 6, 6]},
        ["y"],
        [tensor("w", 3, 2, 3, 3)],
    )
    built.graph.value_info.append(info("h", ["n", 3, 99, 99]))
    built.graph.output[0].CopyFrom(info("y", ["n", 7, 1]))
    return built


def test_what_a_file_says_of_inner_shapes_is_not_believed() -> None:
    shapes = shapes_of(lying())
    assert shapes["h"] == shapes["y"] == (1, 3, 4, 4)
    assert onnxshare.inspect(lying()).totals.macs == 16 * 54


def test_a_declared_shape_helps_where_inference_ends() -> None:
    built = model(
        [node("Magic", "x", "h", domain="acme"), node("Conv", "h w", "y")],
        {"x": ["n", 2]},
        ["y"],
        [tensor("w", 3, 2, 3, 3)],
        domains=["acme"],
    )
    assert shapes_of(built).get("h") is None
    built.graph.value_info.append(info("h", ["n", 2, 6, 6]))
    assert shapes_of(built)["y"] == (1, 3, 4, 4)


def exporter_of_2018(data: Dims) -> onnx.ModelProto:
    """How PyTorch 0.4 wrote x.view(x.size(0), -1): Shape, Gather, Unsqueeze, Concat, Reshape."""
    return model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n", "rows", axes=[0]),
            node("Concat", "rows rest", "size", axis=0),
            node("Reshape", "x size", "flat"),
            node("Gemm", "flat w b", "y"),
        ],
        {"x": data},
        ["y"],
        [constant("zero", 0), constant("rest", [-1]), tensor("w", 48, 4), tensor("b", 4)],
        opset=9,
    )


def flatten_by_arithmetic() -> onnx.ModelProto:
    """x.view(n, c * h * w), every size from Shape and multiplied."""
    return model(
        [
            node("Shape", "x", "s"),
            node("Slice", "s one end", "tail"),
            node("ReduceProd", "tail", "columns", axes=[0], keepdims=1),
            node("Slice", "s begin one", "rows"),
            node("Concat", "rows columns", "size", axis=0),
            node("Cast", "size", "cast", to=TensorProto.INT32),
            node("Cast", "cast", "back", to=TensorProto.INT64),
            node("Reshape", "x back", "y"),
        ],
        {"x": ["n", 3, 4, 4]},
        ["y"],
        [constant("begin", [0]), constant("one", [1]), constant("end", [9])],
    )


def computed_pads() -> onnx.ModelProto:
    """How PyTorch writes F.pad: the pads rearranged by Reshape, Slice and Transpose."""
    return model(
        [
            node("Concat", "given zeros", "long", axis=0),
            node("Reshape", "long two", "pairs"),
            node("Slice", "pairs last first axis step", "reversed"),
            node("Transpose", "reversed", "t", perm=[1, 0]),
            node("Reshape", "t flat", "pads"),
            node("Pad", "x pads", "y"),
        ],
        {"x": ["n", 3, 4, 4]},
        ["y"],
        [
            constant("given", [1, 2, 3, 0]),
            constant("zeros", [0, 0, 0, 0]),
            constant("two", [-1, 2]),
            constant("last", [-1]),
            constant("first", [-(2**62)]),
            constant("axis", [0]),
            constant("step", [-1]),
            constant("flat", [-1]),
        ],
    )


def squeeze_if_it_fits() -> onnx.ModelProto:
    """How PyTorch writes squeeze(1): an If whose branches differ in rank."""
    then = helper.make_graph([node("Squeeze", "x one", "a")], "then", [], [info("a", None)])
    other = helper.make_graph([node("Identity", "x", "b")], "else", [], [info("b", None)])
    return model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s place", "size"),
            node("Equal", "size unit", "fits"),
            node("If", "fits", "h", then_branch=then, else_branch=other),
            node("Relu", "h", "y"),
        ],
        {"x": ["n", 1, 5]},
        ["y"],
        [constant("one", [1]), constant("place", [1]), constant("unit", [1])],
    )


@pytest.mark.parametrize(
    ("built", "sizes"),
    [
        pytest.param(exporter_of_2018(["n", 3, 4, 4]), (1, 3, 4, 4), id="old exporter"),
        pytest.param(exporter_of_2018([1, 3, 4, 4]), (1, 3, 4, 4), id="old exporter, fixed"),
        pytest.param(flatten_by_arithmetic(), (1, 3, 4, 4), id="product of sizes"),
        pytest.param(computed_pads(), (1, 3, 4, 4), id="computed pads"),
        pytest.param(squeeze_if_it_fits(), (1, 1, 5), id="If on a rank"),
    ],
)
def test_sizes_that_the_graph_computes(built: onnx.ModelProto, sizes: tuple[int, ...]) -> None:
    (result,) = run(built, x=random_array(*sizes))
    assert shapes_of(built)["y"] == result.shape


@pytest.mark.parametrize(
    ("data", "given", "rows"),
    [
        pytest.param([8, 4], None, 8, id="fixed"),
        pytest.param(["n", 4], None, 1, id="symbolic"),
        pytest.param(["n", 4], {"x": (8, 4)}, 8, id="given"),
        pytest.param([1, 4], None, 1, id="one"),
    ],
)
def test_rows_of_one_run(data: Dims, given: InputShapes | None, rows: int) -> None:
    built = model([node("Gemm", "x w", "y")], {"x": data}, ["y"], [tensor("w", 4, 3)])
    assert infer(Graph(load(built)), given).batch == rows


def test_inputs_that_disagree_have_no_batch() -> None:
    built = model([node("Concat", "a b", "y", axis=0)], {"a": [2, 4], "b": [3, 4]}, ["y"])
    assert infer(Graph(load(built))).batch == 1


def recurrent(data: Dims) -> onnx.ModelProto:
    """A cell over [steps, batch, features], and an FC on each of its states."""
    return model(
        [
            node("LSTM", "x w r", "states", hidden_size=4),
            node("Squeeze", "states one", "s"),
            node("MatMul", "s u", "y"),
        ],
        {"x": data},
        ["y"],
        [tensor("w", 1, 16, 3), tensor("r", 1, 16, 4), constant("one", [1]), tensor("u", 4, 2)],
    )


@pytest.mark.parametrize(
    ("data", "given", "macs"),
    [
        pytest.param([10, 1, 3], None, 10 * (16 * 7 + 8), id="fixed"),
        pytest.param(["t", 1, 3], None, None, id="steps are open: unknown, not one"),
        pytest.param(["t", "n", 3], {"x": (10, None, 3)}, 10 * (16 * 7 + 8), id="steps given"),
    ],
)
def test_time_is_no_batch(data: Dims, given: InputShapes | None, macs: int | None) -> None:
    assert onnxshare.inspect(recurrent(data), input_shapes=given).totals.macs == macs


def two_inputs() -> onnx.ModelProto:
    return model([node("Add", "a b", "y")], {"a": ["n", "t", 4], "b": ["n", "t", 4]}, ["y"])


def test_a_symbol_has_one_size_in_all_inputs() -> None:
    shapes = shapes_of(two_inputs(), {"a": (2, 7, 4)})
    assert shapes["a"] == shapes["b"] == shapes["y"] == (2, 7, 4)


def test_sizes_left_open_stay_as_the_model_says() -> None:
    shapes = shapes_of(two_inputs(), {"a": (None, 7, None)})
    assert shapes["y"] == (1, 7, 4)


def test_minus_one_is_any_size() -> None:
    """Some exporters write -1 for an open size; it must not be counted with."""
    shapes = shapes_of(conv([-1, 2, 6, -1], (3, 2, 3, 3)))
    assert shapes["x"] == (1, 2, 6, None)
    assert shapes["y"][:3] == (1, 3, 4)


def test_unknown_sizes_stay_unknown() -> None:
    shapes = shapes_of(conv(["n", 2, "h", "w"], (3, 2, 3, 3)))
    assert shapes["x"] == (1, 2, "h", "w")
    assert shapes["y"][:2] == (1, 3)
    assert not any(isinstance(size, int) for size in shapes["y"][2:])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        pytest.param({"z": (1, 2, 6, 6)}, ["'z'", "not an input", "x"], id="no such input"),
        pytest.param({"w": (3, 2, 3, 3)}, ["'w'", "not an input"], id="a weight"),
        pytest.param({"x": (1, 2, 6)}, ["'x'", "3 sizes", "4"], id="another rank"),
        pytest.param({"x": (1, 5, 6, 6)}, ["'x'", "5", "2"], id="a size that is fixed"),
    ],
)
def test_input_shapes_that_do_not_fit(given: InputShapes, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        onnxshare.inspect(conv(["n", 2, "h", "w"], (3, 2, 3, 3)), input_shapes=given)
    for part in parts:
        assert part in str(caught.value)


def test_an_input_without_a_shape_can_be_given_one() -> None:
    built = model([node("Conv", "x w", "y")], [info("x", None)], ["y"], [tensor("w", 3, 2, 3, 3)])
    assert onnxshare.inspect(built).totals.macs is None
    report = onnxshare.inspect(built, input_shapes={"x": (1, 2, 6, 6)})
    assert report.totals.macs == 16 * 54


def test_large_weights_take_no_part_in_inference() -> None:
    """A weight beyond a few thousand elements is known by its dims alone."""
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 128]}, ["y"], [tensor("w", 128, 64)])
    weight = built.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="not_there.bin")
    assert shapes_of(built)["y"] == (1, 64)


def test_types_follow_the_nodes() -> None:
    built = model(
        [node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Shape", "h", "s")],
        {"x": ["n", 4]},
        ["s"],
    )
    shapes = infer(Graph(load(built)))
    assert shapes.types_in("")["h"].dtype == TensorProto.FLOAT16
    assert shapes.types_in("")["x"].dtype == TensorProto.FLOAT
    report = onnxshare.inspect(built)
    assert [facts.outputs[0].dtype for facts in report.nodes] == ["float16", "int64"]


def test_shapes_inside_a_loop() -> None:
    body = helper.make_graph(
        [node("MatMul", "h w", "out"), node("Identity", "go", "on")],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("h", [1, 5])],
        [info("on", [], TensorProto.BOOL), info("out", None)],
    )
    built = model(
        [node("Loop", "trips _ x", "y", body=body)],
        {"x": [1, 5]},
        ["y"],
        [tensor("w", 5, 5), constant("trips", 3)],
    )
    report = onnxshare.inspect(built)
    inside = next(facts for facts in report.nodes if facts.op_type == "MatMul")
    (result,) = run(built, x=random_array(1, 5))
    assert inside.outputs[0].shape == result.shape == (1, 5)


def test_shapes_are_those_of_a_real_run(lenet: onnx.ModelProto) -> None:
    """Every inner tensor of LeNet-5, made an output and computed by ONNX Runtime."""
    names = [name for item in lenet.graph.node for name in item.output]
    shown = onnx.ModelProto()
    shown.CopyFrom(lenet)
    del shown.graph.output[:]
    shown.graph.output.extend(info(name, None) for name in names)
    results = run(shown, x=np.zeros((1, 1, 32, 32), np.float32))
    shapes = shapes_of(lenet)
    assert {name: shapes[name] for name in names} == {
        name: result.shape for name, result in zip(names, results, strict=True)
    }


@pytest.mark.parametrize(
    ("data", "slope"),
    [
        pytest.param((3, 4), (2, 3, 4), id="more axes"),
        pytest.param((1, 3, 1), (1, 3, 4), id="a larger size"),
        pytest.param((1, 3, 4), (2, 3, 4), id="a larger batch"),
        pytest.param((1, 3, 4), (3, 1), id="as the standard says"),
    ],
)
def test_a_slope_that_widens_its_data(data: tuple[int, ...], slope: tuple[int, ...]) -> None:
    """The standard broadcasts the slope only; ONNX Runtime broadcasts both."""
    built = model([node("PRelu", "x s", "y")], {"x": list(data)}, ["y"], [tensor("s", *slope)])
    (result,) = run(built, x=random_array(*data))
    assert shapes_of(built)["y"] == result.shape
