from __future__ import annotations

import ctypes
import os

import pytest

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime import providers


def test_the_cpu_always_works() -> None:
    provider = providers.choose("cpu")
    assert (provider.name, provider.label) == ("CPUExecutionProvider", "CPU")
    assert provider.session_argument == [("CPUExecutionProvider", {})]
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
    (name, options), fallback = provider.session_argument
    assert name == "CUDAExecutionProvider"
    assert options["use_tf32"] == "0"
    assert fallback == ("CPUExecutionProvider", {})


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert providers._ask_driver() == ("", "no NVIDIA driver")


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
    assert providers._ask_driver() == (device, problem)


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


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives() -> None:
    import numpy as np
    from onnx import TensorProto, helper

    from onnxshare.runtime.session import run_model

    device, problem = providers.probe_cuda()
    if problem:
        pytest.skip(f"CUDA does not work here: {problem}")
    assert device
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "square",
        [info("x", TensorProto.FLOAT, [64, 64])],
        [info("y", TensorProto.FLOAT, [64, 64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = run_model(model, {"x": x}, provider="cuda")["y"]
    # TensorFloat-32 would be wrong by about 1e-2 here.
    np.testing.assert_allclose(y, x.astype(np.float64) @ x, atol=1e-4)
