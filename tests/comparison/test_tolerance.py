"""Approximations that people allow, judged by NumPy: `keep` and `max_error`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.cli.main import run
from onnxshare.errors import UsageError
from onnxshare.samples.samples import Samples

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((600, 16)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((16, 4)).astype(np.float32)
KINDS: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
}


def scores(
    weight: Any = WEIGHT, kind: int = TensorProto.FLOAT, *, labels: bool = False
) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", kind, ["n", 4])]
    if labels:
        nodes.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("x", kind, ["n", 16])],
        outputs,
        [numpy_helper.from_array(np.asarray(weight).astype(KINDS[kind]), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def moved(size: float) -> Any:
    return WEIGHT + size * np.random.default_rng(1).standard_normal(WEIGHT.shape)


@pytest.mark.parametrize(
    ("size", "kept", "error"),
    [
        pytest.param(0.001, True, True, id="little"),
        pytest.param(0.02, False, False, id="more: 98.5 % of the classes, 2 %"),
        pytest.param(0.5, False, False, id="much"),
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_an_error_that_is_allowed(size: float, kept: bool, error: bool, labels: bool) -> None:
    weight = moved(size).astype(np.float32)
    a, b = X @ WEIGHT, X @ weight
    share = (a.argmax(axis=1) == b.argmax(axis=1)).mean()
    # 600 samples: at least 99 % with 95 % confidence takes 99.7 %.
    assert share > 0.997 if kept else share < 0.99
    assert bool(np.sqrt(((a - b) ** 2).sum() / (a**2).sum()) < 0.01) is error
    pair = scores(labels=labels), scores(weight, labels=labels)
    found = onnxshare.compare(*pair, samples=Samples({"x": X}), keep=0.99, provider="cpu")
    assert found.verdict == ("approximate" if kept else "different"), found.reason
    options: dict[str, Any] = {"outputs": ["y"]} if labels else {}
    found = onnxshare.compare(*pair, samples=Samples({"x": X}), max_error=0.01, **options)
    assert found.verdict == ("approximate" if error else "different"), found.reason
    assert onnxshare.compare(*pair, samples=Samples({"x": X})).verdict == "different"


def brain_float() -> onnx.ModelProto:
    """Inputs and outputs in bfloat16, which ONNX Runtime does not multiply on the CPU."""
    proto = scores()
    proto.graph.node[0].input[0] = "h"
    proto.graph.node[0].output[0] = "z"
    proto.graph.node.insert(0, helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT))
    proto.graph.node.append(helper.make_node("Cast", ["z"], ["y"], to=TensorProto.BFLOAT16))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    return proto


@pytest.mark.parametrize(
    "short", [scores(kind=TensorProto.FLOAT16), brain_float()], ids=["float16", "bfloat16"]
)
def test_short_floats_are_cast(short: onnx.ModelProto) -> None:
    for pair in ((scores(), short), (short, scores())):
        found = onnxshare.compare(*pair, samples=Samples({"x": X}), keep=0.98, max_error=0.01)
        assert found.verdict == "approximate", found.reason
        assert onnxshare.compare(*pair, samples=Samples({"x": X})).verdict == "different"


def test_too_few_samples_do_not_show_it() -> None:
    """20 of 20 is at least 0.05 ** (1 / 20) = 86.1 %; 99 % takes log 0.05 / log 0.99 = 299."""
    few = Samples({"x": X[:20]})
    found = onnxshare.compare(scores(), scores(moved(0.001)), samples=few, keep=0.99)
    assert found.verdict == "different"
    assert "at least 86.09%" in found.reason
    assert "299 if no answer changes" in found.reason


@pytest.mark.parametrize(
    "options", [{"keep": 0.9}, {"max_error": 0.1}, {"keep": 1.5, "samples": Samples({"x": X})}]
)
def test_an_allowance_that_cannot_be_judged(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        onnxshare.compare(scores(), scores(moved(0.1)), **options)


def test_the_commands_exit_codes(tmp_path: Path) -> None:
    a, b, samples = (str(tmp_path / name) for name in ("a.onnx", "b.onnx", "x.npz"))
    onnx.save(scores(), a)
    onnx.save(scores(moved(0.001)), b)
    np.savez(samples, x=X)
    for words, code in (
        (["--keep", "99%", "--samples", samples], 0),
        (["--max-error", "0.001%", "--samples", samples], 1),
        (["--keep", "99%"], 2),
    ):
        assert run(["compare", a, b, *words]) == code, words
