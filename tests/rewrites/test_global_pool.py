"""`--global-pool`: pooling over the whole map is recognised, and nothing less than that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare import RewriteResult
from rewrites.edits import average_pooling
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    inputs,
    interface,
    run,
)
from tests.rewrites.forms import Net

Patch = pytest.MonkeyPatch
Build = Callable[[Net], None]


def pool(model: Any, **options: Any) -> RewriteResult:
    return onnxshare.rewrite(model, ["global-pool"], provider="cpu", **options)


def average(*sizes: int | str, **given: Any) -> Build:
    """A 1×1 convolution to 3 channels, AveragePool with these attributes, Relu."""

    def build(net: Net) -> None:
        ones = [1] * len(sizes)
        x = net.node("Conv", net.input(2, *sizes), net.weight(3, 2, *ones))
        x = net.node("AveragePool", x, **given)
        net.output(net.node("Relu", x), "n", 3, *[None for _ in sizes])

    return build


def mean(
    *sizes: int | str, axes: tuple[int, ...] | None = (2, 3), conv: bool = True, **given: Any
) -> Build:
    """ReduceMean over axes, in the form of the opset, after a convolution or on the input."""

    def build(net: Net) -> None:
        x = net.input(2, *sizes)
        if conv:
            ones = [1] * len(sizes)
            x = net.node("Relu", net.node("Conv", x, net.weight(2, 2, *ones)))
        more = dict(given)
        operands = []
        if axes is not None and net.opset >= 18:
            operands = [net.ints(*axes)]
        elif axes is not None:
            more["axes"] = list(axes)
        x = net.node("ReduceMean", x, *operands, **more)
        keeps, gone = given.get("keepdims", 1), len(axes if axes is not None else (0,) * 4)
        rank = 2 + len(sizes) - (0 if keeps else gone)
        net.output(net.node("Tanh", x), *[None for _ in range(rank)])

    return build


def mean_of_features(net: Net) -> None:
    """A convolution over a sequence, then a product that mixes the positions of each channel."""
    x = net.node("Conv", net.input(2, 6), net.weight(3, 2, 1))
    x = net.node("MatMul", x, net.weight(6, 4))
    more = {} if net.opset >= 18 else {"axes": [2]}
    operands = [net.ints(2)] if net.opset >= 18 else []
    net.output(net.node("ReduceMean", x, *operands, **more), "n", 3, 1)


@dataclass(frozen=True)
class Case:
    """A net, whether it is rewritten, and why not.

    Attributes:
        build: makes the net.
        options: of the net.
        refused: None if it is rewritten; "" if there is no site; else words of the reason.
        flat: whether a Flatten comes too.
    """

    build: Build
    options: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    flat: bool = False


WHOLE = {"kernel_shape": [5, 7]}
SAME = {"kernel_shape": [5, 7], "strides": [5, 7]}

CASES: dict[str, Case] = {
    "window": Case(average(5, 7, **WHOLE)),
    "window, 1-D": Case(average(6, kernel_shape=[6])),
    "window, 3-D": Case(average(2, 3, 4, kernel_shape=[2, 3, 4])),
    "strides mean nothing": Case(average(5, 7, **WHOLE, strides=[2, 3])),
    "room for less than a stride": Case(
        average(5, 7, kernel_shape=[5, 7], pads=[0, 0, 1, 2], strides=[2, 3])
    ),
    "VALID": Case(average(5, 7, **WHOLE, auto_pad="VALID")),
    "SAME_UPPER": Case(average(5, 7, **SAME, auto_pad="SAME_UPPER")),
    "SAME_LOWER": Case(average(5, 7, **SAME, auto_pad="SAME_LOWER")),
    "ceil_mode": Case(average(5, 7, **WHOLE, ceil_mode=1)),
    "padding that is not there, counted": Case(
        average(5, 7, **WHOLE, pads=[0, 0, 0, 0], count_include_pad=1)
    ),
    "padding around, not counted": Case(average(5, 7, kernel_shape=[7, 11], pads=[1, 2, 1, 2])),
    "one position": Case(average(1, 1, kernel_shape=[1, 1])),
    **{
        f"window, opset {opset}": Case(
            average(5, 7, **WHOLE), {"opset": opset, "ir": 3 if opset < 9 else 10}
        )
        for opset in (7, 10, 11, 19, 22)
    },
    "window, half": Case(average(5, 7, **WHOLE), {"dtype": np.float16}),
    "mean": Case(mean(5, 7)),
    "mean, 1-D": Case(mean(6, axes=(2,))),
    "mean, 3-D": Case(mean(2, 3, 4, axes=(2, 3, 4))),
    "mean, axes from behind": Case(mean(5, 7, axes=(-1, -2))),
    "mean, axes from both sides": Case(mean(5, 7, axes=(3, -2))),
    "mean of any size": Case(mean("h", "w")),
    "mean of an image": Case(mean(5, 7, conv=False)),
    "mean to a vector": Case(mean(5, 7, keepdims=0), flat=True),
    "mean to a vector, 1-D": Case(mean(6, axes=(2,), keepdims=0), flat=True),
    **{
        f"mean, opset {opset}": Case(
            mean(5, 7, keepdims=0), {"opset": opset, "ir": 3 if opset < 9 else 10}, flat=True
        )
        for opset in (7, 11, 13, 18, 22)
    },
    "mean, half": Case(mean(5, 7), {"dtype": np.float16}),
    # What is not the average of the whole map.
    "a smaller window": Case(average(5, 7, kernel_shape=[5, 6]), refused=""),
    "a smaller window at one position": Case(
        average(5, 7, kernel_shape=[4, 6], strides=[2, 2]), refused=""
    ),
    "two positions": Case(average(5, 7, **WHOLE, pads=[0, 0, 0, 1]), refused=""),
    "two positions with ceil_mode": Case(
        average(5, 7, kernel_shape=[5, 7], pads=[0, 0, 0, 1], strides=[1, 2], ceil_mode=1),
        refused="",
    ),
    "SAME keeps the size": Case(average(5, 7, **WHOLE, auto_pad="SAME_UPPER"), refused=""),
    "padding that is counted": Case(
        average(5, 7, kernel_shape=[7, 11], pads=[1, 2, 1, 2], count_include_pad=1),
        refused="counts its padding",
    ),
    "window, unknown size": Case(average("h", "w", **WHOLE), refused=""),
    "mean, one axis": Case(mean(5, 7, axes=(3,)), refused=""),
    "mean with channels": Case(mean(5, 7, axes=(1, 2, 3)), refused=""),
    "mean, channels last": Case(mean(5, 7, axes=(1, 2)), refused=""),
    "mean of all": Case(mean(5, 7, axes=None, keepdims=1), {"batch": 2}, refused=""),
    "features of a sequence": Case(mean(6, axes=(2,), conv=False), refused=""),
    "features that a product made": Case(mean_of_features, refused=""),
    "mean, double": Case(mean(5, 7, conv=False), {"dtype": np.float64}, refused="for double"),
}
REWRITTEN = [name for name, case in CASES.items() if case.refused is None]


def built(name: str) -> onnx.ModelProto:
    net = Net(**CASES[name].options)
    CASES[name].build(net)
    return net.model()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    case, model = CASES[name], built(name)
    result = pool(model)
    expected = ["GlobalAveragePool", *(["Flatten"] if case.flat else [])]
    old = [kind for kind in kinds(model) if kind not in ("AveragePool", "ReduceMean")]
    assert kinds(result.model) == [*old[:-1], *expected, old[-1]]
    assert result.passed
    assert [site.exact for site in result.sites] == [True]
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert_untouched_rest(model, result.model)
    assert result.before.params == result.after.params
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.refused is not None])
def test_left_alone(name: str) -> None:
    model = built(name)
    result = pool(model)
    assert result.changes == ()
    before = model.SerializeToString(deterministic=True)
    assert result.model.SerializeToString(deterministic=True) == before
    reason = CASES[name].refused or ""
    assert [reason in (site.refused or "") for site in result.sites] == ([True] if reason else [])


@pytest.mark.parametrize(
    "given",
    [
        WHOLE,
        {"kernel_shape": [7, 11], "pads": [1, 2, 1, 2]},
        {"kernel_shape": [5, 7], "pads": [0, 0, 1, 2], "strides": [2, 3]},
    ],
)
def test_the_mean_by_hand(given: dict[str, Any]) -> None:
    """The pooled map is NumPy's mean over the spatial axes."""
    net = Net()
    x = net.input(2, 5, 7)
    net.output(net.node("AveragePool", x, **given), "n", 2, 1, 1)
    model = net.model()
    fed = feeds(model, 4)
    right = fed[x].astype(np.float64).mean((2, 3), keepdims=True)
    result = pool(model)
    assert kinds(result.model) == ["GlobalAveragePool"]
    for candidate in (model, result.model):
        np.testing.assert_allclose(run(candidate, fed)[0], right, atol=1e-6)


