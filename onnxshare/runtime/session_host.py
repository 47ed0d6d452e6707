"""Where sessions live: in this process, or in one that a crash does not take along."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from onnxshare.io.tensors import Array
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_engine import Engine, Racer, Settings
from onnxshare.runtime.ort_weights import Weights
from onnxshare.runtime.pipe_messages import Header
from onnxshare.runtime.provider_table import CPU, REFERENCE
from onnxshare.runtime.providers import Provider
from onnxshare.runtime.worker_process import ChildProcess
from onnxshare.support import memory

#: The share of the free memory that a model's process may take unless the user says otherwise.
_SHARE = 0.9


@dataclass(frozen=True)
class Opened:
    """A session in its place, by number; what stops the place, which ends a generation, ends its
    sessions. `size` is that of the model in bytes."""

    number: int
    generation: int
    size: int


@dataclass
class First:
    """What the first session of a place took.

    Attributes:
        peak: the most memory of its process (resident, in bytes) after its first samples were
            run, while no other session was there; None where that cannot be told.
        on_cpu: nodes that its provider left to the CPU, by name; None before it was opened.
    """

    peak: int | None = None
    on_cpu: tuple[str, ...] | None = None


class Host(ABC):
    """A place for sessions.

    Attributes:
        generation: how often it was stopped, or has died.
        first: what the first session there took.
        rivals: the places that are stopped before a model is loaded here: memory is short.
        returned: the most bytes of outputs that come from here at once; None for any number.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.first = First()
        self.rivals: Sequence[Host] = ()
        self.returned: int | None = None

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model. Raises RuntimeFailure."""
        for place in self.rivals:
            place.stop()
        number, left = self._open(weights, settings)
        if self.first.on_cpu is None:
            self.first.on_cpu = tuple(left)
        return Opened(number, self.generation, weights.size)

    def close(self, opened: Opened) -> None:
        """Forget a session."""
        if opened.generation == self.generation:
            self._close(opened.number)

    @abstractmethod
    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named. Raises RuntimeFailure."""

    @abstractmethod
    def race(self, racers: Sequence[Racer], orders: Array, runs: int) -> Array:
        """Time two sessions; see `Session.race`. Raises RuntimeFailure."""

    @abstractmethod
    def stop(self) -> None:
        """Forget all sessions, and free what they took."""

    @abstractmethod
    def _open(self, weights: Weights, settings: Settings) -> tuple[int, Sequence[str]]: ...

    @abstractmethod
    def _close(self, number: int) -> None: ...


class LocalHost(Host):
    """Sessions in this process."""

    def __init__(self, provider: Provider | None = None) -> None:
        """Make this process one in which the provider runs."""
        super().__init__()
        os.environ.update(provider.environment if provider else {})
        self._engine = Engine()

    def _open(self, weights: Weights, settings: Settings) -> tuple[int, Sequence[str]]:
        return self._engine.open(weights.model, weights.handed_over, settings)

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        return self._engine.run(opened.number, names, feed)

    def race(self, racers: Sequence[Racer], orders: Array, runs: int) -> Array:
        """Time two sessions."""
        return self._engine.race(racers, orders, runs)

    def _close(self, number: int) -> None:
        self._engine.close(number)

    def stop(self) -> None:
        """Forget all sessions."""
        self.generation += 1
        self._engine = Engine()


class ChildHost(Host):
    """Sessions in a process of their own, which is started anew when it has died."""

    def __init__(self, limits: RunLimits, provider: Provider, *, start: bool = True) -> None:
        """Start the process, which does its imports while this one goes on; or only when it is
        needed."""
        super().__init__()
        self._opened = 0
        self._limits = limits
        self._memory = _allowed(limits) if provider.name in (CPU, REFERENCE) else None
        self.returned = limits.returned
        self._closed: list[int] = []
        self._environment = provider.environment
        self._child = self._start() if start else None

    def _start(self) -> ChildProcess:
        return ChildProcess(self._memory, self.returned, self._environment)

    def _open(self, weights: Weights, settings: Settings) -> tuple[int, Sequence[str]]:
        answer, _ = self._ask(
            {"op": "open", "settings": asdict(settings)},
            [np.frombuffer(weights.model, np.uint8)],
            weights.handed_over,
            seconds=self._limits.to_load(weights.size),
            what="load",
        )
        self._opened += 1
        return answer["session"], answer["on_cpu"]

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        size = sum(array.nbytes for array in feed.values())
        rows = max((len(array) for array in feed.values() if array.ndim), default=1)
        header = {"session": opened.number, "inputs": list(feed), "outputs": list(names)}
        _, results = self._ask(
            {"op": "run", **header},
            list(feed.values()),
            seconds=self._limits.to_run(opened.size, rows, size),
            what="run",
        )
        if self.first.peak is None and self._opened == 1 and self._child is not None:
            self.first.peak = self._child.peak
        return results

    def race(self, racers: Sequence[Racer], orders: Array, runs: int) -> Array:
        """Time two sessions."""
        told = [
            {"session": racer.number, "outputs": list(racer.outputs), "inputs": list(racer.feed)}
            for racer in racers
        ]
        feeds = [array for racer in racers for array in racer.feed.values()]
        weights = max(racer.size for racer in racers)
        size = sum(array.nbytes for array in feeds)
        _, results = self._ask(
            {"op": "race", "racers": told, "runs": runs},
            [np.asarray(orders, np.int64), *feeds],
            seconds=self._limits.to_run(weights, 1, size) * runs * len(orders) * 2,
            what="time",
        )
        return results[0]

    def _close(self, number: int) -> None:
        # The next message says so: this may be called in the midst of one.
        self._closed.append(number)

    def stop(self) -> None:
        """End the process, and with it what it took."""
        if self._child is not None:
            self._child.stop()
            self._gone()

    def _gone(self) -> None:
        self._child, self._closed, self._opened = None, [], 0
        self.generation += 1

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
            self._child = self._start()
        closed, self._closed = self._closed, []
        try:
            return self._child.ask(
                {**header, "closed": closed}, arrays, weights, seconds=seconds, what=what
            )
        finally:
            if self._child.spent:
                self._gone()


def place_for(limits: RunLimits, provider: Provider, *, start: bool = True) -> Host:
    """A place for sessions: a process of its own unless the limits say otherwise; started now, or
    when it is needed."""
    if limits.in_process:
        return LocalHost(provider)
    return ChildHost(limits, provider, start=start)


def _allowed(limits: RunLimits) -> int | None:
    """The most memory that a process may take; None where nobody can tell or hold it to that."""
    if not memory.can_limit():
        return None
    if limits.memory is not None:
        return limits.memory
    free = memory.available()
    return None if free is None else int(_SHARE * free)
