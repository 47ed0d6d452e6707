"""Finds out whether a provider really works: a model of one node runs in another process, with the
fallback to the CPU forbidden, because libraries that do not fit together may crash it.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict, dataclass
from typing import Any

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime.gpu_drivers import ask_driver, vulkan_adapters
from onnxshare.runtime.onnx_runtime import first_line, import_runtime, package, quiet
from onnxshare.runtime.provider_session import plugged_in, plugins, preload, start
from onnxshare.runtime.provider_table import CPU, PLAIN, SUFFIX, GpuProvider, Way, gpu_provider

#: Seconds in which a provider must have started; the first time, CUDA's libraries are slow.
_TO_TRY = 120.0

#: A provider of which nothing is known: on any device.
_ANY = Way(hardware=False)

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
    return "" if package() == known.package else plugins().get(known.name, "")


def is_installed(known: GpuProvider) -> bool:
    """Whether something here may bring a provider; ONNX Runtime is not imported to find out."""
    return package() == known.package or bool(library_of(known))


def first_way(known: GpuProvider) -> tuple[Way, Probe]:
    """The first of a provider's ways that works, or its first one with the reason why it does not;
    others than the first only where something installed may bring the provider."""
    first = probe(known, 0)
    if not first.problem or not is_installed(known):
        return known.ways[0], first
    for place, way in enumerate(known.ways[1:], 1):
        found = probe(known, place)
        if not found.problem:
            return way, found
    return known.ways[0], first


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


def other_providers() -> list[str]:
    """ONNX Runtime's providers, and those of installed plug-ins, that are not in the table.

    Raises:
        UsageError: ONNX Runtime is not installed, or cannot be imported.
    """
    with quiet():
        names = (*import_runtime().get_available_providers(), *plugins())
    return [name for name in dict.fromkeys(names) if gpu_provider(name) is None]


def probe_other(provider: str) -> Probe:
    """Try a provider that is not in the table, on any device."""
    return try_provider(provider, _ANY, plugins().get(provider, ""))


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
    known = gpu_provider(provider) is not None and (provider != _WEBGPU or sys.platform == "darwin")
    return Probe(hardware=way.hardware if known else None)


#: What is run to try a provider.
_CONVOLUTION = """<ir_version: 8, opset_import: ["": 13], producer_name: "onnxshare">
probe (float[1,1,3,3] x, float[1,1,3,3] w) => (float[1,1,1,1] y) { y = Conv(x, w) }"""
