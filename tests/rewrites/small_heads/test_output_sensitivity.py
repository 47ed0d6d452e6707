"""Activations and Jacobians against finite differences; low rank against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxshare.io.load import load
from rewrites.base import study
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.output_sensitivity import low_rank, mean_jacobian, output_probes
from tests.rewrites.checking import run
from tests.rewrites.forms import C, H, K, Net, W

Array = np.ndarray[Any, np.dtype[np.float64]]

ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "Relu": ("Relu", {}),
    "LeakyRelu": ("LeakyRelu", {"alpha": 0.2}),
    "Elu": ("Elu", {"alpha": 0.7}),
    "Celu": ("Celu", {"alpha": 1.3}),
    "Selu": ("Selu", {}),
    "Sigmoid": ("Sigmoid", {}),
    "HardSigmoid": ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    "Tanh": ("Tanh", {}),
    "Softplus": ("Softplus", {}),
    "Softsign": ("Softsign", {}),
    "HardSwish": ("HardSwish", {}),
    "Neg": ("Neg", {}),
}


def after(net: Net, x: str, kind: str) -> str:
    """What stands between two FCs."""
    if kind in ACTIVATIONS:
        op_type, attributes = ACTIVATIONS[kind]
        return net.node(op_type, x, **attributes)
    if kind == "PRelu":
        return net.node("PRelu", x, net.stored([[0.1, -0.4, 0.3, 0.0, 0.9]], np.float32))
    if kind == "Clip":
        return net.node("Clip", x, net.stored(-0.5, np.float32), net.stored(0.8, np.float32))
    if kind == "scale and shift":
        x = net.node("Sub", net.weight(5), net.node("Mul", x, net.weight(1, 5)))
        return net.node("Div", net.node("Relu", x), net.stored([2.0], np.float32))
    if kind == "BatchNormalization":
        positive = net.stored([1.0, 2.0, 0.5, 3.0, 0.1], np.float32)
        parts = [net.weight(5), net.weight(5), net.weight(5), positive]
        return net.node("Tanh", net.node("BatchNormalization", x, *parts))
    raise AssertionError(kind)


KINDS = [*ACTIVATIONS, "PRelu", "Clip", "scale and shift", "BatchNormalization"]


def head(*kinds: str, leaves: int = 1) -> tuple[Any, Chain]:
    net = Net()
    x = after(net, net.gemm(net.flat(), K, 5), kinds[0])
    for kind in kinds[1:]:
        x = after(net, net.gemm(x, 5, 5), kind)
    for _ in range(leaves):
        net.rows(net.gemm(x, 5, 3), 3)
    model = net.model()
    subject = study(load(model))
    return model, chain_of(subject, subject.heads[0])


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_of_onnx_runtime(kind: str) -> None:
    net = Net()
    x = net.input(5)
    net.rows(after(net, x, kind), 5)
    values = np.random.default_rng(0).standard_normal((50, 5)) * 3
    [expected] = run(net.model(), {x: values.astype(np.float32)})
    _, chain = head(kind)
    step = chain.step(1)
    if kind in ACTIVATIONS or kind in ("PRelu", "Clip"):  # the others hold random constants
        np.testing.assert_allclose(step.value(values), expected, rtol=1e-5, atol=1e-5)
    away = values + 1e-3  # not on a kink
    slope = (step.value(away + 1e-6) - step.value(away - 1e-6)) / 2e-6
    np.testing.assert_allclose(step.slope(away), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, -128), (np.uint8, 3), (np.int16, 0)])
def test_integers_between_fcs_are_those_of_onnx_runtime(dtype: Any, zero: int) -> None:
    """Values step by step; the slope is that of the line which the steps follow, up to its ends."""

    def integers(net: Net, x: str) -> str:
        ends = [net.stored(np.float32(0.02)), net.stored(zero, dtype)]
        return net.node("DequantizeLinear", net.node("QuantizeLinear", x, *ends), *ends)

    net = Net(opset=21, ir=10)
    x = net.input(5)
    net.rows(integers(net, x), 5)
    values = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32) * 3
    [expected] = run(net.model(), {x: values})
    net = Net(opset=21, ir=10)
    net.rows(net.gemm(integers(net, net.gemm(net.flat(), K, 5)), 5, 3), 3)
    subject = study(load(net.model()))
    step = chain_of(subject, subject.heads[0]).step(1)
    np.testing.assert_allclose(step.value(values.astype(np.float64)), expected, atol=1e-6)
    low, high = ((end - zero) * 0.02 for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    inside = (values > low) & (values < high)
    np.testing.assert_allclose(step.slope(values.astype(np.float64)), inside, rtol=1e-6)


def outputs(chain: Chain, maps: Array) -> dict[int, Array]:
    """All layers' outputs, by plain matrix products."""
    found: dict[int, Array] = {}
    for place, layer in enumerate(chain.layers):
        if layer.parent < 0:
            pieces = [piece.reshape(len(piece), -1) for piece in chain.pieces(place)]
            weight, x = np.concatenate(pieces).astype(np.float64), maps.reshape(len(maps), -1)
        else:
            weight = chain.weight(place).astype(np.float64)
            x = chain.step(place).value(found[layer.parent])
        found[place] = x @ weight.T + chain.bias(place)
    return found


