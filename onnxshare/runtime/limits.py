"""What a model may take when it runs: a process of its own, so much time, so much memory."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshare.errors import UsageError

#: Less than this holds no ONNX Runtime.
LEAST_MEMORY = 256 * 2**20

#: Seconds for a step without regard to its size, per GB of weights, and per sample and MB of it.
_BASE, _PER_GB, _PER_SAMPLE, _PER_MB = 60.0, 120.0, 1.0, 2.0


@dataclass(frozen=True)
class Limits:
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


#: What holds unless a caller says otherwise.
DEFAULT = Limits()
