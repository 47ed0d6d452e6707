"""Finds the models that paths, folders and globs name, and gives each one name for baselines."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from onnxshare.errors import UsageError


def find_models(names: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """Return the model files that names stand for, each once, in the order given.

    A folder stands for every `.onnx` file in and below it, hidden folders and virtual
    environments left out. A name
    with `*`, `?` or `[` that is not a file itself is a glob (`**` for any depth). Any other name
    is kept as it is, so that a missing model is reported as such along with the others.

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
        models = sorted(file for file in files_below(path) if file.name.endswith(".onnx"))
        if not models:
            raise UsageError(f"{path}: holds no .onnx file", "name a folder or file that does")
        return models
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    matches = sorted(_matches(path))
    models = [match for match in matches if match.is_file()]
    if not models:
        raise UsageError(f"{path}: matches no file", "check the pattern")
    return models


def _matches(pattern: Path) -> Iterator[Path]:
    """What a glob matches. For `**` no link to a folder is followed, so none is walked twice."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    first = parts.index("**")
    form = re.compile("".join(map(_expression, parts[first:])))
    for start in glob.glob(os.path.join(*parts[:first])) if first else ["."]:
        for path in files_below(start):
            if form.fullmatch(path.relative_to(start).as_posix() + "/") and path.name[0] != ".":
                yield path


def _expression(part: str) -> str:
    """One part of a glob as a regular expression for a part of a path and the slash after it."""
    if part == "**":
        return "(?:[^/]+/)*"
    return fnmatch.translate(part).replace(".*", "[^/]*").removesuffix(r"\Z") + "/"


def files_below(folder: str | Path) -> Iterator[Path]:
    """The files in and below a folder; hidden folders and virtual environments are left out."""
    for base, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base, name) for name in files)


def portable(path: str | os.PathLike[str], root: Path) -> str:
    """A path, or a pattern of paths, relative to the policy file's folder: `models/a.onnx`.

    It is the same for `models/a.onnx`, `./models/a.onnx` and an absolute path, and on every system.
    Links are followed only where the path would otherwise lead out of the folder. A path on another
    drive of Windows stays absolute.
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


def repository_root(folder: Path) -> Path | None:
    """The nearest folder, at or above one, that is a repository of git, as a path that begins with
    that one; None where there is none."""
    place = folder
    while not os.path.lexists(place / ".git"):
        if place.resolve() == place.resolve().parent:
            return None
        place = place / ".."
    return place


def in_repository(path: str) -> str:
    """A path relative to the root of the repository, as services that show it want it; unchanged
    where the current folder is in none, or the path leads out of it."""
    root = None if os.path.isabs(path) else repository_root(Path())
    found = path if root is None else _relative(os.path.abspath(path), os.path.abspath(root))
    return path if found.startswith("..") else found.replace("\\", "/")


def covers(pattern: str, name: str) -> bool:
    """Whether a glob, or a folder, of an `allow` entry covers a model, named as by `portable`; `*`
    matches `/` too."""
    bare = pattern.removeprefix("**/")  # which may stand for no folder at all
    return any(
        fnmatch.fnmatchcase(name, form) for form in (pattern, bare, f"{pattern.rstrip('/')}/*")
    )
