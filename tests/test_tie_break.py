"""Double precision takes nothing back that it did not look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxshare.comparison import Comparison
from onnxshare.inputs import Samples
from onnxshare.runtime.run_limits import RunLimits
from onnxshare.validate import compare
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]


def against(a: onnx.ModelProto, b: onnx.ModelProto, samples: Samples | None) -> Comparison:
    return compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True), samples=samples)


def product(factor: float) -> onnx.ModelProto:
    """x · w, with the first row of w times a factor."""
    weight = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    weight[0] *= np.float32(factor)
    nodes = [node("MatMul", "x w", "y")]
    return model(nodes, {"x": ["n", 16]}, ["y"], [numpy_helper.from_array(weight, "w")])


@pytest.mark.parametrize("place", [3, 5, 20, 30])
def test_the_samples_that_differ_are_among_those_it_looks_at(place: int) -> None:
    """Only one sample feeds the row that differs, and it is none of six in equal steps."""
    values = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    values[:, 0] = 0
    values[place, 0] = 1
    found = against(product(1), product(1 + 5e-5), Samples({"x": values}))
    assert found.verdict == "different", found.reason
    assert found.outputs[0].worst is not None
    assert 1 < found.outputs[0].worst < 100  # so little that double precision is asked


def by_height(step: float) -> onnx.ModelProto:
    """The mean of each channel, and `step` for each row of the image beyond 64."""
    stored: dict[str, Array] = {
        "two": np.array(2, np.int64),
        "usual": np.array(64, np.float32),
        "step": np.array(step, np.float32),
    }
    nodes = [
        node("ReduceMean", "x", "mean", axes=[2, 3], keepdims=0),
        node("Shape", "x", "sizes"),
        node("Gather", "sizes two", "height"),
        node("Cast", "height", "real", to=TensorProto.FLOAT),
        node("Sub", "real usual", "beyond"),
        node("Mul", "beyond step", "more"),
        node("Add", "mean more", "y"),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    return model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], tensors)


def test_what_differs_at_other_sizes_is_looked_at_there() -> None:
    found = against(by_height(0), by_height(1e-4), None)
    assert found.verdict == "different", found.reason
    assert found.reason.startswith("at other sizes")
    assert found.outputs[0].worst is not None
    assert 1 < found.outputs[0].worst < 100
