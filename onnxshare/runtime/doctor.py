"""What this installation consists of, and what of it works."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata

from onnxshare.errors import UsageError
from onnxshare.runtime import gpu_drivers, onnx_runtime, provider_probe
from onnxshare.runtime.provider_table import GPU_PROVIDERS, SUFFIX, GpuProvider
from onnxshare.support import plugins
from onnxshare.support.dataclass_tools import Result
from onnxshare.version import __version__

#: Packages whose version matters when something goes wrong.
PACKAGES = ("onnx", "numpy", "protobuf", "ml_dtypes", "typer", "rich")

#: Packages that onnxshare uses where they are installed, and what for.
OPTIONAL = {"pillow": "images as samples, PNG pictures", "pandas": "to_dataframe()"}

#: Further providers that need an NVIDIA driver.
_NVIDIA = ("TensorrtExecutionProvider",)


@dataclass(frozen=True)
class ProviderState:
    """An ONNX Runtime provider.

    Attributes:
        name: as ONNX Runtime spells it.
        works: whether models really run on it.
        detail: the device that it runs on, or why it does not work.
    """

    name: str
    works: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis(Result):
    """An installation and its state.

    Attributes:
        onnxshare: its version.
        python: the interpreter and its version.
        platform: the system and machine.
        packages: versions by name; None where one is not installed.
        optional: the same of packages that onnxshare can do without.
        runtimes: the distributions that provide ONNX Runtime, with their versions.
        nvidia: the first NVIDIA GPU and its driver, or why there is none.
        plugins: what other packages add, as `GROUP: NAME`.
        providers: the GPU providers that exist on this system, then what else ONNX Runtime offers.
        problems: what is broken, each in one line with its remedy.
    """

    SHOWN = (
        *("onnxshare", "python", "platform", "packages", "optional", "runtimes", "nvidia"),
        *("plugins", "providers", "problems", "healthy"),
    )

    onnxshare: str
    python: str
    platform: str
    packages: dict[str, str | None]
    optional: dict[str, str | None]
    runtimes: dict[str, str]
    nvidia: str
    plugins: tuple[str, ...]
    providers: tuple[ProviderState, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems


def examine() -> Diagnosis:
    """Look at what is installed and try every provider of ONNX Runtime."""
    runtimes = onnx_runtime.distributions()
    packages = {name: _version(name) for name in PACKAGES}
    with onnx_runtime.quiet():
        device, no_gpu = gpu_drivers.ask_driver()
    states, problems = _providers(no_gpu)
    if len(runtimes) > 1:
        first, *others = runtimes
        problems.insert(
            0,
            f"{' and '.join(runtimes)} are installed over each other; to keep {first}: "
            f"pip uninstall -y {' '.join(others)} && {onnx_runtime.reinstall(first)}",
        )
    missing = [name for name in ("onnx", "numpy") if packages[name] is None]
    problems += [f"{name} is not installed: pip install {name}" for name in missing]
    return Diagnosis(
        onnxshare=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.release()}, {platform.machine()}",
        packages=packages,
        optional={name: _version(name) for name in OPTIONAL},
        runtimes=runtimes,
        nvidia=device or no_gpu,
        plugins=tuple(
            f"{group}: {entry.name}"
            for group in plugins.GROUPS
            for entry in plugins.installed(group)
        ),
        providers=tuple(states),
        problems=tuple(problems),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _providers(no_gpu: str) -> tuple[list[ProviderState], list[str]]:
    """The state of every provider, and what keeps ONNX Runtime from working at all; `no_gpu` says
    why there is no NVIDIA GPU, and is empty if there is one."""
    try:
        others = provider_probe.other_providers()
    except UsageError as error:
        return [], [str(error)] if onnx_runtime.distributions() else []
    states = [_gpu(known, no_gpu) for known in GPU_PROVIDERS if sys.platform in known.systems]
    states += [_state(name, no_gpu) for name in others]
    if not any(state.name == "CPU" and state.works for state in states):
        reason = next((s.detail for s in states if s.name == "CPU"), "it offers none")
        remedy = onnx_runtime.reinstall(next(iter(onnx_runtime.distributions()), "onnxruntime"))
        return states, [f"ONNX Runtime's CPU provider does not work: {reason}; {remedy}"]
    return states, []


def _gpu(known: GpuProvider, no_gpu: str) -> ProviderState:
    """The state of a GPU provider: of its first way that works, or why the first does not."""
    if known.nvidia and no_gpu:
        return ProviderState(known.title, False, no_gpu)
    if not provider_probe.is_installed(known):
        return ProviderState(known.title, False, f"not installed ({known.install})")
    _, found = provider_probe.first_way(known)
    return ProviderState(known.title, not found.problem, found.problem or found.device)


def _state(name: str, no_gpu: str) -> ProviderState:
    short = name.removesuffix(SUFFIX)
    if no_gpu and name in _NVIDIA:
        return ProviderState(short, False, no_gpu)
    found = provider_probe.probe_other(name)
    return ProviderState(short, not found.problem, found.problem or found.device)
