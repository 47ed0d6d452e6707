"""One name for a model, however a command names it: what baselines and fingerprints hold."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path, PurePath


def portable(path: str | os.PathLike[str], root: Path) -> str:
    """A path relative to a folder, with `/` between its parts: `models/a.onnx`.

    It is the same for `models/a.onnx`, `./models/a.onnx` and an absolute path, and on every
    system. Links are followed only where the path would otherwise lead out of the folder. A path
    on another drive of Windows stays absolute.

    Args:
        path: a path, relative to the current folder, or a pattern of paths.
        root: the folder of the policy file, or else the current one.
    """
    found = _relative(os.path.abspath(path), os.path.abspath(root))
    if found.startswith(".."):
        folder, name = os.path.split(os.path.abspath(path))
        real = _relative(os.path.join(os.path.realpath(folder), name), os.path.realpath(root))
        found = found if real.startswith("..") else real
    return PurePath(found).as_posix()


def _relative(path: str, root: str) -> str:
    try:
        return os.path.relpath(path, root)
    except ValueError:  # another drive
        return path


def covers(pattern: str, name: str) -> bool:
    """Whether a glob, or a folder, of an `allow` entry covers a model.

    Args:
        pattern: relative to the policy file's folder; `*` matches `/` too.
        name: as of `portable`.
    """
    bare = pattern.removeprefix("**/")  # which may stand for no folder at all
    return any(fnmatchcase(name, form) for form in (pattern, bare, f"{pattern.rstrip('/')}/*"))
