"""Activations in 8 bits: ranges against NumPy, predictions against ONNX Runtime on the file."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from math import erf
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxshare.errors import UsageError
from onnxshare.io.load import load
from rewrites.base import study
from rewrites.small_heads import search
from rewrites.small_heads.emit_head import emit_head
from rewrites.small_heads.equalization import equalized, equalized_factors
from rewrites.small_heads.fit_head import HeadFitter
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.head_layers import chain_of
from rewrites.small_heads.int8_activations import Range, between, costs, range_of
from rewrites.small_heads.methods import W8A8, Method, family, parse, stored_in_int8
from rewrites.small_heads.training_data import HeadData, collect
from tests.rewrites.checking import run
from tests.rewrites.forms import K, Net
from tests.rewrites.small_heads.test_replace_head import samples_for, small, two_layers

Array = np.ndarray[Any, np.dtype[Any]]

METHODS = {
    "w8a8": ["QGemm", "QGemm"],
    "gap+w8a8": ["QGemm", "QGemm"],
    "mask:2+w8a8": ["MatMulIntegerToFloat", "QGemm", "QGemm"],
    "collapse+depthwise+w8a8": ["QLinearConv", "QGemm"],
    "stack:3+w8a8": ["QGemm", "QGemm", "QGemm"],
    "mlp:5+separable:3+w8a8": ["QLinearConv", "QLinearConv", "QGemm", "QGemm"],
    "collapse+separable:3+w8a8": ["QLinearConv", "QLinearConv", "QGemm"],
}


def optimized(model: onnx.ModelProto, names: list[str], path: Any, feeds: Any) -> list[Array]:
    """These tensors with all optimizations; the model that they lead to goes to the path."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {item.name for item in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(names, feeds)]


def on(model: onnx.ModelProto, arrays: dict[str, Array], path: Any) -> HeadData:
    """The head's data on samples."""
    subject = study(load(model))

    def features(
        proto: onnx.ModelProto, names: tuple[str, ...]
    ) -> Generator[Mapping[str, Array], None, None]:
        yield dict(zip(names, optimized(proto, list(names), path, arrays), strict=True))

    count = len(next(iter(arrays.values())))
    return collect(chain_of(subject, subject.heads[0]), features, count)


def fitted(data: HeadData, method: str) -> SmallHead:
    return HeadFitter(data, np.arange(data.count)).fit(parse(method), quick=True)


def one_step(head: SmallHead) -> float:
    """What one step of what the last product reads changes at the outputs, at most."""
    last = head.layers[-1]
    reads = last.steps[-1].reads
    assert reads is not None
    return reads.scale * float(np.abs(last.factors[-1]).sum(axis=1).max())


def test_a_range_by_hand() -> None:
    values = np.array([-9.0, -1.5, -0.3, 0.0, 0.2, 0.25, 0.75, 125.9, 500.0])
    found = Range(0.5, 3).apply(values)  # from -1.5 to 126, half to even
    assert found.tolist() == [-1.5, -1.5, -0.5, 0.0, 0.0, 0.0, 1.0, 126.0, 126.0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["relu", "normal", "heavy", "negative"])
