"""Which models are checked against which limits, several at once in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from onnxshare.checks.model_names import covers, files_below, find_models, portable
from onnxshare.checks.policy import ModelEntry, Policy
from onnxshare.checks.results import Limit, ModelReport
from onnxshare.errors import UsageError
from onnxshare.io.load import ModelSource
from onnxshare.shapes.inference import InputShapes
from onnxshare.support.cpu_count import usable_cores
from onnxshare.support.process_pool import run_apart

#: Standard input, as `load` takes it.
_STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One model to check.

    Attributes:
        source: the model.
        name: its path, or `<model>`.
        limits: the rules for it: option name to limit.
        input_shapes, samples: what the policy gives for it, or None.
        line: the line of the policy file that names it, or None.
        key: its name in baselines, as of `portable`; empty for one from memory.
        error: why there is no such model, or None.
        options: by the code of a rule what it is told besides its limit.
    """

    source: ModelSource
    name: str
    limits: dict[str, Limit]
    input_shapes: InputShapes | None = None
    samples: str | None = None
    line: int | None = None
    key: str = ""
    error: str | None = None
    options: Mapping[str, Mapping[str, Limit]] = field(default_factory=dict)


def plan(sources: ModelSource | Sequence[ModelSource], policy: Policy) -> list[Job]:
    """Return a job for each model that the sources, or else the policy, name, each file once.

    A policy's entries apply to the files they match, however the user names these. Where several
    match, later ones are put over earlier ones. A folder or glob without models among others gets
    a job with an error, so that the others are still checked.

    A folder or a glob stands neither for what the policy excludes nor for its reference models.

    Raises:
        UsageError: nothing else is named than a folder or a glob that holds no model.
    """
    given = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    entries = _Entries(policy.models)
    jobs: dict[str | int, Job] = {}
    named = {portable(entry.path, policy.root) for entry in policy.models}
    given = given or [entry.path for entry in policy.models]
    for place, source in enumerate(given):
        if not isinstance(source, (str, os.PathLike)):
            jobs[place] = Job(source, "<model>", policy.limits_for(()), options=policy.options)
            continue
        try:
            paths = find_models([source])
        except UsageError as error:
            if len(given) == 1:
                raise
            jobs[place] = Job(source, os.fspath(source), {}, error=str(error))
            continue
        for path in paths:
            key = _STDIN if str(path) == _STDIN else portable(path, policy.root)
            spared = path != Path(source) and key not in named and _spared(key, policy)
            if key not in jobs and not spared:
                jobs[key] = _job(path, key, policy, entries.of(path))
    return list(jobs.values())


def left_out(policy: Policy, planned: Sequence[Job]) -> list[str]:
    """What the models of a policy leave out without anybody having said so, as text: models at and
    below its folder that no entry names, and reference models that a folder or a glob names."""
    if policy.path is None or not policy.models:
        return []
    entries, checked = _Entries(policy.models), {job.key for job in planned}
    unnamed, references = [], []
    for path in sorted(files_below(policy.root)):
        key = portable(path, policy.root)
        if path.suffix != ".onnx" or key in checked or _excluded(key, policy):
            continue
        if key not in policy.references:
            unnamed += [] if entries.of(path) else [key]
        elif entries.of(path):
            references.append(key)
    notes = []
    if unnamed:
        advice = "add an entry under models, or exclude them"
        notes.append(
            f"not checked, as no entry of {policy.path} names it: {_some(unnamed)}; {advice}"
        )
    if references:
        notes.append(f"not checked, as a reference: {_some(references)}; name it to check it too")
    return notes


#: So many names are written out in a note.
_SHOWN = 5


def _some(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def _spared(key: str, policy: Policy) -> bool:
    return key in policy.references or _excluded(key, policy)


def _excluded(key: str, policy: Policy) -> bool:
    return any(covers(pattern, key) for pattern in policy.exclude)


def _job(path: Path, key: str, policy: Policy, entries: list[ModelEntry]) -> Job:
    limits = policy.limits_for(entries)
    shapes = [entry.input_shapes for entry in entries if entry.input_shapes]
    samples = [entry.samples for entry in entries if entry.samples]
    own = [entry for entry in entries if Path(entry.path).resolve() == path.resolve()]
    named = own or entries  # a glob says less about where the model is named
    return Job(
        path,
        str(path),
        limits,
        shapes[-1] if shapes else None,
        samples[-1] if samples else None,
        named[-1].line if named else None,
        key,
        options=policy.options,
    )


class _Entries:
    """The entries of a policy by the files that they match; the globs are expanded once."""

    def __init__(self, entries: Sequence[ModelEntry]) -> None:
        self._matches: dict[Path, list[ModelEntry]] = {}
        for entry in entries:
            try:
                paths = find_models([entry.path])
            except UsageError:  # matters only where its models are to be checked
                continue
            for path in paths:
                self._matches.setdefault(path.resolve(), []).append(entry)

    def of(self, path: Path) -> list[ModelEntry]:
        return self._matches.get(path.resolve(), []) if self._matches else []


#: Fewer models are checked faster in this process than others take to start.
_WORTH_IT = 48

#: Checks one model, whatever is wrong with it.
CheckOne = Callable[[Job], ModelReport]


def each(
    check_one: CheckOne,
    planned: Sequence[Job],
    jobs: int | None,
    progress: Callable[[Iterable[ModelReport], int], Iterable[ModelReport]] | None = None,
) -> list[ModelReport]:
    """Check every model and return the reports in the order of the models.

    A crash of the interpreter takes one process and the model in hand with it. `jobs` and
    `progress` are as of `onnxshare.check`.
    """
    count = len(planned)
    if jobs is None:
        jobs = usable_cores() if count >= _WORTH_IT else 1
    # Only what has a path can be handed to another process.
    if min(jobs, count) < 2 or not all(isinstance(job.source, Path) for job in planned):
        reports: Iterable[ModelReport] = map(check_one, planned)
        return list(reports if progress is None else progress(reports, count))
    found: dict[int, ModelReport] = {}
    reports = _apart(check_one, planned, min(jobs, count), found)
    for _ in reports if progress is None else progress(reports, count):
        pass
    return [found[place] for place in range(count)]


_Numbered = tuple[int, Job]


def _apart(
    check_one: CheckOne, planned: Sequence[Job], workers: int, found: dict[int, ModelReport]
) -> Iterator[ModelReport]:
    """The reports as they come; by place of its model, each is in `found`."""
    call = partial(_check_numbered, check_one)
    for place, report in run_apart(call, enumerate(planned), workers, _crashed):
        found[place] = report
        yield report


def _check_numbered(check_one: CheckOne, numbered: _Numbered) -> tuple[int, ModelReport]:
    return numbered[0], check_one(numbered[1])


def _crashed(numbered: _Numbered, why: str) -> tuple[int, ModelReport]:
    place, job = numbered
    error = f"{job.name}: checking it crashed the interpreter; is the file damaged?"
    return place, ModelReport(job.name, limits=job.limits, error=error, line=job.line)
