"""How much memory a process has used, and how much this machine could still give.

What a model may take when it runs: a process of its own, so much time, so much memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from onnxshare.errors import UsageError

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


#: Less than this holds no ONNX Runtime.
LEAST_MEMORY = 256 * 2**20

#: Outputs that a process takes at once from a model's, as a share of free memory, and the bytes
#: that it always takes. Those of two models and of several runs are compared with each other.
_RETURNED, _LEAST_RETURNED = 1 / 16, 2**28

#: Seconds for a step without regard to its size, per GB of weights, and per sample and MB of it.
_BASE, _PER_GB, _PER_SAMPLE, _PER_MB = 60.0, 120.0, 1.0, 2.0


@dataclass(frozen=True)
class RunLimits:
    """How models run.

    Attributes:
        in_process: in this process, which saves starting others, and dies with a model that
            crashes ONNX Runtime; there is then no limit on time or memory.
        timeout: the most seconds that loading a model may take, and running one group of
            samples; None for a figure that grows with the model and the samples.
        memory: the most bytes of memory that a model's process may take, on the CPU; None for
            what is free.
    """

    in_process: bool = False
    timeout: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"a time-out of {self.timeout:g} s lets nothing run", "give more")
        if self.in_process and (self.timeout is not None or self.memory is not None):
            raise UsageError("limits on time and memory need a process", "leave --in-process out")
        if self.memory is not None and not can_limit():
            raise UsageError(
                "this system cannot hold a process to a limit of memory: only Linux can",
                "leave --memory-limit out",
            )
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise UsageError(
                f"a memory limit of {self.memory} bytes is too small for ONNX Runtime",
                f"give {LEAST_MEMORY // 2**20}M at least",
            )

    def to_load(self, weights: int) -> float:
        """Seconds for loading a model with so many bytes of weights."""
        if self.timeout is not None:
            return self.timeout
        return _BASE + _PER_GB * weights / 1e9

    def to_run(self, weights: int, samples: int, size: int) -> float:
        """Seconds for running so many samples, which together take `size` bytes."""
        if self.timeout is not None:
            return self.timeout
        return self.to_load(weights) + _PER_SAMPLE * samples + _PER_MB * size / 1e6

    @property
    def returned(self) -> int | None:
        """The most bytes of outputs that are taken at once from a model's process: a limit that
        the user sets, else a share of what is free; None where nobody can tell that."""
        if self.memory is not None:
            return self.memory
        free = available()
        return None if free is None else max(_LEAST_RETURNED, int(_RETURNED * free))


def parse_memory(text: str) -> int:
    """Bytes, written such as 4GB, 4G (10⁹ each), 512MiB or 1073741824.

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"--memory-limit '{text}' is no size", "write it like 4GB or 512MiB")
    unit = (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    return int(float(found[1]) * unit)


#: What holds unless a caller says otherwise.
DEFAULT = RunLimits()
