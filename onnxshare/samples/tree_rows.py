"""Rows that go through every node of a tree ensemble, just at its thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxshare.io.tensors import Array, read

#: Nodes, at most, whose thresholds are tried.
_MOST = 4096

#: Whether the first branch is taken below the threshold; other questions say nothing of the rest.
_BELOW = {"BRANCH_LEQ": True, "BRANCH_LT": True, "BRANCH_GT": False, "BRANCH_GTE": False}

#: The questions of TreeEnsemble, by their numbers.
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@dataclass(frozen=True)
class _Question:
    """A node that is not a leaf: the feature, the threshold, how they are compared, and the nodes
    that follow (keys that no node has are leaves)."""

    feature: int
    threshold: float
    mode: str
    yes: Any
    no: Any


def tree_rows(
    node: onnx.NodeProto, features: int, random: np.random.Generator, apart: float = 0.0
) -> Array:
    """Make rows that reach the nodes of a TreeEnsemble, TreeEnsembleClassifier or
    TreeEnsembleRegressor: three for each, at its threshold and next to it on either side.

    Args:
        node: the tree ensemble.
        features: the numbers in a row.
        random: decides what a path leaves open.
        apart: how far all numbers are from thresholds, as a share of the largest; rounding turns
            nothing over then.

    Returns:
        The rows, in random order, as float32; none of a node whose attributes fit nothing.
    """
    try:
        questions, roots = _questions(node)
    except (IndexError, KeyError, ValueError):
        return np.zeros((0, features), np.float32)
    known = [(q.feature, q.threshold) for q in questions.values() if q.feature < features]
    pools: dict[int, list[float]] = {}
    for feature, threshold in known:
        pools.setdefault(feature, []).append(threshold)
    rows = []
    paths = list(_paths(questions, roots))
    for place in random.permutation(len(paths))[:_MOST]:
        question, low, high = paths[place]
        row = np.zeros(features, np.float32)
        for feature, pool in pools.items():
            row[feature] = _between(
                low.get(feature, -np.inf), high.get(feature, np.inf), random.choice(pool)
            )
        if question.feature < features:
            at = np.float32(question.threshold)
            for value in (at, np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.inf)):
                row[question.feature] = value
                rows.append(row.copy())
    found = np.array(rows, np.float32).reshape(-1, features)
    if apart:
        step = apart * np.abs(found).max(axis=0, initial=0.0)
        found = found + step * (random.integers(0, 2, found.shape) * 2 - 1)
    return found[random.permutation(len(found))].astype(np.float32)


def _between(low: float, high: float, value: float) -> float:
    """The value, if it is between the limits, else another one that is."""
    if low < value <= high:
        return value
    if np.isfinite(low) and np.isfinite(high):
        return (low + high) / 2
    return high - abs(high) / 8 if np.isfinite(high) else low + abs(low) / 8 + 1e-3


def _paths(
    questions: dict[Any, _Question], roots: list[Any]
) -> Iterator[tuple[_Question, dict[int, float], dict[int, float]]]:
    """Every node that can be reached, with what the features before it must be above and below."""
    left: list[tuple[Any, dict[int, float], dict[int, float]]] = [(root, {}, {}) for root in roots]
    seen = set()
    while left:
        key, low, high = left.pop()
        question = questions.get(key)
        if question is None or key in seen:
            continue
        seen.add(key)
        feature, threshold = question.feature, question.threshold
        if low.get(feature, -np.inf) >= high.get(feature, np.inf):
            continue
        yield question, low, high
        below = high | {feature: min(threshold, high.get(feature, np.inf))}
        above = low | {feature: max(threshold, low.get(feature, -np.inf))}
        branches = [(low, below), (above, high)]
        if question.mode not in _BELOW:
            branches = [(low, high)] * 2
        elif not _BELOW[question.mode]:
            branches.reverse()
        left += [(question.yes, *branches[0]), (question.no, *branches[1])]


def _questions(node: onnx.NodeProto) -> tuple[dict[Any, _Question], list[Any]]:
    """The questions of all trees by key, and the keys of the first ones."""
    given: dict[str, Any] = {item.name: _value(item) for item in node.attribute}
    if node.op_type == "TreeEnsemble":
        return _of_splits(given)
    trees, ids = given["nodes_treeids"], given["nodes_nodeids"]
    values = given.get("nodes_values")
    if values is None:
        values = given["nodes_values_as_tensor"]
    questions: dict[Any, _Question] = {}
    roots: dict[int, Any] = {}
    for place, (tree, key) in enumerate(zip(trees, ids, strict=True)):
        roots.setdefault(tree, (tree, key))
        mode = given["nodes_modes"][place].decode()
        if mode != "LEAF":
            follow = [(tree, given[f"nodes_{name}nodeids"][place]) for name in ("true", "false")]
            feature = int(given["nodes_featureids"][place])
            questions[tree, key] = _Question(feature, float(values[place]), mode, *follow)
    return questions, list(roots.values())


def _of_splits(given: dict[str, Any]) -> tuple[dict[Any, _Question], list[Any]]:
    """Those of a TreeEnsemble, whose nodes are all questions."""
    questions: dict[Any, _Question] = {}
    for place, feature in enumerate(given["nodes_featureids"]):
        follow = [
            ("leaf", place, name) if leaf else given[f"nodes_{name}nodeids"][place]
            for name, leaf in (
                ("true", given["nodes_trueleafs"][place]),
                ("false", given["nodes_falseleafs"][place]),
            )
        ]
        number = int(given["nodes_modes"][place])
        mode = _MODES[number] if number < len(_MODES) else "BRANCH_MEMBER"
        split = float(given["nodes_splits"][place])
        questions[place] = _Question(int(feature), split, mode, *follow)
    return questions, list(given["tree_roots"])


def _value(item: onnx.AttributeProto) -> Any:
    if item.type == onnx.AttributeProto.TENSOR:
        return read(item.t).ravel()
    return onnx.helper.get_attribute_value(item)
