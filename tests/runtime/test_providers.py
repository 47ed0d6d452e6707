from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime import (
    gpu_drivers,
    onnx_runtime,
    ort_engine,
    provider_probe,
    provider_session,
    providers,
    worker_process,
)
from onnxshare.runtime.ort_engine import Engine, Settings
from onnxshare.runtime.provider_probe import Probe
from onnxshare.runtime.provider_table import (
    CUDA_OPTIONS,
    GPU_PROVIDERS,
    GpuProvider,
    gpu_provider,
)

MIGRAPHX = next(known for known in GPU_PROVIDERS if known.title == "MIGraphX")


def test_the_cpu_always_works() -> None:
    provider = providers.choose("cpu")
    assert (provider.name, provider.label) == ("CPUExecutionProvider", "CPU")
    assert not provider.options
    assert providers.choose("CPUExecutionProvider") == provider


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], Probe]:
    """What trying a way of a provider is to find, by its title and place; CUDA alone is installed
    unless another is mentioned."""
    found: dict[tuple[str, int], Probe] = {("CUDA", 0): Probe("no NVIDIA driver")}

    def probe(known: GpuProvider, place: int) -> Probe:
        return found[known.title, place]

    def installed(known: GpuProvider) -> bool:
        return any(title == known.title for title, _ in found)

    monkeypatch.setattr(provider_probe, "probe", probe)
    monkeypatch.setattr(provider_probe, "is_installed", installed)
    monkeypatch.setattr(provider_probe, "library_of", lambda known: "")
    monkeypatch.setattr("sys.platform", "linux")
    return found


NO_DRIVER = Probe("no NVIDIA driver")
H100 = Probe("", "NVIDIA H100, driver 580 for CUDA 13.0", True)
RADEON = Probe("", "AMD Radeon, driver RADV 25.1", True)
SOFTWARE = Probe("", "SwiftShader Device, driver SwiftShader, in software", False)
NO_ADAPTER = Probe("its plug-in finds no GPU")


@pytest.mark.parametrize(
    ("found", "label"),
    [
        ({("CUDA", 0): NO_DRIVER}, "CPU: no NVIDIA driver"),
        ({("CUDA", 0): H100}, f"CUDA ({H100.device})"),
        ({("CUDA", 0): H100, ("WebGPU", 0): RADEON}, f"CUDA ({H100.device})"),
        ({("CUDA", 0): NO_DRIVER, ("WebGPU", 0): RADEON}, f"WebGPU ({RADEON.device})"),
        (
            {("CUDA", 0): NO_DRIVER, ("WebGPU", 0): NO_ADAPTER, ("WebGPU", 1): SOFTWARE},
            "CPU: no NVIDIA driver; WebGPU: its plug-in finds no GPU",
        ),
        (
            {("CUDA", 0): NO_DRIVER, ("WebGPU", 0): Probe(hardware=None)},
            "CPU: no NVIDIA driver; WebGPU: its adapter may be software",
        ),
        (
            {("CUDA", 0): NO_DRIVER, ("OpenVINO", 0): NO_ADAPTER, ("OpenVINO", 1): SOFTWARE},
            "CPU: no NVIDIA driver; OpenVINO: its plug-in finds no GPU",
        ),
    ],
    ids=["none", "CUDA", "CUDA first", "WebGPU", "software alone", "unknown", "a CPU device"],
)
def test_auto_takes_the_first_gpu_and_never_software(
    tried: dict[tuple[str, int], Probe], found: dict[tuple[str, int], Probe], label: str
) -> None:
    tried.clear()
    tried.update(found)
    assert providers.choose("auto").label == label


