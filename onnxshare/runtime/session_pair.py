"""The sessions of one comparison: each model's in a place of its own, all ended together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxshare.errors import RuntimeFailure
from onnxshare.io.load import Model
from onnxshare.runtime.limits import RunLimits, or_default
from onnxshare.runtime.ort_weights import weight_bytes
from onnxshare.runtime.provider_table import CPU
from onnxshare.runtime.providers import Provider
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_host import Host, place_for
from onnxshare.support import memory
from onnxshare.support.cpu_count import usable_cores

#: Memory that a session takes, in bytes of its weights: the mapped file, or a copy of what is not
#: in one, and what the optimiser makes of them.
_PER_WEIGHT = 1.25

#: Sessions that are open side by side unless memory is short: the first model twice (with and
#: without optimisations) in one process, and the second model.
_SIDE_BY_SIDE = 3

#: Models smaller than this are never run in turn.
_SMALL = 2**28


class Sessions:
    """Opens sessions of several models; as a context, it ends them all.

    Attributes:
        in_turn: whether memory is so short that one session is open at a time. Sessions are then
            opened when they run, so those that run often should run many samples at once.
        limits: what they may take.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        provider: Provider,
        limits: RunLimits | None = None,
        *,
        start: bool = True,
        in_turn: bool = False,
    ) -> None:
        """Start the processes, which do their imports while this one goes on.

        Args:
            models: by the names that `open` takes.
            provider: where they run.
            limits: what they may take.
            start: false to start each process when it is first needed.
            in_turn: hold one session at a time even if memory is not short; never done elsewhere
                than on the CPU.
        """
        limits = or_default(limits)
        self._models, self._provider, self.limits = models, provider, limits
        self._track: Host | None = None
        #: The first session of each model, which later rounds run again.
        self._kept: dict[str, tuple[tuple[str, ...] | None, Session]] = {}
        short = in_turn or _is_short(list(models.values()), limits)
        self.in_turn = provider.name == CPU and short
        start = start and not self.in_turn
        self._places = {name: place_for(limits, provider, start=start) for name in models}
        for place in self._places.values() if self.in_turn else ():
            place.rivals = list(self._places.values())

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._kept.clear()
        for place in (*self._places.values(), self._track):
            if place is not None:
                place.stop()

    def open(
        self, name: str, outputs: Sequence[str] | None = None, model: Model | None = None
    ) -> Session:
        """A session of a model, or of another one in its place; see `Session`."""
        wanted = None if outputs is None else tuple(outputs)
        kept = self._kept.get(name)
        if model is None and kept is not None and kept[0] == wanted:
            return kept[1]
        session = Session(
            self._models[name] if model is None else model,
            provider=self._provider,
            outputs=outputs,
            host=self._places[name],
            later=self.in_turn,
        )
        if model is None:
            self._kept.setdefault(name, (wanted, session))
        return session

    def costs(self) -> dict[str, Any]:
        """What the first session of each model took: `memory` and `left_to_cpu`, by the models'
        names in small letters, as `onnxshare.comparison.results.Comparison` has them."""
        first = {name.lower(): place.first for name, place in self._places.items()}
        memory = {name: found.peak for name, found in first.items()}
        left = {name: found.on_cpu or () for name, found in first.items()}
        return {
            "memory": memory if any(memory.values()) else None,
            "left_to_cpu": None if self._provider.name == CPU else left,
        }

    def racers(self, *names: str) -> tuple[Session, Session]:
        """Sessions of two models in one place, to be timed in turn; all other sessions are closed
        until they are run again.

        Raises:
            RuntimeFailure: memory is too short for both at once.
        """
        self._stop()
        first, second = (self._models[name] for name in names)
        free, need = memory.available(), _PER_WEIGHT * (weight_bytes(first) + weight_bytes(second))
        if free is not None and need > free and self._provider.name == CPU:
            raise RuntimeFailure(
                f"both models together need about {need / 1e9:.3g} GB of memory, and "
                f"{free / 1e9:.3g} GB are free"
            )
        if self._track is None:
            self._track = place_for(self.limits, self._provider, start=False)
        how: dict[str, Any] = {"host": self._track, "later": True, "threads": usable_cores()}
        one, other = (Session(m, provider=self._provider, **how) for m in (first, second))
        return one, other


def _is_short(models: Sequence[Model], limits: RunLimits) -> bool:
    """Whether the sessions of all models do not fit into memory side by side."""
    largest = max((weight_bytes(model) for model in models), default=0)
    free, need = memory.available(), _PER_WEIGHT * largest
    if largest < _SMALL or free is None:
        return False
    if limits.memory is not None and (_SIDE_BY_SIDE - 1) * need > limits.memory:
        return True
    return _SIDE_BY_SIDE * need > free
