"""Models whose inputs and outputs are called otherwise, or stand in another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxshare
from onnxshare.errors import SamplesError, UsageError

_HEAD = '<ir_version: 8, opset_import: ["": 17]> '
_DIFFERENCE = "{d = Sub(a, b) y = Tanh(d)}"
A = "g(float[N,3] a, float[N,3] b) => (float[N,3] y) " + _DIFFERENCE
TWO = "g(float[N,3] a, float[N,3] b) => (float[N,3] y, float[N,3] d) " + _DIFFERENCE
RENAMED = "g(float[N,3] p, float[N,3] q) => (float[N,3] a) {y = Sub(p, q) a = Tanh(y)}"
RIGHT = {"map_input": {"a": "p", "b": "q"}, "map_output": {"y": "a"}}

CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "inputs in another order": (
        A,
        "g(float[N,3] b, float[N,3] a) => (float[N,3] y) " + _DIFFERENCE,
        {},
        "identical",
    ),
    "outputs in another order": (
        TWO,
        "g(float[N,3] a, float[N,3] b) => (float[N,3] d, float[N,3] y) " + _DIFFERENCE,
        {},
        "identical",
    ),
    "an input that nothing uses": (
        "g(float[N,3] a, float[N,3] b, float[N,3] c) => (float[N,3] y) {u = Abs(c) "
        + _DIFFERENCE[1:],
        A,
        {},
        "identical",
    ),
    "an input that B uses": (
        A,
        "g(float[N,3] a, float[N,3] b, float[N,3] c) => (float[N,3] y) {d = Sum(a, b, c) "
        "y = Tanh(d)}",
        {},
        "not run",
    ),
    "other names": (A, RENAMED, {}, "not run"),
    "other names that are mapped": (A, RENAMED, RIGHT, "identical"),
    "names mapped the wrong way round": (
        A,
        RENAMED,
        RIGHT | {"map_input": {"a": "q", "b": "p"}},
        "different",
    ),
    "names that change places": (
        TWO,
        TWO,
        {"map_input": {"a": "b", "b": "a"}, "outputs": ["d"]},
        "different",
    ),
    "an output more": (A, TWO, {}, "not run"),
    "an output more that nobody asks for": (A, TWO, {"outputs": ["y"]}, "identical"),
    "another type": (
        A,
        A.replace("float[N,3] b", "double[N,3] b")
        .replace("Sub(a, b)", "Sub(a, c)")
        .replace("{d", "{c = Cast<to=1>(b) d"),
        {},
        "different",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_which_inputs_and_outputs_stand_for_each_other(name: str) -> None:
    a, b, options, verdict = CASES[name]
    one, other = (parser.parse_model(_HEAD + text) for text in (a, b))
    found = onnxshare.compare(one, other, provider="cpu", **options)
    assert found.verdict == verdict, found.reason


@pytest.mark.parametrize(
    "options",
    [{"outputs": ["z"]}, {"map_input": {"a": "z"}}, {"map_output": {"z": "y"}}],
    ids=str,
)
def test_names_of_nothing(options: dict[str, Any]) -> None:
    model = parser.parse_model(_HEAD + A)
    with pytest.raises(UsageError, match=r"no (in|out)put 'z'"):
        onnxshare.compare(model, model, **options)


@pytest.mark.parametrize("kind", ["missing", "cut short", "unsafe", "there"])
def test_equal_files_whose_weights_may_not_be_read(tmp_path: Path, kind: str) -> None:
    model = parser.parse_model(_HEAD + "g(float[N,64] x) => (float[N,64] y) {y = MatMul(x, w)}")
    weight = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    model.graph.initializer.append(weight)
    onnx.save(
        model, tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    data = tmp_path / "w"
    if kind == "cut short":
        data.write_bytes(data.read_bytes()[:-4])
    elif kind != "there":
        data.unlink()
    if kind == "unsafe":
        data.symlink_to("/dev/zero")
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    found = onnxshare.compare(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.verdict == ("identical" if kind == "there" else "not run"), found.reason
    with pytest.raises(SamplesError, match="no such file"):
        onnxshare.compare(tmp_path / "a.onnx", tmp_path / "b.onnx", samples=tmp_path / "no.npz")
