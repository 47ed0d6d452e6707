"""`check` on real models: figures worked out by hand in test_rules.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import HeadOffer
from onnxshare.api import check
from onnxshare.checks.policy import ModelEntry, Policy
from onnxshare.checks.results import CheckReport
from onnxshare.errors import RuntimeFailure, SamplesError, UsageError
from tests.builders import model, node, tensor


def codes(report: CheckReport) -> list[str]:
    return [finding.code for finding in report.findings]


def test_what_lenet_keeps_and_breaks(lenet: onnx.ModelProto) -> None:
    kept = check(
        lenet,
        max_params=61_706,
        max_fc_share="95.9%",
        min_sharing_ratio=6.85,
        max_macs=416_520,
    )
    assert (kept.passed, kept.exit_code, codes(kept)) == (True, 0, [])
    broken = check(
        lenet, max_params=61_705, max_fc_share=0.95, min_sharing_ratio="6.86", max_macs="416519"
    )
    assert (broken.passed, broken.exit_code) == (False, 1)
    assert codes(broken) == ["WS101", "WS102", "BG202", "BG203"]
    metrics = broken.models[0].metrics
    assert metrics is not None
    assert (metrics.params, metrics.macs) == (61_706, 416_520)
    assert metrics.fc_share == pytest.approx(59_134 / 61_706)
    assert metrics.sharing_ratio == pytest.approx(423_038 / 61_706)


def test_the_vgg19_of_the_onnx_wheel(onnx_light: Path) -> None:
    # 123,642,856 of its 143,667,240 parameters sit in FCs (SEEDS): 86.062 %.
    model = onnx_light / "light_vgg19.onnx"
    assert codes(check(model, max_params=143_667_240, max_fc_share="86.07%")) == []
    broken = check(model, max_params=143_667_239, max_fc_share="86.06%")
    assert [finding.measured for finding in broken.findings] == [
        pytest.approx(123_642_856 / 143_667_240),
        143_667_240,
    ]


def test_the_fix_is_what_the_rewrites_offer(
    lenet_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def judge(subject: Subject) -> list[dict[str, HeadOffer]]:
        asked.extend((head.channels, *head.spatial) for head in subject.heads)
        return [{"fc-to-gap": {"exact": True, "params_after": 1}}]

    monkeypatch.setattr("rewrites.head_offers.judge_heads", judge)
    (finding,) = check(lenet_path, max_fc_share=0.5).findings
    assert finding.model == str(lenet_path)
    assert finding.fix == f"onnxshare rewrite {lenet_path} --fc-to-gap"
    assert asked == [(16, 5, 5)]


def test_input_shapes_reach_the_analyser(lenet: onnx.ModelProto) -> None:
    symbolic = onnx.ModelProto()
    symbolic.CopyFrom(lenet)
    del symbolic.graph.node[6:]  # the convolutions only: any image will do
    del symbolic.graph.output[:]
    symbolic.graph.output.add(name="s4")
    for dim in symbolic.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "size"
    (unknown,) = check(symbolic, max_macs="1G").findings
    assert unknown.message.startswith("cannot be judged: ")
    # C1 25·6·28·28, C3 150·16·10·10.
    shapes = {"x": [1, 1, 32, 32]}
    assert check(symbolic, max_macs=117_600 + 240_000, input_shapes=shapes).passed
    assert not check(symbolic, max_macs=117_600 + 240_000 - 1, input_shapes=shapes).passed


def test_one_bad_model_never_hides_the_others(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    for name in ("a.onnx", "c.onnx"):
        onnx.save(lenet, tmp_path / name)
    (tmp_path / "b.onnx").write_bytes(b"not a model\n")
    report = check([tmp_path, tmp_path / "none.onnx"], max_params=1)
    assert [Path(model.path).name for model in report.models] == [
        "a.onnx",
        "b.onnx",
        "c.onnx",
        "none.onnx",
    ]
    assert codes(report) == ["BG202", "BG202"]
    errors = [model.error for model in report.unreadable]
    assert len(errors) == 2
    assert "a text file" in str(errors[0])
    assert "no such file" in str(errors[1])
    assert report.exit_code == 2
    assert not report.passed


def test_a_crash_on_one_model_is_reported_with_it(
    lenet_path: Path, lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(source: Any, **options: Any) -> Any:
        if source.name == str(lenet_path):
            raise KeyError("boom")
        return inspect(source, **options)

    monkeypatch.delenv("ONNXSHARE_DEBUG", raising=False)
    monkeypatch.setattr("onnxshare.checks.model_check.inspect", crash)
    report = check([lenet_path, lenet], max_params=1)
    assert str(report.models[0].error).startswith(f"{lenet_path}: internal error: KeyError")
    assert [finding.model for finding in report.findings] == ["<model>"]
    assert report.exit_code == 2


def test_no_rule_and_no_model_are_refused(lenet: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="every rule is left out"):
        check(lenet, max_params=1, ignore=["params"])
    with pytest.raises(UsageError, match=r"^max-parms: unknown key, did you mean max-params\?"):
        check(lenet, max_parms=1)
    with pytest.raises(UsageError, match="no model is given"):
        check([], max_params=1)
    with pytest.raises(UsageError, match=r"^max-params: expected a whole number"):
        check(lenet, max_params="many")


def test_a_model_named_twice_is_checked_once(lenet_path: Path) -> None:
    report = check([lenet_path, str(lenet_path), lenet_path.parent], max_params=1)
    assert [model.path for model in report.models] == [str(lenet_path)]


def test_the_policy_gives_limits_and_models(lenet_path: Path) -> None:
    policy = Policy({"max-params": 1, "max-macs": 1}, (ModelEntry(str(lenet_path)),))
    report = check([], policy=policy, max_macs="1G")
    assert report.limits == {"max-params": 1, "max-macs": 10**9}
    assert codes(report) == ["BG202"]


def test_without_equivalence_nothing_is_run(
    lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "onnxshare.comparison.compare", None
    )  # importing it would fail
    assert check(lenet, max_params="1M", max_fc_share=1, max_macs="1M").passed


def test_a_model_is_not_changed(lenet: onnx.ModelProto) -> None:
    before = lenet.SerializeToString(deterministic=True)
    check(lenet, max_params=1, max_fc_share=0, min_sharing_ratio=100, max_macs=1)
    assert lenet.SerializeToString(deterministic=True) == before


def test_the_report_as_plain_types(lenet_path: Path) -> None:
    document = check([lenet_path, lenet_path.parent / "no.onnx"], max_params=1).to_dict()
    assert document["schema_version"] == 1
    assert document["passed"] is False
    assert document["summary"] == {
        "models": 2,
        "findings": 1,
        "warnings": 0,
        "silenced": 0,
        "unreadable": 1,
    }
    assert document["limits"] == {"max-params": 1}
    (finding,) = document["models"][0]["findings"]
    assert finding["code"] == "BG202"
    assert finding["measured"] == 61_706
    assert document["models"][0]["error"] is None
    assert document["models"][1]["metrics"] is None
    assert "no such file" in document["models"][1]["error"]


class TestEquivalence:
    def test_a_copy_and_a_changed_copy(self, lenet: onnx.ModelProto, lenet_path: Path) -> None:
        assert check(lenet, equivalent_to=lenet_path, provider="cpu").passed
        changed = onnx.ModelProto()
        changed.CopyFrom(lenet)
        weight = changed.graph.initializer[0]
        weight.raw_data = bytes(len(weight.raw_data))
        report = check(changed, equivalent_to=lenet_path, max_params=1, provider="cpu")
        assert codes(report) == ["BG202", "EQ301"]
        assert report.findings[1].measured == "different"
        assert report.exit_code == 1

    def test_a_reference_that_cannot_be_read(self, lenet_path: Path) -> None:
        missing = lenet_path.parent / "none.onnx"
        report = check(lenet_path, equivalent_to=missing, max_params=1, provider="cpu")
        assert report.exit_code == 2
        assert codes(report) == ["BG202"]
        assert f"{missing}: no such file" in str(report.models[0].error)

    def test_an_unknown_provider_is_a_usage_error(
        self, lenet: onnx.ModelProto, lenet_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="abacus"):
            check(lenet, equivalent_to=lenet_path, provider="abacus")

    @pytest.mark.parametrize(
        ("error", "code"),
        [(SamplesError("the samples do not fit"), 2), (RuntimeFailure("it does not load"), 1)],
    )
    def test_errors_while_comparing_never_pass(
        self,
        lenet: onnx.ModelProto,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        code: int,
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("onnxshare.comparison.compare.compare", fail)
        report = check(lenet, equivalent_to="ref.onnx")
        assert report.exit_code == code
        words = report.models[0].error or report.findings[0].message
        assert str(error) in words


@pytest.mark.parametrize(("shapes", "passed"), [(None, False), ({"x": (2, 4)}, True)])
def test_a_reference_at_the_sizes_that_are_asked_for(
    shapes: dict[str, tuple[int, int]] | None, passed: bool, tmp_path: Path
) -> None:
    """The reference takes any batch, what is shipped takes two images."""
    shipped, reference = (
        model([node("Gemm", f"x {w}", "y")], {"x": [batch, 4]}, ["y"], [tensor(w, 4, 3)])
        for batch, w in ((2, "w"), ("n", "v"))
    )
    onnx.save(reference, tmp_path / "ref.onnx")
    found = check(shipped, equivalent_to=tmp_path / "ref.onnx", provider="cpu", input_shapes=shapes)
    assert found.passed is passed, [item.message for item in found.findings]
    assert passed or "input_shapes={'x': (2, 4)}" in found.findings[0].message
