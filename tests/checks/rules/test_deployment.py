"""DP: what can be deployed; what crashes or hangs ONNX Runtime hides no other model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxshare.checks.rules import deployment
from tests.builders import model, node
from tests.checks.pairs import small


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


Cli = Callable[..., subprocess.CompletedProcess[str]]


def crashing() -> onnx.ModelProto:
    """The division of `tests.runtime.hostile.crash`, of constants: folded when it is loaded."""
    constants = [
        numpy_helper.from_array(np.array(-(2**31), np.int32), "smallest"),
        numpy_helper.from_array(np.array(-1, np.int32), "minus"),
    ]
    nodes = [
        node("Mod", "smallest minus", "d"),
        node("Cast", "d", "z", to=TensorProto.FLOAT),
        node("Add", "x z", "y"),
    ]
    return model(nodes, {"x": ["N", 3]}, ["y"], constants)


@pytest.mark.isolated
def test_a_model_that_crashes_or_hangs_onnx_runtime_does_not_hide_another(
    cli: Cli, tmp_path: Path
) -> None:
    onnx.save(crashing(), tmp_path / "crash.onnx")
    onnx.save(small(), tmp_path / "small.onnx")
    options = ("--isolated", "--select", "DP403", "--format", "concise")
    ran = cli("check", tmp_path, *options)
    assert ran.returncode == 1, ran.stderr
    (line, summary) = ran.stdout.splitlines()
    assert line.startswith(f"DP403  {tmp_path / 'crash.onnx'}  ONNX Runtime does not load it: ")
    assert summary == "2 models checked, 1 finding (DP403)"
    ran = cli("check", tmp_path / "small.onnx", *options, "--timeout", 0.001)
    assert (ran.returncode, "takes longer than 0.001 s" in ran.stdout) == (1, True)
