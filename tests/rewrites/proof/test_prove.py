"""Rewrites made wrong on purpose, by breaking the code that makes them: none may ever be saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest

import onnxshare
from onnxshare.analysis.heads import element_order, fully_connected
from onnxshare.errors import RewriteError
from onnxshare.runtime.limits import RunLimits
from rewrites.head_as_maps import fc_weights, maps
from rewrites.head_as_maps.elementwise import Steps
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.head_as_maps.kernels import Convolutions
from tests.rewrites.checking import feeds, run
from tests.rewrites.forms import FORMS, C, H, K, Net, W

Array = np.ndarray[Any, np.dtype[Any]]
Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def on_kernel(change: Callable[[Array], Array]) -> Mutant:
    """Spoil each kernel `[out, C, spatial…]` on its way into the model."""

    def apply(patch: Patch) -> None:
        right = fc_weights.moved_weight

        def wrong(*arguments: Any) -> Array:
            kernel = right(*arguments)
            return np.ascontiguousarray(change(kernel.copy())).reshape(kernel.shape)

        patch.setattr("rewrites.head_as_maps.kernels.moved_weight", wrong)

    return apply


def axes(kernel: Array) -> Array:
    """Channels taken for the last axis."""
    out, channels, *spatial = kernel.shape
    return np.moveaxis(kernel.reshape(out, *spatial, channels), -1, 1)


def turned(kernel: Array) -> Array:
    """Height and width swapped, each element where the other axis would have it."""
    return kernel.swapaxes(-1, -2)


def one_channel(kernel: Array) -> Array:
    kernel[0] *= np.asarray(1.01, kernel.dtype)
    return kernel


def two_rows(kernel: Array) -> Array:
    kernel[[0, 1]] = kernel[[1, 0]]
    return kernel


def one_column_lost(kernel: Array) -> Array:
    """Only where there is more than one position, so only in the first FC."""
    if kernel[0, 0].size > 1:
        kernel[:, :, ..., 0] = 0
    return kernel


def no_bias(patch: Patch) -> None:
    right = fc_weights.bias_of
    patch.setattr("rewrites.head_as_maps.kernels.bias_of", lambda *a: right(*a) and (None, None))


def bias_of_another(patch: Patch) -> None:
    """Two outputs get each other's bias."""
    right = fc_weights.bias_of

    def wrong(*arguments: Any) -> tuple[str | None, Array | None]:
        _, vector = right(*arguments)
        return None, None if vector is None else vector[::-1].copy()

    patch.setattr("rewrites.head_as_maps.kernels.bias_of", wrong)


def factor_ignored(name: str) -> Mutant:
    """alpha or beta taken for 1 after the FC was recognised."""

    def apply(patch: Patch) -> None:
        connect = HeadBuilder.connect

        def wrong(self: HeadBuilder, layer: Any) -> None:
            object.__setattr__(layer, name, 1.0)
            connect(self, layer)

        patch.setattr(HeadBuilder, "connect", wrong)

    return apply


def transposition_ignored(patch: Patch) -> None:
    """[in, out] read as [out, in]."""
    right = fully_connected.weight_by_output

    def wrong(layer: Any, values: Any) -> Array | None:
        weight = right(layer, values)
        return None if weight is None else weight.T.reshape(weight.shape)

    patch.setattr("rewrites.head_as_maps.fc_weights.weight_by_output", wrong)


def order_ignored(patch: Patch) -> None:
    """Columns taken for C, H, W, whatever order they are in."""
    right = element_order.column_order

    def wrong(index: Array, sizes: tuple[int, ...]) -> Array | str:
        order = right(index, sizes)
        return order if isinstance(order, str) else np.sort(order)

    patch.setattr("onnxshare.analysis.heads.element_order.column_order", wrong)


def order_inverted(patch: Patch) -> None:
    """The permutation the wrong way round."""
    right = element_order.column_order

    def wrong(index: Array, sizes: tuple[int, ...]) -> Array | str:
        order = right(index, sizes)
        return order if isinstance(order, str) else np.argsort(order)

    patch.setattr("onnxshare.analysis.heads.element_order.column_order", wrong)


def constants_not_moved(patch: Patch) -> None:
    """A constant per element of the vector put on the map as it is."""
    right = maps.constants_of

    def wrong(head_map: Any, spread: Array, node: Any) -> list[Array]:
        made = right(head_map, spread, node)
        first = spread.reshape(-1)[: made[0].size]
        whole = int(np.prod(head_map.parts[0].sizes))
        return [first.reshape(made[0].shape) if made[0].size == whole else made[0], *made[1:]]

    patch.setattr("rewrites.head_as_maps.elementwise.constants_of", wrong)


