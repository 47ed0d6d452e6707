"""Finds out whether a provider really works: a model of one node runs in another process, with the
fallback to the CPU forbidden, because libraries that do not fit together may crash it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime.gpu_drivers import ask_driver, vulkan_adapters
from onnxshare.runtime.onnx_runtime import first_line, import_runtime, package, quiet
from onnxshare.runtime.provider_table import CPU, CUDA, PLAIN, SUFFIX, GpuProvider, Way

#: Seconds in which a provider must have started; the first time, CUDA's libraries are slow.
_TO_TRY = 120.0

_WEBGPU = "WebGpuExecutionProvider"


@dataclass(frozen=True)
class Probe:
    """What came of trying a provider: why it does not work, or an empty string; the device as text,
    where it is known; and whether that is a GPU, None where it is not known."""

    problem: str = ""
    device: str = ""
    hardware: bool | None = None


def library_of(known: GpuProvider) -> str:
    """The library of the plug-in that adds a provider to the ONNX Runtime that is installed; empty
    if there is no such plug-in here, or if ONNX Runtime has the provider itself."""
    if not known.plugin or package() == known.package:
        return ""
    if importlib.util.find_spec(known.plugin) is None:
        return ""
    with contextlib.suppress(Exception):  # another project's package
        return str(importlib.import_module(known.plugin).get_library_path())
    return ""


def is_installed(known: GpuProvider) -> bool:
    """Whether something here may bring a provider; nothing is imported to find that out."""
    return package() == known.package or bool(library_of(known))


@functools.cache
def probe(known: GpuProvider, place: int) -> Probe:
    """Try one of a GPU provider's ways, once per process."""
    way = known.ways[place]
    device = ""
    if known.nvidia:
        with quiet():
            device, problem = ask_driver()
        if problem:
            return Probe(problem)
    found = try_provider(known.name, way, library_of(known))
    return Probe(found.problem, found.device or device, found.hardware or bool(device))


def try_provider(provider: str, way: Way = PLAIN, library: str = "") -> Probe:
    """Run a small model on a provider, given by ONNX Runtime's name, in another process."""
    from onnxshare.runtime.worker_process import ChildProcess

    header = {"op": "try", "provider": provider, "way": asdict(way), "library": library}
    child = None
    try:
        child = ChildProcess(None, environment=way.environment)
        answer, _ = child.ask(header, seconds=_TO_TRY, what="start with")
        return Probe(**answer["probe"])
    except RuntimeFailure as failure:
        return Probe(failure.cause)
    finally:
        if child is not None:
            child.stop()


def try_session(provider: str, way: Way, library: str) -> Probe:
    """Run one convolution with the CPU forbidden, in this process."""
    import numpy as np
    import onnx.parser

    short = provider.removesuffix(SUFFIX)
    try:
        onnxruntime = import_runtime()
        devices = plugged_in(provider, library, way.hardware)
    except (UsageError, RuntimeFailure) as error:
        return Probe(error.cause)
    if not library and provider not in onnxruntime.get_available_providers():
        return Probe(f"this ONNX Runtime was built without {short}")
    preload(provider)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if provider != CPU:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    ones = np.ones((1, 1, 3, 3), dtype=np.float32)
    model = onnx.parser.parse_model(_CONVOLUTION).SerializeToString()
    try:
        session = start(model, settings, provider, way.options, devices, alone=True)
        if provider not in session.get_providers():
            return Probe("its libraries (CUDA, cuDNN) cannot be loaded")
        (result,) = session.run(None, {"x": ones, "w": ones})
    except Exception as error:
        return Probe(first_line(error))
    if float(result.item()) != 9.0:
        return Probe("it computes wrong results")
    return _described(provider, way, devices)


def start(
    model: bytes,
    options: Any,
    provider: str,
    provider_options: Mapping[str, str],
    devices: list[Any],
    *,
    alone: bool = False,
) -> Any:
    """An `InferenceSession` on a provider: on devices of a plug-in, or by its name; what it lacks
    runs on the CPU unless it is `alone`. Raises what ONNX Runtime raises."""
    session = import_runtime().InferenceSession
    if devices:
        options.add_provider_for_devices(devices, dict(provider_options))
        return session(model, options)
    chain = [(provider, dict(provider_options))]
    if provider != CPU and not alone:
        chain.append((CPU, {}))
    return session(model, options, providers=chain, enable_fallback=0)


def plugged_in(provider: str, library: str, hardware: bool = True) -> list[Any]:
    """The device on which a plug-in's provider is to run, in a list, after the plug-in's library
    was registered with ONNX Runtime; empty where there is no library.

    Raises:
        RuntimeFailure: the library cannot be registered, or finds no GPU.
    """
    if not library:
        return []
    onnxruntime = import_runtime()
    if library not in _registered:
        try:
            with quiet():
                onnxruntime.register_execution_provider_library(f"onnxshare:{provider}", library)
        except Exception as error:
            raise RuntimeFailure(f"its plug-in cannot be used: {first_line(error)}") from error
        _registered.add(library)
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    kind = onnxruntime.OrtHardwareDeviceType.GPU
    found.sort(key=lambda device: device.device.type != kind)
    if not found or (hardware and found[0].device.type != kind):
        raise RuntimeFailure("its plug-in finds no GPU")
    return found[:1]


_registered: set[str] = set()


def preload(provider: str) -> None:
    """Load NVIDIA's libraries, if CUDA is to be used, from where their Python packages put them."""
    if provider == CUDA:
        # Distributions of other makers may lack it.
        with quiet(), contextlib.suppress(Exception):
            import_runtime().preload_dlls()


def _described(provider: str, way: Way, devices: list[Any]) -> Probe:
    """The device that a provider has just run on, as far as ONNX Runtime and Vulkan tell."""
    if provider == _WEBGPU and sys.platform == "linux":
        adapters = [found for found in vulkan_adapters() if found.software != way.hardware]
        if not adapters:
            return Probe("no GPU that Vulkan can use" if way.hardware else "no adapter of Vulkan's")
        return Probe(device=str(adapters[0]), hardware=way.hardware)
    for item in devices:
        told = {**item.ep_metadata, **item.device.metadata}
        name = told.get("Description") or told.get("FULL_DEVICE_NAME") or item.device.vendor
        kind = item.device.type.name
        return Probe(device=f"{name}, {kind}", hardware=kind == "GPU")
    # An adapter that Vulkan does not know may be software, too: on Windows, Direct3D has one.
    return Probe(hardware=way.hardware if provider != _WEBGPU or sys.platform == "darwin" else None)


#: What is run to try a provider.
_CONVOLUTION = """<ir_version: 8, opset_import: ["": 13], producer_name: "onnxshare">
probe (float[1,1,3,3] x, float[1,1,3,3] w) => (float[1,1,1,1] y) { y = Conv(x, w) }"""
