"""What the tests share: where models are, a net built by hand, and the command line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

# Before anything imports onnxruntime, which otherwise writes to the user's cache folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell's background job ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models run in this process, which is faster, but where a test is marked `isolated`."""
    if "isolated" not in request.keywords:
        from onnxshare.runtime import limits

        monkeypatch.setattr(limits, "DEFAULT", limits.RunLimits(in_process=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, or one process runs them while the others have nothing left to do."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests record as `summary`."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, figure in report.user_properties:
                if name == "summary":
                    terminalreporter.write_line(str(figure))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Models that other people made; only where ONNXSHARE_ZOO names the folder."""
    named = os.environ.get("ONNXSHARE_ZOO")
    if not named:
        pytest.skip("ONNXSHARE_ZOO is not set")
    folder = Path(named)
    assert folder.is_dir(), f"ONNXSHARE_ZOO={named} is not a folder"
    return folder


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The folder of the models that this project brings."""
    return ROOT / "models"


@pytest.fixture(scope="session")
def onnx_light() -> Path:
    """The `light_*` models in the installed onnx wheel."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not folder.is_dir():
        pytest.skip("this onnx package brings no light models")
    return folder


@pytest.fixture(scope="session")
def lenet() -> onnx.ModelProto:
    """LeNet-5, the common variant, with random weights: 61,706 parameters."""
    return _lenet()


@pytest.fixture
def lenet_path(lenet: onnx.ModelProto, tmp_path: Path) -> Path:
    """The same net as a file, alone in a temporary folder."""
    path = tmp_path / "lenet.onnx"
    onnx.save(lenet, path)
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `onnxshare ARGUMENTS...` in this process, which is faster than starting one."""
    from onnxshare.cli.main import run

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        capfd.readouterr()
        code = run(words)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return call


def _lenet() -> onnx.ModelProto:
    random = np.random.default_rng(5)
    shapes = {
        "c1.w": (6, 1, 5, 5),
        "c1.b": (6,),
        "c3.w": (16, 6, 5, 5),
        "c3.b": (16,),
        "f5.w": (120, 400),
        "f5.b": (120,),
        "f6.w": (84, 120),
        "f6.b": (84,),
        "out.w": (10, 84),
        "out.b": (10,),
    }
    weights = [
        numpy_helper.from_array(
            (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32), name
        )
        for name, shape in shapes.items()
    ]
    node = helper.make_node
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node("Conv", ["x", "c1.w", "c1.b"], ["c1"], name="C1"),
        node("Relu", ["c1"], ["r1"]),
        node("AveragePool", ["r1"], ["s2"], **pool),
        node("Conv", ["s2", "c3.w", "c3.b"], ["c3"], name="C3"),
        node("Relu", ["c3"], ["r3"]),
        node("AveragePool", ["r3"], ["s4"], **pool),
        node("Flatten", ["s4"], ["flat"]),
        node("Gemm", ["flat", "f5.w", "f5.b"], ["f5"], name="F5", transB=1),
        node("Relu", ["f5"], ["r5"]),
        node("Gemm", ["r5", "f6.w", "f6.b"], ["f6"], name="F6", transB=1),
        node("Relu", ["f6"], ["r6"]),
        node("Gemm", ["r6", "out.w", "out.b"], ["y"], name="OUT", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