@pytest.mark.parametrize("request_", ["webgpu", "WebGpuExecutionProvider", "WebGPU"])
def test_software_where_its_provider_is_named(
    tried: dict[tuple[str, int], Probe], request_: str
) -> None:
    tried |= {("WebGPU", 0): NO_ADAPTER, ("WebGPU", 1): SOFTWARE}
    provider = providers.choose(request_)
    assert provider.label == f"WebGPU ({SOFTWARE.device})"
    assert provider.hardware is False
    assert provider.environment == {"ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
    assert provider.options == {"preferredLayout": "NCHW"}
    assert "approximate" in provider.described


def test_a_gpu_is_named_before_software(tried: dict[tuple[str, int], Probe]) -> None:
    tried |= {("WebGPU", 0): RADEON, ("WebGPU", 1): SOFTWARE}
    provider = providers.choose("webgpu")
    assert provider.hardware
    # Vulkan's loader hides drivers in software, so that none can be taken for this one.
    assert provider.environment == {"VK_LOADER_DRIVERS_DISABLE": "*lvp*,*swiftshader*"}


@pytest.mark.parametrize("request_", ["cuda", "CUDAExecutionProvider"])
def test_cuda_is_never_replaced_in_silence(
    tried: dict[tuple[str, int], Probe], request_: str
) -> None:
    with pytest.raises(RuntimeFailure, match="no NVIDIA driver") as caught:
        providers.choose(request_)
    assert caught.value.remedy == "use provider='auto' or cpu"


@pytest.mark.parametrize(
    ("request_", "system"), [("coreml", "linux"), ("cuda", "darwin"), ("directml", "linux")]
)
def test_a_provider_of_another_system(
    monkeypatch: pytest.MonkeyPatch, request_: str, system: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    with pytest.raises(RuntimeFailure, match="is not for this system") as caught:
        providers.choose(request_)
    assert caught.value.remedy == "use provider='auto' or cpu"


def test_how_to_install_one_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if provider_probe.is_installed(MIGRAPHX):
        pytest.skip("it is installed")
    with pytest.raises(RuntimeFailure, match="built without MIGraphX") as caught:
        providers.choose("migraphx")
    assert caught.value.remedy.startswith("pip install onnxruntime-migraphx, or ")


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ("cuda", "CUDAExecutionProvider"),
        ("WebGPU", "WebGpuExecutionProvider"),
        ("tensorrt-rtx", "NvTensorRTRTXExecutionProvider"),
        ("NvTensorRTRTX", "NvTensorRTRTXExecutionProvider"),
        ("directml", "DmlExecutionProvider"),
        ("dml", "DmlExecutionProvider"),
        ("CoreMLExecutionProvider", "CoreMLExecutionProvider"),
        ("migraphx", "MIGraphXExecutionProvider"),
        ("openvino", "OpenVINOExecutionProvider"),
        ("rocm", "ROCMExecutionProvider"),
    ],
)
def test_providers_by_their_names(request_: str, name: str) -> None:
    known = gpu_provider(request_)
    assert known is not None
    assert known.name == name


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_drivers.ask_driver() == ("", "no NVIDIA driver")


@pytest.mark.parametrize(
    ("status", "devices", "problem"),
    [
        (100, 0, "the NVIDIA driver sees no GPU"),
        (0, 0, "the NVIDIA driver sees no GPU"),
        (999, 0, "the NVIDIA driver does not start (cuInit returns 999)"),
        (0, 1, ""),
    ],
)
def test_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, status: int, devices: int, problem: str
) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return status

        def cuDeviceGetCount(self, count: object) -> int:
            count._obj.value = devices  # type: ignore[attr-defined]
            return 0

        def cuDeviceGetName(self, name: object, size: int, device: int) -> int:
            name.value = b"Test GPU"  # type: ignore[attr-defined]
            return 0

        def cuDriverGetVersion(self, version: object) -> int:
            version._obj.value = 12080  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    device = "" if problem else "Test GPU, driver for CUDA 12.8"
    assert gpu_drivers.ask_driver() == (device, problem)


def test_an_unknown_provider_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no such provider"):
        providers.choose("nonsense")


def test_quiet_silences_native_code_and_gives_the_streams_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("before")
    with onnx_runtime.quiet():
        os.write(1, b"noise")
        os.write(2, b"noise")
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : bad shape\nmore", "bad shape"),
        ("/src/file.cc:12 void f(int, const T&) the real words", "the real words"),
        ("Status Message: /a/b.h:3 ns::F::F(bool) sizes clash", "Status Message: sizes clash"),
        ("/src/a.cc:65 <lambda()> status == Good was false. No adapter.\nmore", "No adapter."),
        ("", "ValueError"),
    ],
)
def test_one_line_of_a_long_message(message: str, line: str) -> None:
    assert onnx_runtime.first_line(ValueError(message)) == line


def test_the_version_of_the_driver_is_told_where_its_library_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Library:
        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
            text.value = b"580.65.06"
            return 0

        def nvmlShutdown(self) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert gpu_drivers._driver_version() == "580.65.06"
    monkeypatch.setattr(Library, "nvmlInit_v2", lambda self: 9)
    assert gpu_drivers._driver_version() == ""


