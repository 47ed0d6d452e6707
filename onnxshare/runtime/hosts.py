"""Where sessions live: in this process, or in one that a crash does not take along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from onnxshare.io.tensors import Array
from onnxshare.runtime import memory
from onnxshare.runtime.engine import Engine, Initializer, Settings
from onnxshare.runtime.frames import Header
from onnxshare.runtime.process import ChildProcess
from onnxshare.runtime.providers import CPU, Provider
from onnxshare.runtime.run_limits import RunLimits
from onnxshare.runtime.weights import Weights

#: The share of the free memory that a model's process may take unless the user says otherwise.
_SHARE = 0.9


@dataclass(frozen=True)
class Opened:
    """A session in its place.

    Attributes:
        number: what to call it there.
        generation: of the place: whoever stops it ends its sessions.
        size: bytes of the model.
        on_cpu: nodes that the provider left to the CPU.
    """

    number: int
    generation: int
    size: int
    on_cpu: tuple[str, ...]


class Host(Protocol):
    """A place for sessions."""

    @property
    def generation(self) -> int:
        """How often it was stopped, or has died."""

    @property
    def opened(self) -> int:
        """How many sessions were opened since then."""

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model. Raises RuntimeFailure."""

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named. Raises RuntimeFailure."""

    def close(self, opened: Opened) -> None:
        """Forget a session."""

    def stop(self) -> None:
        """Forget all sessions, and free what they took."""

    @property
    def peak(self) -> int | None:
        """The most memory that was used there, in bytes, as of the last answer; None if that
        cannot be told."""


class LocalHost:
    """Sessions in this process."""

    peak = None

    def __init__(self) -> None:
        self.generation = self.opened = 0
        self._engine = Engine()

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model."""
        given = [Initializer(name, kind, v) for name, (kind, v) in weights.handed_over.items()]
        number, left = self._engine.open(weights.model, given, settings)
        self.opened += 1
        return Opened(number, self.generation, weights.size, tuple(left))

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        return self._engine.run(opened.number, names, feed)

    def close(self, opened: Opened) -> None:
        """Forget a session."""
        if opened.generation == self.generation:
            self._engine.close(opened.number)

    def stop(self) -> None:
        """Forget all sessions."""
        self.generation += 1
        self.opened = 0
        self._engine = Engine()


class ChildHost:
    """Sessions in a process of their own, which is started anew when it has died."""

    def __init__(self, limits: RunLimits, provider: Provider, *, start: bool = True) -> None:
        """Start the process, which does its imports while this one goes on; or only when it is
        needed."""
        self.generation = self.opened = 0
        self._limits = limits
        self._memory = _allowed(limits) if provider.name == CPU else None
        self._closed: list[int] = []
        self._child = ChildProcess(self._memory) if start else None

    @property
    def peak(self) -> int | None:
        """The most memory that the process has had, as of its last answer."""
        return None if self._child is None else self._child.peak

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model."""
        answer, _ = self._ask(
            {"op": "open", "settings": asdict(settings)},
            [np.frombuffer(weights.model, np.uint8)],
            weights.handed_over,
            seconds=self._limits.to_load(weights.size),
            what="load",
        )
        self.opened += 1
        left = tuple(answer["on_cpu"])
        return Opened(answer["session"], self.generation, weights.size, left)

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        size = sum(array.nbytes for array in feed.values())
        rows = max((len(array) for array in feed.values() if array.ndim), default=1)
        _, results = self._ask(
            {
                "op": "run",
                "session": opened.number,
                "inputs": list(feed),
                "outputs": list(names),
            },
            list(feed.values()),
            seconds=self._limits.to_run(opened.size, rows, size),
            what="run",
        )
        return results

    def close(self, opened: Opened) -> None:
        """Forget a session: the next message says so (this may be called in the midst of one)."""
        if opened.generation == self.generation:
            self._closed.append(opened.number)

    def stop(self) -> None:
        """End the process, and with it what it took."""
        if self._child is not None:
            self._child.stop()
            self._gone()

    def _gone(self) -> None:
        self._child = None
        self._closed = []
        self.generation += 1
        self.opened = 0

    def _ask(
        self,
        header: Mapping[str, object],
        arrays: Sequence[Array],
        weights: Mapping[str, tuple[int, Array]] | None = None,
        *,
        seconds: float,
        what: str,
    ) -> tuple[Header, list[Array]]:
        if self._child is None:
            self._child = ChildProcess(self._memory)
        closed, self._closed = self._closed, []
        try:
            return self._child.ask(
                {**header, "closed": closed}, arrays, weights, seconds=seconds, what=what
            )
        finally:
            if self._child.spent:
                self._gone()


class InTurn:
    """A place that is left empty while a session of another place is open: memory is short."""

    def __init__(self, place: Host, places: Sequence[Host]) -> None:
        self._place, self._places = place, places

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Stop every place, then load a model."""
        for place in self._places:
            place.stop()
        return self._place.open(weights, settings)

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        return self._place.run(opened, names, feed)

    def close(self, opened: Opened) -> None:
        """Forget a session."""
        self._place.close(opened)

    def stop(self) -> None:
        """Forget all sessions."""
        self._place.stop()

    @property
    def generation(self) -> int:
        """How often the place was stopped."""
        return self._place.generation

    @property
    def opened(self) -> int:
        """How many sessions were opened since then."""
        return self._place.opened

    @property
    def peak(self) -> int | None:
        """The most memory that was used there."""
        return self._place.peak


def _allowed(limits: RunLimits) -> int | None:
    """The most memory that a process may take; None where nobody can tell or hold it to that."""
    if not memory.can_limit():
        return None
    if limits.memory is not None:
        return limits.memory
    free = memory.available()
    return None if free is None else int(_SHARE * free)
