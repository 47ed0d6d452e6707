"""`onnxshare doctor`: what it finds, here and on machines that are broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from subprocess import CompletedProcess
from typing import Any

import pytest

from onnxshare.runtime import doctor, providers
from onnxshare.version import __version__

Cli = Callable[..., CompletedProcess[str]]


def test_a_healthy_installation(cli: Cli) -> None:
    ran = cli("doctor", "--format", "json")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    assert found["healthy"] is True
    assert found["problems"] == []
    assert found["onnxshare"] == __version__
    assert found["packages"]["onnx"] == metadata.version("onnx")
    assert found["packages"]["numpy"] == metadata.version("numpy")
    (runtime,) = found["runtimes"].items()
    assert runtime[1] == metadata.version(runtime[0])
    states = {state["name"]: state for state in found["providers"]}
    assert states["CPU"]["works"] is True
    assert all(state["works"] or state["detail"] for state in states.values())


def test_the_report_names_everything(cli: Cli) -> None:
    ran = cli("doctor")
    assert (ran.returncode, ran.stderr) == (0, "")
    for part in ("onnxshare", "Python", "numpy", metadata.version("onnx"), "CPU", "works."):
        assert part in ran.stdout


def without(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    """As if exactly these distributions of ONNX Runtime were installed, and all else."""
    real = metadata.version

    def version(name: str) -> str:
        if name in doctor.RUNTIMES:
            if name.replace("-", "_") not in found:
                raise metadata.PackageNotFoundError(name)
            return found[name.replace("-", "_")]
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_two_distributions_over_each_other(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, onnxruntime="1.30.0", onnxruntime_gpu="1.31.1")
    ran = cli("doctor")
    assert ran.returncode == 1
    assert "onnxruntime and onnxruntime-gpu are installed over each other" in ran.stdout
    assert "pip uninstall onnxruntime onnxruntime-gpu" in ran.stdout
    assert json.loads(cli("doctor", "--format", "json").stdout)["runtimes"] == {
        "onnxruntime": "1.30.0",
        "onnxruntime-gpu": "1.31.1",
    }


def test_a_runtime_that_cannot_be_imported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = cli("doctor")
    assert ran.returncode == 1
    assert "ONNX Runtime cannot be imported" in ran.stdout
    assert "Everything" not in ran.stdout


def test_a_cpu_that_does_not_work(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        return "it computes wrong results"

    monkeypatch.setattr(providers, "try_provider", broken)
    ran = cli("doctor", "--format", "json")
    assert ran.returncode == 1
    found = json.loads(ran.stdout)
    assert found["healthy"] is False
    assert "computes wrong results" in found["problems"][0]


def test_a_gpu_that_does_not_work_breaks_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [providers.CUDA, providers.CPU]
    )
    monkeypatch.setattr(providers, "probe_cuda", lambda: ("", "no NVIDIA driver"))
    found = json.loads(cli("doctor", "--format", "json").stdout)
    assert found["healthy"] is True
    assert found["providers"] == [
        {"name": "CUDA", "works": False, "detail": "no NVIDIA driver"},
        {"name": "CPU", "works": True, "detail": ""},
    ]


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = doctor.examine()
    assert found.packages["numpy"] is None
    assert found.problems == ("numpy is not installed: pip install numpy",)
