"""Which models are checked against which limits, several at once in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnxshare.checks.model_names import find_models, portable
from onnxshare.checks.policy import ModelEntry, Policy
from onnxshare.checks.results import Limit, ModelReport
from onnxshare.errors import UsageError
from onnxshare.io.load import ModelSource
from onnxshare.shapes.inference import InputShapes
from onnxshare.support.cpu_count import usable_cores
from onnxshare.support.process_pool import end_with_the_parent, spawning

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
    """

    source: ModelSource
    name: str
    limits: dict[str, Limit]
    input_shapes: InputShapes | None = None
    samples: str | None = None
    line: int | None = None
    key: str = ""
    error: str | None = None


def plan(sources: ModelSource | Sequence[ModelSource], policy: Policy) -> list[Job]:
    """Return a job for each model that the sources, or else the policy, name, each file once.

    A policy's entries apply to the files they match, however the user names these. Where several
    match, later ones are put over earlier ones. A folder or glob without models among others gets
    a job with an error, so that the others are still checked.

    Raises:
        UsageError: nothing else is named than a folder or a glob that holds no model.
    """
    given = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    entries = _Entries(policy.models)
    jobs: dict[str | int, Job] = {}
    given = given or [entry.path for entry in policy.models]
    for place, source in enumerate(given):
        if not isinstance(source, (str, os.PathLike)):
            jobs[place] = Job(source, "<model>", policy.limits_for(()))
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
            if key not in jobs:
                jobs[key] = _job(path, key, policy, entries.of(path))
    return list(jobs.values())


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

    A crash of the interpreter takes one process with it: the models that were in hand are then
    checked one by one, so that the one that crashes is the only one without a report. `jobs` and
    `progress` are as of `onnxshare.check`.
    """
    count = len(planned)
    if jobs is None:
        jobs = usable_cores() if count >= _WORTH_IT else 1
    # Only what has a path can be handed to another process.
    if min(jobs, count) < 2 or not all(isinstance(job.source, Path) for job in planned):
        reports: Iterable[ModelReport] = map(check_one, planned)
    else:
        reports = _apart(check_one, planned, min(jobs, count))
    return list(reports if progress is None else progress(reports, count))


def _apart(check_one: CheckOne, planned: Sequence[Job], workers: int) -> Iterator[ModelReport]:
    # Not forked: threads of this process, such as ONNX Runtime's, would be lost halfway.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with _pool(workers, context) as pool:
        try:
            with spawning():
                futures = [pool.submit(check_one, job) for job in planned]
            for job, future in zip(planned, futures, strict=True):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield _alone(partial(check_one, job), job, context)
        except BaseException:
            # Such as Ctrl-C: nobody waits for what is in hand, or in the queue.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


def _pool(workers: int, context: multiprocessing.context.SpawnContext) -> ProcessPoolExecutor:
    with spawning():  # it starts a process that counts its locks
        return ProcessPoolExecutor(workers, context, end_with_the_parent)


def _alone(
    call: Callable[[], ModelReport], job: Job, context: multiprocessing.context.SpawnContext
) -> ModelReport:
    with _pool(1, context) as pool:
        try:
            with spawning():
                future = pool.submit(call)
            return future.result()
        except BrokenProcessPool:
            error = f"{job.name}: checking it crashed the interpreter; is the file damaged?"
            return ModelReport(job.name, limits=job.limits, error=error, line=job.line)
