"""A progress bar on stderr for work that takes long, where somebody may be looking."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from onnxshare.errors import printable

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

    progress = Progress(
        TextColumn("reading {task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    progress.start()
    return progress
