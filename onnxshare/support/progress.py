"""Says how far long work has come, to a listener: the command line, on a terminal; and elsewhere
which long steps are done, to a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

#: Is told what is done as text, and how many steps of how many.
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)

_log: ContextVar[Callable[[str], None] | None] = ContextVar("log", default=None)


def report(what: str, done: int, total: int) -> None:
    """Tell the listener, if there is one, how many steps of how many are done of something."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `report` tell this listener for as long as it lasts."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def log(line: str) -> None:
    """Write into the log, if one is kept, what a step that took long has found."""
    write = _log.get()
    if write is not None:
        write(line)


@contextlib.contextmanager
def logging(write: Callable[[str], None]) -> Iterator[None]:
    """Have `log` call this for as long as it lasts."""
    token = _log.set(write)
    try:
        yield
    finally:
        _log.reset(token)
