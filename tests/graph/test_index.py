"""The index over a model: damaged graphs, scopes, constants, and graphs that are long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, bytes_of
from onnxshare.io.load import load
from tests.builders import constant, info, model, node, run, tensor


def relu_chain(length: int) -> onnx.ModelProto:
    nodes = [node("Relu", f"t{i}" if i else "x", f"t{i + 1}") for i in range(length)]
    return model(nodes, {"x": ["n", 4]}, [f"t{length}"])


TWICE = model([node("Relu", "x", "y"), node("Abs", "x", "y")], {"x": [1, 4]}, ["y"])
MISSING = model([node("Add", "x gone", "y")], {"x": [1, 4]}, ["y"])
CYCLE = model([node("Relu", "h", "y"), node("Add", "x y", "h")], {"x": [1, 4]}, ["y"])
NO_OUTPUT = model([node("Relu", "x", "h")], {"x": [1, 4]}, ["y"])
OVER_INPUT = model([node("Relu", "x", "x")], {"x": [1, 4]}, ["x"])
OVER_WEIGHT = model([node("Relu", "x", "w")], {"x": [1, 4]}, ["w"], [tensor("w", 4)])
ITSELF = model([node("Add", "x y", "y")], {"x": [1, 4]}, ["y"])
IN_BRANCH = model(
    [
        node(
            "If",
            "c",
            "y",
            then_branch=helper.make_graph([node("Relu", "gone", "o")], "t", [], [info("o", None)]),
            else_branch=helper.make_graph([node("Relu", "x", "o")], "e", [], [info("o", None)]),
        )
    ],
    [info("x", [1, 4]), info("c", [], TensorProto.BOOL)],
    ["y"],
)
NEGATIVE = model(
    [node("ConstantOfShape", "size", "w"), node("MatMul", "x w", "y")],
    {"x": [1, 4]},
    ["y"],
    [constant("size", [4, -3])],
)
NO_TENSOR = model(
    [node("ConstantOfShape", "size", "w", value=7), node("MatMul", "x w", "y")],
    {"x": [1, 4]},
    ["y"],
    [constant("size", [4, 3])],
)


@pytest.mark.parametrize(
    ("built", "parts"),
    [
        pytest.param(TWICE, ["'y'", "produced twice", "Abs:y"], id="two producers"),
        pytest.param(MISSING, ["'gone'", "Add:y"], id="missing tensor"),
        pytest.param(CYCLE, ["'h'", "Relu:y", "cycle"], id="cycle"),
        pytest.param(NO_OUTPUT, ["output 'y'"], id="output of no node"),
        pytest.param(OVER_INPUT, ["'x'", "produced twice"], id="produces an input"),
        pytest.param(OVER_WEIGHT, ["'w'", "produced twice"], id="produces a weight"),
        pytest.param(ITSELF, ["'y'", "Add:y"], id="reads its own output"),
        pytest.param(IN_BRANCH, ["'gone'", "Relu:o"], id="missing in a branch"),
        pytest.param(NEGATIVE, ["ConstantOfShape:w", "negative"], id="negative size"),
        pytest.param(NO_TENSOR, ["ConstantOfShape:w", "'value'"], id="fills with no tensor"),
    ],
)
def test_damaged_graphs_are_named_errors(built: onnx.ModelProto, parts: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        onnxshare.inspect(built)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_damaged_payload_is_an_error_only_where_it_is_read() -> None:
    size = TensorProto(name="size", data_type=TensorProto.INT64, dims=[2], raw_data=b"abc")
    built = model(
        [node("ConstantOfShape", "size", "w"), node("MatMul", "x w", "y")],
        {"x": [1, 4]},
        ["y"],
        [size],
    )
    with pytest.raises(ModelError, match="'size' is damaged"):
        onnxshare.inspect(built)


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        pytest.param(["a", "b", "c"], ["a", "b", "c"], id="all different"),
        pytest.param(["a", "a", "b"], ["a", "a#1", "b"], id="two alike"),
        pytest.param(["", "", ""], ["Relu_0", "Relu_1", "Relu_2"], id="none"),
        pytest.param(["Relu_1", "", "b"], ["Relu_1", "Relu_1#1", "b"], id="one like a made-up one"),
        pytest.param(
            ["", "Relu_0", ""], ["Relu_0", "Relu_0#1", "Relu_2"], id="a made-up one first"
        ),
    ],
)
def test_every_node_has_a_name_of_its_own(names: list[str], unique: list[str]) -> None:
    built = relu_chain(3)
    for proto, name in zip(built.graph.node, names, strict=True):
        proto.name = name
    assert [found.name for found in Graph(load(built)).nodes()] == unique


def test_a_name_hides_that_of_the_scope_around_it() -> None:
    """Each scope's names are its own; those around it are seen through."""
    inner = helper.make_graph(
        [node("Add", "w v", "o")], "inner", [], [info("o", None)], [tensor("w", 3)]
    )
    other = helper.make_graph([node("Add", "w v", "o")], "other", [], [info("o", None)])
    built = model(
        [node("If", "c", "y", then_branch=inner, else_branch=other)],
        [info("c", [], TensorProto.BOOL), info("v", [3])],
        ["y"],
        [tensor("w", 3)],
    )
    graph = Graph(load(built))
    by_path = {scope.path: scope for scope in graph.scopes}
    then, other_scope = by_path["If:y.then_branch"], by_path["If:y.else_branch"]
    assert then.home("w") is then
    assert other_scope.home("w") is graph.main
    assert then.home("v") is graph.main
    assert then.home("nowhere") is None
    assert [reader.op_type for reader in graph.main.readers("w")] == ["Add"]


