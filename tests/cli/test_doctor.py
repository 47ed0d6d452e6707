"""`onnxshare doctor`: what it finds, here and on machines that are broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from onnxshare.runtime import doctor, gpu_drivers, onnx_runtime, provider_probe
from onnxshare.runtime.provider_probe import Probe
from onnxshare.runtime.provider_table import CPU, CUDA
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


def leave_trace(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a distribution when another was installed over it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text("onnxruntime\n")
    (info / "RECORD").write_text("onnxruntime/__init__.py,,\n")


@pytest.mark.parametrize("name", ["onnxruntime-openvino", "onnxruntime-rocm", "a-fork"])
def test_two_distributions_over_each_other(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_trace(tmp_path, name, "1.24.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = json.loads(cli("doctor", "--format", "json").stdout)["runtimes"]
    assert len(found) == 2
    assert found[name] == "1.24.1"
    ran = cli("doctor")
    assert ran.returncode == 1
    first, second = found
    assert f"{first} and {second} are installed over each other" in ran.stdout
    remedy = f"pip uninstall -y {second} && pip install --force-reinstall --no-deps {first}"
    assert remedy in ran.stdout


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        (("NVIDIA H200, driver 580 for CUDA 13.0", ""), "NVIDIA H200, driver 580 for CUDA 13.0"),
        (("", "no NVIDIA driver"), "no NVIDIA driver"),
    ],
    ids=["a GPU", "none"],
)
def test_one_line_on_the_gpu(
    driver: tuple[str, str], line: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_drivers, "ask_driver", lambda: driver)
    monkeypatch.setattr(provider_probe, "try_provider", lambda *_: Probe())
    monkeypatch.setattr(provider_probe, "probe", lambda *_: Probe())
    ran = cli("doctor")
    assert ran.returncode == 0
    assert [
        row.split(maxsplit=2)[2] for row in ran.stdout.splitlines() if row.startswith("NVIDIA GPU")
    ] == [line]


def test_a_runtime_that_cannot_be_imported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = cli("doctor")
    assert ran.returncode == 1
    (name,) = onnx_runtime.distributions()
    assert f"{name} cannot be imported: " in ran.stdout
    assert f"pip install --force-reinstall --no-deps {name}" in ran.stdout
    assert "Everything" not in ran.stdout


def test_a_cpu_that_does_not_work(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Probe:
        return Probe("it computes wrong results")

    monkeypatch.setattr(provider_probe, "try_provider", broken)
    ran = cli("doctor", "--format", "json")
    assert ran.returncode == 1
    found = json.loads(ran.stdout)
    assert found["healthy"] is False
    assert "computes wrong results" in found["problems"][0]


def test_a_gpu_that_does_not_work_breaks_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    names = [CUDA, "WebGpuExecutionProvider", "TensorrtExecutionProvider", CPU]
    software = Probe("", "SwiftShader, in software", False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(gpu_drivers, "ask_driver", lambda: ("", "no NVIDIA driver"))
    monkeypatch.setattr(provider_probe, "is_installed", lambda known: known.title == "WebGPU")
    monkeypatch.setattr(
        provider_probe, "probe", lambda known, place: software if place else Probe("no GPU")
    )
    found = json.loads(cli("doctor", "--format", "json").stdout)
    assert found["healthy"] is True
    states = {state["name"]: (state["works"], state["detail"]) for state in found["providers"]}
    assert states["CUDA"] == states["Tensorrt"] == (False, "no NVIDIA driver")
    assert states["WebGPU"] == (True, "SwiftShader, in software")
    assert states["CPU"] == (True, "")
    if sys.platform == "linux":
        assert states["ROCm"] == (False, "not installed (pip install onnxruntime-rocm)")
        assert list(states) == [
            *("CUDA", "TensorRT-RTX", "MIGraphX", "ROCm", "OpenVINO", "WebGPU"),
            *("Tensorrt", "CPU"),
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
