"""Findings that do not count: allowed ones and known ones."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshare.checks.known_findings import (
    Baseline,
    read_baseline,
    silence,
    update_baseline,
    write_baseline,
)
from onnxshare.checks.metrics import Metrics
from onnxshare.checks.policy import Allow
from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.errors import OutputError, UsageError

FINDING = Finding("WS101", "fc-dominates", "m/a.onnx", "95%", 0.95, 0.5, "at most 50%", "fix")
AT_NODE = replace(FINDING, code="WS104", node="fc1")
REPORT = ModelReport("m/a.onnx", (FINDING, AT_NODE), metrics=Metrics(10, 0.95, 1.0, 10))
METRICS = Metrics(10, 0.95, 1.0, 10)
TODAY = datetime.date(2026, 11, 22)


def codes(reports: tuple[ModelReport, ...]) -> list[str]:
    return [finding.code for report in reports for finding in report.findings]


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        (Allow("WS101", "known"), ["WS104"]),
        (Allow("WS104", "known"), ["WS101"]),
        (Allow("WS101", "known", model="m/*.onnx"), ["WS104"]),
        (Allow("WS101", "known", model="other/*"), ["WS101", "WS104"]),
        (Allow("WS104", "known", node="fc*"), ["WS101"]),
        (Allow("WS104", "known", node="conv*"), ["WS101", "WS104"]),
        # A finding about the whole model is at no node.
        (Allow("WS101", "known", node="fc1"), ["WS101", "WS104"]),
        (Allow("WS101", "known", expires=TODAY), ["WS104"]),
        (Allow("WS101", "known", expires=TODAY - datetime.timedelta(1)), ["WS101", "WS104"]),
    ],
)
def test_what_an_entry_allows(entry: Allow, left: list[str]) -> None:
    kept, _ = silence([REPORT], [entry], None, TODAY)
    assert codes(kept) == left


def test_the_reason_is_kept_and_an_expired_entry_is_named() -> None:
    entry = Allow("WS101", "is replaced soon")
    kept, stale = silence([REPORT], [entry], None, TODAY)
    assert [(item.by, item.reason) for item in kept[0].silenced] == [("allow", "is replaced soon")]
    assert stale == ()
    past = replace(entry, expires=datetime.date(2026, 1, 31))
    kept, stale = silence([REPORT], [past], None, TODAY)
    assert kept[0].findings[0].message == "95% (allowed until 2026-01-31, which has passed)"


def test_an_entry_that_nothing_needs_is_stale() -> None:
    clean = ModelReport("m/a.onnx")
    _, stale = silence([clean], [Allow("WS101", "old")], None, TODAY)
    assert stale == ("allow WS101 (old): nothing needs it any more",)
    # Of a model that was not checked nothing is known.
    _, stale = silence([clean], [Allow("WS101", "old", model="b.onnx")], None, TODAY)
    assert stale == ()


def written(path: Path, *reports: ModelReport) -> Baseline:
    write_baseline(CheckReport({}, reports), path)
    return read_baseline(path)


def test_known_findings_are_silent_new_ones_are_not(tmp_path: Path) -> None:
    baseline = written(tmp_path / "b.json", replace(REPORT, findings=(FINDING,)))
    kept, stale = silence([REPORT], (), baseline, TODAY)
    assert codes(kept) == ["WS104"]
    assert [item.finding.code for item in kept[0].silenced] == ["WS101"]
    assert stale == ()


def test_a_known_finding_stays_known_whatever_is_measured(tmp_path: Path) -> None:
    baseline = written(tmp_path / "b.json", REPORT)
    worse = replace(REPORT, findings=(replace(FINDING, message="99%", measured=0.99), AT_NODE))
    assert codes(silence([worse], (), baseline, TODAY)[0]) == []
    elsewhere = replace(REPORT, findings=(replace(AT_NODE, node="fc2"),))
    assert codes(silence([elsewhere], (), baseline, TODAY)[0]) == ["WS104"]


def test_what_is_not_found_any_more_is_named(tmp_path: Path) -> None:
    baseline = written(tmp_path / "b.json", REPORT)
    _, stale = silence([ModelReport("m/a.onnx")], (), baseline, TODAY)
    advice = "not found any more, shrink the baseline with `onnxshare check --update-baseline`"
    assert stale == (
        f"baseline WS101 m/a.onnx: {advice}",
        f"baseline WS104 m/a.onnx fc1: {advice}",
    )
    unread = ModelReport("m/a.onnx", error="is damaged")
    assert silence([unread], (), baseline, TODAY)[1] == ()
    assert silence([ModelReport("m/b.onnx")], (), baseline, TODAY)[1] == ()


def test_a_regression_is_never_known(tmp_path: Path) -> None:
    worse = replace(FINDING, code="RG501", rule="regression")
    report = replace(REPORT, findings=(worse,))
    baseline = written(tmp_path / "b.json", report)
    assert baseline.findings == {}
    assert codes(silence([report], (), baseline, TODAY)[0]) == ["RG501"]


def test_writing_a_baseline_again_keeps_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    baseline = written(path, REPORT)
    first = path.read_bytes()
    kept, _ = silence([REPORT], (), baseline, TODAY)
    write_baseline(CheckReport({}, kept), path)
    assert path.read_bytes() == first
    assert read_baseline(path).metrics["m/a.onnx"]["params"] == 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 2, "findings": [], "metrics": {}}',
        '{"schema_version": 1, "findings": [{}], "metrics": {}}',
        '{"schema_version": 1, "findings": {}, "metrics": {}}',
        '{"schema_version": 1, "findings": [], "metrics": []}',
        '{"schema_version": 1, "findings": [], "metrics": {"a": {"params": "1"}}}',
        '{"schema_version": 1, "findings": [], "metrics": {"a": {"other": 1}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a baseline"):
        read_baseline(path)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(OutputError, match="cannot be written"):
        write_baseline(CheckReport({}, (REPORT,)), tmp_path / "no" / "b.json")


def test_a_baseline_only_shrinks(tmp_path: Path) -> None:
    """Fixed findings and models that are gone go, better values come, and nothing else."""
    path, there = tmp_path / "b.json", tmp_path / "m" / "a.onnx"
    there.parent.mkdir()
    there.write_text("")
    gone = ModelReport("m/gone.onnx", (replace(FINDING, model="m/gone.onnx"),), metrics=METRICS)
    old = written(path, REPORT, gone, ModelReport("m/kept.onnx", metrics=METRICS))
    (tmp_path / "m" / "kept.onnx").write_text("")  # there, and not checked now
    better = Metrics(8, 0.95, 0.5, None)  # less uses per parameter are worse
    worse = replace(FINDING, code="WS102")
    now = replace(REPORT, findings=(worse, AT_NODE), metrics=better)
    new = ModelReport("m/new.onnx", (replace(worse, model="m/new.onnx"),), metrics=METRICS)
    kept, _ = silence([now, new], (), old, TODAY)
    assert update_baseline(CheckReport({}, kept), old, path, tmp_path) == (1, 2)
    made = read_baseline(path)
    assert [item["code"] for item in made.findings.values()] == ["WS104"]
    assert set(made.metrics) == {"m/a.onnx", "m/kept.onnx"}
    assert made.metrics["m/a.onnx"]["params"] == 8
    assert made.metrics["m/a.onnx"]["sharing_ratio"] == 1.0
    assert made.metrics["m/a.onnx"]["macs"] == 10  # unknown now: what was known stays
    first = path.read_bytes()
    kept, stale = silence([now], (), made, TODAY, tmp_path)
    assert stale == ()
    update_baseline(CheckReport({}, kept), made, path, tmp_path)
    assert path.read_bytes() == first


def test_a_renamed_model_keeps_what_is_known_and_allowed() -> None:
    old = Baseline.of([FINDING, AT_NODE], {"m/a.onnx": {"params": 10}})
    moved = [replace(one, model="x/b.onnx") for one in (FINDING, AT_NODE)]
    report = ModelReport("x/b.onnx", tuple(moved), metrics=METRICS, former="m/a.onnx")
    kept, _ = silence([report], (), old.renamed({"x/b.onnx": "m/a.onnx"}), TODAY)
    assert codes(kept) == []
    kept, _ = silence([report], [Allow("WS101", "known", model="m/a.onnx")], None, TODAY)
    assert codes(kept) == ["WS104"]
    kept, _ = silence([replace(report, former=None)], (), old, TODAY)
    assert codes(kept) == ["WS101", "WS104"]
