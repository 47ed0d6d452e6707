"""The module `onnxruntime`, whichever distribution provides it, or what to install to have it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
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


def package() -> str:
    """The distribution whose files the module consists of, without importing it; empty if it does
    not say so. Of several that were installed over each other it is the last."""
    from importlib import util

    found = util.find_spec("onnxruntime")
    for folder in (found and found.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            said = Path(folder, "capi", "build_and_package_info.py").read_text(encoding="utf-8")
            name = re.search(r"package_name\s*=\s*'([\w-]+)'", said)
            return name[1] if name else ""
    return ""


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
    # "/build/file.cc:65 lambda and what not condition was false. what the user needs"
    text = re.sub(r"^/\S+:\d+ .* was false\. ", "", text)
    # "/build/file.cc:729 void function(arguments) what the user needs"
    text = re.sub(r"(^|(?<=: ))/\S+:\d+ .*?\) (?=\S)", "", text)
    return text if len(text) <= 300 else text[:297] + "..."
