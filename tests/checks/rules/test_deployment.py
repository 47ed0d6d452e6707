"""The parts of the DP rules that models on disk do not reach one by one."""

from __future__ import annotations

import pytest

from onnxshare.checks.rules import deployment


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (("ai.onnx:*",), "ai.onnx:Relu", True),
        (("ai.onnx:*",), "ai.onnx.ml:Scaler", False),
        (("Relu", "Conv"), "ai.onnx:Relu", True),
        (("Relu",), "com.microsoft:Relu", False),
        (("*:*",), "com.microsoft:Gelu", True),
        # The last that matches decides.
        (("ai.onnx:*", "!Loop"), "ai.onnx:Loop", False),
        (("!Loop", "ai.onnx:*"), "ai.onnx:Loop", True),
        # Where all forbid, the rest is allowed; where one allows, it is not.
        (("!Loop", "!com.microsoft:*"), "ai.onnx:Relu", True),
        (("!Loop", "!com.microsoft:*"), "com.microsoft:Gelu", False),
        (("!Loop", "Relu"), "ai.onnx:Conv", False),
        (("relu",), "ai.onnx:Relu", False),
    ],
)
def test_patterns_of_operators(patterns: tuple[str, ...], name: str, allowed: bool) -> None:
    assert deployment._allowed(name, patterns) is allowed
