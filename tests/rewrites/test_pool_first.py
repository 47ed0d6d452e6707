"""`--pool-first`: pooling moves before the 1×1 convolution, and only before such a one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import onnxshare
from onnxshare import RewriteResult
from rewrites import pool_first
from tests.rewrites.checking import (
    assert_same_results,
    assert_untouched_rest,
    feeds,
    interface,
    is_new,
    run,
)
from tests.rewrites.forms import Net, batchnorm

Patch = pytest.MonkeyPatch
Build = Callable[[Net], None]


def move(model: Any, **options: Any) -> RewriteResult:
    return onnxshare.rewrite(model, ["pool-first"], provider="cpu", **options)


def global_pool(net: Net, x: str) -> str:
    return net.node("GlobalAveragePool", x)


def reduce_mean(rank: int = 4, *, keepdims: int = 1) -> Callable[[Net, str], str]:
    def make(net: Net, x: str) -> str:
        axes = list(range(2, rank))
        if net.opset >= 18:
            return net.node("ReduceMean", x, net.ints(*axes), keepdims=keepdims)
        return net.node("ReduceMean", x, axes=axes, keepdims=keepdims)

    return make


def window(*kernel: int, **given: Any) -> Callable[[Net, str], str]:
    return lambda net, x: net.node("AveragePool", x, kernel_shape=list(kernel), **given)


def classes(
    *sizes: int | str,
    pool: Callable[[Net, str], str] = global_pool,
    between: tuple[str, ...] = (),
    kernel: int = 1,
    bias: bool = True,
    flat: bool = True,
    **given: Any,
) -> Build:
    """Relu, a convolution from 4 channels to 6, what stands between, pooling, Flatten."""

    def build(net: Net) -> None:
        spatial = sizes or (5, 7)
        shape = [kernel] * len(spatial)
        x = net.node("Relu", net.input(4, *spatial))
        more = [net.weight(6)] if bias else []
        x = net.node("Conv", x, net.weight(6, 4 // given.get("group", 1), *shape), *more, **given)
        for kind in between:
            x = batchnorm(net, x, 6) if kind == "BatchNormalization" else net.node(kind, x)
        x = pool(net, x)
        net.rows(net.node("Flatten", x) if flat else net.node("Identity", x), 6)

    return build


def as_output(net: Net) -> None:
    """The pooled map itself is the output."""
    x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
    net.output(net.node("GlobalAveragePool", x), "n", 6, 1, 1)


def two_convolutions(net: Net) -> None:
    """Two 1×1 convolutions in a row: both move."""
    x = net.node("Conv", net.input(4, 5, 7), net.weight(3, 4, 1, 1))
    x = net.node("Conv", x, net.weight(6, 3, 1, 1), net.weight(6))
    net.output(net.node("GlobalAveragePool", x), "n", 6, 1, 1)


def map_is_output(net: Net) -> None:
    x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
    net.output(net.node("GlobalAveragePool", x), "n", 6, 1, 1)
    net.output(x, "n", 6, 5, 7)


def map_is_read_twice(net: Net) -> None:
    """An attention over channels: the map is multiplied by what its average gives."""
    x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
    gate = net.node("Sigmoid", net.node("GlobalAveragePool", x))
    net.output(net.node("Mul", x, gate), "n", 6, 5, 7)


def mask_is_used(*, output: bool) -> Build:
    """What a Dropout between them dropped is an output, or is read."""

    def build(net: Net) -> None:
        x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
        x, mask = net.nodes("Dropout", 2, x)
        net.output(net.node("GlobalAveragePool", x), "n", 6, 1, 1)
        mask = mask if output else net.node("Not", mask)
        net.output(mask, "n", 6, 5, 7, elem=TensorProto.BOOL)

    return build


def late_axes(net: Net) -> None:
    """The axes come from a Constant node behind the convolution."""
    x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
    x = net.node("ReduceMean", x, net.constant([2, 3], np.int64), keepdims=0)
    net.rows(x, 6)


def computed_kernel(net: Net) -> None:
    x = net.node("Conv", net.input(4, 5, 7), net.node("Relu", net.input(4, 1, 1)))
    net.output(net.node("GlobalAveragePool", x), 2, 2, 1, 1)


def max_pool(net: Net, x: str) -> str:
    return net.node("GlobalMaxPool", x)


@dataclass(frozen=True)
class Case:
    """A net and what happens to it.

    Attributes:
        build: makes the net.
        saved: MACs before and after, by hand: positions · weights, and weights; None if it is
            left alone.
        refused: words of the reason, if a site is refused.
        kinds: operators after it, where they are not the usual ones.
        options: of the net.
    """

    build: Build
    saved: tuple[int, int] | None = None
    refused: str = ""
    kinds: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


USUAL = ("Relu", "GlobalAveragePool", "Conv", "Flatten")
MEAN = ("Relu", "ReduceMean", "Conv", "Flatten")

CASES: dict[str, Case] = {
    "head": Case(classes(), (35 * 24, 24)),
    "without bias": Case(classes(bias=False), (35 * 24, 24)),
    "1-D": Case(classes(9), (9 * 24, 24)),
    "3-D": Case(classes(2, 3, 4), (24 * 24, 24)),
    "groups": Case(classes(group=2), (35 * 12, 12)),
    "strides and pads of nothing": Case(
        classes(strides=[1, 1], pads=[0, 0, 0, 0], dilations=[2, 2]), (35 * 24, 24)
    ),
    "SAME": Case(classes(auto_pad="SAME_UPPER"), (35 * 24, 24)),
    "ReduceMean": Case(classes(pool=reduce_mean()), (35 * 24, 24), kinds=MEAN),
    "ReduceMean, 1-D": Case(classes(9, pool=reduce_mean(3)), (9 * 24, 24), kinds=MEAN),
    "ReduceMean to a vector": Case(
        classes(pool=reduce_mean(keepdims=0), flat=False),
        (35 * 24, 24),
        kinds=(*MEAN, "Identity"),
    ),
    **{
        f"ReduceMean, opset {opset}": Case(
            classes(pool=reduce_mean(keepdims=0), flat=False),
            (35 * 24, 24),
            kinds=(*MEAN, "Identity"),
            options={"opset": opset, "ir": 3 if opset < 9 else 10},
        )
        for opset in (7, 13, 18, 22)
    },
    "late axes": Case(
        late_axes,
        (35 * 24, 24),
        kinds=("Constant", "ReduceMean", "Conv", "Flatten"),
        options={"opset": 18},
    ),
    "window": Case(
        classes(pool=window(5, 7)), (35 * 24, 24), kinds=("Relu", "AveragePool", *USUAL[2:])
    ),
    "Identity between": Case(
        classes(between=("Identity",)), (35 * 24, 24), kinds=(*USUAL[:3], "Identity", "Flatten")
    ),
    "Dropout between": Case(
        classes(between=("Dropout",)), (35 * 24, 24), kinds=(*USUAL[:3], "Dropout", "Flatten")
    ),
    "BatchNormalization between": Case(
        classes(between=("BatchNormalization", "Dropout")),
        (35 * 24, 24),
        kinds=(*USUAL[:3], "BatchNormalization", "Dropout", "Flatten"),
    ),
    "as an output": Case(as_output, (35 * 24, 24), kinds=("GlobalAveragePool", "Conv")),
    "two convolutions": Case(
        two_convolutions, (35 * 30, 30), kinds=("GlobalAveragePool", "Conv", "Conv")
    ),
    "half": Case(classes(), (35 * 24, 24), options={"dtype": np.float16}),
    # What stays as it is.
    "the mask of a Dropout is an output": Case(mask_is_used(output=True)),
    "the mask of a Dropout is read": Case(mask_is_used(output=False)),
    "3×3": Case(classes(kernel=3, pads=[1, 1, 1, 1])),
    "strides": Case(classes(strides=[2, 2])),
    "pads": Case(classes(pads=[1, 1, 1, 1])),
    "one position": Case(classes(1, 1)),
    "Relu between": Case(classes(between=("Relu",))),
    "Sigmoid after BatchNormalization": Case(classes(between=("BatchNormalization", "Sigmoid"))),
    "the largest": Case(classes(pool=max_pool)),
    "a smaller window": Case(
        classes(pool=lambda net, x: net.node("ReduceMax", window(5, 6)(net, x), axes=[2, 3]))
    ),
    "padding that is counted": Case(
        classes(pool=window(7, 9, pads=[1, 1, 1, 1], count_include_pad=1)), refused="padding"
    ),
    "map is an output": Case(map_is_output, refused="used elsewhere too"),
    "map is read twice": Case(map_is_read_twice, refused="used elsewhere too"),
}
MOVED = [name for name, case in CASES.items() if case.saved is not None]


def built(name: str, seed: int = 0) -> onnx.ModelProto:
    net = Net(seed=seed, **CASES[name].options)
    CASES[name].build(net)
    return net.model()


def kinds(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", MOVED)
def test_moved(name: str) -> None:
    case, model = CASES[name], built(name)
    before = model.SerializeToString(deterministic=True)
    result = move(model)
    assert model.SerializeToString(deterministic=True) == before
    assert kinds(result.model) == (case.kinds or USUAL)
    assert (result.before.macs, result.after.macs) == case.saved
    assert result.before.params == result.after.params
    assert result.passed
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert_untouched_rest(model, result.model)
    stored = {t.name: t.SerializeToString() for t in model.graph.initializer}
    assert {t.name: t.SerializeToString() for t in result.model.graph.initializer} == stored
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch), spread=2)


@pytest.mark.parametrize("name", [name for name in CASES if name not in MOVED])
def test_left_alone(name: str) -> None:
    model = built(name)
    result = move(model)
    assert result.changes == ()
    before = model.SerializeToString(deterministic=True)
    assert result.model.SerializeToString(deterministic=True) == before
    reason = CASES[name].refused
    assert [reason in (site.refused or "") for site in result.sites] == ([True] if reason else [])


def test_figures() -> None:
    """6 outputs · 4 inputs at 5 · 7 positions."""
    result = move(built("head"))
    assert [site.detail for site in result.sites] == [
        "global average pooling moves before it: 840 → 24 MACs, ÷35"
    ]
    assert [(site.params_before, site.params_after) for site in result.sites] == [(30, 30)]


def test_attributes_and_origin_are_kept() -> None:
    model = built("groups")
    result = move(model)
    made = [node for node in result.model.graph.node if is_new(node)]
    assert [node.op_type for node in made] == ["GlobalAveragePool", "Conv"]
    old = next(node for node in model.graph.node if node.op_type == "Conv")
    assert list(made[1].attribute) == list(old.attribute)
    assert list(made[1].input[1:]) == list(old.input[1:])
    assert {e.value for e in made[1].metadata_props if e.key == "onnxshare.from"} == {old.name}


def test_a_map_of_any_size() -> None:
    """Nothing depends on the size, so it need not be known."""
    net = Net()
    classes("h", "w")(net)
    model = net.model()
    result = move(model)
    assert kinds(result.model) == USUAL
    assert "as many times fewer MACs" in result.sites[0].detail
    name = model.graph.input[0].name
    for height, width in ((3, 4), (8, 2)):
        values = np.random.default_rng(1).standard_normal((2, 4, height, width))
        assert_same_results(model, result.model, {name: values.astype(np.float32)}, spread=2)


def test_computed_kernel() -> None:
    """The kernel may be anything: it is not read."""
    net = Net(batch=2)
    computed_kernel(net)
    model = net.model()
    result = move(model)
    assert kinds(result.model) == ("Relu", "GlobalAveragePool", "Conv")
    given = feeds(model, 2)
    np.testing.assert_allclose(run(result.model, given)[0], run(model, given)[0], atol=1e-5)


def test_double_by_the_reference() -> None:
    """ReduceMean stays ReduceMean, because GlobalAveragePool does not run in double."""
    net = Net(dtype=np.float64)
    classes(pool=reduce_mean())(net)
    model = net.model()
    result = move(model, validate=False)
    assert kinds(result.model) == MEAN
    given = feeds(model, 3)
    protos = (model, result.model)
    old, new = (np.asarray(next(iter(ReferenceEvaluator(m).run(None, given)))) for m in protos)
    np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_that_may_train(training: bool) -> None:
    """A third input of Dropout may switch training on."""
    net = Net()
    x = net.node("Conv", net.input(4, 5, 7), net.weight(6, 4, 1, 1))
    ratio = net.stored(np.array(0.5, np.float32))
    more = (ratio, net.stored(np.array(True))) if training else (ratio,)
    x = net.node("Dropout", x, *more)
    net.output(net.node("GlobalAveragePool", x), "n", 6, 1, 1)
    result = move(net.model(), validate=False)
    assert bool(result.changes) != training


@pytest.mark.parametrize("name", ["gap_net", "gap_net-torchscript"])
def test_bundled(bundled: Path, name: str) -> None:
    """10 classes of 64 channels at 8 · 8 positions: 40,960 MACs become 640."""
    path = bundled / f"{name}.onnx"
    model, result = onnx.load(path), move(path)
    assert result.passed
    assert result.before.macs is not None
    assert result.after.macs == result.before.macs - 40_960 + 640
    assert "40,960 → 640 MACs, ÷64" in result.sites[0].detail
    with np.load(bundled / "test.npz") as data:
        given = {"image": data["image"][:200]}
    old, new = (run(m, given)[0] for m in (model, result.model))
    assert (old.argmax(1) == new.argmax(1)).all()
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-3)


def test_several_rewrites_in_order(bundled: Path) -> None:
    """Whatever order they are named in: ReduceMean becomes GlobalAveragePool, which then moves,
    and the convolution at one position becomes an FC only if that is asked for."""
    names = ["pool-first", "share", "global-pool", "fold-batchnorm"]
    result = onnxshare.rewrite(bundled / "gap_net.onnx", names, provider="cpu")
    assert result.passed
    assert [change.site.rewrite for change in result.changes] == ["global-pool", "pool-first"]
    assert kinds(result.model)[-3:] == ("GlobalAveragePool", "Conv", "Reshape")


def test_batch_normalization_is_folded_first() -> None:
    result = onnxshare.rewrite(
        built("BatchNormalization between"), ["pool-first", "fold-batchnorm"], provider="cpu"
    )
    assert result.passed
    assert kinds(result.model) == ("Relu", "GlobalAveragePool", "Conv", "Dropout", "Flatten")


def test_command_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(built("ReduceMean"), path)
    done = cli("rewrite", path, "--pool-first", "--global-pool")
    assert done.returncode == 0, done.stderr
    assert "840 → 24 MACs" in done.stdout
    written = onnx.load(tmp_path / "m.global-pool+pool-first.onnx")
    assert kinds(written) == USUAL


# Broken on purpose.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["strides", "pads"])
def test_not_every_1x1_convolution(monkeypatch: Patch, name: str, seed: int) -> None:
    """One that leaves out positions, or adds some, does not commute."""
    monkeypatch.setattr(pool_first, "_plain", lambda conv: True)
    result = move(built(name, seed))
    assert result.changes
    assert not result.passed


@pytest.mark.parametrize("name", ["Relu between", "Sigmoid after BatchNormalization"])
def test_not_past_what_is_not_linear(monkeypatch: Patch, name: str) -> None:
    right = pool_first._linear
    monkeypatch.setattr(
        pool_first,
        "_linear",
        lambda graph, node: right(graph, node) or node.op_type in ("Relu", "Sigmoid"),
    )
    result = move(built(name))
    assert result.changes
    assert not result.passed


def test_what_stands_between_is_lost(monkeypatch: Patch) -> None:
    right = pool_first._pair

    def wrong(*arguments: Any) -> Any:
        pair, reason = right(*arguments)
        return (pair and pool_first._Pair(pair.conv, (), pair.pool)), reason

    monkeypatch.setattr(pool_first, "_pair", wrong)
    result = move(built("BatchNormalization between"))
    assert result.changes
    assert not result.passed
