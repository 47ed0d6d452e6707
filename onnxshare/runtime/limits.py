"""What a model may take when it runs: a process of its own, so much time, so much memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxshare.errors import UsageError
from onnxshare.support import memory
from onnxshare.support.option_text import option

#: Less than this holds no ONNX Runtime.
LEAST_MEMORY = 256 * 2**20

#: Outputs that a process takes at once from a model's, as a share of free memory, and the bytes
#: between which that is. Those of two models and of several runs are compared with each other.
_RETURNED, _LEAST_RETURNED, _MOST_RETURNED = 1 / 16, 2**28, 2**40

#: Seconds beyond which no system waits.
_LONGEST = 1e9

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
        if self.timeout is not None and not 0 < self.timeout < _LONGEST:
            raise UsageError(
                f"a time-out of {self.timeout:g} s is none", "give seconds, or leave it out"
            )
        if self.in_process and (self.timeout is not None or self.memory is not None):
            raise UsageError(
                "limits on time and memory need a process", f"leave {option('--in-process')} out"
            )
        if self.memory is not None and not memory.can_limit():
            raise UsageError(
                "this system cannot hold a process to a limit of memory: only Linux can",
                f"leave {option('--memory-limit')} out",
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
    def returned(self) -> int:
        """The most bytes of outputs that are taken at once from a model's process."""
        return memory.allowed(self.memory, _RETURNED, _LEAST_RETURNED, _MOST_RETURNED)


def parse_memory(text: str) -> int:
    """Bytes, written such as 4GB, 4G (10⁹ each), 512MiB or 1073741824.

    Raises:
        UsageError: it is not a size.
    """
    found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(
            f"{option('--memory-limit', text[:80])} is not a size", "write 4GB or 512MiB"
        )
    unit = (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")
    return int(float(found[1]) * unit)


#: What holds unless a caller says otherwise.
DEFAULT = RunLimits()


def or_default(given: RunLimits | None) -> RunLimits:
    """What a caller says, or else `DEFAULT` as it is now, which tests change."""
    return DEFAULT if given is None else given
