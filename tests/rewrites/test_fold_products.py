"""`--fold-batchnorm`: products and sums beside a BatchNormalization, or before a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.rewrites.checking import feeds, run
from tests.rewrites.forms import Net, batchnorm
from tests.rewrites.test_fold_batchnorm import Build, fold

#: Steps around a layer: operator, shape of the stored operand, whether it comes first; `()` is a
#: number and `None` a BatchNormalization.
Steps = list[tuple[str, tuple[int, ...] | None, bool]]
NORM: Steps = [("BatchNormalization", None, False)]


def scaled(net: Net, x: str, channels: int, steps: Steps) -> str:
    for op_type, shape, first in steps:
        if shape is None:
            x = batchnorm(net, x, channels)
            continue
        operands = [x, net.stored(net.random(*shape) + net.dtype.type(2))]
        x = net.node(op_type, *(operands[::-1] if first else operands))
    return x


def scaled_before(
    steps: Steps, channels: int = 2, group: int = 1, dtype: Any = np.float32, **given: Any
) -> onnx.ModelProto:
    """Steps, and the convolution that reads what they make."""
    net = Net(dtype=dtype)
    x = scaled(net, net.input(channels, 5, 6), channels, steps)
    weight = net.weight(4, channels // group, 3, 3)
    net.output(net.node("Conv", x, weight, group=group, **given), "n", 4, None, None)
    return net.model()


def scaled_after(steps: Steps, fc: bool = False) -> onnx.ModelProto:
    """A convolution or an FC with its bias, and the steps that read what it makes."""
    net = Net()
    if fc:
        net.rows(net.node("Relu", scaled(net, net.matmul(net.input(5), 5, 4), 4, steps)), 4)
        return net.model()
    x = net.node("Conv", net.input(2, 5, 6), net.weight(4, 2, 3, 3), net.weight(4), pads=[1] * 4)
    net.output(net.node("Relu", scaled(net, x, 4, steps)), "n", 4, None, None)
    return net.model()


def both_sides() -> onnx.ModelProto:
    """One convolution that a mean and deviation come before, and a BatchNormalization after."""
    net = Net()
    x = scaled(net, net.input(2, 5, 6), 2, [("Sub", (2, 1, 1), False), ("Div", (), False)])
    x = scaled(net, net.node("Conv", x, net.weight(4, 2, 3, 3)), 4, NORM)
    net.output(x, "n", 4, None, None)
    return net.model()


SCALED = {
    "BN, Mul, Add": scaled_before([*NORM, ("Mul", (2, 1, 1), False), ("Add", (2, 1, 1), True)]),
    "BN, numbers": scaled_before([*NORM, ("Add", (1, 2, 1, 1), True), ("Mul", (), False)]),
    "Mul, Add, BN": scaled_before([("Mul", (2, 1, 1), True), ("Add", (1,), False), *NORM]),
    "Sub, Div, BN, Add": scaled_before(
        [("Sub", (2, 1, 1), False), ("Div", (1, 2, 1, 1), False), *NORM, ("Add", (), False)]
    ),
    "mean and deviation": scaled_before([("Sub", (1, 2, 1, 1), False), ("Div", (2, 1, 1), False)]),
    "Mul, Add": scaled_before([("Mul", (2, 1, 1), False), ("Add", (2, 1, 1), False)]),
    "from -1 to 1": scaled_before([("Div", (), False), ("Sub", (1,), False)]),
    "subtracted from a number": scaled_before([("Sub", (2, 1, 1), True)], strides=[2, 1]),
    "groups": scaled_before([("Mul", (4, 1, 1), False), ("Add", (4, 1, 1), False)], 4, 2),
    "depthwise": scaled_before([("Add", (4, 1, 1), False), ("Mul", (), True)], 4, 4),
    "a product, padded": scaled_before([("Mul", (2, 1, 1), False)], pads=[1] * 4),
    "both sides": both_sides(),
    "half": scaled_before([("Mul", (2, 1, 1), False), *NORM], dtype=np.float16),
    "Conv, BN, Mul, Add": scaled_after(
        [*NORM, ("Mul", (4, 1, 1), False), ("Add", (4, 1, 1), True)]
    ),
    "Conv, Mul, Add, BN": scaled_after([("Mul", (4, 1, 1), False), ("Add", (), False), *NORM]),
    "Conv, Div, BN, Sub": scaled_after([("Div", (), False), *NORM, ("Sub", (4, 1, 1), True)]),
    "FC, BN, Mul": scaled_after([*NORM, ("Mul", (1, 4), False)], fc=True),
    "FC, Mul, Add, BN": scaled_after([("Mul", (4,), True), ("Add", (4,), False), *NORM], fc=True),
}


@pytest.mark.parametrize("name", SCALED)
def test_products_and_sums_are_folded_too(name: str) -> None:
    model = SCALED[name]
    result = fold(model)
    assert result.passed, result.sites
    left = {node.op_type for node in result.model.graph.node}
    assert left <= ({"MatMul", "Add", "Relu"} if "FC" in name else {"Conv", "Relu"})
    onnx.checker.check_model(result.model, full_check=True)
    given = feeds(model, 3)
    old, made = (run(item, given)[0].astype(np.float64) for item in (model, result.model))
    step = 64 * float(np.finfo(np.float16 if name == "half" else np.float32).eps)
    np.testing.assert_allclose(made, old, rtol=0, atol=step * max(1.0, float(np.abs(old).max())))


def read_twice(net: Net) -> None:
    x = net.node("Mul", net.input(2, 5, 6), net.weight(2, 1, 1))
    y = net.node("Conv", x, net.weight(2, 2, 1, 1))
    net.output(net.node("Add", x, y), "n", 2, 5, 6)


def more_channels(net: Net) -> None:
    """The product makes three channels of one."""
    x = net.node("Mul", net.input(1, 5, 6), net.weight(3, 1, 1))
    net.output(net.node("Conv", x, net.weight(2, 3, 1, 1)), "n", 2, 5, 6)


def divided_by(net: Net) -> None:
    x = net.node("Div", net.weight(2, 1, 1), net.input(2, 5, 6))
    net.output(net.node("Conv", x, net.weight(2, 2, 1, 1)), "n", 2, 5, 6)


def made_by(build: Build) -> onnx.ModelProto:
    net = Net()
    build(net)
    return net.model()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (scaled_before([*NORM, ("Mul", (2, 1, 6), False)]), "one number per channel"),
        (scaled_before([("Mul", (2, 1, 6), False)]), ""),
        (scaled_before([("Add", (2, 1, 1), False)], pads=[1] * 4), "pads with zeros"),
        (scaled_after([*NORM, ("Mul", (4, 1, 6), False)]), "one number per channel"),
        (scaled_after([("Mul", (4, 1, 1), False)]), ""),
        (made_by(read_twice), ""),
        (made_by(more_channels), "one number per channel"),
        (made_by(divided_by), ""),
    ],
)
def test_other_products_and_sums_stay(model: onnx.ModelProto, reason: str) -> None:
    result = fold(model)
    assert result.changes == ()
    assert [reason in str(site.refused) for site in result.sites] == [True] * bool(reason)
