"""Every form of head in every float type: half by ONNX Runtime, and by onnx's own reference
evaluator double and bfloat16, in which ONNX Runtime does not convolve on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import onnxshare
from tests.rewrites.checking import (
    Array,
    Feeds,
    assert_same_results,
    assert_untouched_rest,
    feeds,
    interface,
    run,
)
from tests.rewrites.forms import BFLOAT16, FORMS, Form

#: The net's type is not what decides in these: they say their own, or hold float32 constants.
_OWN = ("half", "Clip", "8 bits", "quantised")

PLAIN = [
    name
    for name, form in FORMS.items()
    if form.refused is None and "dtype" not in form.options and not any(w in name for w in _OWN)
]

#: bfloat16 is a type of Conv from opset 22 on, so only forms that can be written there.
RECENT = [
    name
    for name in PLAIN
    if "opset" not in FORMS[name].options and name != "the flattened map has another reader"
]


def reference(model: onnx.ModelProto, given: Feeds) -> list[Array]:
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, given)]


def check(name: str, dtype: Any, evaluate: Any, **options: Any) -> None:
    form = Form(FORMS[name].build, {**FORMS[name].options, "dtype": dtype, **options})
    model = form.model(5)
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", validate=False)
    assert [site.refused for site in result.sites] == [None] * len(result.sites)
    assert result.changes
    new = result.model
    onnx.checker.check_model(new, full_check=True)
    assert interface(new) == interface(model)
    assert_untouched_rest(model, new)
    stored = {t.data_type for t in new.graph.initializer} - {
        t.data_type for t in model.graph.initializer
    }
    assert stored <= {onnx.TensorProto.INT64}
    given = feeds(model, FORMS[name].batches[-1])
    assert_same_results(model, new, given, evaluate=evaluate)


@pytest.mark.parametrize("name", PLAIN)
def test_half(name: str) -> None:
    check(name, np.float16, run)


@pytest.mark.parametrize("name", PLAIN)
def test_double(name: str) -> None:
    check(name, np.float64, reference)


@pytest.mark.parametrize("name", RECENT)
def test_bfloat16(name: str) -> None:
    check(name, BFLOAT16, reference, opset=22, ir=10)
