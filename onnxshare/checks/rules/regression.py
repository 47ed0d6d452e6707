"""RG: whether a model got worse since the baseline was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from onnxshare.checks.limits import show
from onnxshare.checks.metrics import METRICS, growth
from onnxshare.checks.rule import Problem, Rule, Subject, command


def _max_regression(subject: Subject, limit: float) -> Iterator[Problem]:
    now = asdict(subject.metrics)
    for name, metric in METRICS.items():
        old, new = (subject.before or {}).get(name), now[name]
        if old is None:
            continue
        words, unit, fix = metric.words, metric.unit, command("inspect", subject.name)
        if new is None:
            yield Problem(f"{words}: was {show(old, unit)}, and is unknown now", None, fix)
            continue
        change, worse = growth(name, old, new)
        if worse > limit + 1e-12:
            yield Problem(
                f"{words}: {show(old, unit, near=new)} → {show(new, unit, near=old)} "
                f"({change:+.1%})",
                change,
                fix,
            )


RULES: tuple[Rule, ...] = (
    Rule(
        "RG501",
        "regression",
        "max-regression",
        "share",
        0.0,
        "how much worse file size, parameters, share of parameters in fully connected layers, uses "
        "per parameter, multiply-accumulates and activation memory are than in the baseline, as a "
        "share of it",
        "Growth in small steps passes every fixed budget until it is too late.",
        "Find what grew with `onnxshare diff OLD NEW`; if it is meant, write the baseline anew.",
        _max_regression,
        help="How much worse than the baseline a model may be.",
        short="The model got worse than the baseline",
    ),
)
