"""Rows at the thresholds of trees, checked by walking the trees by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.samples.tree_rows import tree_rows
from tests.builders import forest


def leaves(given: dict[str, Any], row: Any) -> list[int]:
    """The leaf of each tree that a row reaches."""
    found = []
    for tree in range(4):
        place = 0
        while place < 3:
            at = 7 * tree + place
            below = row[given["nodes_featureids"][at]] <= np.float32(given["nodes_values"][at])
            place = given["nodes_truenodeids" if below else "nodes_falsenodeids"][at]
        found.append(7 * tree + place)
    return found


@pytest.mark.parametrize("scale", [1e-3, 80.0, 1e7])
def test_rows_reach_every_leaf_and_meet_every_threshold(scale: float) -> None:
    node = forest("p", scale=scale).graph.node[1]
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    rows = tree_rows(node, 6, np.random.default_rng(0))
    reached = {leaf for row in rows for leaf in leaves(given, row)}
    assert reached == {7 * tree + place for tree in range(4) for place in range(3, 7)}
    for tree in range(4):
        for place in range(3):
            at = 7 * tree + place
            feature, value = given["nodes_featureids"][at], np.float32(given["nodes_values"][at])
            assert (rows[:, feature] == value).any()
            assert (rows[:, feature] == np.nextafter(value, np.float32(np.inf))).any()


def test_trees_in_the_form_of_opset_5() -> None:
    """One question: is x[1] at most 4? Its leaves give 1 and 2."""
    tensors: dict[str, Any] = {
        "nodes_modes": np.zeros(1, np.uint8),
        "nodes_splits": np.array([4], np.float32),
        "leaf_weights": np.array([1, 2], np.float32),
    }
    numbers = {
        "tree_roots": [0],
        "nodes_featureids": [1],
        "nodes_truenodeids": [0],
        "nodes_trueleafs": [1],
        "nodes_falsenodeids": [1],
        "nodes_falseleafs": [1],
        "leaf_targetids": [0, 0],
    }
    node = onnx.helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml")
    for name, values in tensors.items():
        node.attribute.append(
            onnx.helper.make_attribute(name, onnx.numpy_helper.from_array(values, name))
        )
    for name, ids in numbers.items():
        node.attribute.append(onnx.helper.make_attribute(name, ids))
    rows = tree_rows(node, 2, np.random.default_rng(0))
    below, above = (np.nextafter(np.float32(4), np.float32(side)) for side in (0, 8))
    assert sorted(rows[:, 1].tolist()) == [float(below), 4.0, float(above)]


def test_attributes_that_fit_nothing_give_no_rows() -> None:
    node = onnx.helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    assert tree_rows(node, 3, np.random.default_rng(0)).shape == (0, 3)
