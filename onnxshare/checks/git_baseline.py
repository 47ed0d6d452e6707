"""The baseline that a commit is: its models, checked as they were there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxshare.checks.git_changes import changed_since, former_names, write_model
from onnxshare.checks.git_commit import Commit, NotStored
from onnxshare.checks.jobs import Job
from onnxshare.checks.known_findings import Baseline
from onnxshare.checks.results import ModelReport
from onnxshare.checks.rules import BY_OPTION
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import load
from onnxshare.support.option_text import option

#: Checks models and returns their reports in the same order.
CheckAll = Callable[[Sequence[Job]], Sequence[ModelReport]]


def baseline_at(
    ref: str,
    jobs: Sequence[Job],
    root: Path,
    check_all: CheckAll,
    samples: Path | None = None,
) -> tuple[Baseline, dict[str, str], list[str]]:
    """Return what is found and measured in models as they were at a commit, under today's limits;
    by name what they were called; and what could not be had, as text.

    Of a model that is what it was, nothing is checked twice: all that is found in it is known.

    Args:
        ref: a commit, branch or tag.
        jobs: the models as they are.
        root: the folder that names of models are relative to.
        check_all: checks models.
        samples: the samples for all of them; None for each one's own.

    Raises:
        UsageError: git is not there, this is not a repository, or there is no such commit.
    """
    commit = Commit(ref, option("--baseline-ref"))
    former = former_names(commit, jobs, root)
    changed = changed_since(commit, jobs, samples=samples)
    same = [job.key for job in jobs if job not in changed and job.key]
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        places = _old_paths(commit, changed, former, root)
        old = [
            job
            for number, (now, name) in enumerate(places)
            if (job := _old(commit, now, name, Path(folder, str(number)), samples, notes))
        ]
        reports = check_all(old)
        metrics = {report.name: dict(report.measured) for report in reports if report.metrics}
        for job in old:
            if job.key in metrics and not _complete(job):
                metrics[job.key]["file_bytes"] = None
    notes += [f"{report.name}: cannot be read as it was" for report in reports if report.error]
    findings = [finding for report in reports for finding in report.findings]
    return Baseline.of(findings, metrics, unchanged=frozenset(same), ref=ref), former, notes


def _old_paths(
    commit: Commit, jobs: Sequence[Job], former: Mapping[str, str], root: Path
) -> Iterator[tuple[Job, str]]:
    """The models that the commit has, each with what it calls them."""
    for job in jobs:
        path = Path(root, former[job.key]) if job.key in former else job.source
        name = commit.name(path) if isinstance(path, Path) and job.key else None
        if name is not None and commit.has(name):
            yield job, name


def _old(
    commit: Commit, job: Job, name: str, folder: Path, samples: Path | None, notes: list[str]
) -> Job | None:
    """A model as it was, written below a folder, with the reference and the samples of then."""
    try:
        path = write_model(commit, name, folder)
    except (NotStored, OnnxShareError) as error:
        notes.append(f"{job.key}: cannot be read as it was: {error}")
        return None
    limits = dict(job.limits)
    if not _complete(replace(job, source=path)):
        notes.append(f"{job.key}: its external data as it was is not in the repository here")
        limits = {name: limit for name, limit in limits.items() if not _needs_data(name)}
    reference = limits.get("equivalent-to")
    if isinstance(reference, str):
        try:
            old_reference = commit.name(Path(reference)) or ""
            limits["equivalent-to"] = str(write_model(commit, old_reference, folder))
        except (NotStored, OnnxShareError):
            del limits["equivalent-to"]  # nothing is known that needs it
    given = samples or job.samples
    old_samples = None if given is None else str(_old_samples(commit, Path(given), folder))
    return replace(job, source=path, limits=limits, samples=old_samples, error=None)


def _complete(job: Job) -> bool:
    """Whether all external data of a model is there."""
    assert isinstance(job.source, Path)
    data = load(job.source).external_files()
    return all((job.source.parent / name).exists() for name in data)


def _needs_data(option: str) -> bool:
    """Whether a rule looks at weights, or at the files that they are in."""
    rule = BY_OPTION[option]
    return bool(rule.needs) or rule.metric == "file_bytes" or rule.code == "DP405"


def _old_samples(commit: Commit, path: Path, folder: Path) -> Path:
    """Samples as they were; where the commit has none, those of today."""
    name = commit.name(path)
    if name is None or not commit.has(name) or commit.holds(path):
        return path
    try:
        for one in commit.below(name) or [name]:
            if not (folder / one).exists():
                commit.write(one, folder / one)
    except NotStored:
        return path
    return folder / name
