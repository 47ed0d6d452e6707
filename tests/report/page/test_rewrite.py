"""The page of `rewrite`: what was done, what moved, and both models at one scale."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import onnxshare
from onnxshare.report.page.rewrite import as_html


@pytest.fixture(scope="module")
def page(bundled: Path) -> str:
    result = onnxshare.rewrite(
        bundled / "lenet5.onnx",
        ["fc-to-gap"],
        approximate=True,
        samples=bundled / "calibration.npz",
    )
    before, after = onnxshare.inspect(result.original), onnxshare.inspect(result.rewritten)
    return as_html(result, before, after)


def test_the_figures_have_both_models(page: str) -> None:
    """GAP leaves 16 features: 16 · 120 + 120 instead of 48,120 parameters, so 15,626 in all."""
    assert "61,706" in page
    assert "15,626" in page
    assert "(÷3.95)" in page


def test_both_treemaps_are_at_one_scale(page: str) -> None:
    pictures = re.findall(r"<figure><figcaption>.*?</svg>", page, re.S)[:2]
    areas = []
    for picture in pictures:
        sizes = re.findall(
            r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"', picture
        )
        areas.append(sum(float(width) * float(height) for width, height in sizes))
    assert areas[1] / areas[0] == pytest.approx(15_626 / 61_706, rel=0.02)


def test_what_was_done_is_named(page: str) -> None:
    assert "approximate" in page
    assert "removed nodes: " in page
    assert 'data-view="evidence"' in page
    assert page.count("<summary>") == 2  # weights removed and added


def test_a_refusal_is_told(bundled: Path) -> None:
    path = bundled / "gap_net.onnx"
    result = onnxshare.rewrite(path, ["fc-to-gap"], validate=False)
    report = onnxshare.inspect(path)
    text = as_html(result, report, report)
    assert "Refused: " in text or "Nothing in this model fits" in text


def test_moved_weights_are_named(bundled: Path) -> None:
    result = onnxshare.rewrite(bundled / "vgg_small.onnx", ["fc-to-conv"], validate=False)
    before, after = onnxshare.inspect(result.original), onnxshare.inspect(result.rewritten)
    text = as_html(result, before, after)
    assert "weights that moved, bit for bit the same: fc1.weight → " in text
