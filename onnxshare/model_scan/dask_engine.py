"""The same rows from the workers of a Dask cluster, for fleets that outgrow one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from onnxshare.errors import UsageError
from onnxshare.support.option_text import option
from onnxshare.support.process_pool import CRASHED

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Models of one task: many enough that a task's own cost does not show.
_BATCH = 32

#: How often a task is tried again whose worker was lost.
_RETRIES = 2


def run_on_dask(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    scheduler: str,
    lost: Callable[[Item, str], Result],
) -> Iterator[Result]:
    """Call a function with every item on the workers of a cluster, and yield results as they come.

    Items go in batches; where a batch is lost, its items go one by one in the end, so that one
    that ends its worker costs itself alone.

    Args:
        function: what is called there; both it and the items can be pickled.
        items: what it is called with.
        scheduler: the address of the scheduler, such as `tcp://host:8786`.
        lost: makes the result of an item that could not be done, from the reason.

    Raises:
        UsageError: distributed is not installed, or there is no such scheduler.
    """
    try:
        from distributed import Client, as_completed, wait
    except ImportError:
        raise UsageError(
            f"{option('--scheduler')} needs Dask, which is not installed",
            "pip install 'onnxshare[dask]'",
        ) from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{option(f'--scheduler {scheduler}')}: cannot be reached: {error}",
            "start one with dask scheduler",
        ) from None
    with client:
        batches = [items[at : at + _BATCH] for at in range(0, len(items), _BATCH)]

        def submit(batch: Sequence[Item]) -> Any:
            return client.submit(_all, function, batch, retries=_RETRIES, pure=False)

        given = {submit(batch): batch for batch in batches}
        again: list[Item] = []
        for future in as_completed(list(given)):
            batch = given.pop(future)
            if future.status == "finished":
                yield from future.result()
            else:
                again += batch
        for item in again:  # one after the other: what ends a worker now is the one in hand
            future = submit([item])
            wait([future])
            yield future.result()[0] if future.status == "finished" else lost(item, CRASHED)


def _all(function: Callable[[Item], Result], batch: Sequence[Item]) -> list[Result]:
    return [function(item) for item in batch]
