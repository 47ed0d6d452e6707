"""Weights cut out of stored tensors or joined from several: counted where they are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.analysis.results import Inspection
from tests.analysis.test_measured_uses import measured_connections
from tests.builders import constant, info, model, node, only, random_array, tensor


def holders(report: Inspection) -> dict[str, tuple[int, int | None, tuple[str, ...]]]:
    """Of each node that uses weights: parameters, connections, names."""
    return {f.name: (f.params, f.connections, f.weights) for f in report.nodes if f.params}


def lstm() -> onnx.ModelProto:
    """PyTorch's exporters write a cell's gates in another order: W, R and both biases are cut into
    their gates and joined again."""
    nodes: list[onnx.NodeProto] = []
    stored = [
        tensor("wi", 16, 3),
        tensor("wh", 16, 4),
        tensor("bi", 16),
        tensor("bh", 16, seed=3),
        *(constant(f"at{n}", [4 * n]) for n in range(5)),
        constant("zero", [0]),
    ]
    for name in ("wi", "wh", "bi", "bh"):
        for gate in range(4):
            nodes.append(node("Slice", f"{name} at{gate} at{gate + 1} zero", f"{name}{gate}"))
        order = " ".join(f"{name}{gate}" for gate in (0, 3, 1, 2))
        nodes.append(node("Concat", order, f"{name}c", axis=0))
    nodes += [
        node("Concat", "bic bhc", "bc", axis=0),
        *(node("Unsqueeze", f"{name}c zero", name[:2]) for name in ("wi", "wh", "b")),
    ]
    for item in nodes:
        if item.op_type == "Unsqueeze":
            item.output[0] += "u"
    nodes.append(node("LSTM", "x wiu whu bu", "y", hidden_size=4))
    return model(nodes, {"x": [7, 1, 3]}, ["y"], stored)


def test_a_cell_whose_gates_are_reordered() -> None:
    """All weights once per step, at the cell; the nodes that cut and join hold none."""
    report = onnxshare.inspect(lstm())
    weights = 16 * (3 + 4 + 1 + 1)
    assert holders(report) == {"LSTM:y": (weights, 7 * weights, ("wi", "wh", "bi", "bh"))}
    assert (report.totals.params, report.totals.connections) == (weights, 7 * weights)
    assert report.totals.macs == 7 * 16 * (3 + 4)
    assert {w.name: w.connections for w in report.weights} == {
        "wi": 7 * 48,
        "wh": 7 * 64,
        "bi": 7 * 16,
        "bh": 7 * 16,
    }


def test_a_fused_projection_that_is_split() -> None:
    """Query, key and value: three FCs that share one stored tensor, each a third of it."""
    built = model(
        [
            node("Split", "w parts", "q k v", axis=1),
            *(node("MatMul", f"x {name}", f"{name}y") for name in "qkv"),
            node("Concat", "qy ky vy", "y", axis=2),
        ],
        {"x": [1, 5, 4]},
        ["y"],
        [tensor("w", 4, 18), constant("parts", [6, 6, 6])],
    )
    report = onnxshare.inspect(built)
    products = [facts for facts in report.nodes if facts.op_type == "MatMul"]
    assert [facts.kind for facts in products] == ["fc"] * 3
    assert [facts.connections for facts in products] == [5 * 24] * 3
    assert [facts.params for facts in report.nodes] == [0, 24, 24, 24, 0]
    assert [facts.params_new for facts in report.nodes] == [0, 24, 24, 24, 0]
    assert {facts.sharing_ratio for facts in products} == {5}
    assert {facts.param_bytes for facts in products} == {4 * 24}
    assert report.totals.fc_params == 72
    # Each uses a third of its own: 5 rows are the whole ratio of 360 / 72.
    assert {(facts.sharing.tied, facts.sharing.token) for facts in products} == {(1, 5)}
    assert (report.totals.params, report.totals.connections) == (72, 5 * 72)
    (weight,) = report.weights
    assert (weight.connections, len(weight.used_by)) == (5 * 72, 3)
    assert report.totals.connections == measured(built, (1, 5, 4))


PARTS = {
    # slices (begin, end) of 12 columns → params and params_new of the products
    "each a part of its own": ([(0, 4), (4, 12)], [16, 32], [16, 32]),
    "one part": ([(0, 4)], [48], [48]),
    "columns that nobody reads": ([(0, 4), (8, 12)], [32, 16], [32, 16]),
    "parts that overlap": ([(0, 8), (4, 12)], [32, 32], [32, 16]),
    "the same part twice": ([(0, 6), (0, 6)], [24, 24], [24, 24]),
    "a part and all of it": ([(0, 4), None], [16, 48], [16, 32]),
    "all of it and a part": ([None, (0, 4)], [48, 16], [48, 0]),
}


@pytest.mark.parametrize(("slices", "params", "new"), PARTS.values(), ids=PARTS)
def test_nodes_count_the_part_that_they_use(
    slices: list[tuple[int, int] | None], params: list[int], new: list[int]
) -> None:
    """Of a matrix of 4 × 12, by hand; what nobody reads counts with the first."""
    nodes, tensors = [], [tensor("w", 4, 12), constant("axis", [1])]
    for place, ends in enumerate(slices):
        if ends is not None:
            tensors += [constant(f"b{place}", [ends[0]]), constant(f"e{place}", [ends[1]])]
            nodes.append(node("Slice", f"w b{place} e{place} axis", f"w{place}"))
        read = "w" if ends is None else f"w{place}"
        nodes.append(node("MatMul", f"x {read}", f"y{place}"))
    built = model(nodes, {"x": [1, 4]}, [f"y{place}" for place in range(len(slices))], tensors)
    report = onnxshare.inspect(built)
    products = [facts for facts in report.nodes if facts.op_type == "MatMul"]
    assert [facts.params for facts in products] == params
    assert [facts.params_new for facts in products] == new
    assert sum(new) == report.totals.params == report.totals.fc_params == 48
    assert report.totals.param_bytes == 4 * 48


def measured(built: onnx.ModelProto, size: Sequence[int]) -> int:
    """Outputs that move with each weight; indices and sizes are made Constant nodes first."""
    copy = onnx.ModelProto()
    copy.CopyFrom(built)
    for item in list(copy.graph.initializer):
        if item.data_type != onnx.TensorProto.FLOAT:
            copy.graph.node.insert(0, node("Constant", "", item.name, value=item))
            copy.graph.initializer.remove(item)
    return measured_connections(copy, random_array(*size, seed=3))


CASES = {
    "filters joined from two tensors": (
        [node("Concat", "v w", "k", axis=0), node("Conv", "x k", "y")],
        (1, 2, 5, 5),
        [tensor("v", 1, 2, 3, 3), tensor("w", 2, 2, 3, 3, seed=4)],
        {"v": 9 * 18, "w": 9 * 36},
    ),
    "a part of a table": (
        [node("Slice", "w zero two zero", "k"), node("Add", "x k", "y")],
        (1, 2, 4),
        [tensor("w", 5, 4), constant("zero", [0]), constant("two", [2])],
        {"w": 8},
    ),
    "cut, turned and reshaped": (
        [
            node("Slice", "w zero two zero", "c"),
            node("Transpose", "c", "t", perm=[1, 0]),
            node("Reshape", "t to", "k"),
            node("MatMul", "x k", "y"),
        ],
        (1, 3, 4),
        [tensor("w", 5, 6), constant("zero", [0]), constant("two", [2]), constant("to", [4, 3])],
        {"w": 3 * 12},
    ),
    "the same tensor twice": (
        [node("Concat", "w w", "k", axis=1), node("MatMul", "x k", "y")],
        (1, 3, 4),
        [tensor("w", 4, 2)],
        {"w": 2 * 3 * 8},
    ),
    "a learned row that is repeated": (
        [node("Expand", "w to", "k"), node("Add", "x k", "y")],
        (1, 3, 4),
        [tensor("w", 1, 1, 4), constant("to", [1, 3, 4])],
        {"w": 12},
    ),
    "a learned pattern that is tiled": (
        [node("Tile", "w times", "k"), node("Mul", "x k", "y")],
        (1, 6, 4),
        [tensor("w", 1, 3, 4), constant("times", [1, 2, 1])],
        {"w": 24},
    ),
    "through Dropout": (
        [node("Dropout", "w", "k"), node("MatMul", "x k", "y")],
        (1, 3, 4),
        [tensor("w", 4, 2)],
        {"w": 3 * 8},
    ),
    "one matrix of a stack": (
        [node("Gather", "w one", "k"), node("MatMul", "x k", "y")],
        (1, 3, 4),
        [tensor("w", 3, 4, 2), constant("one", np.array(1))],
        {"w": 3 * 8},
    ),
    "repeated as far as data says": (
        [node("Shape", "x", "to"), node("Expand", "w to", "k"), node("Add", "x k", "y")],
        (1, 3, 4),
        [tensor("w", 1, 1, 4)],
        {"w": 12},
    ),
    "joined and cut again": (
        [
            node("Concat", "v w", "k", axis=1),
            node("Slice", "k zero two zero", "c"),
            node("MatMul", "x c", "y"),
        ],
        (1, 3, 2),
        [
            tensor("v", 4, 2), tensor("w", 4, 1, seed=4),
            constant("zero", [0]), constant("two", [2]),
        ],
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_uses_are_measured(name: str) -> None:
    nodes, size, stored, by_tensor = CASES[name]
    built = model(nodes, {"x": list(size)}, ["y"], stored)
    report = onnxshare.inspect(built)
    floats = [item for item in stored if item.data_type == onnx.TensorProto.FLOAT]
    assert report.totals.params == sum(int(np.prod(item.dims)) for item in floats)
    if by_tensor is None:  # which of the two is cut is not followed: counted where it is cut
        assert [f.op_type for f in report.nodes if f.params] == ["Slice"]
        return
    assert {weight.name: weight.connections for weight in report.weights} == by_tensor
    assert report.totals.connections == sum(by_tensor.values()) == measured(built, size)


def test_a_part_that_data_chooses_counts_where_it_is_cut() -> None:
    """Which rows are used is known only at run time, but not how many are cut."""
    built = model(
        [node("Slice", "w from to zero", "k"), node("Add", "x k", "y")],
        [
            info("x", [1, 2, 4]),
            info("from", [1], onnx.TensorProto.INT64),
            info("to", [1], onnx.TensorProto.INT64),
        ],
        ["y"],
        [tensor("w", 5, 4), constant("zero", [0])],
    )
    report = onnxshare.inspect(built)
    assert [(f.op_type, f.params) for f in report.nodes] == [("Slice", 20), ("Add", 0)]


def test_a_learned_token_joined_with_data_is_used_there() -> None:
    built = model(
        [node("Concat", "t x", "y", axis=1)], {"x": [1, 5, 4]}, ["y"], [tensor("t", 1, 1, 4)]
    )
    facts = only(onnxshare.inspect(built), "Concat")
    assert (facts.params, facts.connections) == (4, 4)


def test_a_bias_that_is_cut_out() -> None:
    """Through a subgraph: the cut is outside, the use inside."""
    branch = onnx.helper.make_graph([node("Add", "x k", "out")], "branch", [], [info("out", None)])
    built = model(
        [
            node("Slice", "w zero two zero", "k"),
            node("If", "go", "y", then_branch=branch, else_branch=branch),
        ],
        [info("x", [1, 2, 4]), info("go", [], onnx.TensorProto.BOOL)],
        ["y"],
        [tensor("w", 5, 4), constant("zero", [0]), constant("two", [2])],
    )
    report = onnxshare.inspect(built)
    assert [(f.op_type, f.connections) for f in report.nodes if f.params] == [
        ("Add", 8),
        ("Add", 8),
    ]
    assert report.totals.connections == 8


def test_a_long_chain_of_joins_is_followed_only_so_far() -> None:
    """Each joins one more tensor: past 64 the joins count themselves, and all stays linear."""
    count = 200
    nodes = [node("Concat", f"k{n} w{n}", f"k{n + 1}", axis=0) for n in range(count)]
    built = model(
        [node("Identity", "w0", "k0"), *nodes, node("Mul", f"x k{count}", "y")],
        {"x": [1, 2 * count + 2]},
        ["y"],
        [tensor(f"w{n}", 2, seed=n) for n in range(count)],
    )
    held = [len(facts.weights) for facts in onnxshare.inspect(built).nodes]
    assert held == [0] * 65 + [65] + [1] * (count - 65) + [0]


def test_sizes_that_are_joined_are_no_weights() -> None:
    built = model(
        [node("Concat", "a b", "to", axis=0), node("Reshape", "x to", "y")],
        {"x": [1, 12]},
        ["y"],
        [constant("a", [1, 3]), constant("b", [4])],
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants, totals.connections) == (0, 0, 0)


@pytest.mark.parametrize(
    ("nodes", "stored", "holder"),
    [
        pytest.param(
            [node("SequenceConstruct", "v w", "s"), node("SequenceAt", "s one", "k")],
            [tensor("v", 4, 2), tensor("w", 4, 2, seed=4), constant("one", np.array(1))],
            "SequenceConstruct",
            id="a sequence",
        ),
        pytest.param(
            [node("Compress", "w keep", "k", axis=1)],
            [tensor("w", 4, 4), constant("keep", [True, False, True, False], np.bool_)],
            "Compress",
            id="columns that are kept",
        ),
    ],
)
def test_what_is_not_followed_counts_where_it_is_read(
    nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], holder: str
) -> None:
    """It is never silently 0."""
    built = model([*nodes, node("MatMul", "x k", "y")], {"x": [1, 3, 4]}, ["y"], stored)
    report = onnxshare.inspect(built)
    assert [facts.op_type for facts in report.nodes if facts.params] == [holder]
    assert report.totals.params == 16


def test_a_number_that_is_repeated_stays_a_constant() -> None:
    built = model(
        [node("Expand", "c to", "k"), node("Mul", "x k", "y")],
        {"x": [1, 3, 4]},
        ["y"],
        [constant("c", [0.5], np.float32), constant("to", [1, 3, 4])],
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants) == (0, 1)
