"""Says how far long work has come, to a listener: the command line, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

#: Is told what is done as text, and how many steps of how many.
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


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
