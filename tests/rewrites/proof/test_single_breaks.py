"""One thing wrong in a model that a rewrite made, as a slip of its code would leave it: an
activation, a scale, a zero point, a slope, a piece of a Concat. None may ever be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnxshare
from onnxshare.graph.editor import Editor
from tests.rewrites import test_fold_batchnorm as fold
from tests.rewrites.checking import Array, is_new
from tests.rewrites.forms import FORMS, K, Net
from tests.rewrites.head_as_maps.test_quantized import contrib, linear, optimised

Model = onnx.ModelProto
Break = Callable[[Model], None]


def new_nodes(model: Model, *kinds: str) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if is_new(n) and (not kinds or n.op_type in kinds))


def operator(old: str, new: str) -> Break:
    """Another operator of the same inputs."""

    def apply(model: Model) -> None:
        node = next(new_nodes(model, old))
        node.op_type = new
        del node.attribute[:]

    return apply


def attribute(kind: str, name: str, value: Any) -> Break:
    def apply(model: Model) -> None:
        node = next(new_nodes(model, kind))
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return apply


def operand(kind: str, place: int, change: Callable[[Array], Array]) -> Break:
    """Other values in a stored operand of the last new node that has one there."""

    def apply(model: Model) -> None:
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = [n for n in new_nodes(model, kind) if len(n.input) > place]
        node = next(n for n in reversed(nodes) if n.input[place] in stored)
        old = numpy_helper.to_array(stored[node.input[place]])
        new = np.asarray(change(old.copy()), old.dtype).reshape(old.shape)
        assert not np.array_equal(new, old)
        tensor = numpy_helper.from_array(new, "corrupted")
        model.graph.initializer.append(tensor)
        node.input[place] = tensor.name

    return apply


def swapped(kind: str, first: int, second: int) -> Break:
    def apply(model: Model) -> None:
        node = next(new_nodes(model, kind))
        node.input[first], node.input[second] = node.input[second], node.input[first]

    return apply


def left_out(kind: str, keep: int = 0) -> Break:
    """A node that hands one of its inputs on."""

    def apply(model: Model) -> None:
        node = list(new_nodes(model, kind))[-1]
        node.op_type = "Identity"
        node.input[:] = [node.input[keep]]
        del node.attribute[:]

    return apply


def first_changed(values: Array) -> Array:
    values.reshape(-1)[0] += np.asarray(1, values.dtype)
    return values


def backwards(values: Array) -> Array:
    return np.ascontiguousarray(values.reshape(-1)[::-1])


def rows_swapped(values: Array) -> Array:
    values[[0, 1]] = values[[1, 0]]
    return values


def a_third_more(values: Array) -> Array:
    return np.asarray(values * np.asarray(4 / 3, values.dtype))


def fused(activation: str, **factors: float) -> Callable[[], Model]:
    def build() -> Model:
        net = Net()
        x = net.node("Flatten", net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1]))
        options: dict[str, Any] = {"domain": "com.microsoft", "activation": activation, **factors}
        net.rows(net.node("FusedGemm", x, net.weight(K, 5), net.weight(5), **options), 5)
        return contrib(net)

    return build


def prelu() -> Model:
    """A slope per element, of data on both sides of 0."""
    net = Net()
    x = net.node("Flatten", net.node("Neg", net.trunk()))
    net.rows(net.gemm(net.node("PRelu", x, net.weight(K)), K, 5), 5)
    return net.model()


def form(name: str) -> Callable[[], Model]:
    return FORMS[name].model


def folded(name: str) -> Callable[[], Model]:
    return lambda: fold.built(fold.FOLDED[name])


@dataclass(frozen=True)
class Case:
    build: Callable[[], Model]
    spoil: Break
    rewrite: str = "fc-to-conv"


CASES = {
    "FusedGemm, activation left out": Case(fused("Relu"), left_out("Relu")),
    "FusedGemm, another activation": Case(fused("Tanh"), operator("Tanh", "Sigmoid")),
    "FusedGemm, another slope": Case(
        fused("LeakyRelu", activation_alpha=0.3), attribute("LeakyRelu", "alpha", 0.31)
    ),
    "FusedGemm, slope by default": Case(
        fused("Elu", activation_alpha=0.7), attribute("Elu", "alpha", 1.0)
    ),
    "FusedGemm, bias backwards": Case(fused("Relu"), operand("Conv", 2, backwards)),
    "kernel, two outputs swapped": Case(form("flatten"), operand("Conv", 1, rows_swapped)),
    "bias, one element": Case(form("flatten"), operand("Conv", 2, first_changed)),
    "bias backwards": Case(form("Gemm, C [1, 5]"), operand("Conv", 2, backwards)),
    "PRelu, one slope": Case(prelu, operand("PRelu", 1, first_changed)),
    "PRelu between, one slope": Case(form("PRelu between"), operand("PRelu", 1, first_changed)),
    "Mul between, factors backwards": Case(
        form("Mul and Add between"), operand("Mul", 1, backwards)
    ),
    "BatchNormalization between, backwards": Case(
        form("BatchNormalization between"), operand("BatchNormalization", 3, backwards)
    ),
    "Relu between left out": Case(form("shape, gather"), left_out("Relu")),
    "one piece of a Concat left out": Case(form("several scales"), left_out("Add")),
    "a piece's kernel, outputs swapped": Case(
        form("several scales"), operand("Conv", 1, rows_swapped)
    ),
    "QLinearConv, scale of the data": Case(linear, operand("QLinearConv", 1, a_third_more)),
    "QLinearConv, scale of the result": Case(linear, operand("QLinearConv", 6, a_third_more)),
    "QLinearConv, zero point of the data": Case(linear, operand("QLinearConv", 2, first_changed)),
    "fold, one kernel": Case(
        folded("opset 13"), operand("Conv", 1, rows_swapped), "fold-batchnorm"
    ),
    "fold, bias": Case(folded("opset 13"), operand("Conv", 2, first_changed), "fold-batchnorm"),
    "fold, one kernel in half": Case(
        folded("half"), operand("Conv", 1, rows_swapped), "fold-batchnorm"
    ),
}


def spoil(patch: pytest.MonkeyPatch, change: Break) -> None:
    right = Editor.apply

    def wrong(self: Editor) -> Model:
        model = right(self)
        change(model)
        return model

    patch.setattr(Editor, "apply", wrong)


@pytest.mark.parametrize("name", CASES)
def test_never_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    limits = onnxshare.RunLimits(in_process=True)

    def rewritten() -> onnxshare.RewriteResult:
        return onnxshare.rewrite(case.build(), [case.rewrite], provider="cpu", run_limits=limits)

    assert rewritten().passed
    spoil(monkeypatch, case.spoil)
    result = rewritten()
    assert result.changes
    assert not result.passed, result.validation


@pytest.mark.parametrize("level", ["as written", "ALL"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(operand("ConvInteger", 3, first_changed), id="zero point of the weight"),
        pytest.param(operand("Mul", 1, a_third_more), id="scale"),
        pytest.param(operand("Mul", 1, backwards), id="scales backwards"),
        pytest.param(left_out("Add"), id="bias left out"),
    ],
)
def test_dynamic_forms_are_never_written(
    level: str, change: Break, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = tmp_path / "source.onnx", tmp_path / "dynamic.onnx"
    onnx.save(FORMS["channels last"].model(), source)
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)
    path = path if level == "as written" else optimised(path, level)
    seen: list[bool] = []

    def once(model: Model) -> None:
        try:
            change(model)
            seen.append(True)
        except (StopIteration, IndexError):  # this form has no such operand
            seen.append(False)

    spoil(monkeypatch, once)
    result = onnxshare.rewrite(path, ["fc-to-conv"], provider="cpu")
    if not any(seen):
        pytest.skip("this form keeps it in nodes that no rewrite makes")
    assert not result.passed
