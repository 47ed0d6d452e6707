from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import onnx
import pytest

from onnxshare.analysis.results import HeadFacts, Inspection, ModelInfo, Totals
from onnxshare.checks.results import Metrics
from onnxshare.checks.rule import Problem, Subject
from onnxshare.checks.rules import BY_OPTION, RULES
from onnxshare.io.load import Model

# LeNet-5 by hand: C1 156, C3 2,416, FCs 48,120 + 10,164 + 850; 122,304 + 241,600 + 59,134 uses.
LENET = Totals(
    params=61_706,
    statistics=0,
    constants=0,
    quantization=0,
    unused=0,
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


@dataclass(frozen=True)
class Compared:
    verdict: str
    passed: bool
    reason: str = ""


def subject(
    totals: Totals = LENET,
    compared: Compared | None = None,
    gap: dict[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Subject:
    def compare(reference: str) -> Compared:
        assert compared is not None, "a rule that runs nothing asked for a comparison"
        assert reference == "ref.onnx"
        return compared

    model = ModelInfo("net.onnx", 1, 8, {"": 17}, "", (), ())
    rewrites = {} if gap is None else {"fc-to-gap": gap}
    head = HeadFacts((), "s4", 16, (5, 5), (), "NCHW", None, rewrites)
    inspection = Inspection(model, totals, (), (), (head,), warnings)
    metrics = Metrics(totals.params, 0.0, totals.sharing_ratio, totals.macs)
    return Subject("net.onnx", inspection, Model(onnx.ModelProto()), compare, never, metrics)


def never() -> str | None:
    raise AssertionError("a rule that runs nothing asked for ONNX Runtime")


def judge(option: str, limit: float | str, of: Subject) -> Problem | None:
    """The one problem, or None."""
    problems = list(BY_OPTION[option].judge(of, limit))
    assert len(problems) <= 1
    return problems[0] if problems else None


def test_codes_names_and_options_are_unique() -> None:
    for field in ("code", "name", "option", "measures"):
        values = [getattr(rule, field) for rule in RULES]
        assert len(set(values)) == len(values)
    # Codes are a promise to those who write them into their policies.
    assert {rule.code: rule.option for rule in RULES} == {
        "WS101": "max-fc-share",
        "WS102": "min-sharing-ratio",
        "WS103": "max-single-use-share",
        "WS104": "convolution-form",
        "WS105": "gap-is-exact",
        "WS106": "max-duplicate-bytes",
        "WS107": "max-transposed-bytes",
        "WS108": "size-locked",
        "BG201": "max-file-size",
        "BG202": "max-params",
        "BG203": "max-macs",
        "BG204": "max-activation-memory",
        "BG205": "max-protobuf-share",
        "EQ301": "equivalent-to",
        "EQ302": "min-agreement",
        "DP401": "target",
        "DP402": "operators",
        "DP403": "loads",
        "DP404": "named-dims",
        "DP405": "external-data",
        "DP406": "licenses",
        "RG501": "max-regression",
    }


@pytest.mark.parametrize(
    ("option", "kept", "broken"),
    [
        ("max-params", 61_706, 61_705),
        ("max-macs", 416_520, 416_519),
        ("max-fc-share", 59_134 / 61_706, 0.9583),
        ("min-sharing-ratio", 423_038 / 61_706, 6.8558),
    ],
)
def test_a_limit_is_kept_up_to_equality(option: str, kept: float, broken: float) -> None:
    assert judge(option, kept, subject()) is None
    assert judge(option, broken, subject()) is not None


def test_messages_hold_the_measured_value() -> None:
    share = judge("max-fc-share", 0.5, subject())
    assert share is not None
    assert share.measured == pytest.approx(0.958318)
    assert share.message.startswith("95.8% of the parameters (59,134 of 61,706)")
    ratio = judge("min-sharing-ratio", 10.0, subject())
    assert ratio is not None
    assert "6.9 times" in ratio.message
    params = judge("max-params", 50_000, subject())
    assert params is not None
    assert params.message == "61,706 parameters"


@pytest.mark.parametrize(
    ("option", "limit", "field"),
    [("min-sharing-ratio", 0.0, "sharing_ratio"), ("max-macs", 10**12, "macs")],
)
def test_what_is_unknown_never_passes(option: str, limit: float, field: str) -> None:
    change: dict[str, Any] = {field: None}
    unknown = dataclasses.replace(LENET, **change)
    problem = judge(
        option, limit, subject(unknown, warnings=("other", "the size of 'x' is unknown"))
    )
    assert problem is not None
    assert problem.message.startswith("cannot be judged: ")
    assert "the size of 'x' is unknown" in problem.message
    assert problem.measured is None
    assert problem.fix == "onnxshare inspect net.onnx"


def test_a_model_without_parameters() -> None:
    bare = dataclasses.replace(LENET, params=0, fc_params=0, connections=0, sharing_ratio=None)
    assert judge("max-fc-share", 0.0, subject(bare)) is None
    problem = judge("min-sharing-ratio", 1.0, subject(bare))
    assert problem is not None
    assert "holds no parameters" in problem.message


@pytest.mark.parametrize(
    ("gap", "fix"),
    [
        ({"exact": True, "params_after": 1}, "onnxshare rewrite net.onnx --fc-to-gap"),
        (
            {"exact": False, "params_after": 1},
            "onnxshare rewrite net.onnx --fc-to-gap --approximate --samples FILE",
        ),
        ({"refused": "the FC reads a sequence"}, "onnxshare inspect net.onnx --sort params"),
        (None, "onnxshare inspect net.onnx --sort params"),
    ],
)
@pytest.mark.parametrize("option", ["max-fc-share", "max-params"])
def test_the_fix_is_a_rewrite_only_where_one_fits(
    option: str, gap: dict[str, Any] | None, fix: str
) -> None:
    problem = judge(option, 0, subject(gap=gap))
    assert problem is not None
    assert problem.fix == fix


def test_a_path_with_spaces_is_quoted_in_the_fix() -> None:
    problem = judge("max-macs", 1, dataclasses.replace(subject(), name="my net.onnx"))
    assert problem is not None
    assert problem.fix == "onnxshare inspect 'my net.onnx' --sort macs"


@pytest.mark.parametrize("verdict", ["identical", "equivalent"])
def test_equivalence_holds(verdict: str) -> None:
    assert judge("equivalent-to", "ref.onnx", subject(compared=Compared(verdict, True))) is None


@pytest.mark.parametrize(
    ("compared", "message"),
    [
        (
            Compared("different", False, "output 'y' is off by 0.3"),
            "the verdict is different: output 'y' is off by 0.3",
        ),
        (Compared("inconclusive", False), "cannot be judged: the verdict is inconclusive"),
        (Compared("not run", False, "no"), "cannot be judged: the verdict is not run: no"),
        # A kept promise of approximation is a success of `compare`, but it is no equivalence.
        (Compared("approximate", True), "the verdict is approximate"),
        # Whatever the verdict's name is, what did not pass does not pass here.
        (Compared("equivalent", False), "the verdict is equivalent"),
    ],
)
def test_equivalence_does_not_hold(compared: Compared, message: str) -> None:
    problem = judge("equivalent-to", "ref.onnx", subject(compared=compared))
    assert problem is not None
    assert problem.message == message
    assert problem.fix == "onnxshare compare ref.onnx net.onnx"


def test_bounds_are_said_in_words() -> None:
    assert BY_OPTION["max-params"].bound(5_000_000) == "at most 5,000,000"
    assert BY_OPTION["min-sharing-ratio"].bound(10.0) == "at least 10"
    assert BY_OPTION["max-fc-share"].bound(0.5, 0.50004) == "at most 50%"
    assert BY_OPTION["equivalent-to"].bound("ref.onnx") == "equivalent to ref.onnx"
