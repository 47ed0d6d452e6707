"""EQ: whether a model still computes what its reference computes."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshare.checks.rule import Problem, Rule, Subject, command


def _equivalent_to(subject: Subject, reference: str) -> Iterator[Problem]:
    comparison = subject.compare(reference)
    # `compare` also passes an approximation that keeps its promise; equivalent it is not.
    if comparison.passed and comparison.verdict in ("identical", "equivalent"):
        return
    what = f"the verdict is {comparison.verdict}"
    if comparison.verdict in ("inconclusive", "not run"):
        what = f"cannot be judged: {what}"
    reason = f": {comparison.reason}" if comparison.reason else ""
    yield Problem(what + reason, comparison.verdict, command("compare", reference, subject.name))


RULES: tuple[Rule, ...] = (
    Rule(
        "EQ301",
        "not-equivalent",
        "equivalent-to",
        "model",
        None,
        "the verdict of `onnxshare compare` against a reference: identical or equivalent passes",
        "What was tested in training is the reference; what is shipped must be the same function.",
        "See with `onnxshare compare` where the two part.",
        _equivalent_to,
        frozenset({"runtime"}),
    ),
)
