"""The module `onnxruntime`, whichever distribution provides it, or what to install to have it."""

from __future__ import annotations

from typing import Any

from onnxshare.errors import UsageError

#: How to install ONNX Runtime together with onnxshare.
INSTALL = "pip install 'onnxshare[gpu]', or pip install 'onnxshare[cpu]' without an NVIDIA GPU"

#: What every use of it needs.
_NEEDED = ("InferenceSession", "OrtValue", "SessionOptions", "get_available_providers")


def distributions() -> dict[str, str]:
    """The installed distributions that provide the module, with their versions.

    More than one means that they were installed over each other.
    """
    from importlib import metadata  # takes long to import, and is needed in few cases

    names = metadata.packages_distributions().get("onnxruntime", ())
    return {name: metadata.version(name) for name in sorted(set(names))}


def reinstall(name: str) -> str:
    """The command that makes a distribution whole: pip takes what is listed for installed."""
    return f"pip install --force-reinstall --no-deps {name}"


def import_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        UsageError: it is not installed, or cannot be used; with the command to run.
    """
    try:
        import onnxruntime

        for name in _NEEDED:  # a folder that an uninstalled distribution left has none of these
            getattr(onnxruntime, name)
    except Exception as error:  # a broken native library may raise anything
        found = distributions()
        if not found:
            raise UsageError("this needs ONNX Runtime, which is not installed", INSTALL) from error
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{' and '.join(found)} cannot be imported: {reason}", reinstall(next(iter(found)))
        ) from error
    return onnxruntime
