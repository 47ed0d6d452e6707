"""Which models changed since a commit: asks git what the commit holds.

Files are compared with the commit by their content. Git itself never looks at the working tree or
its index: there, settings of the repository name programs that it would run (filters, fsmonitor).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from onnxshare.checks.jobs import Job
from onnxshare.errors import OnnxShareError, UsageError
from onnxshare.io.load import load
from onnxshare.support.child_environment import child_environment

#: What a push event says where there was no commit before.
_NOTHING = re.compile("0{40}|0{64}")

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


def changed_since(
    jobs: Sequence[Job], revision: str, shared: Sequence[Path] = (), samples: Path | None = None
) -> list[Job]:
    """Return the models that are not what they were at a commit, or that are judged by what is
    not: external data, reference and samples; new ones and missing ones too.

    All of them where a file that all share changed, or where there was no commit before.

    Args:
        jobs: the models.
        revision: a commit, branch or tag; what counts is where this side parted from it.
        shared: files that all models are judged by, such as the policy.
        samples: the samples for all of them; None for each one's own.

    Raises:
        UsageError: git is not there, this is not a repository, or there is no such commit.
    """
    if _NOTHING.fullmatch(revision):
        return list(jobs)
    commit = _Commit(revision)
    if not all(commit.holds(path) or commit.lacks(path) for path in shared):
        return list(jobs)
    return [job for job in jobs if job.error or not all(map(commit.holds, _files(job, samples)))]


def _files(job: Job, samples: Path | None) -> Iterator[Path]:
    """What a model is judged by."""
    reference = job.limits.get("equivalent-to")
    for model in (job.source, reference):
        if not isinstance(model, (str, os.PathLike)):
            continue
        yield Path(model)
        try:
            yield from (Path(model).parent / name for name in load(model).external_files())
        except OnnxShareError:
            yield Path(os.devnull)  # in no commit: the check will say what is wrong
    if samples or job.samples:
        yield Path(samples or job.samples or "")


class _Commit:
    """The files of a commit."""

    def __init__(self, revision: str) -> None:
        self._revision = revision
        top = os.fsdecode(self._git("rev-parse", "--show-toplevel")).removesuffix("\n")
        self._top = os.path.realpath(top)
        named = self._git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        commit = named.decode(errors="replace").strip()
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise UsageError(f"--changed-since '{revision}' is not one commit", "specify one")
        # What this side changed since the two parted, not what the other did meanwhile.
        base, *_ = self._git("merge-base", commit, "HEAD").decode().split()
        listed = os.fsdecode(self._git("ls-tree", "-r", "-z", "--full-tree", base)).split("\0")
        entries = (line.partition("\t") for line in listed if line)
        #: By path, the kind of entry and the name of its content.
        self._entries = {path: (words[:6], words.split()[2]) for words, _, path in entries}

    def holds(self, path: Path) -> bool:
        """Whether a file, or every file of a folder, is what it was, and the links on the way."""
        real = self._real(path)
        if real is None or not os.path.isdir(real):
            return real is not None and self._same_file(real)
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
        return Path(path).is_relative_to(self._top)

    def _name(self, path: str) -> str:
        """How the commit calls a path."""
        return Path(path).relative_to(self._top).as_posix()

    def _same_link(self, path: str, target: str) -> bool:
        kind, content = self._entries.get(self._name(path), ("", ""))
        return kind == _LINK and content == _digest(os.fsencode(target), content)

    def _same_file(self, path: str) -> bool:
        kind, content = self._entries.get(self._name(path), ("", ""))
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

    def _git(self, *arguments: str) -> bytes:
        # Never one of the current folder.
        places = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
        program = shutil.which("git", path=places)
        if program is None or not os.path.isabs(program):
            raise UsageError("--changed-since needs git, which is not installed")
        own = {name: value for name, value in os.environ.items() if name.startswith(_OWN)}
        variables = child_environment(**own, **_VARIABLES)
        done = subprocess.run(
            [program, *_SETTINGS, *arguments], capture_output=True, check=False, env=variables
        )
        if done.returncode:
            said = filter(str.strip, done.stderr.decode(errors="replace").splitlines())
            words = next(said, f"nothing, in `git {arguments[0]}`")
            raise UsageError(
                f"--changed-since '{self._revision}': git says: {words}", "fetch that commit"
            )
        return done.stdout


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
