"""What changed since a commit: the models to check again, those that are gone, and former names."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxshare.checks.git_commit import Commit, NotStored
from onnxshare.checks.jobs import Job
from onnxshare.checks.model_names import portable
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import load

#: What a push event says where there was no commit before.
_NOTHING = re.compile("0{40}|0{64}")


def commit_since(revision: str) -> Commit | None:
    """The commit where this side parted from a commit, branch or tag; None for what a push event
    says where there was no commit before.

    Raises:
        UsageError: git is not there, this is not a repository, or there is no such commit.
    """
    return (
        None if _NOTHING.fullmatch(revision) else Commit(revision, "--changed-since", parted=True)
    )


def changed_since(
    commit: Commit, jobs: Sequence[Job], shared: Sequence[Path] = (), samples: Path | None = None
) -> list[Job]:
    """Return the models that are not what they were at a commit, or that are judged by what is
    not: external data, reference and samples; new ones and missing ones too. All of them where a
    file that all share changed.

    Args:
        commit: the commit.
        jobs: the models.
        shared: files that all models are judged by, such as the policy.
        samples: the samples for all of them; None for each one's own.
    """
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


def gone(commit: Commit) -> list[str]:
    """The models of a commit that are there no more, as it calls them."""
    names = (name for name in commit.files if name.endswith(".onnx"))
    return sorted(name for name in names if not os.path.lexists(Path(commit.top, name)))


def former_names(commit: Commit, jobs: Sequence[Job], root: Path) -> dict[str, str]:
    """By the name of each model that had another one in a commit, that one; both as of `portable`.

    A model is recognised by its bytes, or else by its graph and weights: with external data, the
    file itself names the files of its weights, which are renamed with it.
    """
    left, found = gone(commit), {}
    for job in jobs:
        name = commit.name(job.source) if isinstance(job.source, Path) else None
        if not left or name is None or not job.key or job.error or commit.has(name):
            continue
        assert isinstance(job.source, Path)
        same = next((old for old in left if commit.equals(job.source, old)), None)
        same = same or next((old for old in left if _same_function(commit, job.source, old)), None)
        if same is not None:
            left.remove(same)
            found[job.key] = portable(Path(commit.top, same), Path(os.path.realpath(root)))
    return found


def _same_function(commit: Commit, path: Path, name: str) -> bool:
    from onnxshare.comparison.function_digest import function_digest

    try:
        with tempfile.TemporaryDirectory() as folder:
            old = write_model(commit, name, Path(folder))
            return function_digest(load(old)) == function_digest(load(path))
    except (OnnxShareError, NotStored):
        return False


def write_model(commit: Commit, name: str, folder: Path) -> Path:
    """Write a model as it is in a commit below a folder, with its external data as far as that is
    there, and return its path.

    Raises:
        NotStored: the commit does not hold it, or its content is not here.
        ModelFileError, ModelError: it is not a model.
    """
    path = folder / _inside(name)
    if not path.exists():
        commit.write(name, path)
    for location in load(path).external_files():
        data = os.path.normpath(Path(name).parent / location).replace(os.sep, "/")
        with contextlib.suppress(NotStored):
            if not (folder / _inside(data)).exists():
                commit.write(data, folder / data)
    return path


def _inside(name: str) -> str:
    """A path of a commit, which may be made to lead elsewhere."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise NotStored(f"{name} leads out of the repository")
    return name
