"""Constants that are inputs as well, which a caller may override, are never folded away."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

import onnxshare
from tests.rewrites.forms import FORMS, K, Net
from tests.rewrites.test_apply import chain


def as_inputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """A copy in which some initializers, or all, are listed as inputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in model.graph.initializer:
        if not names or tensor.name in names:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(value)
    return copy


def reasons(model: onnx.ModelProto, rewrite: str) -> list[str]:
    result = onnxshare.rewrite(model, [rewrite], provider="cpu")
    assert result.changes == ()
    return [site.refused or "" for site in result.sites]


@pytest.mark.parametrize("name", ["flatten", "channels last", "several scales", "weight reshaped"])
def test_weights_that_a_caller_may_give_stay(name: str) -> None:
    model = FORMS[name].model()
    for rewrite in ("fc-to-conv", "fc-to-gap"):
        (reason,) = reasons(as_inputs(model), rewrite)
        assert "also an input" in reason or "several feature maps" in reason


def test_the_same_for_the_other_rewrites() -> None:
    conv = onnxshare.rewrite(FORMS["flatten"].model(), ["fc-to-conv"], validate=False).model
    net = Net(opset=18)
    net.rows(net.node("ReduceMean", net.trunk(), net.ints(2, 3), keepdims=0), 3)
    models = {"fold-batchnorm": chain(2), "conv-to-fc": conv, "global-pool": net.model()}
    for rewrite, model in models.items():
        assert onnxshare.rewrite(model, [rewrite], validate=False).changes
        found = reasons(as_inputs(model), rewrite)
        assert found
        assert all("also an input" in reason for reason in found)


def test_below_ir_4_every_initializer_is_listed_and_none_can_be_given() -> None:
    model = FORMS["shape, gather"].model()
    older = as_inputs(model)
    older.ir_version = 3
    assert onnxshare.rewrite(older, ["fc-to-conv"], provider="cpu").passed


def test_an_input_that_nothing_reads_any_more_stays_an_input() -> None:
    """A shape behind arithmetic is no weight: it goes, and the input that it was stays."""
    net = Net()
    sizes = net.ints(K)
    flat = net.node("Concat", net.node("Shape", net.trunk(), start=0, end=1), sizes, axis=0)
    trunk = net._nodes[1].output[0]
    net.rows(net.gemm(net.node("Reshape", trunk, flat), K, 5), 5)
    model = as_inputs(net.model(), sizes)
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert result.passed
    assert [v.name for v in result.model.graph.input] == [v.name for v in model.graph.input]
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("name", ["flatten", "channels last", "several scales", "weight reshaped"])
def test_with_assumed_defaults_only_real_inputs_stay(name: str) -> None:
    model = FORMS[name].model()
    given = as_inputs(model)
    result = onnxshare.rewrite(given, ["fc-to-conv"], assume_defaults=True, provider="cpu")
    assert result.passed
    assert list(result.model.graph.input) == list(model.graph.input)
    assert len(given.graph.input) > len(model.graph.input)
    equal = onnxshare.compare(given, result.model, provider="cpu")
    assert equal.passed


def test_the_refusal_names_the_option() -> None:
    (reason,) = reasons(as_inputs(FORMS["flatten"].model()), "fc-to-conv")
    assert "assume_defaults=True" in reason


def test_assumed_defaults_below_ir_4_stay_listed() -> None:
    older = as_inputs(FORMS["shape, gather"].model())
    older.ir_version = 3
    result = onnxshare.rewrite(older, ["fc-to-conv"], assume_defaults=True, provider="cpu")
    assert result.passed
    stored = {tensor.name for tensor in result.model.graph.initializer}
    assert stored <= {value.name for value in result.model.graph.input}