def test_a_size_that_only_the_user_gave_is_no_fixed_size() -> None:
    """The window covers the map at the size given, and not at others."""
    model = built("window, unknown size")
    name = inputs(model)[0].name
    result = pool(model, input_shapes={name: (1, 2, 5, 7)})
    assert result.changes == ()
    assert "not fixed" in str(result.sites[0].refused)


def test_dilated_is_refused() -> None:
    net = Net(opset=19, ir=10)
    average(1, 1, kernel_shape=[1, 1], dilations=[2, 2])(net)
    result = pool(net.model(), validate=False)
    assert [site.refused for site in result.sites] == ["it is dilated"]


@pytest.mark.parametrize("name", ["gap_net", "gap_net-torchscript"])
def test_bundled(bundled: Path, name: str) -> None:
    """The dynamo exporter writes ReduceMean, the older one GlobalAveragePool."""
    path = bundled / f"{name}.onnx"
    model, result = onnx.load(path), pool(path)
    if name == "gap_net":
        assert result.passed
        assert "ReduceMean" not in kinds(result.model)
        assert_same_results(model, result.model, feeds(model, 4))
    else:
        assert result.sites == ()


@pytest.mark.parametrize(
    ("light", "window"),
    [("resnet50", 7), ("shufflenet", 7), ("inception_v1", 7), ("inception_v2", 7)],
)
def test_light(onnx_light: Path, light: str, window: int) -> None:
    """The last of the pools covers the map, the others (3×3) do not."""
    path = onnx_light / f"light_{light}.onnx"
    result = pool(path, validate=False)
    assert [site.detail for site in result.sites if site.exact] == [
        f"a {window}×{window} window over its whole map becomes GlobalAveragePool"
    ]
    model = onnx.load(path)
    before, after = kinds(model).count("AveragePool"), kinds(result.model).count("AveragePool")
    assert after == before - 1
    fed = feeds(model, 1)
    np.testing.assert_allclose(run(result.model, fed)[0], run(model, fed)[0], rtol=1e-5)


