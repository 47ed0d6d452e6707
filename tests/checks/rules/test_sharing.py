from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.analysis.results import HeadOffer, TensorInfo
from onnxshare.checks.rule import command, quoted
from onnxshare.checks.rules import BY_OPTION, RULES
from tests.builders import model, node, tensor
from tests.checks.subjects import LENET, judge, subject, weights


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
        "WS109": "max-dequantized-bytes",
        "WS110": "max-repeated-bytes",
        "BG201": "max-file-size",
        "BG202": "max-params",
        "BG203": "max-macs",
        "BG204": "max-activation-memory",
        "BG205": "max-protobuf-share",
        "EQ301": "equivalent-to",
        "EQ302": "min-agreement",
        "EQ303": "max-error",
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
        ("max-transposed-bytes", {"transposed_of": "w", "same_after": "dequantize"}, False),
        *(
            ("max-dequantized-bytes", more, found)
            for more, found in (
                ({"same_as": "w", "same_after": "dequantize"}, True),
                ({"transposed_of": "w", "same_after": "dequantize"}, True),
                ({"same_as": "w"}, False),
                ({"same_as": "w", "same_after": "dequantize", "uniform": True}, False),
            )
        ),
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
    option: str, gap: HeadOffer | None, fix: str
) -> None:
    problem = judge(option, 0, subject(gap=gap))
    assert problem is not None
    assert problem.fix == fix


def test_a_path_with_spaces_is_quoted_in_the_fix() -> None:
    problem = judge("max-macs", 1, dataclasses.replace(subject(), name="my net.onnx"))
    assert problem is not None
    assert problem.fix == "onnxshare inspect 'my net.onnx' --sort macs"


def test_bounds_are_said_in_words() -> None:
    assert BY_OPTION["max-params"].bound(5_000_000) == "at most 5,000,000"
    assert BY_OPTION["min-sharing-ratio"].bound(10.0) == "at least 10"
    assert BY_OPTION["max-fc-share"].bound(0.5, 0.50004) == "at most 50%"
    assert BY_OPTION["equivalent-to"].bound("ref.onnx") == ""  # the message names it


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
    found = [problem.measured for problem in BY_OPTION["max-regression"].problems(of, limit)]
    assert found == pytest.approx(measured)


def test_what_several_models_store(tmp_path: Path) -> None:
    """Each later one is judged against all before it; one place in a data file is no copy."""
    folders = [tmp_path / name for name in "abc"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        weights = [tensor("w", 32, 32), tensor("own", 32, 32, seed=seed + 1)]
        nodes = [node("MatMul", "x w", "h"), node("MatMul", "h own", "y")]
        onnx.save(model(nodes, {"x": ["n", 32]}, ["y"], weights), folder / f"{folder.name}.onnx")
    paths = sorted(tmp_path.rglob("*.onnx"))
    report = onnxshare.check(paths, max_repeated_bytes=4095)
    found = [(Path(f.model).name, f.code, f.measured) for f in report.findings]
    assert found == [("b.onnx", "WS110", 4096), ("c.onnx", "WS110", 4096)]
    assert str(paths[0]) in report.findings[0].message
    assert "tensors" not in report.to_dict()["models"][0]
    assert onnxshare.check(paths, max_repeated_bytes=4096).passed
    onnxshare.write_family(paths, tmp_path / "family", validate=False)
    assert onnxshare.check(tmp_path / "family", max_repeated_bytes=0).passed