def test_no_range_with_clipped_ends_does_better(kind: str, seed: int) -> None:
    """Against all 144 pairs of ends, each by ONNX's formula on the values themselves."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((400, 6)) * [1, 2, 3, 1, 1, 0.5]
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "heavy":
        values = values**5
    elif kind == "negative":
        values = -np.abs(values)
    cost = random.uniform(0.1, 2, 6)

    def lost(scale: float, zero: int) -> float:
        q = np.clip(np.rint(values / scale) + zero, 0, 255)
        return float((((q - zero) * scale - values) ** 2 * cost).sum())

    found = range_of(lambda: iter([values[:150], values[150:]]), cost)
    ends = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02]
    low, high = min(values.min(), 0), max(values.max(), 0)
    others = [
        lost((b * high - a * low) / 255, round(a * -low / ((b * high - a * low) / 255)))
        for a in ends
        for b in ends
    ]
    assert lost(found.scale, found.zero) <= 1.02 * min(others)  # it counts in bins


def test_one_large_value_among_many_is_clipped() -> None:
    """Steps of 30 / 255 would cost a million values 1,150 in squares; of 20 / 255 and 10 less at
    one, 610."""
    values = np.random.default_rng(0).standard_normal((1000, 1000))
    values[3, 4] = 25
    found = range_of(lambda: iter([values]), np.ones(1000))
    assert 8 < (255 - found.zero) * found.scale < 18


def test_what_no_weight_reads_or_never_moves_widens_no_range() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (100, 3))
    values[:, 1] = 400.0
    values[:, 2] *= 1000
    found = range_of(lambda: iter([values]), np.array([1.0, 1.0, 0.0]))
    assert found.scale * 255 <= 1.001
    assert range_of(lambda: iter([values[:, 1:2]]), np.ones(1)) == Range(1.0, 0)


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(-(2.0**99), 2.0**99, width=32))
@example(0.0, -8.6e-43)  # below the smallest normal number of single precision
def test_zero_is_a_step_of_every_range(one: float, other: float) -> None:
    found = between(min(one, other, 0.0), max(one, other, 0.0))
    assert 0 <= found.zero <= 255
    assert found.apply(np.zeros(1)) == 0


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("method", METHODS)
def test_onnx_runtime_computes_in_integers_what_was_predicted(
    method: str, opset: int, tmp_path: Any
) -> None:
    net = Net(opset=opset, ir=8 if opset < 21 else 10)
    net.rows(net.gemm(net.node("Relu", net.gemm(net.flat(), K, 20)), 20, 4), 4)
    model = net.model()
    arrays = dict(samples_for(model, 60, 8).arrays)
    path = tmp_path / "optimized.onnx"
    data = on(model, arrays, path)
    head = fitted(data, method)
    emitted = emit_head(head)[0]
    onnx.checker.check_model(emitted, full_check=True)
    [name] = [item.name for item in emitted.graph.output]
    [found] = optimized(emitted, [name], path, arrays)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    integers = ("QGemm", "QLinearConv", "MatMulIntegerToFloat")
    assert [item for item in operators if item in integers] == METHODS[method]
    assert not {"Gemm", "MatMul", "DequantizeLinear"} & set(operators)
    [leaf] = data.chain.leaves
    for values in (found, run(emitted, arrays)[0]):
        gap = np.abs(head.predict(data.maps)[leaf] - values)
        assert np.median(gap) < 1e-3 * one_step(head)
        assert gap.max() <= one_step(head)
    # Bytes: all that the head stores but names, shapes and attributes.
    old = {item.name for item in model.graph.initializer}
    stored = [t for t in emitted.graph.initializer if t.name not in old]
    sizes = [numpy_helper.to_array(t).nbytes for t in stored if t.data_type != TensorProto.INT64]
    assert sum(sizes) == head.bytes


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from([*METHODS, "grid:2+w8a8", "collapse+w8a8", "stack:2+mask:3+w8a8"]),
    st.sampled_from(["Relu", "Tanh", "LeakyRelu"]),
    st.sampled_from([1e-3, 1.0, 300.0]),
    st.sampled_from([0.0, 1.0, 1e4]),
)
def test_predictions_are_within_a_step_of_onnx_runtime(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    method: str,
    activation: str,
    scale: float,
    shift: float,
) -> None:
    """Whatever the sizes of maps and biases."""
    net = Net(seed=seed)
    x = net.node("Mul", net.trunk(), net.stored(np.float32(scale)))
    x = net.node(activation, net.gemm(net.node("Flatten", x), K, 9))
    bias = net.stored(net.random(4) + np.float32(shift))
    net.rows(net.node("Gemm", x, net.weight(4, 9), bias, transB=1), 4)
    model = net.model()
    arrays = dict(samples_for(model, 40, seed).arrays)
    path = tmp_path_factory.getbasetemp() / "property.onnx"
    data = on(model, arrays, path)
    head = fitted(data, method)
    emitted = emit_head(head)[0]
    [name] = [item.name for item in emitted.graph.output]
    [found] = optimized(emitted, [name], path, arrays)
    [leaf] = data.chain.leaves
    predicted = head.predict(data.maps)[leaf]
    rounding = 1e-6 * np.abs(predicted).max()
    assert np.abs(predicted - found).max() <= 2 * one_step(head) + rounding


def test_values_far_from_zero_that_hardly_move_keep_their_moves(tmp_path: Any) -> None:
    """Their biases are more than 2³¹ steps of weights that fill 8 bits."""
    net = Net()
    weight = net.stored(net.random(2, K) * np.float32(1e-4))
    bias = net.stored(np.array([3e4, -2e4], np.float32))
    net.rows(net.node("Gemm", net.flat(), weight, bias, transB=1), 2)
    model = net.model()
    arrays = dict(samples_for(model, 60, 8).arrays)
    data = on(model, arrays, tmp_path / "o.onnx")
    found = run(emit_head(fitted(data, "w8a8"))[0], arrays)[0]
    exact = arrays[next(iter(arrays))] is not None and run(model, arrays)[0]
    assert np.abs(found - exact).max() < 0.02  # 3e4 has steps of 0.002 in single precision


def test_what_rounding_adds_on_average_goes_into_the_biases(tmp_path: Any) -> None:
    """By ONNX Runtime, on the samples of the fit: no more is left than a step of the biases."""
    net = Net()
    x = net.node("Add", net.flat(), net.stored(np.full((1, K), 0.013, np.float32)))
    net.rows(net.gemm(x, K, 6), 6)
    model = net.model()
    arrays = dict(samples_for(model, 200, 8).arrays)
    emitted = emit_head(fitted(on(model, arrays, tmp_path / "o.onnx"), "w8a8"))[0]
    [wanted], [found] = run(model, arrays), run(emitted, arrays)
    [bias] = [t for t in emitted.graph.initializer if t.data_type == TensorProto.INT32]
    [node] = [node for node in emitted.graph.node if bias.name in node.input]
    tensors = {item.name: numpy_helper.to_array(item) for item in emitted.graph.initializer}
    step = tensors[node.input[1]]
    assert (np.abs((found - wanted).mean(axis=0)) <= step).all()
    assert np.abs(found - wanted).mean() > 3 * step.max()


def test_costs_are_squares_of_weights_through_all_products() -> None:
    inner, outer = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]), np.array([[2.0, 1.0]])
    first, second = costs((inner, outer), np.array([10.0]))
    assert second.tolist() == [40.0, 10.0]
    assert first.tolist() == [40.0, 170.0, 90.0]


def test_factors_of_low_rank_are_equalized() -> None:
    random = np.random.default_rng(0)
    factors = random.standard_normal((3, 8)) * [[100], [1], [0]], random.standard_normal((5, 3))
    rows = random.standard_normal((50, 8))
    inner, outer = equalized_factors(factors, lambda: iter([rows[:20], rows[20:]]))
    np.testing.assert_allclose(outer @ inner, factors[1] @ factors[0], atol=1e-9)
    np.testing.assert_allclose(np.abs(rows @ inner.T).max(axis=0), [1, 1, 0])


def test_models_that_are_too_old_are_refused_where_activations_are_requested() -> None:
    result = small(two_layers(opset=12), "auto", 700, keep=0.9, int8_activations=True)
    [site] = result.sites
    assert "take opset 13, and the model has 12" in (site.refused or "")


@pytest.mark.parametrize("method", ["mlp:5+separable:3", "collapse+depthwise", "mask:2"])
def test_equalized_features_reach_as_far_and_change_no_output(method: str, tmp_path: Any) -> None:
    model = two_layers()
    data = on(model, dict(samples_for(model, 60, 8).arrays), tmp_path / "o.onnx")
    head = fitted(data, method)
    found = equalized(head, data.maps, np.arange(data.count))
    for leaf, values in head.predict(data.maps).items():
        np.testing.assert_allclose(found.predict(data.maps)[leaf], values, rtol=1e-9, atol=1e-9)
    reach = np.abs(found.weighting.apply(data.maps)).max(axis=0)
    if method == "mask:2":  # a mask is that of all channels
        reach = reach.reshape(-1, 2).max(axis=0)
    np.testing.assert_allclose(reach, 1)


def gelu_net() -> onnx.ModelProto:
    net = Net(opset=20, ir=9)
    net.rows(net.gemm(net.node("Gelu", net.gemm(net.flat(), K, 20)), 20, 4), 4)
    return net.model()


@pytest.mark.parametrize("method", ["gap", "int8", "mask:2+int8", "w8a8"])
def test_a_search_runs_what_it_does_not_know_between_fcs(method: str, tmp_path: Any) -> None:
    """Against the same products and x/2 · (1 + erf(x/√2)) in NumPy."""
    model, path = gelu_net(), tmp_path / "o.onnx"
    arrays = dict(samples_for(model, 60, 8).arrays)
    data = on(model, arrays, path)
    chain = data.chain
    [leaf] = chain.leaves
    assert chain.opaque is not None

    def run_head(head: SmallHead) -> dict[int, Array]:
        return {leaf: run(emit_head(head)[0], arrays)[0]}

    found = search.CrossValidation(data, 0, run_head).run(parse(method))
    [head] = found.heads
    first = next(layer for layer in head.layers if layer.source < 0)
    x = first.apply(head.weighting.apply(data.maps[found.samples]))
    x = x / 2 * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    last = [layer for layer in head.layers if layer.source >= 0]
    if last:
        expected = last[0].apply(x)
    else:
        expected = x @ chain.weight(1).astype(np.float64).T + chain.bias(1)
    atol = one_step(head) if method == "w8a8" else 1e-5
    np.testing.assert_allclose(found.outputs[leaf], expected, atol=atol)
    assert len(found.samples) == (60 if method in ("int8", "w8a8") else 12)


@pytest.mark.parametrize("activations", [False, True])
def test_a_head_with_an_unknown_function_is_brought_to_8_bits(
    activations: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [Method("first", "gap"), Method("first", "mask", 2), Method("stack", "full", 1, 3)]
    monkeypatch.setattr(search, "family", lambda *_, **__: methods)
    result = small(gelu_net(), "auto", 700, keep=0.95, int8_activations=activations)
    [change] = result.changes
    assert change.search is not None
    assert change.search.chosen == ("w8a8" if activations else "int8")
    assert change.search.certified
    tried = {item.method: item for item in change.search.candidates}
    assert tried["gap"].estimate is not None
    assert tried["mask:2"].estimate is not None
    assert "Gelu between its FCs" in (tried["stack:3"].refused or "")
    given = dict(samples_for(gelu_net(), 300, 9).arrays)
    [wanted], [found] = run(gelu_net(), given), run(result.model, given)
    assert (wanted.argmax(axis=1) == found.argmax(axis=1)).mean() >= 0.95


def test_weights_are_unsigned_so_that_no_processor_clips_sums() -> None:
    result = small(two_layers(), "stack:3+w8a8")
    [change] = result.changes
    tensors = {item.name: numpy_helper.to_array(item) for item in result.model.graph.initializer}
    read = [node for node in result.model.graph.node if node.op_type == "DequantizeLinear"]
    weights = [node for node in read if node.input[0] in tensors and len(node.input) == 3]
    assert len(weights) == 3
    for node in weights:
        values, scale, zero = (tensors[name] for name in node.input)
        assert values.dtype == zero.dtype == np.uint8
        assert (zero == 128).all()
        assert values.min() >= 1  # 128 − 127
        assert scale.shape == zero.shape == (len(values),)
    assert "weights and activations in 8 bits" in " ".join(change.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_whole_way_in_other_types(dtype: Any) -> None:
    net = Net(dtype=dtype)
    net.rows(net.gemm(net.node("Relu", net.gemm(net.flat(), K, 20)), 20, 4), 4)
    model = net.model()
    result = small(model, "w8a8")
    assert result.validation is not None
    assert result.validation.verdict == "approximate", result.validation.reason
    [wanted], [found] = (
        run(item, dict(samples_for(model, 30, 9).arrays)) for item in (model, result.model)
    )
    assert found.dtype == wanted.dtype == dtype
    assert np.sqrt(((found - wanted) ** 2).mean() / wanted.var()) < 0.06
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert result.model.graph.output[0].type.tensor_type.elem_type == elem


def test_what_a_search_tries_with_activations_in_8_bits() -> None:
    methods = family(2, 10, 64, (6, 6))
    assert stored_in_int8(methods, 10, "params", activations=True) == [W8A8, *methods]
    for_bytes = stored_in_int8(methods, 10, "bytes", activations=True)
    assert {method.name[-4:] for method in for_bytes} == {"w8a8"}
    assert Method("stack", "full", 1, 32, int8=True, int8_activations=True) in for_bytes
    assert [parse(method.name) for method in for_bytes] == for_bytes


def test_a_search_takes_the_head_as_it_is_with_its_activations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "family", lambda *_, **__: [])
    result = small(two_layers("Tanh"), "auto", 700, keep=0.95, int8_activations=True)
    [change] = result.changes
    assert change.search is not None
    assert (change.search.chosen, change.search.certified) == ("w8a8", True)


@pytest.mark.parametrize("method", ["", "int8", "gap"])
def test_activations_in_8_bits_are_requested_of_a_search_or_by_name(method: str) -> None:
    with pytest.raises(UsageError, match=r"int8_activations.* is for a search"):
        small(two_layers(), method, int8_activations=True)


@pytest.mark.parametrize("name", ["int8+w8a8", "w8a8+int8+gap", "w8a8:3"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="there is no method"):
        parse(name)