@pytest.mark.parametrize("light", ["densenet121", "squeezenet"])
def test_light_without(onnx_light: Path, light: str) -> None:
    assert pool(onnx_light / f"light_{light}.onnx", validate=False).sites == ()


# Broken on purpose.


@pytest.mark.parametrize(
    "name", ["a smaller window at one position", "padding that is counted", "mean, channels last"]
)
def test_taken_for_the_whole_map(monkeypatch: Patch, name: str) -> None:
    """Whatever pools is taken for pooling over the whole map: never passed."""
    monkeypatch.setattr(
        average_pooling.Pools, "recognise", lambda self, node: average_pooling.Pool(node)
    )
    result = pool(built(name))
    assert result.changes
    assert not result.passed


def turned_mean(perm: list[int], axes: tuple[int, ...], **options: Any) -> Build:
    """ReduceMean behind a Transpose, as Keras exporters write global pooling."""

    def build(net: Net) -> None:
        sizes = [5, 7][: len(perm) - 2]
        x = net.node("Conv", net.input(2, *sizes), net.weight(3, 2, *[1] * len(sizes)))
        x = net.node("Transpose", net.node("Relu", x), perm=perm)
        x = net.node("ReduceMean", x, net.ints(*axes), **options)
        rank = len(perm) - (0 if options.get("keepdims", 1) else len(axes))
        net.output(net.node("Tanh", x), *[None for _ in range(rank)])

    return build


