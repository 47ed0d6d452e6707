"""Linear, tree and support-vector models (ai.onnx.ml), whose weights stand in attributes: figures
by hand, and uses measured in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxshare
from tests.builders import Array, info, node, only, random_array, run

LEARNED = "ai.onnx.ml"


def learned(
    op_type: str, features: int, outputs: str = "y", version: int = 3, **attributes: Any
) -> onnx.ModelProto:
    """One node that reads x [n, features]."""
    graph = helper.make_graph(
        [node(op_type, "x", outputs, domain=LEARNED, **attributes)],
        "built",
        [info("x", ["n", features])],
        [info(name, None) for name in outputs.split()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(LEARNED, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def numbers(count: int, seed: int = 1) -> list[float]:
    return [float(value) for value in random_array(count, seed=seed)]


#: Two trees over 2 features: a stump of two leaves, and one of three leaves.
#: The first asks x0 <= 0.1; the second x1 <= 0.2 and then x0 <= -0.3. Leaves have threshold 0.
TREES: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2, 3, 4],
    "nodes_featureids": [0, 0, 0, 1, 0, 0, 0, 0],
    "nodes_modes": [
        "BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"
    ],
    "nodes_values": [0.1, 0.0, 0.0, 0.2, -0.3, 0.0, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0, 1, 2, 0, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 4, 3, 0, 0, 0],
    "target_treeids": [0, 0, 1, 1, 1],
    "target_nodeids": [1, 2, 2, 3, 4],
    "target_ids": [0, 0, 0, 0, 0],
    "target_weights": [1.0, 2.0, 4.0, 8.0, 16.0],
    "n_targets": 1,
}  # fmt: skip

#: The same stump as tensors.
STUMP: dict[str, Any] = {
    "n_targets": 1,
    "aggregate_function": 1,
    "tree_roots": [0],
    "nodes_featureids": [0],
    "nodes_modes": numpy_helper.from_array(np.array([0], np.uint8), "modes"),
    "nodes_splits": numpy_helper.from_array(np.array([0.1], np.float32), "splits"),
    "nodes_truenodeids": [0],
    "nodes_trueleafs": [1],
    "nodes_falsenodeids": [1],
    "nodes_falseleafs": [1],
    "leaf_targetids": [0, 0],
    "leaf_weights": numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "leaves"),
}


@dataclass(frozen=True)
class Case:
    """A model with its figures, per row."""

    built: onnx.ModelProto
    kind: str
    params: int
    connections: int
    macs: int
    constants: int = 0


CASES = {
    "LinearRegressor": Case(
        learned("LinearRegressor", 4, coefficients=numbers(12), intercepts=numbers(3), targets=3),
        "fc", 15, 15, 12,
    ),
    "LinearClassifier": Case(
        learned(
            "LinearClassifier", 4, "label y", coefficients=numbers(12), intercepts=numbers(3),
            classlabels_ints=[0, 1, 2], multi_class=1, post_transform="SOFTMAX",
        ),
        "fc", 15, 15, 12,
    ),
    # Four support vectors of 3 features: a product per feature, then the weighted sum.
    "SVMRegressor": Case(
        learned(
            "SVMRegressor", 3, coefficients=numbers(4), support_vectors=numbers(12),
            n_supports=4, rho=numbers(1), kernel_type="RBF", kernel_params=[0.5, 0.0, 3.0],
        ),
        "fc", 4 + 12 + 1, 4 + 12 + 1, 4 + 12,
    ),
    "Scaler": Case(
        learned("Scaler", 4, offset=numbers(4), scale=numbers(4, 2)), "norm", 8, 8, 0
    ),
    "Scaler, one for all": Case(
        learned("Scaler", 4, offset=[0.5], scale=[2.0]), "norm", 2, 8, 0
    ),
    # Five leaves, one of each of two trees is added; eight thresholds are compared.
    "TreeEnsembleRegressor": Case(
        learned("TreeEnsembleRegressor", 2, **TREES), "other", 5, 2, 0, constants=8
    ),
    "TreeEnsembleRegressor, with a base": Case(
        learned("TreeEnsembleRegressor", 2, **TREES, base_values=[0.5]),
        "other", 6, 3, 0, constants=8,
    ),
    "TreeEnsemble": Case(
        learned("TreeEnsemble", 2, version=5, **STUMP), "other", 2, 1, 0, constants=1
    ),
    "Normalizer": Case(learned("Normalizer", 4, norm="L2"), "norm", 0, 0, 0),
    "Binarizer": Case(learned("Binarizer", 4, threshold=0.5), "elementwise", 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_figures(name: str) -> None:
    case = CASES[name]
    report = onnxshare.inspect(case.built)
    (facts,) = report.nodes
    assert (facts.kind, facts.params, facts.connections, facts.macs) == (
        case.kind,
        case.params,
        case.connections,
        case.macs,
    )
    assert (report.totals.params, report.totals.constants) == (case.params, case.constants)
    assert sum(weight.connections or 0 for weight in report.weights) == case.connections


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        pytest.param("LinearRegressor", ("coefficients", "intercepts"), id="LinearRegressor"),
        pytest.param("SVMRegressor", ("coefficients", "support_vectors", "rho"), id="SVM"),
        pytest.param("Scaler", ("offset", "scale"), id="Scaler"),
        pytest.param("Scaler, one for all", ("offset", "scale"), id="Scaler, one for all"),
        pytest.param("TreeEnsembleRegressor", ("target_weights",), id="trees"),
        pytest.param("TreeEnsemble", ("leaf_weights",), id="tensors of a tree"),
    ],
)
def test_uses_are_measured(name: str, attributes: tuple[str, ...]) -> None:
    """Each number is moved in turn, and the outputs that change are counted.

    A linear model's coefficient reaches one output of each row; a support vector's feature all.
    """
    case, rows = CASES[name], 6
    features = case.built.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    data = random_array(rows, features, seed=5)
    count = sum(
        moved(case.built, data, attribute, index)
        for attribute in attributes
        for index in range(length(case.built, attribute))
    )
    assert count == case.connections * rows


def find(built: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    return next(item for item in built.graph.node[0].attribute if item.name == name)


def length(built: onnx.ModelProto, name: str) -> int:
    attribute = find(built, name)
    return len(attribute.floats) or attribute.t.dims[0]


def moved(built: onnx.ModelProto, data: Array, name: str, index: int) -> int:
    changed = onnx.ModelProto()
    changed.CopyFrom(built)
    attribute = find(changed, name)
    if attribute.floats:
        attribute.floats[index] += 0.5
    else:
        values = numpy_helper.to_array(attribute.t).copy()
        values[index] += 0.5
        attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    return int((run(changed, x=data)[-1] != run(built, x=data)[-1]).sum())


def test_leaves_of_different_sizes_depend_on_the_row() -> None:
    """One leaf of the first tree holds two weights: how many are added is data."""
    more = TREES | {
        "target_treeids": [0, *TREES["target_treeids"]],
        "target_nodeids": [1, *TREES["target_nodeids"]],
        "target_ids": [1, 0, 0, 0, 0, 0],
        "target_weights": [0.5, *TREES["target_weights"]],
        "n_targets": 2,
    }
    facts = only(onnxshare.inspect(learned("TreeEnsembleRegressor", 2, **more)), TREE)
    assert (facts.params, facts.connections, facts.macs) == (6, None, 0)


TREE = "TreeEnsembleRegressor"


def test_how_often_a_tree_compares_is_unknown_and_not_zero() -> None:
    report = onnxshare.inspect(CASES[TREE].built)
    assert (report.totals.macs, report.totals.flops) == (0, None)
    assert report.warnings == (
        f"the FLOPs of {TREE}:y are unknown: they depend on data, or on sizes that are not known",
    )


def test_a_table_of_labels_holds_no_weights() -> None:
    built = learned(
        "LabelEncoder", 4, version=2, keys_floats=[1.0, 2.0], values_strings=["one", "two"]
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.params, totals.constants, totals.macs, totals.connections) == (0, 0, 0, 0)


def test_weights_in_attributes_have_hashes_and_names() -> None:
    report = onnxshare.inspect(CASES["LinearRegressor"].built, hashes=True)
    first, second = report.weights
    assert (first.name, first.shape) == ("LinearRegressor:y.coefficients", (3, 4))
    assert (second.name, second.shape) == ("LinearRegressor:y.intercepts", (3,))
    assert (first.dtype, first.bytes) == ("float32", 48)
