"""What a search for a small head found."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshare.runtime.latency import Latency
from onnxshare.support.dataclass_tools import Result
from rewrites.small_heads.certificate import Estimate, Target

#: Why a candidate was not tried.
TOO_LATE = "the time limit was reached"
SURE = "smaller heads keep the promise"


@dataclass(frozen=True)
class Candidate(Result):
    """One method, tried.

    Attributes:
        method: its name.
        params: parameters of the head in this form.
        macs: multiply-accumulates per sample.
        bytes: of its parameters.
        estimate: what cross-validation says; None where it was not tried.
        latency: of the whole model (B) against the original (A); None where it was not measured.
        reaches: whether its bound reaches the target, or its estimate where only a fifth of the
            samples was held out.
        certificate: what it does on samples that the search never saw; None where it was not tried
            on them.
        certified: whether that keeps the target.
        chosen: whether it is the one.
        refused: why it was not tried.
    """

    method: str
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    estimate: Estimate | None = None
    latency: Latency | None = None
    reaches: bool = False
    certificate: Estimate | None = None
    certified: bool | None = None
    chosen: bool = False
    refused: str | None = None

    def cost(self, objective: str) -> float | None:
        """What it takes of what was to be small; None where that was not measured."""
        if objective == "latency":
            return None if self.latency is None else self.latency.ratio
        found: int | None = getattr(self, objective)
        return found


@dataclass(frozen=True)
class Search(Result):
    """What a search found.

    Attributes:
        target: what was to be kept.
        task: what the head's outputs were taken for, and why, as text.
        samples: how many the search used.
        params_before: parameters of the head as it was.
        objective: what was to be small: params, macs, bytes or latency.
        before: of the head as it was, the objective; of the latency, which is a ratio, 1.
        candidates: everything that was tried, cheapest first.
        chosen: the method that was chosen; `exact` where none reached the target.
        certificate: what the chosen head does on samples that the search never saw, or where none
            was certified, the surest; None where nothing was to be certified.
        certified: whether that keeps the target.
        timed_on: where the candidates were timed; empty where they were not.
    """

    target: Target
    task: str
    samples: int
    params_before: int
    candidates: tuple[Candidate, ...]
    chosen: str
    certificate: Estimate | None = None
    certified: bool | None = None
    timed_on: str = ""
    objective: str = "params"
    before: int | None = None

    @property
    def too_late(self) -> int:
        """How many candidates the time limit left untried."""
        return sum(item.refused == TOO_LATE for item in self.candidates)
