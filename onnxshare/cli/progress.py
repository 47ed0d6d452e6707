"""A progress bar on stderr for work that takes long, where a user may be looking."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from onnxshare.cli.printing import note
from onnxshare.errors import printable
from onnxshare.support import progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds after which a bar is worth its line.
_PATIENCE = 2.0


def _started(words: str, *columns: str) -> Progress:
    """A display of bars on stderr that goes when it is stopped, with some columns of rich's."""
    from rich import progress as shown
    from rich.console import Console

    bars = shown.Progress(
        shown.TextColumn(words, markup=False),
        shown.BarColumn(),
        *(getattr(shown, name)() for name in columns),
        console=Console(file=sys.stderr),
        transient=True,
    )
    bars.start()
    return bars


class Bars(contextlib.AbstractContextManager["Bars"]):
    """Shows a bar for each piece of work once that has taken two seconds, if stderr is a terminal;
    nothing is left of them at the end."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Say that so many bytes of so many are done of a piece of work."""
        if self._progress is None:
            if time.monotonic() - self._begun < _PATIENCE or not sys.stderr.isatty():
                return
            columns = ("DownloadColumn", "TimeRemainingColumn")
            self._progress = _started("reading {task.description}", *columns)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(printable(name), total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


class Steps(contextlib.AbstractContextManager["Steps"]):
    """Shows what `support.progress` reports once the work has taken two seconds, if stderr is a
    terminal; nothing is left of it at the end. Elsewhere what it logs is written, line by line."""

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
        else:
            self._kept.enter_context(progress.logging(note))
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
        with self._lock:
            if not self._closed:
                words, done, total = self._state
                self._progress = _started("{task.description}", "TimeElapsedColumn")
                self._task = self._progress.add_task(words, completed=done, total=total or None)
