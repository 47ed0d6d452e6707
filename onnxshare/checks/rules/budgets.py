"""BG: how large and how expensive a model may be."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshare.checks.rule import Problem, Rule, Subject, command, shrink_head, unknown


def _max_params(subject: Subject, limit: int) -> Iterator[Problem]:
    params = subject.inspection.totals.params
    if params > limit:
        yield Problem(f"{params:,} parameters", params, shrink_head(subject))


def _max_macs(subject: Subject, limit: int) -> Iterator[Problem]:
    macs = subject.inspection.totals.macs
    if macs is None:
        yield unknown(subject, "the number of multiply-accumulates is unknown")
    elif macs > limit:
        yield Problem(
            f"{macs:,} multiply-accumulates per sample",
            macs,
            command("inspect", subject.name, "--sort", "macs"),
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "BG202",
        "params",
        "max-params",
        "count",
        None,
        "parameters, each stored once",
        "Parameters are what is downloaded, stored and read.",
        "Rewrite the head, merge equal tensors (`onnxshare rewrite --share`), or train a smaller "
        "network.",
        _max_params,
    ),
    Rule(
        "BG203",
        "macs",
        "max-macs",
        "count",
        None,
        "multiply-accumulates per sample, bias not counted",
        "Arithmetic is what a small processor runs out of first.",
        "See `onnxshare inspect --sort macs` for the layers that need most.",
        _max_macs,
    ),
)
