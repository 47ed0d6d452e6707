"""`--fc-to-gap`: exact where weights are constant over space, else fitted, measured and said."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.errors import RewriteError, SamplesError, UsageError
from onnxshare.samples.samples import Samples
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    inputs,
    interface,
    run,
)
from tests.rewrites.forms import C, H, K, Net, W, quantized_fc

Array = np.ndarray[Any, np.dtype[Any]]

BUNDLED = ["lenet5", "lenet5-torchscript", "vgg_small", "vgg_small-torchscript"]
NAME = "onnxshare.approximate"


def weight(net: Net, outputs: int, rounding: bool = False) -> Array:
    """A weight `[out, C, H, W]` that is constant over space, bit for bit or within rounding."""
    spread = np.broadcast_to(net.random(outputs, C, 1, 1), (outputs, C, H, W)).copy()
    if rounding:
        up = np.nextafter(spread, np.float32(np.inf))
        spread = np.where(np.random.default_rng(1).integers(0, 2, spread.shape) > 0, up, spread)
    return spread.astype(net.dtype)


def flattened(rounding: bool) -> onnx.ModelProto:
    net = Net()
    flat = net.flat()
    w = net.stored(weight(net, 5, rounding).reshape(5, K))
    net.rows(net.node("Gemm", flat, w, net.weight(5), transB=1, alpha=0.5), 5)
    return net.model()


def channels_last(rounding: bool) -> onnx.ModelProto:
    net = Net()
    x = net.node("Flatten", net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1]))
    w = net.stored(weight(net, 6, rounding).transpose(2, 3, 1, 0).reshape(K, 6))
    x = net.node("Relu", net.node("Add", net.node("MatMul", x, w), net.weight(6)))
    net.rows(net.gemm(x, 6, 5), 5)
    return net.model()


def with_activation(rounding: bool) -> onnx.ModelProto:
    """What stands between the map and the FC is pooled after, not before."""
    net = Net()
    flat = net.node("Tanh", net.node("PRelu", net.flat(), net.weight(K)))
    w = net.stored(weight(net, 5, rounding).reshape(5, K))
    net.rows(net.node("Gemm", flat, w, transB=1), 5)
    return net.model()


def old_without_bias(rounding: bool) -> onnx.ModelProto:
    """A MatMul without bias, in an opset whose Gemm must have one."""
    net = Net(opset=9, ir=4)
    w = net.stored(weight(net, 5, rounding).reshape(5, K).T.copy())
    net.rows(net.node("MatMul", net.flat(), w), 5)
    return net.model()


def two_on_one(rounding: bool) -> onnx.ModelProto:
    net = Net()
    flat = net.flat()
    for size in (5, 1):
        w = net.stored(weight(net, size, rounding).reshape(size, K))
        net.rows(net.node("Gemm", flat, w, net.weight(size), transB=1), size)
    return net.model()


def quantized(per_output: bool, turned: bool) -> onnx.ModelProto:
    """A weight in 8 bits, one number per channel of the map; made real numbers, it is pooled."""
    net = Net()
    one = np.random.default_rng(3).integers(-127, 128, (5, C, 1, 1)).astype(np.int8)
    whole = np.broadcast_to(one, (5, C, H, W)).reshape(5, K)
    scale = np.linspace(0.01, 0.02, 5) if per_output else 0.01
    zero = np.zeros(5 if per_output else (), np.int8)
    given = [net.stored(whole.T if turned else whole), net.stored(scale, np.float32)]
    w = net.node("DequantizeLinear", *given, net.stored(zero), axis=int(turned))
    if turned:
        net.rows(net.node("MatMul", net.flat(), w), 5)
    else:
        net.rows(net.node("Gemm", net.flat(), w, net.weight(5), transB=1), 5)
    return net.model()


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_quantized_weight_is_pooled_as_real_numbers(per_output: bool, turned: bool) -> None:
    model = quantized(per_output, turned)
    result = onnxshare.rewrite(model, ["fc-to-gap"], provider="cpu")
    assert [(site.exact, site.refused) for site in result.sites] == [(True, None)]
    assert result.passed
    assert result.before.params - result.after.params >= 5 * C * (H * W - 1)
    (note,) = result.changes[0].notes
    assert "the new one is in float: method='gap+int8' writes it in 8 bits" in note
    given = feeds(model, 3)
    np.testing.assert_allclose(run(result.model, given)[0], run(model, given)[0], rtol=1e-4)


def joined(axis: int, *, vector: bool = False, differs: bool = False) -> onnx.ModelProto:
    """An FC that reads two maps of different sizes, or a map and a vector, side by side."""
    net = Net()
    image = net.input(2, H + 2, W + 2)
    first = weight(net, 5).reshape(5, K)
    maps, parts = [net.node("Flatten", net.trunk(image=image))], [first]
    if vector:
        maps.append(net.input(4))
        parts.append(net.random(5, 4))
    else:
        x = net.node("Conv", image, net.weight(2, 2, 2, 2))
        maps.append(net.node("Flatten", x))
        parts.append(np.repeat(net.random(5, 2), (H + 1) * (W + 1), axis=1))
    if differs:
        parts[0] = net.random(5, K)
    if axis:
        maps, parts = maps[::-1], parts[::-1]
    w = net.stored(np.concatenate(parts, axis=1))
    x = net.node("Concat", *maps, axis=1)
    net.rows(net.node("Gemm", x, w, net.weight(5), transB=1), 5)
    return net.model()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("turned", [0, 1])
def test_several_maps_are_pooled_one_by_one(vector: bool, turned: int) -> None:
    model = joined(turned, vector=vector)
    result = onnxshare.rewrite(model, ["fc-to-gap"], provider="cpu")
    assert [(site.exact, site.refused) for site in result.sites] == [(True, None)]
    assert result.passed
    [made] = [node for node in result.model.graph.node if node.op_type == "Gemm"]
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert stored[made.input[1]].shape == (5, C + (4 if vector else 2))
    assert_same_results(model, result.model, feeds(model, 3), spread=2.0)


def test_several_maps_whose_weights_differ_name_the_way_out() -> None:
    [site] = onnxshare.rewrite(joined(0, differs=True), ["fc-to-gap"]).sites
    assert "several feature maps" in str(site.refused)
    assert "'fc-to-conv'" in str(site.refused)


EXACT: list[Callable[[bool], onnx.ModelProto]] = [
    flattened,
    channels_last,
    with_activation,
    old_without_bias,
    two_on_one,
]


@pytest.mark.parametrize("rounding", [False, True], ids=["bit for bit", "within rounding"])
@pytest.mark.parametrize("build", EXACT)
def test_constant_over_space_is_exact(
    build: Callable[[bool], onnx.ModelProto], rounding: bool
) -> None:
    """Without samples, with the same results, and with a factor of H·W fewer weights."""
    model = build(rounding)
    before = model.SerializeToString(deterministic=True)
    result = onnxshare.rewrite(model, ["fc-to-gap"], provider="cpu")
    assert model.SerializeToString(deterministic=True) == before
    assert result.validation is not None
    assert result.validation.verdict == "equivalent"
    assert [site.exact for site in result.sites] == [True]
    assert ("within rounding" in result.sites[0].detail) is rounding
    assert not any(entry.key == NAME for entry in result.model.metadata_props)
    assert interface(result.model) == interface(model)
    assert_untouched_rest(model, result.model)
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 3):
        # The weights themselves are off by half a unit in the last place where they are rounded.
        assert_same_results(model, result.model, feeds(model, batch), spread=2.0)


def test_summed_weight_by_hand() -> None:
    """V = alpha · Σ_s W, which is alpha · H·W · w here."""
    model = flattened(False)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    fc = next(n for n in model.graph.node if n.op_type == "Gemm")
    result = onnxshare.rewrite(model, ["fc-to-gap"], provider="cpu")
    made = next(n for n in result.model.graph.node if n.op_type == "Gemm")
    found = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    expected = 0.5 * H * W * stored[fc.input[1]].reshape(5, C, H, W)[:, :, 0, 0].astype(np.float64)
    np.testing.assert_array_equal(found[made.input[1]], expected.astype(np.float32))
    np.testing.assert_array_equal(found[made.input[2]], stored[fc.input[2]])
    assert result.before.params - result.after.params == 5 * C * (H * W - 1)


def random_head(batch: int | str = "n") -> onnx.ModelProto:
    net = Net(batch=batch)
    net.rows(net.gemm(net.flat(), K, 5), 5)
    return net.model()


def samples_for(model: onnx.ModelProto, count: int = 64, value: float | None = None) -> Samples:
    [item] = inputs(model)
    shape = [dim.dim_value for dim in item.type.tensor_type.shape.dim][1:]
    values = np.random.default_rng(6).standard_normal((count, *shape)).astype(np.float32)
    if value is not None:
        values[...] = value
    return Samples({item.name: values}, None, "a test", False)


def test_nearly_constant_is_not_exact() -> None:
    """One weight off by 1 % of itself."""
    net = Net()
    w = weight(net, 5)
    w[2, 1, 0, 0] *= np.float32(1.01)
    net.rows(net.node("Gemm", net.flat(), net.stored(w.reshape(5, K)), transB=1), 5)
    result = onnxshare.rewrite(net.model(), ["fc-to-gap"], provider="cpu")
    assert result.changes == ()
    assert "differ over space" in (result.sites[0].refused or "")


def test_refused_without_samples_and_the_way_out(tmp_path: Path) -> None:
    model = random_head()
    result = onnxshare.rewrite(model, ["fc-to-gap"], provider="cpu")
    reason = result.sites[0].refused or ""
    assert "approximate=True, samples=FILE" in reason
    assert "'fc-to-conv'" in reason
    assert result.model.SerializeToString() == model.SerializeToString()
    with pytest.raises(RewriteError):
        result.save(tmp_path / "out.onnx")


def test_samples_alone_do_not_allow_it() -> None:
    model = random_head()
    result = onnxshare.rewrite(model, ["fc-to-gap"], samples=samples_for(model), provider="cpu")
    assert result.changes == ()


def test_approximate_needs_samples() -> None:
    with pytest.raises(UsageError, match=r"samples=.FILE"):
        onnxshare.rewrite(random_head(), ["fc-to-gap"], approximate=True)


@pytest.mark.parametrize(("count", "enough"), [(1, False), (7, False), (8, True)])
def test_how_many_samples_are_enough(count: int, enough: bool) -> None:
    model = random_head()
    given = samples_for(model, count)

    def go() -> RewriteResult:
        return onnxshare.rewrite(
            model, ["fc-to-gap"], approximate=True, samples=given, provider="cpu"
        )

    if enough:
        assert len(go().changes) == 1
    else:
        with pytest.raises(SamplesError, match=f"holds {count} sample"):
            go()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_give_no_model(value: float, tmp_path: Path) -> None:
    model = random_head()
    given = samples_for(model, 16, value)
    result = onnxshare.rewrite(
        model, ["fc-to-gap"], approximate=True, samples=given, provider="cpu"
    )
    assert not result.passed
    with pytest.raises(RewriteError):
        result.save(tmp_path / "out.onnx")


def left(net: Net) -> None:
    """The FC's output stands with its features in front."""
    x = net.node("MatMul", net.weight(5, K), net.node("Transpose", net.flat(), perm=[1, 0]))
    net.rows(net.node("Transpose", x, perm=[1, 0]), 5)