@pytest.mark.parametrize(
    "kinds",
    [("Relu",), ("Tanh", "Sigmoid"), ("Tanh", "Relu", "Softplus"), ("Elu", "Tanh", "Tanh", "Tanh")],
    ids=len,
)
def test_mean_jacobian_by_finite_differences(kinds: tuple[str, ...]) -> None:
    _, chain = head(*kinds)
    maps = np.random.default_rng(1).standard_normal((7, C, H * W))
    leaf = chain.leaves[0]
    found = mean_jacobian(chain, leaf, outputs(chain, maps))
    for c, s in [(0, 0), (1, 5), (2, H * W - 1)]:
        step = np.zeros_like(maps)
        step[:, c, s] = 1e-6
        up, down = outputs(chain, maps + step)[leaf], outputs(chain, maps - step)[leaf]
        np.testing.assert_allclose(
            found[:, c, s], ((up - down) / 2e-6).mean(axis=0), rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize("kinds", [("Tanh",), ("Softplus", "Tanh")], ids=len)
def test_without_a_formula_the_linear_fit_is_the_mean_jacobian(kinds: tuple[str, ...]) -> None:
    """For Gaussian inputs, by Stein's lemma: the fit on samples against the mean of slopes."""
    _, chain = head(*kinds)
    maps = np.random.default_rng(5).standard_normal((20_000, C, H * W))
    known, leaf = outputs(chain, maps), chain.leaves[0]
    blind = replace(chain, layers=tuple(replace(layer, step=None) for layer in chain.layers))
    wanted, found = (mean_jacobian(item, leaf, known) for item in (chain, blind))
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize("leaves", [1, 2])
def test_metric_by_finite_differences(leaves: int) -> None:
    """eᵀ(GᵀG)e is the mean square change of the outputs, each over its standard deviation."""
    _, chain = head("Tanh", "Sigmoid", leaves=leaves)
    maps = np.random.default_rng(2).standard_normal((30, C, H * W))
    known = outputs(chain, maps)
    probes = output_probes(chain, known)
    for place in (0, 1):
        error = np.random.default_rng(3).standard_normal(5) * 1e-5
        moved = chain.forward({0: known[0], place: known[place] + error})
        if place == 1:
            moved = chain.forward({0: known[0], 1: known[1] + error})
        change = sum(
            float((((moved[leaf] - known[leaf]) ** 2).sum(axis=1)).mean())
            / float(known[leaf].var(axis=0).mean())
            for leaf in chain.leaves
        )
        assert float(((probes[place] @ error) ** 2).sum()) == pytest.approx(change, rel=1e-3)


@pytest.mark.parametrize("shape", [(30, 8), (6, 20)], ids=["more samples", "fewer samples"])
def test_low_rank_is_the_best_in_its_metric(shape: tuple[int, int]) -> None:
    """Against the singular values of P M^½ (Eckart and Young)."""
    random = np.random.default_rng(4)
    centred, probes = random.standard_normal(shape), random.standard_normal((40, shape[1]))
    probes *= np.linspace(0.1, 3, shape[1])
    out, into = low_rank(centred, probes, 3)
    damping = 1e-2 * float((probes**2).sum()) / shape[1]
    metric = probes.T @ probes + damping * np.eye(shape[1])
    error = centred - centred @ into.T @ out.T
    power = np.linalg.svd(centred @ np.linalg.cholesky(metric))[1]
    assert np.trace(error @ metric @ error.T) == pytest.approx((power[3:] ** 2).sum(), rel=1e-8)
    np.testing.assert_allclose(into @ out, np.eye(3), atol=1e-8)  # a projection
