"""Which models changed since a commit: asks git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnxshare.errors import ModelFileError, UsageError
from onnxshare.io.load import load

#: What a push event says where there was no commit before.
_NOTHING = "0" * 40


def changed_since(models: Sequence[Path], revision: str, policy: Path | None) -> list[Path]:
    """Return the models whose file or external data changed since a commit, new files included.

    All of them where the policy changed, or where there was no commit before.

    Args:
        models: the models.
        revision: a commit, branch or tag.
        policy: the policy file, or None.

    Raises:
        UsageError: git is not there, this is no repository, or there is no such commit.
    """
    if revision == _NOTHING:
        return list(models)
    files = _changed(revision)
    if policy is not None and policy.resolve() in files:
        return list(models)
    folders = {file.parent for file in files if file.suffix != ".onnx"}
    return [model for model in models if _is_changed(model, files, folders)]


def _is_changed(model: Path, files: set[Path], folders: set[Path]) -> bool:
    path = model.resolve()
    if path in files:
        return True
    if not any(folder == path.parent or path.parent in folder.parents for folder in folders):
        return False  # no file changed that its external data could be
    try:
        locations = load(path).external_files()
    except ModelFileError:
        return True  # the check will say what is wrong with it
    return any((path.parent / location).resolve() in files for location in locations)


def _changed(revision: str) -> set[Path]:
    top = Path(_git("rev-parse", "--show-toplevel", revision=revision)[0])
    # Three dots: what this side changed since the two parted, not what the other did meanwhile.
    names = _git("diff", "--name-only", "-z", f"{revision}...HEAD", "--", revision=revision)
    names += _git("diff", "--name-only", "-z", "HEAD", "--", revision=revision)
    others = ("ls-files", "--others", "--exclude-standard", "-z", "--full-name", ":/")
    names += _git(*others, revision=revision)
    return {(top / name).resolve() for name in names}


def _git(*arguments: str, revision: str) -> list[str]:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("--changed-since needs git, which is not installed") from None
    if done.returncode:
        words = _first(done.stderr.decode(errors="replace").splitlines())
        raise UsageError(f"--changed-since {revision}: git says: {words}", "fetch that commit")
    text = done.stdout.decode(errors="surrogateescape")
    return [name for name in text.replace("\n", "\0").split("\0") if name]


def _first(lines: Iterable[str]) -> str:
    return next((line for line in lines if line.strip()), "nothing")