def rank_one(net: Net) -> None:
    x = net.node("Reshape", net.trunk(), net.ints(-1))
    x = net.node("MatMul", x, net.weight(K, 5))
    net.output(net.node("Reshape", x, net.ints(1, 5)), 1, 5)


@pytest.mark.parametrize(
    ("build", "batch"),
    [(left, "n"), (left, 1), (left, 4), (rank_one, 1)],
    ids=["columns", "one column", "four columns", "rank 1"],
)
def test_other_layouts_are_fitted_right_or_refused(
    build: Callable[[Net], None], batch: int | str
) -> None:
    """A fit to mixed-up samples would be far off the best one that there is."""
    net = Net(batch=batch)
    build(net)
    model = net.model()
    given = samples_for(model, 400)
    result = onnxshare.rewrite(
        model, ["fc-to-gap"], approximate=True, samples=given, provider="cpu"
    )
    if not result.changes:
        assert result.sites[0].refused
        return
    onnx.checker.check_model(result.model, full_check=True)
    assert result.changes[0].fit is not None
    assert result.changes[0].fit["left_out_error"] < 1.0


def images(bundled: Path) -> tuple[Array, Array, Array]:
    """Calibration images, test images, and the labels of these."""
    test = np.load(bundled / "test.npz")
    return np.load(bundled / "calibration.npz")["image"], test["image"], test["labels"]


