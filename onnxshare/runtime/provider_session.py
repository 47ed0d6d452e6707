"""Starts ONNX Runtime's sessions on a provider, which it has itself or which a plug-in adds."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from onnxshare.errors import RuntimeFailure
from onnxshare.runtime.onnx_runtime import first_line, import_runtime, quiet
from onnxshare.runtime.provider_table import CPU, CUDA

#: How the modules of plug-ins begin; each says which providers it adds and where its library is.
_PLUGIN = "onnxruntime_ep_"


@functools.cache
def plugins() -> Mapping[str, str]:
    """The library of the plug-in for each provider that an installed plug-in adds."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules():
        if module.name.startswith(_PLUGIN):
            with contextlib.suppress(Exception):  # another project's package
                plugin = importlib.import_module(module.name)
                for name in plugin.get_ep_names():
                    found.setdefault(name, str(plugin.get_library_path()))
    return found


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
    _register(library)
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    kind = onnxruntime.OrtHardwareDeviceType.GPU
    found.sort(key=lambda device: device.device.type != kind)
    if not found or (hardware and found[0].device.type != kind):
        raise RuntimeFailure(f"its plug-in finds no {'GPU' if hardware else 'device'}")
    return found[:1]


@functools.cache
def _register(library: str) -> None:
    """Make a plug-in's library known to ONNX Runtime, once per process."""
    try:
        with quiet():
            import_runtime().register_execution_provider_library(f"onnxshare:{library}", library)
    except Exception as error:
        raise RuntimeFailure(f"its plug-in cannot be used: {first_line(error)}") from error


def preload(provider: str) -> None:
    """Load NVIDIA's libraries, if CUDA is to be used, from where their Python packages put them."""
    if provider == CUDA:
        # Distributions of other makers may lack it.
        with quiet(), contextlib.suppress(Exception):
            import_runtime().preload_dlls()
