"""Where sessions live: in this process, or in one that a crash does not take along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from onnxshare.io.tensors import Array
from onnxshare.runtime import limits as memory
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_engine import Engine, Initializer, Racer, Settings
from onnxshare.runtime.ort_weights import Weights
from onnxshare.runtime.pipe_messages import Header
from onnxshare.runtime.providers import CPU, REFERENCE, Provider
from onnxshare.runtime.worker_process import ChildProcess

#: The share of the free memory that a model's process may take unless the user says otherwise.
_SHARE = 0.9


@dataclass(frozen=True)
class Opened:
    """A session in its place.

    Attributes:
        number: what to call it there.
        generation: of the place: whoever stops it ends its sessions.
        size: bytes of the model.
    """

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


@dataclass(frozen=True)
class Runner:
    """One of two sessions that are timed: the session, the outputs it makes, and its inputs."""

    opened: Opened
    names: Sequence[str]
    feed: Mapping[str, Array]


class Host(Protocol):
    """A place for sessions."""

    @property
    def generation(self) -> int:
        """How often it was stopped, or has died."""

    @property
    def first(self) -> First:
        """What the first session there took."""

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model. Raises RuntimeFailure."""

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named. Raises RuntimeFailure."""

    def race(self, runners: Sequence[Runner], orders: Array, runs: int) -> Array:
        """Time two sessions; see `Session.race`. Raises RuntimeFailure."""

    def close(self, opened: Opened) -> None:
        """Forget a session."""

    def stop(self) -> None:
        """Forget all sessions, and free what they took."""


class LocalHost:
    """Sessions in this process."""

    def __init__(self) -> None:
        self.generation = 0
        self.first = First()
        self._engine = Engine()

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model."""
        given = [Initializer(name, kind, v) for name, (kind, v) in weights.handed_over.items()]
        number, left = self._engine.open(weights.model, given, settings)
        if self.first.on_cpu is None:
            self.first.on_cpu = tuple(left)
        return Opened(number, self.generation, weights.size)

    def run(self, opened: Opened, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run it and return the outputs named."""
        return self._engine.run(opened.number, names, feed)

    def race(self, runners: Sequence[Runner], orders: Array, runs: int) -> Array:
        """Time two sessions."""
        racers = [Racer(r.opened.number, list(r.names), r.feed) for r in runners]
        return self._engine.race(racers, orders, runs)

    def close(self, opened: Opened) -> None:
        """Forget a session."""
        if opened.generation == self.generation:
            self._engine.close(opened.number)

    def stop(self) -> None:
        """Forget all sessions."""
        self.generation += 1
        self._engine = Engine()


class ChildHost:
    """Sessions in a process of their own, which is started anew when it has died."""

    def __init__(self, limits: RunLimits, provider: Provider, *, start: bool = True) -> None:
        """Start the process, which does its imports while this one goes on; or only when it is
        needed."""
        self.generation = self._opened = 0
        self.first = First()
        self._limits = limits
        self._memory = _allowed(limits) if provider.name in (CPU, REFERENCE) else None
        self._closed: list[int] = []
        self._child = ChildProcess(self._memory) if start else None

    def open(self, weights: Weights, settings: Settings) -> Opened:
        """Load a model."""
        answer, _ = self._ask(
            {"op": "open", "settings": asdict(settings)},
            [np.frombuffer(weights.model, np.uint8)],
            weights.handed_over,
            seconds=self._limits.to_load(weights.size),
            what="load",
        )
        self._opened += 1
        if self.first.on_cpu is None:
            self.first.on_cpu = tuple(answer["on_cpu"])
        return Opened(answer["session"], self.generation, weights.size)

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
        if self.first.peak is None and self._opened == 1 and self._child is not None:
            self.first.peak = self._child.peak
        return results

    def race(self, runners: Sequence[Runner], orders: Array, runs: int) -> Array:
        """Time two sessions."""
        told = [
            {"session": r.opened.number, "outputs": list(r.names), "inputs": list(r.feed)}
            for r in runners
        ]
        feeds = [array for runner in runners for array in runner.feed.values()]
        weights = max(runner.opened.size for runner in runners)
        size = sum(array.nbytes for array in feeds)
        _, results = self._ask(
            {"op": "race", "runners": told, "runs": runs},
            [np.asarray(orders, np.int64), *feeds],
            seconds=self._limits.to_run(weights, 1, size) * runs * len(orders) * 2,
            what="time",
        )
        return results[0]

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
        self._opened = 0

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

    def race(self, runners: Sequence[Runner], orders: Array, runs: int) -> Array:
        """Time two sessions."""
        return self._place.race(runners, orders, runs)

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
    def first(self) -> First:
        """What the first session there took."""
        return self._place.first


def _allowed(limits: RunLimits) -> int | None:
    """The most memory that a process may take; None where nobody can tell or hold it to that."""
    if not memory.can_limit():
        return None
    if limits.memory is not None:
        return limits.memory
    free = memory.available()
    return None if free is None else int(_SHARE * free)
