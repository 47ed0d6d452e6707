"""Random nets: trunks, layouts and heads put together at random are rewritten right, or refused.

`ONNXSHARE_CASES` says how many; the share refused is printed at the end (shown by `pytest -s`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxshare
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    interface,
)
from tests.rewrites.forms import Net, batchnorm, gelu, silu

CASES = int(os.environ.get("ONNXSHARE_CASES", "200"))

#: What became of the nets: whether they were rewritten, and the verdict or the reason.
OUTCOMES: Counter[tuple[str, str]] = Counter()


@dataclass
class Built:
    """A net on its way: its newest tensor and that tensor's number of features."""

    net: Net
    name: str
    features: int
    spatial: tuple[int, ...]
    channels: int = 0

    def __post_init__(self) -> None:
        self.channels = self.features


def flatten(draw: Callable[..., int], built: Built) -> None:
    """Flatten the map in one of the ways that exporters know, perhaps with another order."""
    net, channels = built.net, built.features
    rank = len(built.spatial)
    total = channels * prod(built.spatial)
    orders = [None, [0, *range(2, rank + 2), 1], [0, *range(rank + 1, 0, -1)]]
    order = orders[draw(st.integers(0, 2))]
    x = built.name
    if order is not None:
        x = net.node("Transpose", x, perm=order)
    early = draw(st.integers(0, 3))
    if early == 1:
        x = net.node("Tanh", x)
    elif early == 2:
        x = net.node("Identity", x)
    how = draw(st.integers(0, 4))
    if how == 0:
        x = net.node("Flatten", x)
    elif how == 1:
        x = net.node("Reshape", x, net.ints(-1, total))
    elif how == 2:
        x = net.node("Reshape", x, net.ints(0, -1))
    elif how == 3:
        sizes = net.node("Gather", net.node("Shape", x), net.ints(0), axis=0)
        x = net.node("Reshape", x, net.node("Concat", sizes, net.ints(-1), axis=0))
    else:
        x = net.node(
            "Reshape", x, net.ints(0, channels, -1) if order is None else net.ints(0, 1, -1)
        )
        x = net.node("Flatten", x)
    built.name, built.features = x, total


