"""What targets read, and how they are written."""

from __future__ import annotations

import onnxruntime
import pytest
from onnx import helper

from onnxshare.checks.targets import ONNXRUNTIME, outside, parse_target
from tests.builders import model, node, run


@pytest.mark.parametrize(
    ("text", "ir_version", "opsets", "broken"),
    [
        ("opset <= 17", 8, {"": 17}, []),
        ("opset <= 17", 8, {"": 18}, ["ai.onnx"]),
        ("opset<=17", 8, {"": 18}, ["ai.onnx"]),
        ("opset >= 11", 8, {"": 10}, ["ai.onnx"]),
        ("opset == 13", 8, {"": 14}, ["ai.onnx"]),
        ("ai.onnx <= 17", 8, {"": 18}, ["ai.onnx"]),
        ("ir_version <= 8", 9, {"": 17}, ["ir_version"]),
        ("ai.onnx.ml <= 3", 8, {"": 17}, []),  # a model without that domain
        ("ai.onnx.ml <= 3", 8, {"": 17, "ai.onnx.ml": 4}, ["ai.onnx.ml"]),
        ("opset <= 17, ir_version <= 8", 9, {"": 18}, ["ai.onnx", "ir_version"]),
        ("onnxruntime 1.17", 9, {"": 20}, []),
        ("onnxruntime 1.17", 10, {"": 21}, ["ai.onnx", "ir_version"]),
        ("onnxruntime==1.17.3", 10, {"": 20}, ["ir_version"]),
        ("onnxruntime 1.20", 8, {"": 7}, []),
        ("onnxruntime 1.20", 8, {"": 6}, ["ai.onnx"]),  # ONNX Runtime begins with opset 7
    ],
)
def test_what_lies_outside(
    text: str, ir_version: int, opsets: dict[str, int], broken: list[str]
) -> None:
    found = outside(parse_target(text), ir_version, opsets)
    assert [bound.name for bound, _ in found] == broken


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected a target"),
        ("opset < 17", "expected a target"),
        ("tensorrt 10", "expected a target"),
        ("onnxruntime 0.5", "is not known here"),
        ("onnxruntime 9.0", "is not known here"),
        # A domain that no model has would bound nothing.
        ("opsets <= 17", "did you mean opset?"),
        ("Opset <= 17", "did you mean opset?"),
        ("opset_version <= 17", "did you mean opset?"),
        ("ir <= 8", "did you mean ir_version?"),
        ("IR_VERSION <= 8", "did you mean ir_version?"),
    ],
)
def test_what_is_no_target(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_target(text)


def test_the_row_of_the_installed_onnx_runtime() -> None:
    major, minor, *_ = onnxruntime.__version__.split(".")
    version = f"{major}.{minor}"
    if version not in ONNXRUNTIME:
        pytest.skip(f"ONNX Runtime {version} is newer than the table")
    opset, _, ir_version = ONNXRUNTIME[version]

    def loads(opset: int, ir_version: int) -> bool:
        built = model([node("Tanh", "x", "y")], {"x": [2]}, ["y"], ir_version=ir_version)
        built.opset_import[0].CopyFrom(helper.make_opsetid("", opset))
        try:
            run(built, x=[0.0, 0.0])  # type: ignore[arg-type]
        except Exception as error:
            return "INVALID_ARGUMENT" in str(error) and "Unexpected input" in str(error)
        return True

    assert loads(opset, 7)
    assert not loads(opset + 1, 7)
    assert loads(13, ir_version)
    assert not loads(13, ir_version + 1)
