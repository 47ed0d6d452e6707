"""What two models share is run once: the rest is judged as strictly, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.io.load import load
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import random_samples
from rewrites import run
from rewrites.proof import prove
from rewrites.proof.shared_trunk import Rest, run_trunk_once
from tests.rewrites.forms import FORMS, Net
from tests.rewrites.proof.test_prove import MUTANTS, assert_rejected


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[Rest | None]:
    """Every model counts as a large one; what was cut off is kept in a list."""
    cuts: list[Rest | None] = []

    def cut(*arguments: object, **named: object) -> Rest | None:
        cuts.append(run_trunk_once(*arguments, **named))  # type: ignore[arg-type]
        return cuts[-1]

    monkeypatch.setattr(run, "is_large", lambda before: True)
    monkeypatch.setattr(prove, "run_trunk_once", cut)
    return cuts


def rest_of(model: onnx.ModelProto) -> Rest | None:
    result = onnxshare.rewrite(model, ["fc-to-conv"], validate=False)
    samples = random_samples(model, 8)
    return run_trunk_once(load(model), result.rewritten, samples, provider="cpu", run_limits=None)


def deep(batch: int | str = "n") -> Net:
    """Two convolutions, and behind a flatten an FC."""
    net = Net(batch=batch)
    x = net.node("Relu", net.node("Conv", net.input(2, 6, 6), net.weight(3, 2, 3, 3)))
    x = net.node("Conv", x, net.weight(4, 3, 2, 2))
    net.rows(net.gemm(net.node("Flatten", x), 36, 5), 5)
    return net


@pytest.mark.parametrize("batch", ["n", 1])
def test_the_rest_gets_what_the_trunk_makes(batch: int | str) -> None:
    model = deep(batch).model()
    rest = rest_of(model)
    assert rest is not None
    (name,) = rest.samples.arrays
    assert rest.shared == 3
    assert [node.op_type for node in rest.a.skeleton.graph.node] == ["Flatten", "Gemm"]
    assert "Conv" in [node.op_type for node in rest.b.skeleton.graph.node]
    images = random_samples(model, 8).arrays
    np.testing.assert_allclose(
        rest.samples.arrays[name],
        run_model(model, images, [name], "cpu")[name],
        rtol=1e-5,
        atol=1e-6 * float(np.abs(rest.samples.arrays[name]).max()),
    )
    whole = run_model(model, images, provider="cpu")
    cut = run_model(rest.a, rest.samples.arrays, provider="cpu")
    for output, values in whole.items():
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(cut[output], values, rtol=1e-4, atol=1e-5 * scale)


def returns_the_map() -> onnx.ModelProto:
    model = deep().model()
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    model.graph.output.append(onnx.ValueInfoProto(name=flatten.input[0]))
    model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def draws() -> onnx.ModelProto:
    net = Net()
    x = net.node("Conv", net.input(2, 4, 4), net.weight(3, 2, 1, 1))
    x = net.node("Add", x, net.node("RandomNormalLike", x))
    net.rows(net.gemm(net.node("Flatten", x), 48, 5), 5)
    return net.model()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: deep(3).model(), id="a batch that may be time"),
        pytest.param(returns_the_map, id="the common part makes an output"),
        pytest.param(draws, id="random numbers"),
        pytest.param(lambda: FORMS["bias along the samples"].model(1), id="a bias along the batch"),
    ],
)
def test_what_is_not_cut(make: Callable[[], onnx.ModelProto]) -> None:
    assert rest_of(make()) is None


def test_a_changed_weight_is_not_common(always: list[Rest | None]) -> None:
    """What reads it, and all that comes after, is compared."""
    model = deep().model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], validate=False)
    spoilt = result.model
    first = spoilt.graph.initializer[0]
    values = onnx.numpy_helper.to_array(first) * np.float32(1.01)
    first.CopyFrom(onnx.numpy_helper.from_array(values, first.name))
    cut = run_trunk_once(
        load(model), load(spoilt), random_samples(model, 8), provider="cpu", run_limits=None
    )
    assert cut is None


@pytest.mark.parametrize(
    "form",
    [name for name, form in FORMS.items() if form.refused is None and "opset" not in name][::4],
)
def test_the_verdict_is_the_same(always: list[Rest | None], form: str) -> None:
    found = onnxshare.rewrite(FORMS[form].model(1), ["fc-to-conv"], provider="cpu").validation
    assert found is not None
    assert found.verdict == "equivalent", found.reason
    assert ("ran once" in found.reason) == (always[-1] is not None)


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_mutants(
    always: list[Rest | None],
    monkeypatch: pytest.MonkeyPatch,
    bundled: Path,
    tmp_path: Path,
    mutant: str,
) -> None:
    MUTANTS[mutant](monkeypatch)
    assert_rejected(bundled / "lenet5.onnx", tmp_path, None)


def test_right_code_passes(always: list[Rest | None], bundled: Path) -> None:
    result = onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-conv"], provider="cpu")
    assert result.passed
    assert result.validation is not None
    assert always[-1] is not None
    assert f"the {always[-1].shared} nodes before" in result.validation.reason
    assert result.validation.memory is None
