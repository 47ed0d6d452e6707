"""Models that onnx's own checker refuses: each is refused here too, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

import onnxshare
from tests.builders import info, model, node

#: Large enough to be left in the file when a model is read.
MANY = 20_000


def adding(*weights: TensorProto, size: int = 4) -> onnx.ModelProto:
    nodes = [node("Cast", "w", "v", to=1), node("Add", "x v", "y")]
    return typed(model(nodes, {"x": [1, size]}, ["y"], weights))


def typed(built: onnx.ModelProto) -> onnx.ModelProto:
    """With the output's type, which the checker asks for."""
    del built.graph.output[:]
    built.graph.output.append(info("y", ["a", "b"]))
    return built


def strings(size: int = 3, **fields: Any) -> onnx.ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.STRING, dims=[1, size], **fields)
    inputs = [info("x", [1, size], TensorProto.STRING)]
    built = model([node("Equal", "x w", "y")], inputs, ["y"], [weight], opset=19)
    del built.graph.output[:]
    built.graph.output.append(info("y", ["a", "b"], TensorProto.BOOL))
    return built


def string_constant() -> onnx.ModelProto:
    built = strings(raw_data=b"abc")
    weight = built.graph.initializer.pop()
    built.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    return built


def stored(dtype: int, **fields: Any) -> onnx.ModelProto:
    return adding(TensorProto(name="w", data_type=dtype, dims=[1, 4], **fields))


def sparse(
    indices: object, dims: tuple[int, ...] = (1, 4), values: object = (1, 2), dtype: Any = np.int64
) -> SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), "w"),
        numpy_helper.from_array(np.array(indices, dtype), "i"),
        list(dims),
    )


def adding_sparse(*arguments: Any, **named: Any) -> onnx.ModelProto:
    weight = sparse(*arguments, **named)
    built = typed(model([node("Add", "x w", "y")], {"x": weight.dims[-2:]}, ["y"]))
    built.graph.sparse_initializer.append(weight)
    return built


def large_sparse(last: int) -> onnx.ModelProto:
    indices = [*range(MANY - 1), last]
    return adding_sparse(indices, (1, MANY), np.ones(MANY))


def sparse_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse([1, 4]))
    return typed(model([constant, node("Add", "x w", "y")], {"x": [1, 4]}, ["y"]))


def twice(made: NodeProto, name: str, value: Any) -> onnx.ModelProto:
    made.attribute.append(helper.make_attribute(name, value))
    return typed(model([made], {"x": [1, 4]}, ["y"]))


def twice_in_a_branch() -> onnx.ModelProto:
    inner = twice(node("LeakyRelu", "x", "y", alpha=0.1), "alpha", 0.2).graph
    del inner.input[:]
    chosen = node("If", "c", "y", then_branch=inner, else_branch=inner)
    return typed(model([chosen], [info("x", [1, 4]), info("c", [], TensorProto.BOOL)], ["y"]))


def inputs(made: str, *names: str) -> onnx.ModelProto:
    return typed(model([helper.make_node(made, names, ["y"])], {"x": [1, 1, 4, 4]}, ["y"]))


ONES = np.ones((1, 4), np.float32).tobytes()
WEIGHT = numpy_helper.from_array(np.ones((1, 4), np.float32))
FLOAT, INT8, INT64, UINT32, FLOAT16 = 1, 3, 7, 12, 10

