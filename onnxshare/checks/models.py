"""Finds the models that paths, folders and globs name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from onnxshare.errors import UsageError


def find_models(names: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """Return the model files that names stand for, each once, in the order given.

    A folder stands for every `.onnx` file in and below it, hidden folders left out. A name
    with `*`, `?` or `[` that is no file itself is a glob (`**` for any depth). Any other name
    is kept as it is, so that a missing model is reported as such beside the others.

    Raises:
        UsageError: a folder or a glob holds no model.
    """
    found: dict[Path, None] = {}
    for name in names:
        for path in _expand(Path(name)):
            found.setdefault(path)
    return tuple(found)


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        models = _below(path)
        if not models:
            raise UsageError(f"{path}: holds no .onnx file", "name a folder or file that does")
        return models
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    models = [match for match in matches if match.is_file()]
    if not models:
        raise UsageError(f"{path}: matches no file", "check the pattern")
    return models


def _below(folder: Path) -> list[Path]:
    models: list[Path] = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        models.extend(Path(base, name) for name in files if name.endswith(".onnx"))
    return sorted(models)
