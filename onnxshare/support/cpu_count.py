"""How many processors there are for this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The processors that this process may use, which a container or `taskset` may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
