"""How much memory a process has used, and how much this machine could still give."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def peak() -> int | None:
    """The most memory that this process has had at once (resident), in bytes; None if unknown."""
    with contextlib.suppress(OSError):
        # Not ru_maxrss: on Linux that starts with what the parent had.
        found = _field(Path("/proc/self/status"), "VmHWM:")
        if found is not None:
            return found
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def available() -> int | None:
    """Memory that programs can still get, in bytes; None where the system does not say.

    On Linux what the kernel calls available, or what is left of the control group's limit.
    """
    with contextlib.suppress(OSError):
        free = _field(Path("/proc/meminfo"), "MemAvailable:")
        left = _left_in_group()
        found = [size for size in (free, left) if size is not None]
        if found:
            return min(found)
    with contextlib.suppress(AttributeError, ValueError, OSError):
        # Where the system does not say what is free, half of what the machine has.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def can_limit() -> bool:
    """Whether this system can hold a process to a limit of memory."""
    return sys.platform.startswith("linux")


def limit(size: int) -> None:
    """Let no allocation of this process succeed beyond so many bytes.

    Files that are mapped for reading do not count (RLIMIT_DATA, not RLIMIT_AS), nor does what
    libraries reserve without using.
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bound = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def _field(path: Path, name: str) -> int | None:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def _left_in_group() -> int | None:
    """What the control group (version 2, then 1) leaves, its file cache counted as free."""
    for most, used, cache in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with contextlib.suppress(OSError, ValueError):
            allowed = int((_CGROUP / most).read_text())
            taken = int((_CGROUP / used).read_text())
            for line in (_CGROUP / cache).read_text().splitlines():
                if line.split()[0] in ("inactive_file", "total_inactive_file"):
                    taken -= int(line.split()[1])
                    break
            if allowed < 2**60:  # version 1 writes a huge number for "no limit"
                return max(0, allowed - taken)
    return None


def allowed(asked: int | None, share: float, least: int, most: int) -> int:
    """How many bytes something may take: what the user asks for, else a share of what is free,
    from `least` to `most`; `most` where nobody can tell what is free."""
    if asked is not None:
        return asked
    free = available()
    return most if free is None else min(most, max(least, int(share * free)))
