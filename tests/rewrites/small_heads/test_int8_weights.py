"""Weights in 8 bits: by hand, and against NumPy on what ONNX Runtime reads from the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxshare.comparison.target import Target
from onnxshare.io.load import load
from onnxshare.report.plot.table import table
from rewrites.base import study
from rewrites.small_heads import search
from rewrites.small_heads.certificate import Estimate
from rewrites.small_heads.head_layers import chain_of
from rewrites.small_heads.int8_weights import Moments, integers, rounded
from rewrites.small_heads.methods import INT8, Method, family, stored_in_int8
from rewrites.small_heads.search_result import Candidate, Search
from tests.rewrites.checking import feeds, run
from tests.rewrites.forms import K, Net
from tests.rewrites.small_heads.test_replace_head import samples_for, small, two_layers

Array = np.ndarray[Any, np.dtype[Any]]


def test_a_row_is_stored_in_127ths_of_its_largest_weight() -> None:
    weight = np.array([[127.0, 1.4, -63.6], [0.0, 0.0, 0.0], [-2.54, 1.27, 0.013]])
    given, scale = rounded(weight)
    assert integers(given, scale).tolist() == [[127, 1, -64], [0, 0, 0], [-127, 64, 1]]
    np.testing.assert_allclose(scale, [1, 1, 0.02], rtol=1e-6)


def test_a_large_weight_on_what_moves_little_spoils_no_other() -> None:
    """Plain rounding would take steps of 400 / 127, and leave nothing of weights below 1.5."""
    random = np.random.default_rng(0)
    weight = random.uniform(-1, 1, (4, 50))
    weight[:, 7] = 400
    features = random.standard_normal((200, 50))
    features[:, 7] = 3 + 1e-6 * features[:, 7]
    given, scale = rounded(weight, Moments.of(iter([features[:90], features[90:]])))
    others = np.arange(50) != 7
    assert np.abs(given - weight)[:, others].max() <= 4 / 127
    np.testing.assert_allclose(integers(given, scale) * scale[:, None], given, atol=1e-6)


def test_moments_of_blocks_are_those_of_the_whole() -> None:
    values = np.random.default_rng(1).standard_normal((50, 3)) * [1, 10, 0] + 100
    found = Moments.of(iter([values[:1], values[1:30], values[30:]]))
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.variance, values.var(axis=0), atol=1e-9)


def stored_weights(model: onnx.ModelProto) -> list[Array]:
    """The weights that the DequantizeLinear nodes give, by NumPy: q · s along their axis."""
    tensors = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            values, scale = (tensors[name] for name in node.input)
            assert values.dtype == np.int8
            axis = node.attribute[0].i
            shape = [-1 if place == axis else 1 for place in range(values.ndim)]
            found.append(values.astype(np.float64) * scale.reshape(shape))
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_head_as_it_is(dtype: Any) -> None:
    net = Net(dtype=dtype)
    x = net.node("Relu", net.gemm(net.flat(), K, 20))
    net.rows(net.gemm(x, 20, 4), 4)
    model = net.model()
    result = small(model, "int8")
    [change] = result.changes
    onnx.checker.check_model(result.model, full_check=True)
    first, last = stored_weights(result.model)
    assert (first.shape, last.shape) == ((20, K), (4, 20))
    for batch in (1, 5):
        given = feeds(model, batch)
        [wanted], [found] = run(model, given), run(result.model, given)
        assert found.dtype == wanted.dtype
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    chain = chain_of(study(load(model)), study(load(model)).heads[0])
    for place, stored in enumerate((first, last)):
        pieces = chain.pieces(0) if place == 0 else [chain.weight(1)]
        weight = np.concatenate([np.reshape(piece, (len(piece), -1)) for piece in pieces])
        step = np.abs(weight).max(axis=1, keepdims=True) / 127
        assert np.abs(stored - weight).max() <= 32 * step.max()
        assert np.median(np.abs(stored - weight) / step) <= 0.5
    size = np.dtype(dtype).itemsize
    before, after = (20 * K + 20 + 80 + 4) * size, 20 * K + 80 + (20 + 4) * (4 + size)
    assert f"{before:,} → {after:,} bytes" in " ".join(change.notes)


OPERATORS = {
    "gap+int8": ["GlobalAveragePool", "Flatten", "Gemm", "Relu", "Gemm"],
    "mask:2+int8": ["Reshape", "MatMul", "Flatten", "Gemm", "Relu", "Gemm"],
    "collapse+depthwise+int8": ["Conv", "Flatten", "Gemm"],
    "stack:3+int8": ["Flatten", "Gemm", "Gemm", "Relu", "Gemm"],
    "mlp:5+separable:3+int8": ["Conv", "Conv", "Flatten", "Gemm", "Relu", "Gemm"],
}


@pytest.mark.parametrize("method", OPERATORS)
def test_small_heads_in_8_bits_are_close_to_their_float_twins(method: str) -> None:
    model = two_layers()
    twin, result = (small(model, name) for name in (method.removesuffix("+int8"), method))
    onnx.checker.check_model(result.model, full_check=True)
    plain = [node.op_type for node in result.model.graph.node][-len(OPERATORS[method]) * 2 :]
    kept = [name for name in plain if name != "DequantizeLinear"]
    assert kept[-len(OPERATORS[method]) :] == OPERATORS[method]
    weighted = sum(name in ("Gemm", "MatMul", "Conv") for name in OPERATORS[method])
    assert plain.count("DequantizeLinear") == weighted
    given = dict(samples_for(model, 40, 8).arrays)
    [wanted], [found] = run(twin.model, given), run(result.model, given)
    assert np.sqrt(((found - wanted) ** 2).mean() / wanted.var()) < 0.05


def eight_bit(net: Net, x: str, scale: float = 0.05) -> str:
    """A tensor rounded to signed 8 bits."""
    ends = [net.stored(np.float32(scale)), net.stored(0, np.int8)]
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, *ends), *ends)


@pytest.mark.parametrize("flatten_first", [False, True])
@pytest.mark.parametrize("method", ["mask:2+int8", "stack:3+int8"])
def test_heads_of_models_whose_activations_are_in_signed_8_bits(
    method: str, flatten_first: bool
) -> None:
    """ONNX Runtime, with its optimizations, does not load a DequantizeLinear before a Reshape."""
    net = Net(opset=21, ir=10)
    x = net.trunk()
    x = eight_bit(net, net.node("Flatten", x)) if flatten_first else eight_bit(net, x)
    x = x if flatten_first else net.node("Flatten", x)
    x = eight_bit(net, net.node("Relu", net.gemm(x, K, 20)))
    net.rows(net.gemm(x, 20, 4), 4)
    result = small(net.model(), method)
    assert result.changes, result.sites
    assert result.validation is not None
    assert result.validation.verdict == "approximate", result.validation.reason


def test_8_bits_save_nothing_where_the_weights_have_them_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "family", lambda *_, **__: [Method("first", "gap")])
    net = Net()
    scale = net.stored(np.float32(0.01))
    weights = (net.stored(np.rint(net.random(*s) * 100), np.int8) for s in ((20, K), (4, 20)))
    first, last = (net.node("DequantizeLinear", weight, scale) for weight in weights)
    x = net.node("Gemm", net.flat(), first, net.weight(20), transB=1)
    net.rows(net.node("Gemm", net.node("Relu", x), last, net.weight(4), transB=1), 4)
    result = small(net.model(), "auto", 700, max_error=0.99)
    assert result.changes, result.sites
    [change] = result.changes
    assert change.search is not None
    tried = {item.method: item for item in change.search.candidates}
    assert tried["int8"].refused == "it is no smaller than the head"
    assert tried["gap"].estimate is not None
    [change] = small(net.model(), "gap+int8").changes
    weights_and_biases = 20 * K + 80 + 4 * 24
    assert f"in 8 bits: {weights_and_biases:,} →" in " ".join(change.notes)


def test_below_opset_13_there_is_no_scale_per_channel() -> None:
    result = small(two_layers(opset=12), "gap+int8")
    assert not result.changes
    [site] = result.sites
    assert "take opset 13, and the model has 12" in (site.refused or "")
    assert "convert_version" in (site.refused or "")


def test_where_nothing_is_smaller_the_head_as_it_is_in_8_bits_comes_before_the_exact_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "family", lambda *_, **__: [])
    result = small(two_layers("Tanh"), "auto", 700, keep=0.99)
    [change] = result.changes
    assert change.search is not None
    assert (change.search.chosen, change.search.certified) == ("int8", True)
    assert change.fit is not None
    assert change.fit["keep"] == 0.99


def test_what_a_search_tries_in_8_bits() -> None:
    methods = family(2, 10, 64, (6, 6))
    assert stored_in_int8(methods, 10, "params") == [INT8, *methods]
    assert stored_in_int8(methods, 10, "latency") == methods
    for_bytes = stored_in_int8(methods, 10, "bytes")
    assert for_bytes[0] == INT8
    assert all(method.int8 for method in for_bytes)
    assert len({method.name for method in for_bytes}) == len(for_bytes)
    assert Method("stack", "full", 1, 32, int8=True) in for_bytes


@pytest.mark.parametrize(("method", "shown"), [("gap+int8", True), ("gap", False)])
def test_a_search_among_heads_in_8_bits_shows_their_bytes(method: str, shown: bool) -> None:
    tried = Candidate(method, 50, 40, 12345, Estimate(100, 1.0, 0.97))
    found = table(Search(Target(keep=0.9), "", 100, 500, (tried,), "exact"))
    assert ("12,345" in found.rows[0].cells) is shown
    assert len({len(row.cells) for row in found.rows} | {len(found.columns)}) == 1