def activation_lost(patch: Patch) -> None:
    """What stands between two FCs is left out."""
    patch.setattr(Steps, "elementwise", lambda self, node, data, head_map: head_map)


def one_map_lost(patch: Patch) -> None:
    """Of several maps, the last one is left out of the sum."""
    right = Convolutions.emit

    def wrong(self: Convolutions, layer: Any, read: tuple[Any, ...], wanted: str) -> str:
        return right(self, layer, read[: max(1, len(read) - 1)], wanted)

    patch.setattr(Convolutions, "emit", wrong)


def columns_of_another(patch: Patch) -> None:
    """Each map gets the columns that stand one further on."""
    right = maps.columns_of

    def wrong(head_map: Any, rows: Array) -> Any:
        read = right(head_map, rows)
        total = rows.shape[1]
        return tuple(
            replace(item, columns=np.sort((item.columns + 1) % total))
            if item.columns is not None
            else item
            for item in read
        )

    patch.setattr("rewrites.head_as_maps.head_builder.columns_of", wrong)


#: What shows in any model.
MUTANTS: dict[str, Mutant] = {
    "axes": on_kernel(axes),
    "height and width": on_kernel(turned),
    "one channel by 1.01": on_kernel(one_channel),
    "two rows": on_kernel(two_rows),
    "a column lost": on_kernel(one_column_lost),
    "no bias": no_bias,
    "another's bias": bias_of_another,
    "transB": transposition_ignored,
}

#: What shows in the form that is named with it.
PARTICULAR: dict[str, tuple[Mutant, str]] = {
    "alpha": (factor_ignored("alpha"), "Gemm, alpha and beta"),
    "beta": (factor_ignored("beta"), "Gemm, alpha and beta"),
    "alpha with transB": (factor_ignored("alpha"), "Gemm, transB, alpha"),
    "order of channels last": (order_ignored, "channels last"),
    "order of channels last, reshape": (order_ignored, "channels last, reshape"),
    "order of tf2onnx": (order_ignored, "shape, cast, slice"),
    "order of a shuffle": (order_ignored, "channel shuffle"),
    "order the wrong way round": (order_inverted, "channels last"),
    "slope not moved": (constants_not_moved, "bias of the flattened layout"),
    "activation lost": (activation_lost, "channels last"),
    "PRelu lost": (activation_lost, "PRelu between"),
    "one scale lost": (one_map_lost, "several scales"),
    "the vector lost": (one_map_lost, "map and vector"),
    "columns of another scale": (columns_of_another, "several scales"),
    "columns of another scale, transB": (columns_of_another, "several scales, transB, alpha"),
    "alpha of several scales": (factor_ignored("alpha"), "several scales, transB, alpha"),
    "order of several scales": (order_ignored, "several scales, channels last"),
    "factor of several scales": (constants_not_moved, "several scales, a factor per element"),
}

MODELS = ["lenet5", "vgg_small", "vgg_small-torchscript"]
ZOO = ["zkml_lenet_small", "mnist8_cntk", "marabou_mnist_maxpool2", "cifar_base_kw_dynreshape"]


def assert_rejected(model: onnx.ModelProto | Path, folder: Path, samples: Path | None) -> None:
    """The rewrite does something, the verdict does not pass, and nothing can be written."""
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", samples=samples)
    assert result.changes
    assert result.validation is not None
    assert result.validation.verdict in ("different", "inconclusive", "not run")
    assert not result.passed
    with pytest.raises(RewriteError, match="no proven rewrite"):
        result.save(folder / "wrong.onnx")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_on_bundled_models(
    monkeypatch: Patch, bundled: Path, tmp_path: Path, mutant: str, model: str
) -> None:
    MUTANTS[mutant](monkeypatch)
    assert_rejected(bundled / f"{model}.onnx", tmp_path, None)


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_on_real_inputs(monkeypatch: Patch, bundled: Path, tmp_path: Path, mutant: str) -> None:
    given = tmp_path.with_name(f"{tmp_path.name}-samples.npy")
    np.save(given, np.load(bundled / "calibration.npz")["image"][:64])
    MUTANTS[mutant](monkeypatch)
    assert_rejected(bundled / "lenet5.onnx", tmp_path, given)


