"""What the commands share: the model argument, the provider option, output and its streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxshare.errors import UsageError


def model_path(given: Path | None) -> Path:
    """Return the model that the user named, or the only `.onnx` file of the current folder.

    Raises:
        UsageError: none was named and there is none, or several.
    """
    if given is not None:
        return given
    found = sorted(Path().glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError("no MODEL given, and the current folder holds no .onnx file")
    names = ", ".join(str(path) for path in found)
    raise UsageError(f"no MODEL given, and the current folder holds several: {names}", "name one")


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout; NaN and infinities become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """Print words for the user on stderr, which keeps stdout for data."""
    print(text, file=sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
