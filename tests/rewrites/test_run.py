"""Options that choose sites and shape outputs: --node, --pool-outputs, --diff."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.errors import UsageError
from rewrites.head_as_maps import fc_weights
from rewrites.proof.prove import sample_count
from tests.rewrites.checking import run
from tests.rewrites.forms import FORMS

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", ["lenet5.onnx", "lenet5-torchscript.onnx"])
def test_pooled_outputs_are_the_mean_over_all_crops(bundled: Path, name: str) -> None:
    original = onnx.load(bundled / name)
    result = onnxshare.rewrite(
        original, ["fc-to-conv"], fully_convolutional=True, pool_outputs=True, provider="cpu"
    )
    assert result.passed
    images = np.random.default_rng(0).random((2, 1, 40, 36), np.float32)
    # Two poolings halve the size, so crops of 32 by 32 pixels lie 4 pixels apart.
    crops = [images[:, :, y : y + 32, x : x + 32] for y in (0, 4, 8) for x in (0, 4)]
    wanted = np.mean([run(original, {"image": crop})[0] for crop in crops], axis=0)
    np.testing.assert_allclose(run(result.model, {"image": images})[0], wanted, atol=1e-4)
    (output,) = result.model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 10]


def test_pool_outputs_needs_maps(bundled: Path) -> None:
    with pytest.raises(UsageError, match="needs fully_convolutional=True"):
        onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-conv"], pool_outputs=True)


def test_a_rewrite_and_its_way_back_are_not_asked_for_at_once(cli: Cli, bundled: Path) -> None:
    ran = cli("rewrite", bundled / "lenet5.onnx", "--conv-to-fc", "--fc-to-conv", "--dry-run")
    assert ran.returncode == 2
    assert "--conv-to-fc undoes --fc-to-conv; request one of them" in ran.stderr


@pytest.mark.parametrize(
    ("pattern", "done"), [("node_linear", True), ("node_*", True), ("*_1", False)]
)
def test_node_chooses_sites(bundled: Path, pattern: str, done: bool) -> None:
    if not done:
        with pytest.raises(UsageError, match="available: node_linear"):
            onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-conv"], node=pattern)
        return
    assert onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-conv"], node=pattern).changes


def test_diff_names_the_nodes_that_went_and_came(cli: Cli, bundled: Path) -> None:
    path = bundled / "lenet5-torchscript.onnx"
    ran = cli("rewrite", str(path), "--fc-to-conv", "--dry-run", "--diff")
    assert ran.returncode == 0, ran.stderr
    lines = [line.split(":")[0] for line in ran.stdout.splitlines() if line[:2] in ("- ", "+ ")]
    gone = [
        "- Flatten /flatten/Flatten",
        "- Gemm /fc1/Gemm",
        "- Relu /relu3/Relu",
        "- Gemm /fc2/Gemm",
    ]
    assert lines[:4] == gone
    assert [line.split()[1] for line in lines if line.startswith("+")] == [
        *("Conv", "Relu", "Conv", "Relu", "Conv", "Flatten")
    ]


@pytest.mark.parametrize(
    ("macs", "count"), [(None, 32), (0, 32), (10**9, 32), (4 * 10**9, 25), (2 * 10**10, 8)]
)
def test_large_models_are_compared_on_fewer_samples(macs: int | None, count: int) -> None:
    assert sample_count(macs) == count


def test_without_validation_nothing_runs_and_the_model_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rewrites.proof.prove.compare", lambda *_, **__: pytest.fail("it ran"))
    model = FORMS["flatten"].model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], validate=False)
    assert result.validation is None
    assert result.passed
    entries = {entry.key: entry.value for entry in result.model.metadata_props}
    assert entries["onnxshare.validated"] == "no"


def test_without_validation_a_weight_that_is_not_moved_as_said_is_still_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = fc_weights.moved_weight
    monkeypatch.setattr(
        "rewrites.head_as_maps.kernels.moved_weight", lambda *a: right(*a)[::-1].copy()
    )
    result = onnxshare.rewrite(FORMS["flatten"].model(), ["fc-to-conv"], validate=False)
    assert not result.passed
    assert result.validation is not None
    assert "moved as it is said to be" in result.validation.reason


def test_one_rewrite_may_be_named_alone(bundled: Path) -> None:
    alone, listed = (
        onnxshare.rewrite(bundled / "lenet5.onnx", names, validate=False)
        for names in ("fc-to-conv", ["fc-to-conv"])
    )
    assert alone.changes
    assert alone.to_dict() == listed.to_dict()