@pytest.mark.parametrize("driver", ["works", ""], ids=["libraries are missing", "a crash"])
def test_a_driver_alone_is_not_cuda(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    """Where CUDA's libraries are missing or crash, as on a machine without a GPU."""
    if driver and not gpu_drivers.ask_driver()[1]:
        pytest.skip("there is a GPU")
    monkeypatch.setattr(provider_probe, "ask_driver", lambda: ("Test GPU", ""))
    if not driver:
        crash = RuntimeFailure("ONNX Runtime crashes on it (SIGSEGV)")

        def ask(*_: object, **__: object) -> None:
            raise crash

        monkeypatch.setattr(worker_process.ChildProcess, "ask", ask)
    found = provider_probe.probe.__wrapped__(GPU_PROVIDERS[0], 0)
    assert found.problem
    assert ("SIGSEGV" in found.problem) == (not driver)


def test_the_probe_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    found = provider_probe.probe.__wrapped__(GPU_PROVIDERS[0], 0)
    assert capfd.readouterr() == ("", "")
    # Without a GPU there must be a reason; with one there must be a device.
    assert bool(found.problem) != bool(found.device)


def test_a_provider_is_tried_in_another_process() -> None:
    assert provider_probe.try_provider("CPUExecutionProvider").problem == ""
    problem = "this ONNX Runtime was built without No"
    assert provider_probe.try_provider("NoExecutionProvider").problem == problem


def test_a_plug_in_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no library: one line, from a process of its own."""
    library = tmp_path / "plugin.so"
    library.write_bytes(b"no library")
    found = provider_probe.try_provider("WebGpuExecutionProvider", library=str(library))
    assert found.problem.startswith("its plug-in cannot be used: ")
    assert "\n" not in found.problem


def test_a_plug_in_is_found_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if provider_probe.library_of(MIGRAPHX):
        pytest.skip("it is installed")
    package = tmp_path / "onnxruntime_ep_migraphx"
    package.mkdir()
    says = "def get_library_path(): return '/opt/plugin.so'\n"
    says += "def get_ep_names(): return ['MIGraphXExecutionProvider', 'OwnExecutionProvider']\n"
    (package / "__init__.py").write_text(says)
    monkeypatch.syspath_prepend(str(tmp_path))
    provider_session.plugins.cache_clear()
    assert provider_probe.library_of(MIGRAPHX) == "/opt/plugin.so"
    assert provider_probe.is_installed(MIGRAPHX)
    assert "OwnExecutionProvider" in provider_probe.other_providers()
    with pytest.raises(RuntimeFailure, match="its plug-in cannot be used") as caught:
        providers.choose("own")
    assert "provider='auto'" in caught.value.remedy
    (package / "__init__.py").write_text("raise OSError('broken')\n")
    monkeypatch.delitem(sys.modules, "onnxruntime_ep_migraphx")
    provider_session.plugins.cache_clear()
    assert provider_probe.library_of(MIGRAPHX) == ""
    provider_session.plugins.cache_clear()


def test_cuda_computes_as_it_can_be_compared() -> None:
    wanted = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0"}
    assert dict(CUDA_OPTIONS) == wanted
    options = Engine()._options({}, Settings("CUDAExecutionProvider", "CUDA", wanted))
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert options.use_deterministic_compute


@pytest.mark.parametrize("vulkan", ["", "broken"], ids=["none", "one that does not start"])
def test_no_adapters_without_vulkan(monkeypatch: pytest.MonkeyPatch, vulkan: str) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return Broken()

        def __call__(self, *_: object) -> int:
            return -9  # VK_ERROR_INCOMPATIBLE_DRIVER

    def library(name: str) -> Any:
        if not vulkan:
            raise OSError(name)
        return Broken()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert gpu_drivers.vulkan_adapters() == []


def test_nodes_on_the_cpu_are_listed_by_name(bundled: Path) -> None:
    """What ONNX Runtime says of a session on the CPU, where all of them are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = bundled / "lenet5.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {node.name for node in onnx.load(path).graph.node}
    found = ort_engine._on_cpu(session)
    assert "node_conv2d" in found
    assert set(found) <= names


def test_runs_with_bound_inputs_and_outputs(bundled: Path) -> None:
    import onnxruntime

    x = np.load(bundled / "test.npz")["image"][:3]
    session = onnxruntime.InferenceSession(
        bundled / "lenet5.onnx", providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {"image": x})
    names = [output.name for output in session.get_outputs()]
    binding = ort_engine.bound(session, names, {"image": x}, "cpu")()
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), expected)  # type: ignore[attr-defined]
