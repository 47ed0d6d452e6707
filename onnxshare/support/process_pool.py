"""Work in processes of its own: one that crashes or hangs costs the item it had in hand."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Why an item has no result: its process ended, or took too long.
CRASHED, TOO_LONG = "crashed", "too long"

#: The variable that keeps the current folder out of where Python looks for modules.
_SAFE_PATH = "PYTHONSAFEPATH"

#: Not forked: threads of this process, such as ONNX Runtime's, would be lost halfway.
_CONTEXT = multiprocessing.get_context("spawn")


class _Worker(Generic[Item, Result]):
    """One process, and the item that it has in hand."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process: SpawnProcess = _CONTEXT.Process(
            target=_serve, args=(function, theirs), daemon=True
        )
        with spawning():
            self.process.start()
        theirs.close()
        self.items: list[Item] = []
        self.until = float("inf")

    def give(self, item: Item, seconds: float) -> None:
        """Hand it an item, and begin to count."""
        self.items.append(item)
        self.until = time.monotonic() + seconds
        # One that has ended says so where its result is read.
        with contextlib.suppress(OSError):
            self.connection.send(item)

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def run_apart(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    lost: Callable[[Item, str], Result],
    seconds: float = float("inf"),
) -> Iterator[Result]:
    """Call a function with every item in processes of their own, and yield results as they come.

    Args:
        function: what is called there; both it and the items can be pickled.
        items: read as they are needed.
        workers: how many processes.
        lost: makes the result of an item whose process `CRASHED` or took `TOO_LONG`.
        seconds: how long an item may take.

    Raises:
        Exception: what the function raised; what is in hand then is given up.
    """
    waiting = iter(items)
    busy: list[_Worker[Item, Result]] = []
    idle = [_Worker[Item, Result](function) for _ in range(workers)]
    try:
        while True:
            for item in islice(waiting, len(idle)):
                busy.append(idle.pop())
                busy[-1].give(item, seconds)
            if not busy:
                return
            for worker in _done(busy):
                busy.remove(worker)
                why = TOO_LONG
                try:
                    if worker.connection.poll():
                        done, result = worker.connection.recv()
                        if not done:
                            raise result
                        why = ""
                except EOFError:
                    why = CRASHED
                if why:
                    result = lost(worker.items.pop(), why)
                    worker.end()
                    worker = _Worker[Item, Result](function)
                worker.items.clear()
                idle.append(worker)
                yield result
    finally:  # such as Ctrl-C: nobody waits for what is in hand
        for worker in (*busy, *idle):
            worker.end()


def _done(busy: list[_Worker[Item, Result]]) -> list[_Worker[Item, Result]]:
    """Those that have a result, have ended, or have taken too long; waits until there is one."""
    while True:
        left = min(worker.until for worker in busy) - time.monotonic()
        ready = wait([w.connection for w in busy], None if left == float("inf") else max(left, 0))
        now = time.monotonic()
        found = [w for w in busy if w.connection in ready or w.until <= now]
        if found:
            return found


def _serve(function: Callable[[Item], Result], connection: Connection) -> None:
    """In a worker: answer until the parent closes the pipe or is gone."""
    end_with_the_parent()
    with contextlib.suppress(EOFError, KeyboardInterrupt, OSError):
        while True:
            item = connection.recv()
            try:
                answer: tuple[bool, Result | Exception] = True, function(item)
            except Exception as error:
                answer = False, error
            connection.send(answer)


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Processes that start now do not import the program's main module: nothing in it is needed,
    and a script without `if __name__ == "__main__"` would do its work there again. Nor do they
    import what lies in the current folder, which may be a stranger's."""
    main, safe = sys.modules["__main__"], os.environ.get(_SAFE_PATH)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if safe is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = safe


def end_with_the_parent() -> None:
    """A parent that is killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
