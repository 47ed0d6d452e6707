"""Rewritten tensors alone, where the outputs show too little."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.io.load import Model, load
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.samples import Samples
from rewrites.head_as_maps import fc_weights
from rewrites.proof.local_bound import LIMIT, prove_locally
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]
HERE = RunLimits(in_process=True)
ZEROS = Samples({"x": np.zeros((8, 3, 12, 12), np.float32)})


def net(bias: float = 0.0, end: str = "Identity", hidden: bool = False) -> onnx.ModelProto:
    """Conv, ReLU, pooling, one FC or two with a ReLU between, and an end."""
    random = np.random.default_rng(0)
    sizes = [4 * 6 * 6, 20, 5] if hidden else [4 * 6 * 6, 5]
    stored = {"k": random.standard_normal((4, 3, 3, 3)) / 5}
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "map", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "map", "t0"),
    ]
    last = "t0"
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        stored[f"w{index}"] = random.standard_normal((rows, columns)) / np.sqrt(rows)
        stored[f"b{index}"] = random.standard_normal(columns) + bias
        nodes.append(node("Gemm", f"{last} w{index} b{index}", f"h{index}"))
        last = f"h{index}"
        if index < len(sizes) - 2:
            nodes.append(node("Relu", last, f"a{index}"))
            last = f"a{index}"
    nodes.append(node(end, last, "y"))
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()]
    return model(nodes, {"x": ["n", 3, 12, 12]}, ["y"], tensors)


CASES = {
    "plain": net(),
    "a bias of a million": net(1e6),
    "a dead ReLU": net(-1e4, "Relu"),
    "two FCs": net(hidden=True),
    "two FCs and a softmax": net(end="Softmax", hidden=True),
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_show_nothing_are_made_up_for(name: str) -> None:
    result = onnxshare.rewrite(
        CASES[name], ["fc-to-conv"], samples=ZEROS, provider="cpu", run_limits=HERE
    )
    found = result.validation
    assert found is not None
    assert found.verdict == "equivalent", found.reason
    assert found.local is not None
    assert found.local.tensors == (2 if "two" in name else 1)
    assert found.local.worst <= LIMIT
    assert "random features" in found.reason
    assert result.to_dict()["validation"]["local"]["limit"] == LIMIT


def mixed_up(index: Array, shape: tuple[int, ...]) -> Array:
    """Channels taken for the last axis, in the weight and in what is said of it."""
    _, channels, *spatial = shape
    order = np.arange(channels * int(np.prod(spatial))).reshape(*spatial, channels)
    return np.ascontiguousarray(np.moveaxis(order, -1, 0)).reshape(-1)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_order_is_not_passed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxshare.analysis.heads.element_order.column_order", mixed_up)
    result = onnxshare.rewrite(
        CASES[name], ["fc-to-conv"], samples=ZEROS, provider="cpu", run_limits=HERE
    )
    assert not result.passed
    assert result.validation is not None
    assert result.validation.weights is not None
    assert result.validation.weights.moved > 0  # the claim holds, and is wrong
    local = result.validation.local
    assert local is not None
    assert local.worst > 400


def test_a_bias_left_out_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fc_weights.bias_of
    monkeypatch.setattr(
        "rewrites.head_as_maps.kernels.bias_of", lambda *a: right(*a) and (None, None)
    )
    result = onnxshare.rewrite(
        CASES["plain"], ["fc-to-conv"], samples=ZEROS, provider="cpu", run_limits=HERE
    )
    assert not result.passed


def test_the_way_back() -> None:
    there = onnxshare.rewrite(CASES["plain"], ["fc-to-conv"], provider="cpu", run_limits=HERE)
    back = onnxshare.rewrite(
        there.model, ["conv-to-fc"], samples=ZEROS, provider="cpu", run_limits=HERE
    )
    assert back.passed, back.validation


def test_live_inputs_need_no_made_up_features() -> None:
    result = onnxshare.rewrite(CASES["plain"], ["fc-to-conv"], provider="cpu", run_limits=HERE)
    assert result.validation is not None
    assert result.validation.local is None


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("features", [16, 400, 6000])
def test_the_bound_holds_for_sums_in_another_order(scale: float, features: int) -> None:
    """Against NumPy: two orders of the same sum, and the bound by the formula."""
    random = np.random.default_rng(features)
    weight = (random.standard_normal((features, 6)) * scale).astype(np.float32)
    order = random.permutation(features)

    def linear(permuted: bool) -> Model:
        stored: dict[str, Array] = {"w": weight[order] if permuted else weight}
        stored["b"] = np.ones(6, np.float32)
        nodes = [node("Gemm", "x w b", "h"), node("Identity", "h", "y")]
        if permuted:
            stored["order"] = order
            nodes = [
                node("Gather", "x order", "z", axis=1),
                node("Gemm", "z w b", "h"),
                node("Identity", "h", "y"),
            ]
        tensors = [numpy_helper.from_array(v, k) for k, v in stored.items()]
        return load(model(nodes, {"x": ["n", features]}, ["y"], tensors))

    proof = prove_locally(
        linear(False), linear(True), ["h"], provider="cpu", seed=0, run_limits=HERE
    )
    assert proof is not None
    assert proof.worst < LIMIT
    assert features == 16 or proof.worst > 0


def test_what_cannot_be_told_is_not_told() -> None:
    proto = CASES["plain"]
    same = load(proto)
    for tensors in (["c"], ["map"], ["nowhere"], []):
        found = prove_locally(same, same, tensors, provider="cpu", seed=0, run_limits=HERE)
        assert found is None
