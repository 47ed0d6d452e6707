"""WS: where the weights sit and how often each is used."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshare.analysis.results import Totals
from onnxshare.checks.limits import show
from onnxshare.checks.rule import Problem, Rule, Subject, shrink_head, unknown


def fc_share(totals: Totals) -> float:
    """The parameters that fully connected layers use, as a share of all; 0 without any."""
    return totals.fc_params / totals.params if totals.params else 0.0


def _max_fc_share(subject: Subject, limit: float) -> Iterator[Problem]:
    totals = subject.inspection.totals
    share = fc_share(totals)
    if share > limit:
        yield Problem(
            f"{show(share, 'share', beside=limit)} of the parameters "
            f"({totals.fc_params:,} of {totals.params:,}) sit in fully connected layers",
            share,
            shrink_head(subject),
        )


def _min_sharing_ratio(subject: Subject, limit: float) -> Iterator[Problem]:
    totals = subject.inspection.totals
    ratio = totals.sharing_ratio
    if ratio is None:
        nothing = "the model holds no parameters"
        yield unknown(subject, "the number of connections is unknown" if totals.params else nothing)
    elif ratio < limit:
        times = show(ratio, "ratio", beside=limit)
        yield Problem(
            f"a parameter is used {times} times per sample on average", ratio, shrink_head(subject)
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "WS101",
        "fc-dominates",
        "max-fc-share",
        "share",
        0.5,
        "parameters that fully connected layers use (totals.fc_params) / all parameters "
        "(totals.params), each stored tensor counted once",
        "A fully connected layer uses each weight once per sample. At batch 1 such a layer costs "
        "what it costs to read its weights, and it is most of what is shipped.",
        "Rewrite the head with `onnxshare rewrite --fc-to-gap`, which keeps a small one.",
        _max_fc_share,
    ),
    Rule(
        "WS102",
        "low-reuse",
        "min-sharing-ratio",
        "ratio",
        10.0,
        "connections / parameters per sample: how often the average parameter is used",
        "The fewer times a weight is used once it is read, the more the speed of the model is that "
        "of memory and not of arithmetic.",
        "Share weights over positions: convolutions and pooling instead of fully connected layers.",
        _min_sharing_ratio,
    ),
)
