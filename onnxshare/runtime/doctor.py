"""What this installation consists of, and what of it works."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from onnxshare.runtime import providers
from onnxshare.support.dataclass_tools import Result
from onnxshare.version import __version__

#: Packages whose version matters when something goes wrong.
PACKAGES = ("onnx", "numpy", "protobuf", "ml_dtypes", "typer", "rich")

#: Distributions that all install the package `onnxruntime`, over each other.
RUNTIMES = (
    "onnxruntime onnxruntime-gpu onnxruntime-directml onnxruntime-openvino onnxruntime-qnn "
    "onnxruntime-silicon onnxruntime-training onnxruntime-training-cpu ort-nightly ort-nightly-gpu"
).split()


@dataclass(frozen=True)
class ProviderState:
    """An ONNX Runtime provider: whether models really run on it, and if not, why."""

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
        runtimes: the distributions of ONNX Runtime that are installed, with their versions.
        providers: what ONNX Runtime offers, the default one first.
        problems: what is broken, each in one line with its remedy.
    """

    SHOWN = (
        *("onnxshare", "python", "platform", "packages", "runtimes", "providers", "problems"),
        "healthy",
    )

    onnxshare: str
    python: str
    platform: str
    packages: dict[str, str | None]
    runtimes: dict[str, str]
    providers: tuple[ProviderState, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems


def examine() -> Diagnosis:
    """Look at what is installed and try every provider of ONNX Runtime."""
    runtimes = {name: version for name in RUNTIMES if (version := _version(name)) is not None}
    packages = {name: _version(name) for name in PACKAGES}
    states, problems = _providers()
    if len(runtimes) > 1:
        names = " and ".join(runtimes)
        problems.insert(
            0,
            f"{names} are installed over each other: pip uninstall {' '.join(runtimes)}, "
            "then install onnxshare again",
        )
    missing = [name for name in ("onnx", "numpy") if packages[name] is None]
    problems += [f"{name} is not installed: pip install {name}" for name in missing]
    return Diagnosis(
        onnxshare=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.release()}, {platform.machine()}",
        packages=packages,
        runtimes=runtimes,
        providers=tuple(states),
        problems=tuple(problems),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _providers() -> tuple[list[ProviderState], list[str]]:
    """The state of every provider, and what keeps ONNX Runtime from working at all."""
    try:
        with providers.quiet():
            import onnxruntime

            names = list(onnxruntime.get_available_providers())
    except Exception as error:
        reason = providers.first_line(error)
        return [], [f"ONNX Runtime cannot be imported: {reason}; install onnxshare again"]
    states = [_state(name) for name in names]
    working = [state for state in states if state.works]
    if not any(state.name == "CPU" for state in working):
        reason = next((s.detail for s in states if s.name == "CPU"), "it offers none")
        return states, [f"ONNX Runtime's CPU provider does not work: {reason}; install it again"]
    return states, []


def _state(name: str) -> ProviderState:
    short = name.removesuffix("ExecutionProvider")
    if name == providers.CUDA:
        device, problem = providers.probe_cuda()
        return ProviderState(short, not problem, problem or device)
    problem = providers.try_provider(name)
    return ProviderState(short, not problem, problem)