def test_readers_and_producers() -> None:
    built = model(
        [node("Relu", "x", "a"), node("Add", "a a", "b"), node("Sub", "a b", "y")],
        {"x": [1]},
        ["y"],
    )
    graph = Graph(load(built))
    assert [reader.op_type for reader in graph.main.readers("a")] == ["Add", "Add", "Sub"]
    producer = graph.main.producer("b")
    assert producer is not None
    assert producer.op_type == "Add"
    assert graph.main.producer("x") is None
    assert graph.is_output(graph.main, "y")
    assert not graph.is_output(graph.main, "b")


# Long graphs: no recursion over nodes, no work that grows with the square of their number (20,000
# nodes squared would outlast any patience).


@pytest.mark.parametrize(
    "built",
    [
        pytest.param(relu_chain(5_000), id="activations"),
        pytest.param(
            model(
                [
                    *(node("Identity", f"w{i}", f"w{i + 1}") for i in range(5_000)),
                    node("MatMul", "x w5000", "y"),
                ],
                {"x": ["n", 5]},
                ["y"],
                [tensor("w0", 5, 3)],
            ),
            id="carriers of a weight",
        ),
        pytest.param(
            model(
                [
                    *(node("Add", f"s{i} one", f"s{i + 1}") for i in range(5_000)),
                    node("Reshape", "x s5000", "y"),
                ],
                {"x": ["n", 5_001]},
                ["y"],
                [constant("s0", [1, 1]), constant("one", [0, 1])],
            ),
            id="shape arithmetic",
        ),
    ],
)
def test_deep_chains(built: onnx.ModelProto) -> None:
    report = onnxshare.inspect(built)
    assert len(report.nodes) == len(built.graph.node)
    assert report.totals.macs is not None
    if built.graph.node[-1].op_type == "MatMul":
        assert (report.totals.params, report.totals.macs) == (15, 15)
    if built.graph.node[-1].op_type == "Reshape":
        assert report.nodes[-1].outputs[0].shape == (1, 5_001)


