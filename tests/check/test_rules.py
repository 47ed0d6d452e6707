from __future__ import annotations

import dataclasses
import json
import os
import shlex
from dataclasses import dataclass
from typing import Any

import onnx
import pytest

from onnxshare.analysis.results import (
    HeadFacts,
    Inspection,
    ModelInfo,
    TensorInfo,
    Totals,
    WeightFacts,
)
from onnxshare.checks.results import Metrics
from onnxshare.checks.rule import Problem, Subject, command, quoted
from onnxshare.checks.rules import BY_OPTION, RULES, deployment
from onnxshare.io.load import Model
from onnxshare.promise import PROMISE_KEY

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
        ("max-file-size", 250_000, 249_999),
        ("max-activation-memory", 4_000, 3_999),
        ("max-protobuf-share", 0.2501, 0.2499),
    ],
)
def test_a_limit_is_kept_up_to_equality(option: str, kept: float, broken: float) -> None:
    totals = dataclasses.replace(LENET, peak_activation_bytes=4_000)
    of = subject(totals)
    found = dataclasses.replace(
        of.inspection, model=dataclasses.replace(of.inspection.model, bytes=250_000)
    )
    model = dataclasses.replace(of.model, size=2**29)  # a quarter of 2 GiB
    of = dataclasses.replace(of, inspection=found, model=model)
    assert judge(option, kept, of) is None
    assert judge(option, broken, of) is not None


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


def test_what_depends_on_an_open_size_names_the_input_to_be_given_one() -> None:
    unknown = subject(dataclasses.replace(LENET, macs=None), warnings=("other",))
    inputs = (
        TensorInfo("batched", "float32", ("N", 3)),  # the batch may be open
        TensorInfo("audio", "float32", ("N", "time")),
        TensorInfo("any", "float32", None),
    )
    found = unknown.inspection
    opened = dataclasses.replace(found.model, inputs=inputs)
    unknown = dataclasses.replace(unknown, inspection=dataclasses.replace(found, model=opened))
    problem = judge("max-macs", 1, unknown)
    assert problem is not None
    assert "sizes of 'audio', 'any', which the policy's `input-shapes`" in problem.message
    assert problem.fix == (
        "onnxshare inspect net.onnx --input-shape audio:SIZES --input-shape any:SIZES"
    )


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


@pytest.mark.parametrize(
    ("uses", "limit", "start"),
    [
        ([(90, 90), (10, 1000)], 0.9, None),
        ([(91, 91), (9, 1000)], 0.9, "91% of the parameters are used at most once"),
        ([(91, 20), (9, 1000)], 0.9, "91% of the parameters are used at most once"),
        # What is unknown matters only where it could decide.
        ([(91, 91), (9, None)], 0.9, "at least 91% of the parameters"),
        ([(5, None), (80, 80), (15, 900)], 0.9, None),
        ([(11, None), (80, 80), (9, 900)], 0.9, "cannot be judged: how often"),
        ([], 0.0, None),
    ],
)
def test_single_use_weights(
    uses: list[tuple[int, int | None]], limit: float, start: str | None
) -> None:
    problem = judge("max-single-use-share", limit, weights(*uses))
    if start is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.message.startswith(start)


@pytest.mark.parametrize(
    ("option", "more", "found"),
    [
        ("max-duplicate-bytes", {"same_as": "w"}, True),
        ("max-duplicate-bytes", {"same_as": "w", "uniform": True}, False),
        ("max-duplicate-bytes", {"same_as": "w", "same_after": "dequantize"}, False),
        ("max-transposed-bytes", {"transposed_of": "w"}, True),
        ("max-transposed-bytes", {"transposed_of": "w", "uniform": True}, False),
    ],
)
def test_copies_that_count(option: str, more: dict[str, object], found: bool) -> None:
    assert (judge(option, 399, weights((100, 100), **more)) is not None) is found
    assert judge(option, 400, weights((100, 100), **more)) is None


def test_commands_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("inspect", "-x.onnx") == "onnxshare inspect ./-x.onnx"
    assert command("inspect", "-", "--all") == "onnxshare inspect - --all"
    assert shlex.split(command("inspect", "a b's.onnx")) == ["onnxshare", "inspect", "a b's.onnx"]
    monkeypatch.setattr(os, "name", "nt")
    assert quoted("C:\\my models\\a.onnx") == '"C:\\my models\\a.onnx"'


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
            "onnxshare rewrite net.onnx --fc-to-gap --method auto --keep 99% --samples FILE",
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
            "not equivalent to ref.onnx: the verdict is different: output 'y' is off by 0.3",
        ),
        (
            Compared("not run", False, "no"),
            "cannot be judged against ref.onnx: the verdict is not run: no",
        ),
        # A kept promise of approximation is a success of `compare`, but it is no equivalence.
        (
            Compared("approximate", True),
            "not equivalent to ref.onnx: the verdict is approximate",
        ),
        # Whatever the verdict's name is, what did not pass does not pass here.
        (
            Compared("equivalent", False),
            "not equivalent to ref.onnx: the verdict is equivalent",
        ),
    ],
)
def test_equivalence_does_not_hold(compared: Compared, message: str) -> None:
    problem = judge("equivalent-to", "ref.onnx", subject(compared=compared))
    assert problem is not None
    assert problem.message == message
    assert problem.fix == "onnxshare compare ref.onnx net.onnx"


