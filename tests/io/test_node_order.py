"""Nodes out of topological order are sorted; ONNX Runtime, which sorts for itself, is the judge."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import info, model, node, tensor

HEAD = [
    node("Conv", "x k", "c"),
    node("Relu", "c", "m"),
    node("Flatten", "m", "f"),
    node("Gemm", "f w", "g"),
    node("Abs", "g", "h"),
    node("Add", "g h", "y"),
]


def head(order: list[int]) -> onnx.ModelProto:
    """A small network, its nodes in another order."""
    constants = [tensor("k", 4, 3, 3, 3), tensor("w", 64, 5)]
    built = model([HEAD[at] for at in order], {"x": ["n", 3, 6, 6]}, ["y"], constants)
    built.graph.output[0].CopyFrom(info("y", ["n", 5]))
    return built


def branches() -> onnx.ModelProto:
    """An If before what its branches read, out of order inside as well."""
    nodes = [node("Neg", "t", "o"), node("Abs", "h", "t")]
    then = helper.make_graph(nodes, "then", [], [info("o", None)])
    other = helper.make_graph([node("Relu", "h", "p")], "other", [], [info("p", None)])
    made = [node("If", "c", "y", then_branch=then, else_branch=other), node("Exp", "x", "h")]
    return model(made, [info("x", [1, 4]), info("c", [], TensorProto.BOOL)], ["y"])


def ran(built: onnx.ModelProto) -> np.ndarray:
    """What ONNX Runtime makes of a model."""
    session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    return np.asarray(session.run(None, feeds)[0])


SHUFFLED = [random.Random(seed).sample(range(6), 6) for seed in range(3)]


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [0, 2, 1, 3, 4, 5], *SHUFFLED])
def test_a_shuffled_network_is_rewritten_and_written_in_order(order: list[int]) -> None:
    built = head(order)
    given = built.SerializeToString()
    result = onnxshare.rewrite(built, "fc-to-conv")
    assert result.passed
    assert ["not in topological order" in text for text in result.warnings] == [True]
    assert built.SerializeToString() == given
    onnx.checker.check_model(result.model)
    assert "Gemm" not in {made.op_type for made in result.model.graph.node}
    np.testing.assert_allclose(ran(result.model), ran(built), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("order", "expected"),
    [([0, 2, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]), ([0, 1, 2, 3, 5, 4], [0, 1, 2, 3, 4, 5])],
)
def test_the_rest_keeps_its_order(order: list[int], expected: list[int]) -> None:
    nodes = onnxshare.load(head(order)).skeleton.graph.node
    assert [made.name for made in nodes] == [HEAD[at].name for at in expected]


def test_a_node_waits_for_what_its_branches_read() -> None:
    report = onnxshare.inspect(branches().SerializeToString())
    assert [row.op_type for row in report.nodes][:2] == ["Exp", "If"]
    assert "not in topological order" in report.warnings[0]


def test_functions_are_sorted_too() -> None:
    body = [node("Relu", "t", "b"), node("Abs", "a", "t")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    built = model([helper.make_node("F", ["x"], ["y"], domain="f")], {"x": [1, 4]}, ["y"])
    built.functions.append(helper.make_function("f", "F", ["a"], ["b"], body, opsets))
    built.opset_import.append(opsets[1])
    assert [row.op_type for row in onnxshare.inspect(built).nodes] == ["Abs", "Relu"]


def test_a_long_chain_the_wrong_way_round() -> None:
    """Longer than the stack of Python."""
    names = ["x", *(f"t{at}" for at in range(5000)), "y"]
    chain = [node("Relu", *pair) for pair in pairwise(names)]
    loaded = onnxshare.load(model(chain[::-1], {"x": [1]}, ["y"]))
    assert list(loaded.skeleton.graph.node) == chain
