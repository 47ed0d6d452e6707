"""Quantized and half-precision exports keep their classes on labelled images, and corrupted ones
do not; counted by NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from benchmarks import exports
from onnxshare.comparison.compare import compare

IMAGES = np.load(exports.MODELS / "test.npz")["image"]


@pytest.mark.parametrize("make", exports.EXPORTS.values(), ids=list(exports.EXPORTS))
def test_an_export_keeps_99_percent(make: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    original = onnx.load(exports.MODELS / "lenet5.onnx")
    export = make(original)
    assert exports.agreement(original, export, IMAGES) > 0.996
    assert exports.judged(original, export, IMAGES)[1] == "approximate"
    _, spoilt = next(exports.faults(export))
    assert exports.agreement(original, spoilt, IMAGES) < 0.98
    assert exports.judged(original, spoilt, IMAGES[:400])[1] == "different"


def test_the_report_says_what_to_ask() -> None:
    original = onnx.load(exports.MODELS / "lenet5.onnx")
    for make, kind in ((exports.dynamic, "quantized"), (exports.half, "in half precision")):
        found = compare(original, make(original), provider="cpu", run_limits=exports.HERE, count=8)
        assert found.verdict == "different"
        assert f"B is {kind}, and A is not" in found.reason
        assert "keep=0.99 or max_error=0.01" in found.reason
