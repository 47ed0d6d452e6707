"""When memory is looked for that is needed no more, and when it goes back to the system."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: So many objects may be kept from the collector's sight before it walks over all of them.
_MOST_UNSEEN = 1_000_000

_unseen = 0


@contextmanager
def paused() -> Iterator[None]:
    """Hold off the cyclic garbage collector: it would walk over an index of a large graph again and
    again while it grows, for half of the time that the analysis takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            _settle()
            gc.enable()


def _settle() -> None:
    """Make what is new old, as walks over it would. A walk over everything comes after a million
    objects: an index that is needed no more is a cycle, which nothing else frees."""
    global _unseen
    if gc.get_freeze_count():
        return  # the program keeps objects of its own from the collector
    _unseen += gc.get_count()[0]
    gc.freeze()
    gc.unfreeze()
    if _unseen > _MOST_UNSEEN:
        _unseen = 0
        gc.collect()


def give_back() -> None:
    """Return memory that C++ code has freed to the system, where the C library can: glibc keeps
    what lies below anything that is in use, and Python's own objects never go there."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