def test_equivalence_that_random_samples_do_not_decide() -> None:
    problem = judge("equivalent-to", "ref.onnx", subject(compared=INCONCLUSIVE))
    assert problem is not None
    assert problem.message == (
        "cannot be judged against ref.onnx: the verdict is inconclusive: pass --samples"
    )
    assert problem.fix == "onnxshare compare ref.onnx net.onnx --samples FILE"


def test_bounds_are_said_in_words() -> None:
    assert BY_OPTION["max-params"].bound(5_000_000) == "at most 5,000,000"
    assert BY_OPTION["min-sharing-ratio"].bound(10.0) == "at least 10"
    assert BY_OPTION["max-fc-share"].bound(0.5, 0.50004) == "at most 50%"
    assert BY_OPTION["equivalent-to"].bound("ref.onnx") == ""  # the message names it


APPROXIMATE = Compared("approximate", True, "keeps its promise")
DIFFERENT = Compared("different", False, "not the same class")
INCONCLUSIVE = Compared("inconclusive", False, "pass --samples")


@pytest.mark.parametrize(
    ("limit", "compared", "start", "fix"),
    [
        (0.9, None, None, ""),
        (0.94, None, None, ""),
        (0.95, None, "promises the same class on 94% only", "explain EQ302"),
        (0.9, APPROXIMATE, None, ""),
        (0.95, APPROXIMATE, "promises the same class on 94% only", "explain EQ302"),
        (0.0, DIFFERENT, "does not keep its promise: the", "compare ref.onnx net.onnx"),
        (0.0, INCONCLUSIVE, "cannot be judged: the", "compare ref.onnx net.onnx --samples FILE"),
    ],
)
def test_a_model_rewritten_approximately(
    limit: float, compared: Compared | None, start: str | None, fix: str
) -> None:
    """EQ302 judges it; EQ301 leaves it to EQ302 where that is selected, and else refuses it."""
    of = subject(compared=compared)
    promise = of.model.skeleton.metadata_props.add(key=PROMISE_KEY)
    promise.value = json.dumps({"rewrite": "fc-to-gap", "agreement_low": 0.94})
    if compared is not None:
        of = dataclasses.replace(of, reference="ref.onnx")
        refused = judge("equivalent-to", "ref.onnx", of)
        assert refused is not None
    both = dataclasses.replace(of, selected=frozenset({"EQ301", "EQ302"}))
    assert judge("equivalent-to", "ref.onnx", both) is None
    problem = judge("min-agreement", limit, both)
    if start is None:
        assert problem is None
        return
    assert problem is not None
    assert problem.message.startswith(f"an approximation by fc-to-gap {start}")
    assert problem.fix == f"onnxshare {fix}"


@pytest.mark.parametrize(
    ("before", "limit", "measured"),
    [
        ({"params": 61_706}, 0.0, []),
        ({"params": 61_705}, 0.0, [1 / 61_705]),
        ({"params": 50_000}, 0.23412, []),
        ({"params": 50_000}, 0.23411, [0.23412]),
        ({"params": 99_999}, 0.0, []),  # fewer are no regression
        ({"sharing_ratio": 2 * 423_038 / 61_706}, 0.5, []),
        ({"sharing_ratio": 2 * 423_038 / 61_706}, 0.499, [-0.5]),
        ({"sharing_ratio": 1.0}, 0.0, []),  # more uses are none
        ({"peak_activation_bytes": 5}, 1.0, [None]),  # known then, unknown now
        ({"file_bytes": None, "macs": 1e9}, 0.0, []),
        ({}, 0.0, []),
    ],
)
def test_what_got_worse(
    before: dict[str, float | None], limit: float, measured: list[float | None]
) -> None:
    of = dataclasses.replace(subject(), before=before)
    found = [problem.measured for problem in BY_OPTION["max-regression"].judge(of, limit)]
    assert found == pytest.approx(measured)


@pytest.mark.parametrize(("limit", "found"), [(0.0, False), (0.01, True)])
def test_an_approximation_that_promises_no_classes(limit: float, found: bool) -> None:
    of = subject()
    promise = of.model.skeleton.metadata_props.add(key=PROMISE_KEY)
    promise.value = json.dumps({"rewrite": "fc-to-gap", "sqnr_low": 20.0})
    problem = judge("min-agreement", limit, of)
    assert (problem is not None) is found
    assert problem is None or "no agreement of classes, only 20.0 dB" in problem.message


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (("ai.onnx:*",), "ai.onnx:Relu", True),
        (("ai.onnx:*",), "ai.onnx.ml:Scaler", False),
        (("Relu", "Conv"), "ai.onnx:Relu", True),
        (("Relu",), "com.microsoft:Relu", False),
        (("*:*",), "com.microsoft:Gelu", True),
        # The last that matches decides.
        (("ai.onnx:*", "!Loop"), "ai.onnx:Loop", False),
        (("!Loop", "ai.onnx:*"), "ai.onnx:Loop", True),
        # Where all forbid, the rest is allowed; where one allows, it is not.
        (("!Loop", "!com.microsoft:*"), "ai.onnx:Relu", True),
        (("!Loop", "!com.microsoft:*"), "com.microsoft:Gelu", False),
        (("!Loop", "Relu"), "ai.onnx:Conv", False),
        (("relu",), "ai.onnx:Relu", False),
    ],
)
def test_patterns_of_operators(patterns: tuple[str, ...], name: str, allowed: bool) -> None:
    assert deployment._allowed(name, patterns) is allowed
