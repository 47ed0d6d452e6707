from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxshare.comparison import inner_tensors
from onnxshare.comparison.compare import compare
from onnxshare.samples.samples import Samples
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]
RANDOM = np.random.default_rng(0)
W = {f"w{index}": RANDOM.standard_normal((12, 12)).astype(np.float32) / 3 for index in range(40)}
SAMPLES = Samples({"x": RANDOM.standard_normal((20, 12)).astype(np.float32)})


def chain(weights: Mapping[str, Array], *, length: int = 6, rename: str = "") -> onnx.ModelProto:
    """x → MatMul, Tanh, MatMul, Tanh … → y; `rename` is put before the names inside."""
    nodes, last = [], "x"
    for index in range(length):
        nodes.append(node("MatMul", f"{last} w{index}", f"{rename}m{index}"))
        last = f"{rename}t{index}" if index < length - 1 else "y"
        nodes.append(node("Tanh", f"{rename}m{index}", last))
    stored = [numpy_helper.from_array(weights[f"w{index}"], f"w{index}") for index in range(length)]
    return model(nodes, {"x": ["n", 12]}, ["y"], stored)


def spoilt(index: int) -> dict[str, Array]:
    wrong = W[f"w{index}"].copy()
    wrong[:, 3] *= 1.1
    return {**W, f"w{index}": wrong}


@pytest.mark.parametrize("index", [0, 3, 5])
def test_the_first_tensor_that_differs_is_found(index: int) -> None:
    result = compare(chain(W), chain(spoilt(index)), samples=SAMPLES, provider="cpu")
    assert result.verdict == "different"
    found = result.first_divergence
    assert found is not None
    assert (found.tensor, found.is_output) == (f"m{index}", False)
    assert (found.node_a, found.node_b) == (f"MatMul:m{index}",) * 2
    assert found.error is not None
    assert found.tolerance is not None
    assert found.error > found.tolerance
    assert result.to_dict()["first_divergence"]["tensor"] == f"m{index}"


@pytest.mark.parametrize("at_once", [1, 7])
def test_a_long_graph_is_looked_at_a_few_tensors_at_a_time(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner_tensors, "_AT_ONCE", at_once)
    groups: list[int] = []
    right = inner_tensors._excesses

    def spy(pair: Any, names: Any, samples: Any) -> Any:
        groups.append(len(names))
        return right(pair, names, samples)

    monkeypatch.setattr(inner_tensors, "_excesses", spy)
    a, b = chain(W, length=12), chain(spoilt(5), length=12)
    found = compare(a, b, samples=SAMPLES, provider="cpu").first_divergence
    assert found is not None
    assert found.tensor == "m5"
    # m5 is the eleventh tensor, and nothing after its group is run.
    assert groups == ([1] * 11 if at_once == 1 else [7, 7])


def test_an_error_that_dies_out_and_comes_back_is_found_where_it_starts() -> None:
    """A ReLU that is 0 throughout hides the first difference from the tensors right after it."""

    def net(scale: float, tail: float) -> onnx.ModelProto:
        nodes = [
            node("Mul", "x s", "first"),
            node("Sub", "first big", "low"),
            node("Relu", "low", "dead"),
            node("Add", "dead x", "again"),
            node("Mul", "again t", "y"),
        ]
        stored = {"s": scale, "big": 1e6, "t": tail}
        tensors = [numpy_helper.from_array(np.array([v], np.float32), k) for k, v in stored.items()]
        return model(nodes, {"x": ["n", 12]}, ["y"], tensors)

    found = compare(net(2, 1), net(3, 1.5), samples=SAMPLES, provider="cpu").first_divergence
    assert found is not None
    assert found.tensor == "first"


def test_without_a_shared_tensor_inside_they_part_at_the_output() -> None:
    result = compare(chain(W), chain(spoilt(2), rename="b."), samples=SAMPLES, provider="cpu")
    found = result.first_divergence
    assert found is not None
    assert (found.tensor, found.is_output) == ("y", True)


def test_models_that_agree_part_nowhere() -> None:
    assert compare(chain(W), chain(W, rename="b."), provider="cpu").first_divergence is None


def test_another_shape_is_a_difference_too() -> None:
    other = chain(W)
    turn = node("Transpose", "t1", "turned", perm=[1, 0])
    back = node("Transpose", "turned", "t1b", perm=[1, 0])
    other.graph.node[4].input[0] = "t1b"
    other.graph.node.insert(4, turn)
    other.graph.node.insert(5, back)
    a = chain(spoilt(4))
    shared = node("Transpose", "t1", "turned", perm=[0, 1])
    a.graph.node.insert(4, shared)
    found = compare(a, other, samples=SAMPLES, provider="cpu").first_divergence
    assert found is not None
    assert found.tensor == "turned"
    assert "has shape" in found.problem
