"""The rules: what each measures, what it says, and the command that mends it.

A rule joins by joining `RULES`; the policy file, the options and the report follow from it.
Codes are stable: WS weight sharing, BG budgets, EQ equivalence.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from onnxshare.analysis.results import HeadFacts, Inspection, Totals
from onnxshare.checks.limits import Unit, show
from onnxshare.checks.results import Limit


class Verdict(Protocol):
    """What a rule needs to know of a comparison (`onnxshare.validate.Comparison` has it)."""

    @property
    def verdict(self) -> str:
        """The verdict in one or two words."""

    @property
    def reason(self) -> str:
        """Why it is this verdict."""

    @property
    def passed(self) -> bool:
        """Whether the comparison is a success."""


@dataclass(frozen=True)
class Subject:
    """One model, as the rules see it.

    Attributes:
        name: its path, or `<model>`.
        inspection: what the analyser found.
        compare: compares a reference model with this one; only called by rules that need it.
    """

    name: str
    inspection: Inspection
    compare: Callable[[str], Verdict]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one model: in words, as a value, and the command that would help."""

    message: str
    measured: int | float | str | None
    fix: str


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        code: stable, never used again for something else.
        name: what a finding is called.
        option: the key in `[check]`, and with `--` the option of the command.
        unit: what its limit is, which decides how it is read and shown.
        measures: exactly what is measured, in one sentence.
        judge: returns what is wrong with a model under a limit, or None.
    """

    code: str
    name: str
    option: str
    unit: Unit
    measures: str
    judge: Callable[[Subject, Any], Problem | None]

    def bound(self, limit: Limit, measured: Limit | None = None) -> str:
        """The limit in words: `at most 5,000,000`, `at least 10`."""
        if self.unit == "model":
            return f"equivalent to {limit}"
        word = "at least" if self.option.startswith("min-") else "at most"
        return f"{word} {show(limit, self.unit, beside=measured)}"


def fc_share(totals: Totals) -> float:
    """The parameters that fully connected layers use, as a share of all; 0 without any."""
    return totals.fc_params / totals.params if totals.params else 0.0


def _max_fc_share(subject: Subject, limit: float) -> Problem | None:
    totals = subject.inspection.totals
    share = fc_share(totals)
    if share <= limit:
        return None
    return Problem(
        f"{show(share, 'share', beside=limit)} of the parameters "
        f"({totals.fc_params:,} of {totals.params:,}) sit in fully connected layers",
        share,
        _shrink_head(subject),
    )


def _min_sharing_ratio(subject: Subject, limit: float) -> Problem | None:
    totals = subject.inspection.totals
    ratio = totals.sharing_ratio
    if ratio is None:
        if totals.params == 0:
            return _unknown(subject, "the model holds no parameters")
        return _unknown(subject, "the number of connections is unknown")
    if ratio >= limit:
        return None
    times = show(ratio, "ratio", beside=limit)
    return Problem(
        f"a parameter is used {times} times per sample on average", ratio, _shrink_head(subject)
    )


def _max_params(subject: Subject, limit: int) -> Problem | None:
    params = subject.inspection.totals.params
    if params <= limit:
        return None
    return Problem(f"{params:,} parameters", params, _shrink_head(subject))


def _max_macs(subject: Subject, limit: int) -> Problem | None:
    macs = subject.inspection.totals.macs
    if macs is None:
        return _unknown(subject, "the number of multiply-accumulates is unknown")
    if macs <= limit:
        return None
    return Problem(
        f"{macs:,} multiply-accumulates per sample",
        macs,
        command("inspect", subject.name, "--sort", "macs"),
    )


def _equivalent_to(subject: Subject, reference: str) -> Problem | None:
    comparison = subject.compare(reference)
    # `compare` also passes an approximation that keeps its promise; equivalent it is not.
    if comparison.passed and comparison.verdict in ("identical", "equivalent"):
        return None
    fix = command("compare", reference, subject.name)
    what = f"the verdict is {comparison.verdict}"
    if comparison.verdict in ("inconclusive", "not run"):
        what = f"cannot be judged: {what}"
    reason = f": {comparison.reason}" if comparison.reason else ""
    return Problem(what + reason, comparison.verdict, fix)


def _unknown(subject: Subject, what: str) -> Problem:
    """An unknown value is never a silent pass."""
    warnings = subject.inspection.warnings
    why = f" ({warnings[-1]})" if warnings else ""  # the last one sums up what is unknown
    return Problem(f"cannot be judged: {what}{why}", None, command("inspect", subject.name))


def _shrink_head(subject: Subject) -> str:
    """The rewrite that removes most weights, if some head allows it; else where they are."""
    offers = [_gap_offer(head) for head in subject.inspection.heads]
    if "exact" in offers:
        return command("rewrite", subject.name, "--fc-to-gap")
    if "approximate" in offers:
        return command("rewrite", subject.name, "--fc-to-gap", "--approximate", "--samples", "FILE")
    return command("inspect", subject.name, "--sort", "params")


def _gap_offer(head: HeadFacts) -> str | None:
    offer = head.rewrites.get("fc-to-gap")
    if offer is None or offer.get("refused"):
        return None
    return "exact" if offer.get("exact") else "approximate"


def command(verb: str, *arguments: str) -> str:
    """An onnxshare command line that can be pasted into a shell."""
    return " ".join(["onnxshare", verb, *(shlex.quote(argument) for argument in arguments)])


#: All rules, in the order of their codes' families.
RULES: tuple[Rule, ...] = (
    Rule(
        "WS101",
        "fc-dominates",
        "max-fc-share",
        "share",
        "parameters that fully connected layers use (totals.fc_params) / all parameters "
        "(totals.params), each stored tensor counted once",
        _max_fc_share,
    ),
    Rule(
        "WS102",
        "low-reuse",
        "min-sharing-ratio",
        "ratio",
        "connections / parameters per sample: how often the average parameter is used",
        _min_sharing_ratio,
    ),
    Rule("BG202", "params", "max-params", "count", "parameters, each stored once", _max_params),
    Rule(
        "BG203",
        "macs",
        "max-macs",
        "count",
        "multiply-accumulates per sample, bias not counted",
        _max_macs,
    ),
    Rule(
        "EQ301",
        "not-equivalent",
        "equivalent-to",
        "model",
        "the verdict of `onnxshare compare` against a reference: identical or equivalent passes",
        _equivalent_to,
    ),
)

#: The rules by the name of their option.
BY_OPTION: dict[str, Rule] = {rule.option: rule for rule in RULES}
