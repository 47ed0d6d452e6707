"""A progress bar on stderr for work that takes long, where somebody may be looking."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from onnxshare.errors import printable
from onnxshare.support import progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds after which a bar is worth its line.
_PATIENCE = 2.0


class Bars:
    """Shows a bar for each piece of work once that has taken two seconds, if stderr is a terminal;
    nothing is left of them at the end."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Say that so many bytes of so many are done of a piece of work."""
        if self._progress is None:
            if time.monotonic() - self._begun < _PATIENCE or not sys.stderr.isatty():
                return
            self._progress = _start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(printable(name), total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


def _start() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("reading {task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    bars.start()
    return bars


class Steps:
    """Shows what `support.progress` reports once the work has taken two seconds, if stderr is a
    terminal; nothing is left of it at the end."""

    def __init__(self, words: str) -> None:
        self._state = (words, 0, 0)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Steps:
        if sys.stderr.isatty():
            self._kept.enter_context(progress.listening(self._show))
            # A timer: the first step itself may take long.
            timer = threading.Timer(_PATIENCE, self._start)
            timer.daemon = True
            timer.start()
            self._kept.callback(timer.cancel)
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()
        with self._lock:
            self._closed = True
            if self._progress is not None:
                self._progress.stop()

    def _show(self, words: str, done: int, total: int) -> None:
        with self._lock:
            self._state = (words, done, total)
            if self._progress is not None and self._task is not None:
                self._progress.update(
                    self._task, description=words, completed=done, total=total or None
                )

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._closed:
                return
            words, done, total = self._state
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._task = self._progress.add_task(words, completed=done, total=total or None)
            self._progress.start()
