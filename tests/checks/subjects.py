"""Models as the rules see them, made by hand."""

from __future__ import annotations

import dataclasses

import onnx

from onnxshare.analysis.results import (
    HeadFacts,
    HeadOffer,
    Inspection,
    ModelInfo,
    Totals,
    WeightFacts,
)
from onnxshare.checks.metrics import Metrics
from onnxshare.checks.rule import Problem, Subject
from onnxshare.checks.rules import BY_OPTION
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.io.load import Model

# LeNet-5 by hand: C1 156, C3 2,416, FCs 48,120 + 10,164 + 850; 122,304 + 241,600 + 59,134 uses.
LENET = Totals(
    params=61_706,
    statistics=0,
    constants=0,
    quantization=0,
    unused=0,
    other=0,
    param_bytes=246_824,
    connections=423_038,
    sharing_ratio=423_038 / 61_706,
    macs=416_520,
    flops=833_040,
    weight_layers=5,
    fc_params=59_134,
    fc_after_conv_params=59_134,
    peak_activation_bytes=None,
    peak_activation_node=None,
    param_bytes_by_dtype={},
    weight_bound_layers=0,
    weight_bound_bytes=0,
)


def compared(verdict: str, reason: str = "") -> Comparison:
    return Comparison(Verdict(verdict), reason, "CPU")


def subject(
    totals: Totals = LENET,
    compared: Comparison | None = None,
    gap: HeadOffer | None = None,
    warnings: tuple[str, ...] = (),
) -> Subject:
    def compare(reference: str) -> Comparison:
        assert compared is not None, "a rule that runs nothing requested a comparison"
        assert reference == "ref.onnx"
        return compared

    model = ModelInfo("net.onnx", 1, 8, {"": 17}, "", (), ())
    rewrites: dict[str, HeadOffer] = {} if gap is None else {"fc-to-gap": gap}
    head = HeadFacts((), "s4", 16, (5, 5), (), "NCHW", None, rewrites)
    inspection = Inspection(model, totals, (), (), (head,), warnings)
    metrics = Metrics(totals.params, 0.0, totals.sharing_ratio, totals.macs)
    return Subject("net.onnx", inspection, Model(onnx.ModelProto()), compare, never, metrics)


def never() -> str | None:
    raise AssertionError("a rule that runs nothing requested ONNX Runtime")


def judge(option: str, limit: float | str, of: Subject) -> Problem | None:
    """The one problem, or None."""
    problems = list(BY_OPTION[option].problems(of, limit))
    assert len(problems) <= 1
    return problems[0] if problems else None


def weights(*uses: tuple[int, int | None], **more: object) -> Subject:
    """A model of tensors with so many parameters and connections."""
    made = tuple(
        WeightFacts(f"w{place}", "float32", (params,), params, 4 * params, (), used, None, **more)  # type: ignore[arg-type]
        for place, (params, used) in enumerate(uses)
    )
    plain = subject()
    return dataclasses.replace(
        plain, inspection=dataclasses.replace(plain.inspection, weights=made)
    )
