from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime import ort_engine, providers, worker_process
from onnxshare.runtime.ort_engine import Engine, Settings


def test_the_cpu_always_works() -> None:
    provider = providers.choose("cpu")
    assert (provider.name, provider.label) == ("CPUExecutionProvider", "CPU")
    assert not provider.options
    assert providers.choose("CPUExecutionProvider") == provider


def test_auto_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "probe_cuda", lambda: ("", "no NVIDIA driver"))
    provider = providers.choose("auto")
    assert provider.name == "CPUExecutionProvider"
    assert provider.label == "CPU: no NVIDIA driver"


def test_cuda_is_never_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "probe_cuda", lambda: ("", "no NVIDIA driver"))
    for request in ("cuda", "CUDAExecutionProvider"):
        with pytest.raises(RuntimeFailure, match="no NVIDIA driver") as caught:
            providers.choose(request)
        assert "cpu" in caught.value.remedy


def test_cuda_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "probe_cuda", lambda: ("NVIDIA H100, driver for CUDA 13.0", ""))
    provider = providers.choose("auto")
    assert provider.label == "CUDA (NVIDIA H100, driver for CUDA 13.0)"
    assert provider.name == "CUDAExecutionProvider"
    assert provider.options["use_tf32"] == "0"


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert providers.ask_driver() == ("", "no NVIDIA driver")


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
    assert providers.ask_driver() == (device, problem)


def test_an_unknown_provider_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no such provider"):
        providers.choose("nonsense")


def test_the_probe_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    providers.probe_cuda.cache_clear()
    _, problem = providers.probe_cuda()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    # Without a GPU there must be a reason; with one there must be none.
    assert bool(problem) == (providers.choose("auto").name == "CPUExecutionProvider")


def test_quiet_silences_native_code_and_gives_the_streams_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    print("before")
    with providers.quiet():
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
        ("", "ValueError"),
    ],
)
def test_one_line_of_a_long_message(message: str, line: str) -> None:
    assert providers.first_line(ValueError(message)) == line


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
    assert providers._driver_version() == "580.65.06"
    monkeypatch.setattr(Library, "nvmlInit_v2", lambda self: 9)
    assert providers._driver_version() == ""


@pytest.mark.parametrize("driver", ["works", ""], ids=["libraries are missing", "a crash"])
def test_a_driver_alone_is_not_cuda(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    """Where CUDA's libraries are missing or crash, as on a machine without a GPU."""
    if driver and not providers.ask_driver()[1]:
        pytest.skip("there is a GPU")
    monkeypatch.setattr(providers, "ask_driver", lambda: ("Test GPU", ""))
    if not driver:
        crash = RuntimeFailure("ONNX Runtime crashes on it (SIGSEGV)")

        def ask(*_: object, **__: object) -> None:
            raise crash

        monkeypatch.setattr(worker_process.ChildProcess, "ask", ask)
    providers.probe_cuda.cache_clear()
    try:
        device, problem = providers.probe_cuda()
    finally:
        providers.probe_cuda.cache_clear()
    assert device == ""
    assert problem.startswith("ONNX Runtime cannot use the GPU: ")
    assert ("SIGSEGV" in problem) == (not driver)


def test_a_provider_is_tried_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert providers.try_provider("CPUExecutionProvider") == ""
    assert providers.try_provider("NoExecutionProvider") == "this ONNX Runtime was built without No"


def test_cuda_computes_as_it_can_be_compared() -> None:
    wanted = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0"}
    assert dict(providers.CUDA_OPTIONS) == wanted
    ort_engine = Engine()
    cuda = Settings("CUDAExecutionProvider", "CUDA", wanted)
    assert Settings("CPUExecutionProvider", "CPU", {}).providers == [("CPUExecutionProvider", {})]
    assert cuda.providers == [("CUDAExecutionProvider", wanted), ("CPUExecutionProvider", {})]
    options = ort_engine._options({}, cuda)
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


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
