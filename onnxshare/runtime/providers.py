"""Where models run: finds out what really works, instead of what ONNX Runtime lists.

`onnxruntime.get_available_providers()` names every provider that was compiled in, GPU or not,
and a session whose provider cannot start silently becomes a CPU session. So the driver is asked
first, and then a one-node session must run with the fallback to the CPU forbidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime.onnx_runtime import import_runtime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

#: No provider of ONNX Runtime's: onnx's own evaluator, slow and in double precision if asked.
REFERENCE = "ReferenceEvaluator"
_SUFFIX = "ExecutionProvider"

#: Settings under which CUDA's results compare with the CPU's: no TensorFloat-32 (10 bits of
#: mantissa), and no search that picks another kernel, with another rounding, on every run.
CUDA_OPTIONS: Mapping[str, str] = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "prefer_nhwc": "0",
}

_CUDA_ERROR_NO_DEVICE = 100

#: Seconds in which a provider must have started; the first time, CUDA's libraries are slow.
_TO_TRY = 120.0


@dataclass(frozen=True)
class Provider:
    """One way to run a model, known to work: ONNX Runtime's name, such as `CUDAExecutionProvider`,
    one plain line for the user, such as `CPU: no NVIDIA driver`, and the provider's options."""

    name: str
    label: str
    options: Mapping[str, str] = field(default_factory=dict)


def choose(request: str = "auto") -> Provider:
    """Return the provider that was requested, once it has proved to work.

    Args:
        request: `auto` (CUDA where it works, else the CPU), `cuda`, `cpu`, or the name of an
            ONNX Runtime provider with or without its ending `ExecutionProvider`.

    Raises:
        RuntimeFailure: the provider was requested by name and does not work here.
        UsageError: there is no such provider, or one was named and ONNX Runtime is missing.
    """
    wanted = request.strip().lower().removesuffix(_SUFFIX.lower())
    if wanted == "cpu":
        return Provider(CPU, "CPU")
    if wanted in ("auto", "cuda"):
        device, problem = probe_cuda()
        if not problem:
            return Provider(CUDA, f"CUDA ({device})", CUDA_OPTIONS)
        if wanted == "auto":
            return Provider(CPU, f"CPU: {problem}")
        raise RuntimeFailure(f"--provider {request}: {problem}", "use --provider auto or cpu")
    return _named(request, wanted)


@functools.cache
def probe_cuda() -> tuple[str, str]:
    """Find out, once per process, whether CUDA really works: the device as text and an empty
    string, or an empty string and why it does not."""
    with quiet():
        device, problem = ask_driver()
    if problem:
        return "", problem
    problem = try_provider(CUDA, CUDA_OPTIONS)
    return ("", f"ONNX Runtime cannot use the GPU: {problem}") if problem else (device, "")


def preload(provider: str) -> None:
    """Load NVIDIA's libraries, if CUDA is to be used, from where their Python packages put them."""
    if provider == CUDA:
        # Distributions of other makers may lack it.
        with quiet(), contextlib.suppress(Exception):
            import_runtime().preload_dlls()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what native libraries print on stdout and stderr nowhere, for as long as it lasts."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    saved: list[tuple[int, int]] = []
    try:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                with contextlib.suppress(OSError):
                    saved.append((descriptor, os.dup(descriptor)))
                    os.dup2(nowhere, descriptor)
            os.close(nowhere)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)


def first_line(error: BaseException) -> str:
    """Return ONNX Runtime's message in one line, without its prefix of codes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.endswith("for the following indices") and len(lines) > 1:
        text = f"{text}: {lines[1]}"
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    # "/build/file.cc:729 void function(arguments) what the user needs"
    text = re.sub(r"(^|(?<=: ))/\S+:\d+ .*?\) (?=\S)", "", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _named(request: str, wanted: str) -> Provider:
    available = import_runtime().get_available_providers()
    for name in available:
        if name.lower().removesuffix(_SUFFIX.lower()) == wanted:
            problem = try_provider(name)
            if problem:
                raise RuntimeFailure(
                    f"--provider {request}: does not work here: {problem}",
                    "use --provider auto or cpu",
                )
            return Provider(name, name.removesuffix(_SUFFIX))
    names = ", ".join(name.removesuffix(_SUFFIX) for name in available)
    raise UsageError(
        f"--provider {request}: this ONNX Runtime has no such provider",
        f"choose auto, cuda, cpu or one of {names}",
    )


def ask_driver() -> tuple[str, str]:
    """Ask NVIDIA's driver for its first device: (device, "") or ("", problem)."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        status = int(driver.cuInit(0))
        if status == _CUDA_ERROR_NO_DEVICE:
            return "", "the NVIDIA driver sees no GPU"
        if status:
            return "", f"the NVIDIA driver does not start (cuInit returns {status})"
        count, version = ctypes.c_int(0), ctypes.c_int(0)
        name = ctypes.create_string_buffer(256)
        if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
            return "", "the NVIDIA driver sees no GPU"
        driver.cuDeviceGetName(name, len(name), 0)
        driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return "", "no NVIDIA driver"
    major, minor = version.value // 1000, version.value % 1000 // 10
    driver_version = f"driver {_driver_version()}".strip()
    return f"{name.value.decode(errors='replace')}, {driver_version} for CUDA {major}.{minor}", ""


def _driver_version() -> str:
    """The version of NVIDIA's driver, as its management library tells it; empty if it does not."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0:
            found = library.nvmlSystemGetDriverVersion(text, len(text)) == 0
            library.nvmlShutdown()
            return text.value.decode(errors="replace") if found else ""
    return ""


def try_provider(provider: str, options: Mapping[str, str] | None = None) -> str:
    """Run a small model on a provider, given by ONNX Runtime's name for it, in another process:
    libraries that do not fit together may crash it. Why that does not work; empty if it does."""
    from onnxshare.runtime.worker_process import ChildProcess

    header = {"op": "try", "provider": provider, "options": dict(options or {})}
    child = None
    try:
        child = ChildProcess(None)
        answer, _ = child.ask(header, seconds=_TO_TRY, what="start with")
        return str(answer["problem"])
    except RuntimeFailure as failure:
        return failure.cause
    finally:
        if child is not None:
            child.stop()


def try_session(provider: str, options: Mapping[str, str]) -> str:
    """Run one convolution with the CPU forbidden; return what went wrong, or an empty string."""
    import numpy as np
    import onnx.parser

    try:
        onnxruntime = import_runtime()
    except UsageError as error:
        return error.cause
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime was built without {provider.removesuffix(_SUFFIX)}"
    preload(provider)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if provider != CPU:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    ones = np.ones((1, 1, 3, 3), dtype=np.float32)
    try:
        session: Any = onnxruntime.InferenceSession(
            onnx.parser.parse_model(_CONVOLUTION).SerializeToString(),
            settings,
            providers=[(provider, dict(options))],
            enable_fallback=0,
        )
        if provider not in session.get_providers():
            return "its libraries (CUDA, cuDNN) cannot be loaded"
        (result,) = session.run(None, {"x": ones, "w": ones})
    except Exception as error:
        return first_line(error)
    return "" if float(result.item()) == 9.0 else "it computes wrong results"


#: What is run to try a provider.
_CONVOLUTION = """<ir_version: 8, opset_import: ["": 13], producer_name: "onnxshare">
probe (float[1,1,3,3] x, float[1,1,3,3] w) => (float[1,1,1,1] y) { y = Conv(x, w) }"""
