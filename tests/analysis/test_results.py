"""Results in Python and in notebooks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import onnxshare

HOSTILE = "<script>alert(1)</script>" * 40


@pytest.fixture
def report(bundled: Path) -> onnxshare.Inspection:
    return onnxshare.inspect(bundled / "vgg_small.onnx")


def test_the_repr_is_one_line(report: onnxshare.Inspection, bundled: Path) -> None:
    pair = bundled / "lenet5.onnx", bundled / "lenet5-torchscript.onnx"
    results = [
        report,
        replace(report, model=replace(report.model, path=HOSTILE)),
        replace(report, nodes=report.nodes * 1000),
        report.totals,
        onnxshare.diff(*pair),
        onnxshare.family(pair),
        onnxshare.check(pair[0], max_params="1k"),
        onnxshare.rewrite(pair[0], ["fc-to-conv"], validate=False),
    ]
    for result in results:
        text = repr(result)
        assert text.startswith(type(result).__name__ + "(")
        assert len(text) < 300
        assert "\n" not in text
    assert "378,442 parameters" in repr(report)


def test_the_frame_sums_to_the_total(
    report: onnxshare.Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = report.to_dataframe()
    assert len(rows) == 14
    assert sum(row["params"] for row in rows) == 378_442


def test_without_pandas(report: onnxshare.Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(onnxshare.UsageError, match="pip install pandas"):
        report.to_dataframe()
