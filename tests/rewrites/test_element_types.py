"""Every form of head in every float type: half by ONNX Runtime, and by onnx's own reference
evaluator double and bfloat16, in which ONNX Runtime does not convolve on a CPU. Each is proven,
too, in one of the types (in all of them with ONNXSHARE_CASES of 1000 or more)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import onnxshare
from onnxshare.cli.main import run as command
from rewrites.head_as_maps import fc_weights
from tests.rewrites.checking import (
    Array,
    Evaluate,
    Feeds,
    assert_same_results,
    assert_untouched_rest,
    feeds,
    interface,
    run,
)
from tests.rewrites.forms import BFLOAT16, FORMS, Form

#: The net's type is not what decides in these: they say their own, or hold float32 constants.
_OWN = ("half", "Clip", "8 bits", "quantized")

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


#: Each type: how it is built, the forms that can be written in it, what runs it.
TYPES: dict[str, tuple[dict[str, Any], list[str], Evaluate]] = {
    "half": ({"dtype": np.float16}, PLAIN, run),
    "double": ({"dtype": np.float64}, PLAIN, reference),
    "bfloat16": ({"dtype": BFLOAT16, "opset": 22, "ir": 10}, RECENT, reference),
}

#: Each form is proven in one of the types, or in all.
IN_ALL = int(os.environ.get("ONNXSHARE_CASES", "0")) >= 1000
CASES = [
    pytest.param(name, kind, number % 3 == place or IN_ALL, id=f"{name}, {kind}")
    for place, (kind, (_, names, _)) in enumerate(TYPES.items())
    for number, name in enumerate(PLAIN)
    if name in names
]


def rewritten(model: onnx.ModelProto, *, validate: bool = True) -> onnxshare.RewriteResult:
    return onnxshare.rewrite(
        model,
        ["fc-to-conv"],
        provider="cpu",
        validate=validate,
        run_limits=onnxshare.RunLimits(in_process=True),
    )


def typed(name: str, kind: str) -> onnx.ModelProto:
    form = FORMS[name]
    return Form(form.build, {**form.options, **TYPES[kind][0]}).model(5)


@pytest.mark.parametrize(("name", "kind", "proven"), CASES)
def test_rewritten_right_and_proven_in_float32(name: str, kind: str, proven: bool) -> None:
    model = typed(name, kind)
    result = rewritten(model, validate=proven and not FORMS[name].unproven)
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
    assert_same_results(model, new, given, evaluate=TYPES[kind][2])
    if proven and not FORMS[name].unproven:
        assert result.validation is not None
        assert result.validation.verdict == "equivalent", result.validation.reason
        assert "compared in float32" in result.validation.reason


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("half", "because the rounding of half precision would hide a wrong weight"),
        ("double", "because ONNX Runtime has no Conv in float64 here"),
        ("bfloat16", "because ONNX Runtime has no Conv in bfloat16 here"),
    ],
)
def test_the_command_writes_it_and_says_why(
    kind: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(typed("Gemm, alpha and beta", kind), path)
    code = command(["rewrite", str(path), "--fc-to-conv", "--provider", "cpu", "--format", "json"])
    assert code == 0
    assert words in json.loads(capsys.readouterr().out)["validation"]["reason"]
    assert (tmp_path / "model.fc-to-conv.onnx").exists()


def two_rows(kernel: Array) -> Array:
    kernel[[0, 1]] = kernel[[1, 0]]
    return kernel


def two_per_cent(kernel: Array) -> Array:
    return (kernel.astype(np.float64) * 1.02).astype(kernel.dtype)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["flatten", "Gemm, alpha and beta"])
@pytest.mark.parametrize("spoil", [two_rows, two_per_cent])
def test_a_wrong_kernel_never_passes(
    name: str, kind: str, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fc_weights.moved_weight
    monkeypatch.setattr(
        "rewrites.head_as_maps.kernels.moved_weight", lambda *a: spoil(right(*a).copy())
    )
    assert not rewritten(typed(name, kind)).passed


@pytest.mark.parametrize("name", ["flatten", "Gemm, alpha and beta"])
def test_what_only_half_precision_spoils_never_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float32 graph is right, and the half one is not what it is rounded to."""
    right = fc_weights.moved_weight

    def wrong(*arguments: Any) -> Array:
        kernel = right(*arguments)
        return two_per_cent(kernel) if kernel.dtype == np.float16 else kernel

    monkeypatch.setattr("rewrites.head_as_maps.kernels.moved_weight", wrong)
    assert not rewritten(typed(name, "half")).passed


@pytest.mark.parametrize("kind", ["double", "bfloat16"])
def test_what_cannot_be_run_in_any_type_stays_not_run(kind: str) -> None:
    """An operator that ONNX Runtime lacks altogether, behind the head."""
    model = typed("flatten", kind)
    graph = model.graph
    [output] = graph.output
    graph.node.append(onnx.helper.make_node("Unheard", [output.name], ["last"], domain="nobody"))
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    output.name = "last"
    result = rewritten(model)
    assert result.validation is not None
    assert result.validation.verdict == "not run"
    assert not result.passed