@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_on_the_zoo(monkeypatch: Patch, zoo: Path, tmp_path: Path, mutant: str, model: str) -> None:
    MUTANTS[mutant](monkeypatch)
    assert_rejected(zoo / "models" / f"{model}.onnx", tmp_path, None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mutant", list(PARTICULAR))
def test_on_the_form_it_concerns(
    monkeypatch: Patch, tmp_path: Path, mutant: str, seed: int
) -> None:
    apply, form = PARTICULAR[mutant]
    apply(monkeypatch)
    assert_rejected(FORMS[form].model(seed), tmp_path, None)


def slopes(*shape: int) -> onnx.ModelProto:
    """Channels last, and a PRelu with a slope per element of the flattened vector."""
    net = Net(seed=4)
    x = net.node("Conv", net.input(2, 5, 6), net.weight(3, 2, 3, 3))
    x = net.node("Flatten", net.node("Transpose", x, perm=[0, 2, 3, 1]))
    x = net.node("PRelu", x, net.weight(*shape))
    net.rows(net.gemm(x, 36, 5), 5)
    return net.model()


def test_slope_of_channels_last_not_moved(monkeypatch: Patch, tmp_path: Path) -> None:
    model = slopes(36)
    right = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert right.validation is not None
    assert right.validation.verdict == "equivalent"
    constants_not_moved(monkeypatch)
    assert_rejected(model, tmp_path, None)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.refused is None])
def test_axes_on_every_form(monkeypatch: Patch, tmp_path: Path, form: str) -> None:
    """Wherever a kernel has more than one position, mixing up its axes is seen."""
    on_kernel(axes)(monkeypatch)
    assert_rejected(FORMS[form].model(1), tmp_path, None)


def test_right_code_passes_on_all_of_them(bundled: Path) -> None:
    """The mutants are told from this, not from a comparison that rejects everything."""
    for model in MODELS:
        result = onnxshare.rewrite(bundled / f"{model}.onnx", ["fc-to-conv"], provider="cpu")
        assert result.passed


def old_gemm(net: Net) -> None:
    net.rows(net.gemm(net.flat(), K, 5, broadcast=1), 5)


def old_add(net: Net) -> None:
    x = net.node("MatMul", net.flat(), net.weight(K, 5))
    net.rows(net.node("Add", x, net.weight(5), broadcast=1, axis=1), 5)


def old_norm(net: Net) -> None:
    x = net.node("Conv", net.input(2, H + 2, W + 2), net.weight(C, 2, 3, 3))
    spread = net.stored([1.0, 2.0, 3.0], np.float32)
    more = {"consumed_inputs": [0, 0, 0, 1, 1]} if net.opset < 6 else {}
    given = [net.weight(C), net.weight(C), net.weight(C), spread]
    x = net.node("BatchNormalization", x, *given, is_test=1, **more)
    net.rows(net.gemm(net.node("Flatten", x), K, 5, broadcast=1), 5)


def old_dropout(net: Net) -> None:
    x = net.node("Dropout", net.flat(), is_test=1)
    slope = net.stored([0.1], np.float32)
    net.rows(net.node("PRelu", net.gemm(x, K, 5, broadcast=1), slope), 5)


@pytest.mark.parametrize("opset", [5, 6])
@pytest.mark.parametrize("build", [old_gemm, old_add, old_norm, old_dropout])
def test_opsets_that_onnx_runtime_lacks(build: Callable[[Net], None], opset: int) -> None:
    """Proven in opset 7, written in their own."""
    net = Net(opset=opset, ir=3, batch=1)
    build(net)
    model = net.model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], run_limits=RunLimits(in_process=True))
    assert result.passed
    assert result.validation is not None
    assert "version converter" in result.validation.reason
    assert [item.version for item in result.model.opset_import] == [opset]
    assert not {"Gemm", "MatMul"} & {node.op_type for node in result.model.graph.node}
    if opset == 6:  # the converter is not told the shapes of opset 5 here
        convert = onnx.version_converter.convert_version
        newer = [convert(item, 9) for item in (model, result.model)]
        old, made = (run(item, feeds(newer[0], 1))[0] for item in newer)
        np.testing.assert_allclose(made, old, rtol=1e-4, atol=1e-5)


def test_a_wrong_weight_shows_in_old_opsets(monkeypatch: Patch, tmp_path: Path) -> None:
    net = Net(opset=6, ir=3, batch=1)
    old_gemm(net)
    on_kernel(one_channel)(monkeypatch)
    assert_rejected(net.model(), tmp_path, None)
