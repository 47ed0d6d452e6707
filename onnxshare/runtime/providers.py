"""Where models run: the provider that was requested, once it has proved to work.

`onnxruntime.get_available_providers()` names every provider that was compiled in, GPU or not, and a
session whose provider cannot start silently becomes a CPU session. So the driver is asked first,
and then a one-node session must run with the fallback to the CPU forbidden (`provider_probe.py`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime import provider_probe
from onnxshare.runtime.provider_probe import Probe
from onnxshare.runtime.provider_session import plugins
from onnxshare.runtime.provider_table import (
    CPU,
    CUDA,
    GPU_PROVIDERS,
    SUFFIX,
    GpuProvider,
    Way,
    gpu_provider,
)
from onnxshare.support.option_text import option


def _asked(request: str) -> str:
    return option(f"--provider {shlex.quote(request)}")


def _else() -> str:
    return f"use {option('--provider auto')} or cpu"


@dataclass(frozen=True)
class Provider:
    """One way to run a model, known to work.

    Attributes:
        name: ONNX Runtime's, such as `CUDAExecutionProvider`.
        label: one plain line for the user, such as `CPU: no NVIDIA driver`; it names the adapter
            and the driver of a GPU, and whether that is the CPU after all.
        options: the provider's options.
        environment: variables that the process gets in which it runs.
        library: that of the plug-in that brings the provider; empty if ONNX Runtime has it.
        hardware: whether it computes on a GPU; None where that is not known.
        caveat: what cannot be switched off and may move results; empty if there is no such thing.
    """

    name: str
    label: str
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    library: str = ""
    hardware: bool | None = False
    caveat: str = ""

    @property
    def described(self) -> str:
        """The label, and what to bear in mind about results."""
        return "; ".join(filter(None, (self.label, self.caveat)))


def choose(request: str = "auto") -> Provider:
    """Return the provider that was requested, once it has proved to work.

    Args:
        request: `auto` (the first GPU that works, else the CPU), `cpu`, a GPU provider such as
            `cuda` or `webgpu`, or the name of an ONNX Runtime provider with or without its ending
            `ExecutionProvider`. An adapter in software, or a CPU device, is used only where its
            provider is named.

    Raises:
        RuntimeFailure: the provider was requested by name and does not work here.
        UsageError: there is no such provider, or one was named and ONNX Runtime is missing.
    """
    wanted = request.strip().lower().removesuffix(SUFFIX.lower())
    if wanted == "cpu":
        return Provider(CPU, "CPU")
    if wanted == "auto":
        return _first_gpu()
    known = gpu_provider(wanted)
    if known is None:
        return _other(request, wanted)
    if sys.platform not in known.systems:
        raise RuntimeFailure(f"{_asked(request)}: {known.title} is not for this system", _else())
    way, found = provider_probe.first_way(known)
    if found.problem:
        installed = known.name == CUDA or provider_probe.is_installed(known)
        remedy = _else() if installed else f"{known.install}, or {_else()}"
        raise RuntimeFailure(f"{_asked(request)}: {found.problem}", remedy)
    return _provider(known, way, found)


def candidates() -> list[GpuProvider]:
    """The GPU providers that something installed may bring; CUDA, whose absence is worth a word,
    always."""
    here = [known for known in GPU_PROVIDERS if sys.platform in known.systems]
    return [known for known in here if known.name == CUDA or provider_probe.is_installed(known)]


def _first_gpu() -> Provider:
    problems: dict[str, None] = {}
    for known in candidates():
        found = provider_probe.probe(known, 0)
        if not found.problem and found.hardware:
            return _provider(known, known.ways[0], found)
        problem = found.problem or "its adapter may be software"
        problems[problem if known.nvidia else f"{known.title}: {problem}"] = None
    return Provider(CPU, f"CPU: {'; '.join(problems)}" if problems else "CPU")


def _provider(known: GpuProvider, way: Way, found: Probe) -> Provider:
    device = found.device or ("GPU" if found.hardware else "its adapter is not known")
    return Provider(
        known.name,
        f"{known.title} ({device})",
        way.options,
        way.environment,
        provider_probe.library_of(known),
        found.hardware,
        known.caveat,
    )


def _other(request: str, wanted: str) -> Provider:
    """A provider that is not in the table: ONNX Runtime's own, or an installed plug-in's."""
    others = {name.removesuffix(SUFFIX): name for name in provider_probe.other_providers()}
    for title, name in others.items():
        if title.lower() == wanted:
            found = provider_probe.probe_other(name)
            if found.problem:
                raise RuntimeFailure(f"{_asked(request)}: {found.problem}", _else())
            label = f"{title} ({found.device})".removesuffix(" ()")
            library = plugins().get(name, "")
            return Provider(name, label, library=library, hardware=found.hardware)
    names = [known.title for known in GPU_PROVIDERS]
    raise UsageError(
        f"{_asked(request)}: there is no such provider",
        f"choose auto or one of {', '.join((*names, *others))}",
    )
