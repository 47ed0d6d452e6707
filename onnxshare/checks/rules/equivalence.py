"""EQ: whether a model still computes what its reference computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxshare.checks.limits import show
from onnxshare.checks.rule import Problem, Rule, Subject, command

if TYPE_CHECKING:
    from onnxshare.comparison.promise import Promise
    from onnxshare.comparison.results import Comparison


def _equivalent_to(subject: Subject, reference: str) -> Iterator[Problem]:
    from onnxshare.comparison.results import Verdict

    if "EQ302" in subject.selected and _promise(subject) is not None:
        return  # an approximation that says so is not equivalent, and EQ302 judges it
    comparison = subject.compare(reference)
    # `compare` also passes an approximation that keeps its promise; equivalent it is not, but for
    # an error that was allowed.
    allowed = subject.tolerant and _promise(subject) is None
    if comparison.passed and (allowed or comparison.verdict is not Verdict.APPROXIMATE):
        return
    what = f"not equivalent to {reference}"
    if comparison.verdict.open:
        what = f"cannot be judged against {reference}"
    yield Problem(
        f"{what}: {_reason(comparison)}",
        comparison.verdict,
        _compare(subject, reference, comparison),
    )


def _reason(comparison: Comparison) -> str:
    reason = f": {comparison.reason}" if comparison.reason else ""
    return f"the verdict is {comparison.verdict}{reason}"


def _compare(subject: Subject, reference: str, comparison: Comparison) -> str:
    from onnxshare.comparison.results import Verdict

    # Where random samples do not decide, the user's own do.
    samples = ("--samples", "FILE") if comparison.verdict is Verdict.INCONCLUSIVE else ()
    return command("compare", reference, subject.name, *samples)


def _min_agreement(subject: Subject, limit: float) -> Iterator[Problem]:
    promise = _promise(subject)
    if promise is None:
        return
    fix = command("explain", "EQ302")
    if subject.reference is not None:
        comparison = subject.compare(subject.reference)
        if not comparison.passed:
            undecided = comparison.verdict.open
            what = "cannot be judged" if undecided else "does not keep its promise"
            yield Problem(
                f"an approximation by {promise.rewrite} {what}: {_reason(comparison)}",
                comparison.verdict,
                _compare(subject, subject.reference, comparison),
            )
            return
    agreement = promise.agreement_low
    if agreement is None and limit > 0:
        only = [promise.target.words] if promise.target else []
        if promise.sqnr_low is not None:
            only.append(f"{promise.sqnr_low:.1f} dB of signal over error")
        yield Problem(
            f"an approximation by {promise.rewrite} promises no agreement of classes, only "
            f"{' and '.join(only)}",
            None,
            fix,
        )
    elif agreement is not None and agreement < limit:
        share = show(agreement, "share", near=limit)
        yield Problem(
            f"an approximation by {promise.rewrite} promises the same class on {share} only",
            agreement,
            fix,
        )


def _max_error(subject: Subject, limit: float) -> Iterator[Problem]:
    promise = _promise(subject)
    if promise is None or promise.sqnr_low is None:
        return
    error = 10 ** (-promise.sqnr_low / 20)
    if error > limit:
        share = show(error, "share", near=limit)
        yield Problem(
            f"an approximation by {promise.rewrite} promises a relative error of {share} only",
            error,
            command("explain", "EQ303"),
        )


def _promise(subject: Subject) -> Promise | None:
    from onnxshare.comparison.promise import (
        declared,  # imports onnx, which the list of rules does not need
    )

    return declared(subject.model.skeleton)


RULES: tuple[Rule, ...] = (
    Rule(
        "EQ301",
        "not-equivalent",
        "equivalent-to",
        "model",
        None,
        "the verdict of `onnxshare compare` against a reference: identical or equivalent passes, "
        "and approximate where `min-agreement` or `max-error` allows it, on the samples given",
        "What was tested in training is the reference; what is shipped must be the same function.",
        "See with `onnxshare compare` where the two part.",
        _equivalent_to,
        frozenset({"runtime"}),
        "The model that each must be equivalent to.",
        short="The model is not equivalent to its reference",
    ),
    Rule(
        "EQ302",
        "approximate",
        "min-agreement",
        "share",
        1.0,
        "the agreement that a model rewritten approximately promises in its metadata, and, where a "
        "reference is given, whether it keeps the promise; 100% allows no approximation. Of any "
        "other model, such as a quantized one: the share of samples whose class stays that of the "
        "reference, by its 95 % lower bound, as `compare --keep` has it",
        "An approximate model must not reach a device unnoticed.",
        "Allow it with `min-agreement`, at the agreement you need, or rewrite exactly.",
        _min_agreement,
        frozenset({"runtime"}),
        "The agreement that an approximate model must promise or keep; 100% allows none.",
        short="An approximate model agrees too rarely with its original",
    ),
    Rule(
        "EQ303",
        "relative-error",
        "max-error",
        "share",
        None,
        "the relative RMS error that a model rewritten approximately promises in its metadata; of "
        "any other model that of each output against the reference, as `compare --max-error` has "
        "it. It needs samples",
        "A quantized or half-precision model differs from its reference, and by how much is yours "
        "to say.",
        "Quantize fewer layers, or calibrate on more samples.",
        _max_error,
        frozenset({"runtime"}),
        "The largest relative RMS error of an output that is allowed against the reference.",
        short="An approximate model's error is too large",
    ),
)