@functools.cache
def approximated(bundled: Path, name: str) -> RewriteResult:
    return onnxshare.rewrite(
        bundled / f"{name}.onnx",
        ["fc-to-gap"],
        approximate=True,
        samples=bundled / "calibration.npz",
        provider="cpu",
    )


def classes(model: onnx.ModelProto, data: Array) -> Array:
    return np.asarray(run(model, {"image": data})[0].argmax(axis=1))


def promise(model: onnx.ModelProto) -> dict[str, Any]:
    [text] = [entry.value for entry in model.metadata_props if entry.key == NAME]
    return dict(json.loads(text))


@pytest.mark.parametrize("name", BUNDLED)
def test_promise_is_what_the_held_out_quarter_gives(bundled: Path, name: str) -> None:
    model, result = onnx.load(bundled / f"{name}.onnx"), approximated(bundled, name)
    assert result.validation is not None
    assert result.validation.verdict == "approximate"
    calibration, _, _ = images(bundled)
    held_out = np.random.default_rng(0).permutation(len(calibration))[: len(calibration) // 4]
    same = classes(model, calibration[held_out]) == classes(result.model, calibration[held_out])
    said = promise(result.model)
    assert said["samples"] == len(held_out) == 250
    assert said["fitted_on"] == 750
    assert said["agreement"] == pytest.approx(same.mean(), abs=1 / 250)
    assert said["agreement"] == result.validation.outputs[0].argmax_agreement
    assert said["agreement_low"] == pytest.approx(clopper_pearson(int(same.sum()), 250), abs=0.01)


def clopper_pearson(right: int, trials: int) -> float:
    """The proportion at which so many or more have a probability of 5 %, by bisection."""
    from math import comb

    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        tail = sum(
            comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(right, trials + 1)
        )
        low, high = (p, high) if tail < 0.05 else (low, p)
    return low


def naive(model: onnx.ModelProto, result: RewriteResult) -> onnx.ModelProto:
    """The same graph with the average of each filter times its positions: what needs no data."""
    stored = {t.name: t for t in model.graph.initializer}
    old = next(n for n in model.graph.node if n.op_type == "Gemm")
    weight, bias = (numpy_helper.to_array(stored[name]) for name in old.input[1:3])
    made = onnx.ModelProto()
    made.CopyFrom(result.model)
    new = next(n for n in made.graph.node if n.op_type == "Gemm")
    for tensor in made.graph.initializer:
        if tensor.name == new.input[1]:
            channels = tensor.dims[1]
            summed = weight.reshape(len(weight), channels, -1).sum(axis=2)
            tensor.CopyFrom(numpy_helper.from_array(summed, tensor.name))
        elif tensor.name == new.input[2]:
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    return made


@pytest.mark.parametrize("name", BUNDLED)
def test_fit_is_better_than_averaging(bundled: Path, name: str) -> None:
    """On images that neither the training nor the fit has seen."""
    model, result = onnx.load(bundled / f"{name}.onnx"), approximated(bundled, name)
    _, test, labels = images(bundled)
    truth = classes(model, test)
    fitted, averaged = classes(result.model, test), classes(naive(model, result), test)
    assert (fitted == truth).mean() > (averaged == truth).mean() + 0.1
    assert (fitted == labels).mean() > (averaged == labels).mean() + 0.1
    # What was promised on 250 images holds on 2,000 others.
    assert (fitted == truth).mean() > promise(result.model)["agreement_low"] - 0.03


@pytest.mark.parametrize("name", BUNDLED)
def test_weights_shrink_by_the_number_of_positions(bundled: Path, name: str) -> None:
    channels, positions, outputs = (16, 5 * 5, 120) if "lenet" in name else (64, 6 * 6, 128)
    result = approximated(bundled, name)
    saved = outputs * channels * (positions - 1)
    assert result.before.params - result.after.params == saved
    site = result.sites[0]
    assert site.params_before == outputs * channels * positions + outputs
    assert site.params_after == outputs * channels + outputs
    onnx.checker.check_model(result.model, full_check=True)


def test_seed_changes_what_is_held_out(bundled: Path) -> None:
    model = random_head()
    given = samples_for(model, 64)
    models = [
        onnxshare.rewrite(
            model, ["fc-to-gap"], approximate=True, samples=given, seed=seed, provider="cpu"
        ).model.SerializeToString(deterministic=True)
        for seed in (0, 0, 1)
    ]
    assert models[0] == models[1]
    assert models[0] != models[2]


def test_a_weight_that_several_fcs_read_is_counted_and_stored_once() -> None:
    """6 FCs of 2 × (3 · 4) weights and 2 biases: 26 parameters, of which 2 × 3 + 2 are left."""
    inits = [
        numpy_helper.from_array(np.ones((2, 12), np.float32), "w"),
        numpy_helper.from_array(np.ones(2, np.float32), "b"),
        numpy_helper.from_array(np.ones((3, 1, 1, 1), np.float32), "k"),
    ]
    nodes = [onnx.helper.make_node("Conv", ["x", "k"], ["c"])]
    nodes += [onnx.helper.make_node("Flatten", ["c"], ["f"])]
    nodes += [onnx.helper.make_node("Gemm", ["f", "w", "b"], [f"y{i}"], transB=1) for i in range(6)]
    value, float_ = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    outputs = [value(f"y{i}", float_, [1, 2]) for i in range(6)]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", float_, [1, 1, 2, 2])], outputs, inits)
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    result = onnxshare.rewrite(model, "fc-to-gap", validate=False)
    assert [(site.params_before, site.params_after) for site in result.sites] == [(26, 8)]
    assert (result.before.params, result.after.params) == (26 + 3, 8 + 3)


@pytest.mark.parametrize("name", ["MatMul", "Gemm, a scale per output"])
def test_heads_in_integers_become_heads_in_float_or_in_integers(name: str) -> None:
    """As asked for; in float, a note says how to have integers."""
    net = Net()
    (quantized_fc() if name == "MatMul" else quantized_fc(axis=0, by_output=True))(net)
    model = net.model()
    given = samples_for(model, 200)
    for method in ("gap", "gap+int8"):
        result = onnxshare.rewrite(
            model, ["fc-to-gap"], method=method, samples=given, provider="cpu", seed=2
        )
        (change,) = result.changes
        said = [note for note in change.notes if "was in integers" in note]
        kinds = {t.name: t.data_type for t in result.model.graph.initializer}
        stored = [kinds[n] for node in result.model.graph.node for n in node.input if n in kinds]
        in_integers = TensorProto.INT8 in stored
        assert in_integers == (method == "gap+int8")
        assert bool(said) != in_integers
        assert all("method='gap+int8'" in note for note in said)
        run(result.model, feeds(model, 2))
