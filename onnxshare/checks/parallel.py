"""Checks several models at once, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from onnxshare.checks.plan import Job
from onnxshare.checks.results import ModelReport
from onnxshare.support.cpu_count import usable_cores

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
    checked one by one, so that the one that crashes is the only one without a report.

    Args:
        check_one: checks one model; where several processes are used it is sent to them.
        planned: the models.
        jobs: how many at once; None is one per processor, where there are enough models.
        progress: shows how far it has come: gets the reports as they are ready and their number.
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
    with ProcessPoolExecutor(workers, context, _end_with_the_parent) as pool:
        try:
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


def _end_with_the_parent() -> None:
    """In a worker: a parent that is killed cannot end it, and its queue would never say so."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _alone(
    call: Callable[[], ModelReport], job: Job, context: multiprocessing.context.SpawnContext
) -> ModelReport:
    with ProcessPoolExecutor(1, context, _end_with_the_parent) as pool:
        try:
            return pool.submit(call).result()
        except BrokenProcessPool:
            error = f"{job.name}: checking it crashed the interpreter; is the file damaged?"
            return ModelReport(job.name, limits=job.limits, error=error, line=job.line)