MALFORMED = {
    "strings in raw data": (strings(raw_data=b"abc"), "string_data"),
    "strings in empty raw data": (strings(raw_data=b""), "string_data"),
    "many strings in raw data": (strings(MANY * 2, raw_data=bytes(MANY * 2)), "string_data"),
    "strings in raw data of a Constant": (string_constant(), "string_data"),
    "strings beside raw data": (strings(raw_data=b"abc", string_data=[b"a"] * 3), "twice"),
    "strings in float_data": (strings(float_data=[1] * 3), "string_data"),
    "raw and typed values": (stored(FLOAT, raw_data=ONES, float_data=[1] * 4), "twice"),
    "raw and other values": (stored(FLOAT, raw_data=ONES, int64_data=[1]), "twice"),
    "values in two typed fields": (stored(INT64, int64_data=[1] * 4, int32_data=[1] * 4), "twice"),
    "floats in int32_data": (stored(FLOAT, int32_data=[1] * 4), "float_data"),
    "half floats in float_data": (stored(FLOAT16, float_data=[1] * 4), "int32_data"),
    "unsigned in int32_data": (stored(UINT32, int32_data=[1] * 4), "uint64_data"),
    "floats without values": (stored(FLOAT), "has no values"),
    "strings without values": (strings(), "has no values"),
    "a scalar without a value": (
        adding(TensorProto(name="w", data_type=FLOAT), TensorProto(name="v2", data_type=INT64)),
        "has no values",
    ),
    "a Constant without values": (
        twice(helper.make_node("Constant", [], ["y"]), "value", TensorProto(data_type=1, dims=[2])),
        "has no values",
    ),
    "too few bytes in int32_data": (stored(INT8, int32_data=[1] * 3), "4 elements"),
    "many floats in int32_data": (
        adding(
            TensorProto(name="w", data_type=FLOAT, dims=[1, MANY * 2], int32_data=[1] * MANY * 2),
            size=MANY * 2,
        ),
        "float_data",
    ),
    "a sparse index too large": (adding_sparse([1, 4]), "outside its dims"),
    "a negative sparse index": (adding_sparse([-1, 2]), "outside its dims"),
    "a sparse index too large on its axis": (adding_sparse([[0, 1], [1, 1]]), "outside its dims"),
    "a sparse index too large among many": (large_sparse(MANY), "outside its dims"),
    "a sparse index too large in a Constant": (sparse_constant(), "outside its dims"),
    "sparse indices that are not integers": (adding_sparse([1, 2], dtype=np.float32), "outside"),
    "more sparse indices than values": (adding_sparse([1, 2, 3]), "indices of dims"),
    "sparse indices of another rank": (adding_sparse([[1], [2]]), "indices of dims"),
    "sparse values of rank 2": (adding_sparse([1, 2], values=[[1, 2]]), "values of dims"),
    "a sparse tensor without dims": (adding_sparse([1, 2], dims=()), "values of dims"),
    "an attribute twice": (twice(node("LeakyRelu", "x", "y", alpha=0.1), "alpha", 0.2), "twice"),
    "an attribute twice, equal": (
        twice(node("LeakyRelu", "x", "y", alpha=0.5), "alpha", 0.5),
        "'alpha' twice",
    ),
    "an attribute twice, of two types": (
        twice(node("LeakyRelu", "x", "y", alpha=0.5), "alpha", 1),
        "'alpha' twice",
    ),
    "an attribute twice, a tensor": (
        twice(helper.make_node("Constant", [], ["y"], value=WEIGHT), "value", WEIGHT),
        "'value' twice",
    ),
    "an attribute twice in a branch": (twice_in_a_branch(), "'alpha' twice"),
    "the only input without a name": (inputs("Relu", ""), "has 0 inputs, and Relu needs 1"),
    "the first input without a name": (inputs("Add", "", "x"), "has 1 inputs, and Add needs 2"),
    "the weight without a name": (inputs("Conv", "x", ""), "has 1 inputs, and Conv needs 2"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_the_checker_of_onnx_refuses_is_refused(kind: str, tmp_path: Path) -> None:
    built, words = MALFORMED[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(path)
    with pytest.raises(onnxshare.ModelError) as caught:
        onnxshare.inspect(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    report = onnxshare.check(path, max_params=10**9)
    assert report.models[0].error == str(caught.value)


SOUND = {
    "no values of a size of 0": adding(TensorProto(name="w", data_type=FLOAT, dims=[0, 1])),
    "strings": strings(string_data=[b"a", b"b", b"c"]),
    "floats": stored(FLOAT, float_data=[1] * 4),
    "half floats": stored(FLOAT16, int32_data=[15360] * 4),
    "unsigned": stored(UINT32, uint64_data=[1] * 4),
    "sparse indices along the whole tensor": adding_sparse([0, 3]),
    "sparse indices by axis": adding_sparse([[0, 0], [0, 3]]),
    "no sparse values": adding_sparse([], values=[]),
    "many sparse values": large_sparse(MANY - 1),
    "an optional input without a name": typed(
        model([node("Clip", "x _ h", "y")], [info("x", [1, 4]), info("h", [])], ["y"])
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_the_checker_of_onnx_takes_is_inspected(kind: str, tmp_path: Path) -> None:
    built = SOUND[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    onnx.checker.check_model(path)
    onnxshare.inspect(path)