def join(draw: Callable[..., int], built: Built, trunk: str) -> None:
    """Perhaps put another scale of the trunk's map, or a vector, beside the flattened map."""
    net, what = built.net, draw(st.integers(0, 5))
    if what > 2:
        return
    if what == 0:
        more, features = net.input(3), 3
    else:
        last = built.spatial[-1]
        step = [*(1 for _ in built.spatial[1:]), min(what, last)]
        pooled = net.node("MaxPool", trunk, kernel_shape=step, strides=step)
        other = Built(net, pooled, built.channels, (*built.spatial[:-1], last // step[-1]))
        flatten(draw, other)
        more, features = other.name, other.features
    parts = [built.name, more] if draw(st.booleans()) else [more, built.name]
    built.name, built.features = net.node("Concat", *parts, axis=1), built.features + features


def between(draw: Callable[..., int], built: Built) -> None:
    """An element-wise or normalizing step on a vector."""
    net, size, x = built.net, built.features, built.name
    step = draw(st.integers(0, 10))
    if step in (1, 2):
        x = net.node(("Relu", "Tanh")[step - 1], x)
    elif step == 3:
        x = net.node("LeakyRelu", x, alpha=0.2)
    elif step == 4:
        x = net.node("PRelu", x, net.weight(*((size,) if draw(st.booleans()) else (1,))))
    elif step == 5:
        x = batchnorm(net, x, size)
    elif step == 6:
        shape = ((size,), (1, size), (1,), ())[draw(st.integers(0, 3))]
        x = net.node("Mul", x, net.weight(*shape))
    elif step == 7:
        x = net.node("Sub", net.weight(size), x)
    elif step == 8:
        x = net.node("Dropout", net.node("Identity", x))
    elif step > 8:
        x = (silu, gelu)[step - 9](net, x)
    built.name = x


def connect(draw: Callable[..., int], built: Built, outputs: int) -> None:
    """An FC in one of its written forms."""
    net, size, x = built.net, built.features, built.name
    form = draw(st.integers(0, 6))
    if form == 0:
        x = net.gemm(x, size, outputs)
    elif form == 1:
        x = net.node("Gemm", x, net.weight(size, outputs), alpha=0.5)
    elif form == 2:
        x = net.matmul(x, size, outputs)
    elif form == 3:
        x = net.node("MatMul", x, net.node("Transpose", net.weight(outputs, size), perm=[1, 0]))
    elif form == 4:
        c = net.weight(1, outputs)
        x = net.node("Gemm", x, net.weight(size, outputs), c, beta=2.0)
    elif form == 5:
        turned = net.node("Transpose", x, perm=[1, 0])
        x = net.node(
            "Gemm", turned, net.weight(outputs, size), net.weight(outputs), transA=1, transB=1
        )
    else:
        turned = net.node("Transpose", x, perm=[1, 0])
        x = net.node("MatMul", net.weight(outputs, size), turned)
        x = net.node("Transpose", net.node("Add", x, net.weight(outputs, 1)), perm=[1, 0])
    built.name, built.features = x, outputs


@st.composite
def nets(draw: Callable[..., int]) -> onnx.ModelProto:
    """A convolutional trunk in 1 to 3 dimensions and a head of 1 to 3 FCs, with odd exits."""
    opset = draw(st.integers(13, 22))
    batch: int | str = ("n", "n", 1, 3)[draw(st.integers(0, 3))]
    net = Net(opset=opset, batch=batch, seed=draw(st.integers(0, 999)))
    rank = draw(st.integers(1, 3))
    spatial = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    channels = draw(st.integers(1, 4))
    built = Built(net, net.trunk(*spatial, channels=channels), channels, spatial)
    trunk = built.name
    flatten(draw, built)
    join(draw, built, trunk)
    exits: list[tuple[str, int]] = []
    for _ in range(draw(st.integers(1, 3))):
        between(draw, built)
        connect(draw, built, draw(st.integers(1, 6)))
        if draw(st.integers(0, 4)) == 0:
            exits.append((built.name, built.features))
    between(draw, built)
    if draw(st.integers(0, 3)) == 0:
        built.name = net.node("Softmax", built.name, axis=1)
    exits.append((built.name, built.features))
    for name, size in dict(exits).items():
        net.rows(name, size)
    return net.model()


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize="ONNXSHARE_CASES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(model=nets())
def test_rewritten_right_or_refused(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert model.SerializeToString(deterministic=True) == before
    assert result.sites
    if not result.changes:
        assert all(site.refused for site in result.sites)
        left = all(site.nothing_to_do for site in result.sites)
        OUTCOMES["nothing to do" if left else "refused", result.sites[0].refused or ""] += 1
        return
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert_untouched_rest(model, result.model)
    assert result.validation is not None
    assert result.validation.verdict in ("identical", "equivalent", "inconclusive")
    OUTCOMES["rewritten", result.validation.verdict] += 1
    for batch in (1, 4):
        # A softmax, and a BatchNormalization with a small variance, enlarge errors.
        assert_same_results(model, result.model, feeds(model, batch), spread=4.0)
    back = onnxshare.rewrite(result.model, ["conv-to-fc"], provider="cpu", validate=False)
    assert_same_results(model, back.model, feeds(model, 2), spread=4.0)


def test_most_are_rewritten(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs after the one above, and says what became of its nets."""
    if not OUTCOMES:
        pytest.skip("the nets were made in another process")
    total = sum(OUTCOMES.values())
    share: Counter[str] = Counter()
    for (state, _), count in OUTCOMES.items():
        share[state] += count
    with capsys.disabled():
        print(f"\n{total} nets")
        for (state, why), count in OUTCOMES.most_common():
            print(f"  {count:5} {count / total:6.1%}  {state}: {why}")
    assert share["rewritten"] > total / 2
    assert share["refused"] < total / 20