@pytest.mark.parametrize(
    ("perm", "axes", "keepdims"),
    [
        ([0, 2, 3, 1], (1, 2), 0),
        ([0, 2, 3, 1], (1, 2), 1),
        ([0, 2, 3, 1], (-2, 1), 0),
        ([0, 3, 2, 1], (1, 2), 0),
        ([0, 2, 1, 3], (1, 3), 0),
        ([3, 0, 1, 2], (0, 3), 1),
        ([0, 2, 1], (1,), 0),
        ([0, 2, 1], (1,), 1),
    ],
)
def test_a_mean_behind_a_transpose(perm: list[int], axes: tuple[int, ...], keepdims: int) -> None:
    net = Net(opset=18)
    turned_mean(perm, axes, keepdims=keepdims)(net)
    model = net.model()
    result = pool(model)
    assert result.passed
    last = "Transpose" if keepdims else "Flatten"
    assert kinds(result.model) == ["Conv", "Relu", "GlobalAveragePool", last, "Tanh"]
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch))


def mean_over(net: Net, x: str, *axes: int, keepdims: int = 0) -> str:
    return net.node("ReduceMean", x, net.ints(*axes), keepdims=keepdims)


#: As PyTorch's `x.view(n, c, -1).mean(-1)`, `x.flatten(2).mean(2)` and `x.mean(3).mean(2)` are.
WRITTEN: dict[str, Callable[[Net, str], str]] = {
    "positions joined": lambda net, x: mean_over(
        net, net.node("Reshape", x, net.ints(0, 3, -1)), -1
    ),
    "positions joined, batch open": lambda net, x: mean_over(
        net, net.node("Reshape", x, net.ints(-1, 3, 35)), 2
    ),
    "in two steps": lambda net, x: mean_over(net, mean_over(net, x, 3), 2),
    "in two steps, rows first": lambda net, x: mean_over(net, mean_over(net, x, 2), -1),
    "in two steps, axes kept": lambda net, x: mean_over(
        net, mean_over(net, x, 3, keepdims=1), 2, keepdims=1
    ),
}

#: Means over less than the map, or more.
WRITTEN_OTHERWISE: dict[str, Callable[[Net, str], str]] = {
    "channels joined": lambda net, x: mean_over(
        net, net.node("Reshape", x, net.ints(0, 15, -1)), -1
    ),
    "rows joined with channels": lambda net, x: mean_over(
        net, net.node("Reshape", x, net.ints(0, -1, 7)), 2
    ),
    "channels in the second step": lambda net, x: mean_over(net, mean_over(net, x, 3), 1),
    "one axis twice": lambda net, x: mean_over(
        net, mean_over(net, x, 3, keepdims=1), 3, keepdims=1
    ),
}


def pooled_map(build: Callable[[Net, str], str], rank: int) -> onnx.ModelProto:
    net = Net(opset=18)
    x = net.node("Relu", net.node("Conv", net.input(2, 5, 7), net.weight(3, 2, 1, 1)))
    net.output(net.node("Tanh", build(net, x)), *[None] * rank)
    return net.model()


@pytest.mark.parametrize("name", WRITTEN)
def test_other_ways_to_write_the_mean(name: str) -> None:
    model = pooled_map(WRITTEN[name], 4 if "kept" in name else 2)
    result = pool(model)
    assert result.passed
    assert {"ReduceMean", "Reshape"}.isdisjoint(kinds(result.model))
    assert "GlobalAveragePool" in kinds(result.model)
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch))


@pytest.mark.parametrize("name", WRITTEN_OTHERWISE)
def test_means_of_something_else(name: str) -> None:
    assert (
        pool(pooled_map(WRITTEN_OTHERWISE[name], 4 if "twice" in name else 2), validate=False).sites
        == ()
    )


@pytest.mark.parametrize(
    ("perm", "axes", "keepdims"),
    [
        ([0, 2, 3, 1], (1,), 0),
        ([0, 2, 3, 1], (1, 3), 1),
        ([1, 2, 3, 0], (1, 2), 0),  # the batch comes last
        ([0, 2, 3, 1], (0, 1, 2), 1),
    ],
)
def test_another_mean_behind_a_transpose(
    perm: list[int], axes: tuple[int, ...], keepdims: int
) -> None:
    net = Net(opset=18)
    turned_mean(perm, axes, keepdims=keepdims)(net)
    assert pool(net.model(), validate=False).sites == ()
