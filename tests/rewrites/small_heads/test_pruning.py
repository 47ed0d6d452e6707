"""The FCs as they are, without hidden units that never change on the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from rewrites.refusal import Refusal
from tests.rewrites.checking import feeds, run
from tests.rewrites.forms import K, Net
from tests.rewrites.small_heads.test_distillation import fitted, head_of
from tests.rewrites.small_heads.test_replace_head import small

UNITS, OUTPUTS = 12, 4

#: Units whose weights are 0: whatever the map is, they give their bias.
STILL = (1, 4, 7)


def first(net: Net, biases: dict[int, float] | None = None) -> str:
    """An FC with units that give their bias alone: −3, or another."""
    weight, bias = net.random(UNITS, K), net.random(UNITS)
    weight[list(STILL)] = 0
    bias[list(STILL)] = -3
    for place, value in (biases or {}).items():
        bias[place] = value
    return net.node("Gemm", net.flat(), net.stored(weight), net.stored(bias), transB=1)


def ending(net: Net, x: str, units: int = UNITS) -> None:
    net.rows(net.gemm(x, units, OUTPUTS), OUTPUTS)


def relu(net: Net) -> None:
    ending(net, net.node("Relu", first(net)))


def sigmoid(net: Net) -> None:
    ending(net, net.node("Sigmoid", first(net, {4: 0.3})))


def clip(net: Net) -> None:
    limits = [net.stored(value) for value in np.array([0, 6], np.float32)]
    ending(net, net.node("Clip", first(net, {4: 9.0}), *limits))


def slopes(net: Net) -> None:
    ending(net, net.node("PRelu", first(net), net.stored(net.random(UNITS))))


def scaled(net: Net) -> None:
    """Numbers for each unit, before and after the Relu."""
    x = net.node("Mul", first(net), net.stored(np.abs(net.random(1, UNITS)) + 0.5))
    ending(net, net.node("Add", net.node("Relu", x), net.stored(net.random(UNITS))))


def normalized(net: Net) -> None:
    stored = [np.abs(net.random(UNITS)) + 0.5 for _ in range(4)]
    x = net.node("BatchNormalization", first(net), *map(net.stored, stored))
    ending(net, net.node("Relu", x))


def moved(net: Net) -> None:
    x = net.node("Dropout", net.node("Flatten", net.node("Relu", first(net)), axis=1))
    ending(net, net.node("Identity", x))


def deep(net: Net) -> None:
    """Three FCs; of the second the units 0 and 2 are still."""
    weight, bias = net.random(6, UNITS), np.ones(6, np.float32)
    weight[[0, 2]], bias[[0, 2]] = 0, (-1, 2)
    x = net.node("Relu", first(net))
    x = net.node("Gemm", x, net.stored(weight), net.stored(bias), transB=1)
    ending(net, net.node("Relu", x), 6)


def two(net: Net) -> None:
    """Two FCs read the units, one behind a Relu, one as they are: constants as well."""
    x = first(net)
    net.rows(net.gemm(net.node("Relu", x), UNITS, OUTPUTS), OUTPUTS)
    net.rows(net.gemm(net.node("Tanh", x), UNITS, 3), 3)


ONE = (K * 9 + 9) + (9 * OUTPUTS + OUTPUTS)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    ("build", "params"),
    [
        pytest.param(relu, ONE, id="Relu"),
        pytest.param(sigmoid, ONE, id="Sigmoid"),
        pytest.param(clip, ONE, id="Clip"),
        pytest.param(slopes, ONE, id="PRelu with a slope each"),
        pytest.param(scaled, ONE, id="numbers for each unit"),
        pytest.param(normalized, ONE, id="BatchNormalization"),
        pytest.param(moved, ONE, id="Dropout and Flatten"),
        pytest.param(deep, (K * 9 + 9) + (9 * 4 + 4) + (4 * OUTPUTS + OUTPUTS), id="three FCs"),
        pytest.param(two, ONE + 9 * 3 + 3, id="two FCs behind one"),
    ],
)
def test_answers_stay_and_units_go(build: Callable[[Net], None], params: int, opset: int) -> None:
    net = Net(opset=opset)
    build(net)
    model = net.model()
    result = small(model, "prune")
    [change] = result.changes
    onnx.checker.check_model(result.model, full_check=True)
    assert change.site.params_after == params
    for batch in (1, 5):
        given = feeds(model, batch)
        for wanted, found in zip(run(model, given), run(result.model, given), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [relu, slopes, deep, two])
@pytest.mark.parametrize("method", ["prune+int8", "prune+w8a8"])
def test_in_8_bits(build: Callable[[Net], None], method: str) -> None:
    net = Net(opset=17)
    build(net)
    model = net.model()
    result = small(model, method)
    onnx.checker.check_model(result.model, full_check=True)
    given = feeds(model, 40)
    for wanted, found in zip(run(model, given), run(result.model, given), strict=True):
        assert np.sqrt(((found - wanted) ** 2).mean() / wanted.var()) < 0.05


def test_a_unit_that_one_reader_sees_move_stays() -> None:
    """A Relu that never fires, of a unit that moves below 0: its other reader sees it."""
    net = Net()
    bias = net.random(UNITS)
    bias[2] = -1000
    x = net.node("Gemm", net.flat(), net.weight(UNITS, K), net.stored(bias), transB=1)
    net.rows(net.gemm(net.node("Relu", x), UNITS, OUTPUTS), OUTPUTS)
    net.rows(net.gemm(net.node("LeakyRelu", x), UNITS, 3), 3)
    chain, data = head_of(net.model(), 60)
    with pytest.raises(Refusal, match="none of its hidden units is constant"):
        fitted(chain, data, "prune", False)


def nothing_still(net: Net) -> None:
    ending(net, net.node("LeakyRelu", net.gemm(net.flat(), K, UNITS)))


def unknown(net: Net) -> None:
    ending(net, net.node("Erf", first(net)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(nothing_still, "none of its hidden units is constant", id="all move"),
        pytest.param(unknown, "Erf", id="a function that is not known"),
    ],
)
def test_refusals(build: Callable[[Net], None], reason: str) -> None:
    net = Net()
    build(net)
    chain, data = head_of(net.model(), 60)
    with pytest.raises(Refusal, match=reason):
        fitted(chain, data, "prune", False)


def test_what_the_fit_predicts_is_what_is_written() -> None:
    net = Net(seed=4)
    deep(net)
    chain, data = head_of(net.model(), 60)
    [leaf] = chain.leaves
    given: Any = fitted(chain, data, "prune", False).predict(data.maps)[leaf]
    np.testing.assert_allclose(given, data.results[leaf], rtol=1e-4, atol=1e-4)
