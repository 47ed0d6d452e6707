"""What is measured of every model, and how two measurements of it compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxshare.checks.limits import Unit, show

#: What was measured of a model, by metric; None is unknown.
Measured = Mapping[str, int | float | None]


@dataclass(frozen=True)
class Metrics:
    """What the rules measure, whether or not a rule was selected; unknown is None.

    Attributes:
        params, macs, peak_activation_bytes, sharing_ratio: as of `inspect`'s totals.
        fc_share: parameters used by fully connected layers / all parameters.
        file_bytes: the model file and its external data.
    """

    params: int
    fc_share: float
    sharing_ratio: float | None
    macs: int | None
    file_bytes: int | None = None
    peak_activation_bytes: int | None = None


@dataclass(frozen=True)
class Metric:
    """How one of `Metrics` is shown and compared; `grows` says that more of it is worse."""

    title: str
    words: str
    unit: Unit
    grows: bool = True


METRICS: dict[str, Metric] = {
    "file_bytes": Metric("Size", "file size", "bytes"),
    "params": Metric("Parameters", "parameters", "count"),
    "fc_share": Metric("In FCs", "share of parameters in fully connected layers", "share"),
    "sharing_ratio": Metric("Uses per parameter", "uses per parameter", "ratio", grows=False),
    "macs": Metric("MACs", "multiply-accumulates", "count"),
    "peak_activation_bytes": Metric("Activation memory", "activation memory", "bytes"),
}


@dataclass(frozen=True)
class Difference:
    """A metric that is not what it was: both values, each as text that differs from the other's,
    the difference as a share of what it was, and whether that is for the worse."""

    metric: Metric
    before: str
    after: str
    by: str
    worse: bool

    def __str__(self) -> str:
        return f"{self.metric.words} {self.before} → {self.after}" + (self.by and f" ({self.by})")


def differences(before: Measured, now: Measured) -> list[Difference]:
    """The metrics that changed, in the order of `METRICS`; those not measured before are left
    out."""
    found = []
    for name, metric in METRICS.items():
        old, new = before.get(name), now.get(name)
        if old is None or old == new:
            continue
        after = "unknown" if new is None else show(new, metric.unit, near=old)
        by = "" if new is None or not old else f"{(new - old) / abs(old):+.1%}"
        worse = new is None or growth(name, old, new)[1] > 0
        found.append(Difference(metric, show(old, metric.unit, near=new), after, by, worse))
    return found


def growth(name: str, old: float, new: float) -> tuple[float, float]:
    """How much a metric changed, as a share of what it was, and how much worse that is."""
    change = (new - old) / abs(old) if old else float(new != old)
    return change, change if METRICS[name].grows else -change


def better(old: Measured, new: Measured) -> dict[str, int | float | None]:
    """Of each metric that was measured before, the better of both values."""
    found = dict(old)
    for name, value in old.items():
        now = new.get(name)
        if value is not None and now is not None and growth(name, value, now)[1] < 0:
            found[name] = now
    return found
