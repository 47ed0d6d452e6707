"""The files of a commit, as git and Git LFS keep them.

Files are compared with the commit by their content. Git itself never looks at the working tree or
its index: there, settings of the repository name programs that it would run (filters, fsmonitor).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import IO, Any

from onnxshare.errors import UsageError
from onnxshare.support.child_environment import child_environment

#: Kinds of entries in a commit: how those of files begin, and links.
_FILE, _LINK = "100", "120000"

#: So many links one behind the other are followed, as Linux does.
_MOST_LINKS = 40

#: Files whose lines may end otherwise than in the commit, as git checks them out on Windows.
_TEXT = (".toml", ".json", ".csv", ".txt")

#: A file of Git LFS as a commit holds it (docs/spec.md of git-lfs); none is as long as that.
_POINTER = re.compile(rb"version https://\S+\n(?:\S.*\n)*?oid sha256:([0-9a-f]{64})\nsize \d+\n")
_MOST_POINTER = 1024

#: Nothing is fetched, and a folder in the repository is not a repository.
_SETTINGS = ("--no-pager", "-c", "safe.bareRepository=explicit")
_VARIABLES = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}

#: What the user tells git: settings, and where to look for no repository.
_OWN = ("GIT_CONFIG", "GIT_CEILING_DIRECTORIES")


class NotStored(Exception):
    """The repository here does not hold a file's content, such as one of Git LFS that was never
    fetched."""


class Commit:
    """The files of a commit."""

    def __init__(self, revision: str, option: str, *, parted: bool = False) -> None:
        """List the files of a commit.

        Args:
            revision: a commit, branch or tag.
            option: the option that names it, for messages.
            parted: take the commit where this side and that one parted instead.

        Raises:
            UsageError: git is not there, this is not a repository, or there is no such commit.
        """
        self._said = f"{option} '{revision}'"
        top = os.fsdecode(self._git("rev-parse", "--show-toplevel")).removesuffix("\n")
        self.top = os.path.realpath(top)
        named = self._git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        commit = named.decode(errors="replace").strip()
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise UsageError(f"{self._said} is not one commit", "specify one")
        if parted:  # what this side changed since then, not what the other did meanwhile
            commit, *_ = self._git("merge-base", commit, "HEAD").decode().split()
        listed = os.fsdecode(self._git("ls-tree", "-r", "-z", "--full-tree", commit)).split("\0")
        entries = (line.partition("\t") for line in listed if line)
        #: By path, the kind of entry and the name of its content.
        self._entries = {path: (words[:6], words.split()[2]) for words, _, path in entries}

    @property
    def files(self) -> list[str]:
        """The paths of all files, relative to `top`."""
        return list(self._entries)

    def name(self, path: Path) -> str | None:
        """What the commit would call a file of the working tree; None for one that lies outside of
        it, or that is reached by links that are not in the commit."""
        real = self._real(path)
        return None if real is None else self._name(real)

    def has(self, name: str) -> bool:
        """Whether there is a file, or a folder, of that name."""
        return self._target(name) in self._entries or bool(self.below(name))

    def below(self, name: str) -> list[str]:
        """The names of the files in and below a folder."""
        start = "" if name == "." else f"{name}/"
        return [one for one in self._entries if one.startswith(start)]

    def equals(self, path: Path, name: str) -> bool:
        """Whether a file holds what another one did in the commit."""
        return self._same_file(str(path), name)

    def write(self, name: str, path: Path) -> None:
        """Write a file as it is in the commit; one of Git LFS with its content.

        Raises:
            NotStored: there is no such file, or its content is not here.
        """
        kind, content = self._entries.get(self._target(name), ("", ""))
        if not kind.startswith(_FILE):
            raise NotStored(f"{name} is not in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        pointer = _POINTER.fullmatch(self._small(content))
        if pointer is not None:
            self._write_stored(name, pointer[1].decode(), path)
            return
        try:
            with open(path, "xb") as file:
                self._git("cat-file", "blob", content, to=file)
        except UsageError as error:
            raise NotStored(f"{name} was never fetched") from error

    def _write_stored(self, name: str, identity: str, path: Path) -> None:
        """Copy a file out of the store of Git LFS, which names files by their SHA-256."""
        folder = os.fsdecode(self._git("rev-parse", "--git-common-dir")).removesuffix("\n")
        stored = Path(folder, "lfs", "objects", identity[:2], identity[2:4], identity)
        if stored.is_symlink() or not stored.is_file():
            raise NotStored(f"{name} is kept by Git LFS and was never fetched")
        shutil.copyfile(stored, path)
        if _digest(path, "") != identity:
            path.unlink()
            raise NotStored(f"{name} is damaged in the store of Git LFS")

    def _target(self, name: str) -> str:
        """Where a path of the commit leads, its links followed."""
        waiting, found = list(reversed(PurePosixPath(name).parts)), ""
        for _ in range(_MOST_LINKS * (len(waiting) + 1)):
            if not waiting:
                return found
            part = waiting.pop()
            step = os.path.normpath(f"{found}/{part}" if found else part).replace(os.sep, "/")
            kind, content = self._entries.get(step, ("", ""))
            if kind != _LINK:
                found = step
                continue
            target = os.fsdecode(self._small(content))
            waiting += reversed(PurePosixPath(target).parts)
            if not target or target.startswith("/"):
                break
        return ""

    def holds(self, path: Path) -> bool:
        """Whether a file, or every file of a folder, is what it was, and the links on the way."""
        real = self._real(path)
        if real is None or not os.path.isdir(real):
            return real is not None and self._same_file(real, self._name(real))
        found: list[str] = []
        for folder, folders, files in os.walk(real):
            found += (os.path.join(folder, name) for name in files)
            if any(os.path.islink(os.path.join(folder, name)) for name in folders):
                return False  # it may lead anywhere
        inside = PurePosixPath(self._name(real))
        before = {name for name in self._entries if PurePosixPath(name).is_relative_to(inside)}
        return before == set(map(self._name, found)) and all(map(self.holds, map(Path, found)))

    def lacks(self, path: Path) -> bool:
        """Whether there is no such file, and was none."""
        real = None if os.path.lexists(path) else self._real(path)
        return real is not None and self._name(real) not in self._entries

    def _real(self, path: Path) -> str | None:
        """The path without links; None where one of the repository's is not what it was, or leads
        out of it."""
        waiting, links = [*reversed(Path(os.getcwd(), path).parts)], 0
        place = waiting.pop()
        while waiting:
            part = waiting.pop()
            step = os.path.dirname(place) if part == ".." else os.path.join(place, part)
            if not os.path.islink(step):
                place = step
                continue
            links, target = links + 1, os.readlink(step)
            if links > _MOST_LINKS or (self._inside(step) and not self._same_link(step, target)):
                return None
            waiting += reversed(Path(target).parts)
            if os.path.isabs(target):
                place = waiting.pop()
        return place if self._inside(place) else None

    def _inside(self, path: str) -> bool:
        return Path(path).is_relative_to(self.top)

    def _name(self, path: str) -> str:
        """How the commit calls a path."""
        return Path(path).relative_to(self.top).as_posix()

    def _same_link(self, path: str, target: str) -> bool:
        kind, content = self._entries.get(self._name(path), ("", ""))
        return kind == _LINK and content == _digest(os.fsencode(target), content)

    def _same_file(self, path: str, name: str) -> bool:
        kind, content = self._entries.get(name, ("", ""))
        if not kind.startswith(_FILE) or not os.path.isfile(path):
            return False
        try:
            if content == _digest(Path(path), content):
                return True
            if path.endswith(_TEXT):
                return content == _digest(Path(path).read_bytes().replace(b"\r\n", b"\n"), content)
            pointer = _POINTER.fullmatch(self._small(content))
            return pointer is not None and pointer[1].decode() == _digest(Path(path), "")
        except OSError:
            return False  # the check will say that it cannot be read

    def _small(self, content: str) -> bytes:
        """What a file holds in the commit, if it is small, else nothing."""
        try:
            small = int(self._git("cat-file", "-s", content)) <= _MOST_POINTER
            return self._git("cat-file", "blob", content) if small else b""
        except UsageError:  # it was never fetched
            return b""

    def _git(self, *arguments: str, to: IO[Any] | int = subprocess.PIPE) -> bytes:
        # Never one of the current folder.
        places = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
        program = shutil.which("git", path=places)
        if program is None or not os.path.isabs(program):
            raise UsageError(f"{self._said.partition(' ')[0]} needs git, which is not installed")
        own = {name: value for name, value in os.environ.items() if name.startswith(_OWN)}
        variables = child_environment(**own, **_VARIABLES)
        command = [program, *_SETTINGS, *arguments]
        done = subprocess.run(
            command, stdout=to, stderr=subprocess.PIPE, check=False, env=variables
        )
        if done.returncode:
            said = filter(str.strip, done.stderr.decode(errors="replace").splitlines())
            words = next(said, f"nothing, in `git {arguments[0]}`")
            raise UsageError(f"{self._said}: git says: {words}", "fetch that commit")
        return done.stdout or b""


def _digest(data: Path | bytes, like: str) -> str:
    """The name that git gives to content, by SHA-1 or SHA-256 as another such name; where there is
    none, the SHA-256 of the content itself."""
    found = hashlib.sha256() if len(like) != 40 else hashlib.sha1(usedforsecurity=False)
    if isinstance(data, bytes):
        found.update(b"blob %d\0" % len(data) + data)
        return found.hexdigest()
    with open(data, "rb") as file:
        if like:
            found.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        return hashlib.file_digest(file, lambda: found).hexdigest()