def test_twenty_thousand_nodes() -> None:
    nodes, weights = [], []
    for i in range(5_000):
        weights += [tensor(f"w{i}", 4, 4, seed=i), tensor(f"b{i}", 4, seed=i)]
        nodes += [
            node("MatMul", f"t{i} w{i}" if i else "x w0", f"m{i}"),
            node("Add", f"m{i} b{i}", f"a{i}"),
            node("Relu", f"a{i}", f"r{i}"),
            node("Identity", f"r{i}", f"t{i + 1}"),
        ]
    report = onnxshare.inspect(model(nodes, {"x": ["n", 4]}, ["t5000"], weights))
    totals = report.totals
    assert len(report.nodes) == 20_000
    assert (totals.params, totals.macs, totals.weight_layers) == (5_000 * 20, 5_000 * 16, 5_000)
    assert totals.fc_params == 5_000 * 20


def test_many_branches() -> None:
    nodes = []
    for i in range(1_000):
        branches = {
            name: helper.make_graph(
                [node(op_type, f"t{i}" if i else "x", f"o{i}")], name, [], [info(f"o{i}", None)]
            )
            for name, op_type in (("then_branch", "Relu"), ("else_branch", "Abs"))
        }
        nodes.append(node("If", "c", f"t{i + 1}", **branches))
    built = model(nodes, [info("x", [1, 4]), info("c", [], TensorProto.BOOL)], ["t1000"])
    report = onnxshare.inspect(built)
    assert len(report.nodes) == 3_000
    assert report.totals.flops == 4 * 1_000


@pytest.mark.parametrize("axes", [[10**6, 10**6], [10**12, 1], [2**40, 2**40]])
def test_a_huge_fill_is_counted_and_never_allocated(axes: list[int]) -> None:
    built = model(
        [node("ConstantOfShape", "size", "w"), node("MatMul", "x w", "y")],
        {"x": ["n", axes[0]]},
        ["y"],
        [constant("size", axes)],
    )
    totals = onnxshare.inspect(built).totals
    assert totals.params == axes[0] * axes[1]
    assert totals.param_bytes == 4 * totals.params


def test_a_huge_fill_after_a_convolution_is_a_head_that_is_not_read() -> None:
    built = model(
        [
            node("Conv", "x k", "map"),
            node("Flatten", "map", "flat"),
            node("ConstantOfShape", "size", "w"),
            node("Gemm", "flat w", "y"),
        ],
        {"x": ["n", 1, 12, 12]},
        ["y"],
        [tensor("k", 4, 1, 3, 3), constant("size", [400, 10**10])],
    )
    report = onnxshare.inspect(built)
    assert report.totals.fc_after_conv_params == 400 * 10**10
    assert [head.uniformity for head in report.heads] == [None]


@pytest.mark.parametrize(
    ("dtype", "elements", "size"),
    [
        pytest.param(TensorProto.FLOAT, 3, 12, id="float32"),
        pytest.param(TensorProto.BFLOAT16, 3, 6, id="bfloat16"),
        pytest.param(TensorProto.INT4, 3, 2, id="int4 packs two"),
        pytest.param(TensorProto.DOUBLE, 3, 24, id="float64"),
    ],
)
def test_bytes(dtype: int, elements: int, size: int) -> None:
    assert bytes_of(elements, dtype) == size


def test_inspect_changes_nothing(lenet: onnx.ModelProto, lenet_path: Path) -> None:
    before, on_disk = lenet.SerializeToString(deterministic=True), lenet_path.read_bytes()
    onnxshare.inspect(lenet)
    onnxshare.inspect(lenet_path)
    assert lenet.SerializeToString(deterministic=True) == before
    assert lenet_path.read_bytes() == on_disk


def test_every_form_of_source_gives_the_same(lenet: onnx.ModelProto, lenet_path: Path) -> None:
    with lenet_path.open("rb") as file:
        reports = [onnxshare.inspect(s) for s in (lenet, lenet_path, lenet_path.read_bytes(), file)]
    assert len({str(report.nodes) for report in reports}) == 1
    assert len({str(report.totals) for report in reports}) == 1


def test_what_inspect_accepts_runs() -> None:
    """The builder of chains builds what ONNX Runtime runs, so the tests above test real graphs."""
    (result,) = run(relu_chain(3), x=np.array([[-1, 2, -3, 4]], np.float32))
    assert result.tolist() == [[0, 2, 0, 4]]
