"""A small network distilled from a head; its steps are those of Adam, after its paper."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.io.load import load
from onnxshare.runtime.session import opened
from rewrites.base import study
from rewrites.refusal import Refusal
from rewrites.small_heads import blas_threads, distillation, transfer_set
from rewrites.small_heads.distillation import Adam, rate
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.methods import family, parse
from rewrites.small_heads.spatial_weighting import grid
from rewrites.small_heads.training_data import HeadData, collect
from tests.rewrites.checking import inputs
from tests.rewrites.forms import C, H, K, Net, W

Array = np.ndarray[Any, np.dtype[Any]]
S = H * W

#: As they are outside of tests, where they are smaller (`conftest.py`).
EFFORT = ((distillation, "_STEPS"), (transfer_set, "_POOL"))
AS_THEY_ARE = [(module, name, getattr(module, name)) for module, name in EFFORT]


def head_of(model: onnx.ModelProto, count: int = 200, seed: int = 3) -> tuple[Chain, HeadData]:
    loaded = load(model)
    subject = study(loaded)
    chain = chain_of(subject, subject.heads[0])
    return chain, answers(chain, model, count, seed)


def answers(chain: Chain, model: onnx.ModelProto, count: int, seed: int) -> HeadData:
    random = np.random.default_rng(seed)
    [given] = inputs(model)
    shape = [dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim][1:]
    arrays = {given.name: random.standard_normal((count, *shape)).astype(np.float32)}
    whole = load(model)

    def features(
        proto: onnx.ModelProto, names: tuple[str, ...]
    ) -> Generator[Mapping[str, Array], None, None]:
        with opened(replace(whole, skeleton=proto), outputs=names) as session:
            yield from session.iter_batches(arrays)

    return collect(chain, features, count)


def fitted(
    chain: Chain, data: HeadData, method: str, classes: bool, chosen: Array | None = None
) -> SmallHead:
    rows = np.arange(data.count) if chosen is None else chosen
    leaves = frozenset(chain.leaves) if classes else frozenset[int]()
    with blas_threads.one():
        return fit_head(replace(data, classes=leaves), rows, parse(method))


def planted(units: int, features: int) -> onnx.ModelProto:
    """Two FCs, the first of separable weights; its units come in pairs, which add up to |v|."""
    net = Net(seed=5)
    mixtures, masks = net.random(features, C), net.random(features, S)
    mix = 3 * net.random(units // 2, features)
    weight = (mix @ (mixtures[:, :, None] * masks[:, None, :]).reshape(features, -1)).astype("f4")
    hidden = net.node(
        "Gemm", net.flat(), net.stored(np.concatenate([weight, -weight])), net.weight(units),
        transB=1,
    )  # fmt: skip
    out = net.stored(np.tile(2 * net.random(4, units // 2), 2))
    net.rows(net.node("Gemm", net.node("Relu", hidden), out, net.weight(4), transB=1), 4)
    return net.model()


def even(chain: Chain, count: int, seed: int) -> HeadData:
    """The head on maps that are as often above 0 as below."""
    maps = np.random.default_rng(seed).standard_normal((count, C, S)).astype(np.float32)
    first: Any = maps.reshape(count, -1) @ _first(chain).T + chain.bias(0)
    return HeadData(chain, maps, chain.forward({0: first}))


def relative(wanted: Array, given: Array) -> float:
    return float(((wanted - given) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "values"])
def test_a_planted_hidden_layer_is_found(classes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no linear layer comes close: the head gives the same for a map and its negative, but
    for biases."""
    monkeypatch.setattr(distillation, "_STEPS", (600, 2000, 2000))
    chain, _ = head_of(planted(8, 3), 20)
    data, unseen = even(chain, 300, 1), even(chain, 500, 2)
    [leaf] = chain.leaves
    head = fitted(chain, data, "mlp:16+separable:6", classes)
    given = head.predict(unseen.maps)[leaf]
    linear = fitted(chain, data, "collapse", False).predict(unseen.maps)[leaf]
    wanted = unseen.results[leaf]
    assert relative(wanted, linear) > 0.3
    if classes:
        agreed = (given.argmax(axis=1) == wanted.argmax(axis=1)).mean()
        assert agreed > 0.95 > (linear.argmax(axis=1) == wanted.argmax(axis=1)).mean()
    else:
        assert relative(wanted, given) < 0.02
    assert head.params == 6 * (C + S) + 16 * (6 + 1) + 4 * (16 + 1)
    assert head.macs == 6 * S * (C + 1) + 16 * 6 + 4 * 16


def test_centres_and_scales_are_folded_into_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels far from 0, and of very different sizes."""
    monkeypatch.setattr(distillation, "_STEPS", (600, 1000, 1000))
    model = planted(8, 3)
    chain, _ = head_of(model, 20)
    size = np.geomspace(0.01, 3, C)[:, None]

    def moved(count: int, seed: int) -> HeadData:
        maps = np.random.default_rng(seed).standard_normal((count, C, S)) * size + 5 * size
        first: Any = maps.reshape(count, -1) @ _first(chain).T + chain.bias(0)
        return HeadData(chain, maps.astype(np.float32), chain.forward({0: first}))

    unseen = moved(300, 2)
    head = fitted(chain, moved(300, 1), "mlp:16+separable:6", False)
    [leaf] = chain.leaves
    given = head.predict(unseen.maps)[leaf]
    assert relative(unseen.results[leaf], given) < 0.1


def test_only_the_chosen_samples_have_a_part() -> None:
    model = planted(8, 3)
    chain, data = head_of(model, 60)
    chosen = np.arange(0, 60, 2)
    head = fitted(chain, data, "mlp:4+separable:2", True, chosen)
    others = np.setdiff1d(np.arange(60), chosen)
    maps, results = data.maps.copy(), {p: v.copy() for p, v in data.results.items()}
    maps[others] = 1e9
    for values in results.values():
        values[others] = -1e9
    again = fitted(chain, HeadData(chain, maps, results), "mlp:4+separable:2", True, chosen)
    for one, other in zip(_arrays(head), _arrays(again), strict=True):
        np.testing.assert_array_equal(one, other)


def _arrays(head: SmallHead) -> list[Array]:
    assert head.hidden is not None
    return [*(layer.factors[0] for layer in head.layers), head.hidden.weight, head.hidden.bias]


def test_scores_of_classes_have_the_level_of_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What softmax does not see costs nothing: probabilities are what they are without it."""
    monkeypatch.setattr(distillation, "_STEPS", (600, 2000, 2000))
    chain, _ = head_of(planted(8, 3), 20)
    data, unseen = even(chain, 300, 1), even(chain, 500, 2)
    [leaf] = chain.leaves
    wanted = unseen.results[leaf]
    levelled = fitted(chain, data, "mlp:16+separable:6", True).predict(unseen.maps)[leaf]
    monkeypatch.setattr(distillation, "_level", lambda *_: None)
    as_fitted = fitted(chain, data, "mlp:16+separable:6", True).predict(unseen.maps)[leaf]
    moved = levelled - as_fitted
    assert np.ptp(moved, axis=1).max() < 1e-4 * np.abs(moved).max()  # the same for all classes
    levels = wanted.mean(axis=1)
    assert ((levelled.mean(axis=1) - levels) ** 2).mean() < 0.1 * levels.var()
    assert ((as_fitted.mean(axis=1) - levels) ** 2).mean() > 0.5 * levels.var()


@pytest.mark.parametrize("times", [8, 1024])
def test_fits_do_not_depend_on_the_unit_of_large_scores(times: float) -> None:
    """Scores in the thousands have the same classes, and probabilities of 0 and 1. (By a power of
    two, which rounds nothing: some fits depend on how their first step was rounded.)"""
    random = np.random.default_rng(4)
    maps = random.standard_normal((60, 3, 8)).astype(np.float32)
    first, second = (random.standard_normal(shape).astype("f4") for shape in ((24, 12), (12, 5)))

    def fit(unit: float) -> distillation.Student:
        def scores(of: Array) -> dict[int, Array]:
            active = np.maximum(of.reshape(-1, 24) @ first, 0)
            return {0: np.float32(16 * unit) * (active @ second)}

        made = transfer_set.transfer_set(maps, (8,), scores, 4096)
        return distillation.distil(
            made, first.T.reshape(12, 3, 8), frozenset([0]), (6, 8), (600, 1)
        )

    one, other = fit(1.0), fit(times)
    np.testing.assert_allclose(other.channels, one.channels, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.out[0] / times, one.out[0], rtol=1e-3, atol=1e-2)


def test_copies_and_dead_channels_do_no_harm() -> None:
    model = planted(8, 3)
    chain, data = head_of(model, 40)
    maps = data.maps.copy()
    maps[:] = maps[:1]  # one sample, forty times over: nothing to fit to but its vicinity
    maps[:, 0] = 0.0
    results = chain.forward({0: maps.reshape(40, -1) @ _first(chain).T + chain.bias(0)})
    head = fitted(chain, HeadData(chain, maps, results), "mlp:4+separable:2", False)
    given = head.predict(maps)[chain.leaves[0]]
    assert np.isfinite(given).all()


@pytest.mark.parametrize(
    "method", ["mlp:4+separable:2", "gap", "mask:4", "depthwise", "collapse", "collapse+grid:2",
    "stack:3", "stack:3+mask:4"],
)  # fmt: skip
@pytest.mark.parametrize("still", [(1,), (0, C - 1)], ids=["one", "two"])
def test_channels_that_are_constant_weigh_nothing(method: str, still: tuple[int, ...]) -> None:
    """One rests at a value of its own at each position; what such a channel adds is in the biases,
    so that the head answers as the whole one does, and does not heed a change of it."""
    chain, _ = head_of(planted(8, 3), 20)
    data, unseen = even(chain, 60, 1), even(chain, 60, 2)
    level = np.linspace(-60, 100, S, dtype=np.float32)
    for maps in (data.maps, unseen.maps):
        for channel in still:
            maps[:, channel] = level * (channel > 0)
    results = chain.forward({0: data.maps.reshape(60, -1) @ _first(chain).T + chain.bias(0)})
    head = fitted(chain, replace(data, results=results), method, False)
    [leaf] = chain.leaves
    before = head.predict(unseen.maps)[leaf]
    unseen.maps[:, still] += np.float32(100)
    np.testing.assert_array_equal(head.predict(unseen.maps)[leaf], before)
    wanted = results[leaf]
    error = wanted - head.predict(data.maps)[leaf]
    assert np.abs(error.mean(axis=0)).max() < 0.2 * wanted.std()


def test_channels_that_vary_little_do_not_decide() -> None:
    """The first channel has a thousandth of the spread of the others, and little weight: raised
    by a hundredth of their spread it changes few answers."""
    chain, _ = head_of(planted(8, 3), 20)
    data, unseen = even(chain, 300, 1), even(chain, 300, 2)
    for item in (data, unseen):
        item.maps[:, 0] *= np.float32(1e-3)
    results = chain.forward({0: data.maps.reshape(300, -1) @ _first(chain).T + chain.bias(0)})
    head = fitted(chain, replace(data, results=results), "mlp:16+separable:6", True)
    [leaf] = chain.leaves
    before = head.predict(unseen.maps)[leaf].argmax(axis=1)
    unseen.maps[:, 0] += np.float32(0.01)
    assert (head.predict(unseen.maps)[leaf].argmax(axis=1) == before).mean() > 0.98


def _first(chain: Chain) -> Array:
    return np.concatenate([piece.reshape(len(piece), -1) for piece in chain.pieces(0)])


@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "linear"])
@pytest.mark.parametrize("classes", [(), (0,), (0, 2)], ids=["values", "classes", "both"])
def test_gradients_are_those_of_the_loss(classes: tuple[int, ...], hidden: bool) -> None:
    """Against differences of the loss, written down here from its formula; of the second of two
    that are fitted side by side."""
    random = np.random.default_rng(8)
    kept: dict[int, Any] = {
        0: random.standard_normal((30, 3)) * 4,
        2: random.standard_normal((30, 2)),
    }
    targets = distillation._Targets({k: v.copy() for k, v in kept.items()}, frozenset(classes))
    made = random.standard_normal((30, 4 * 5))
    shapes = [(3, 4), (3, 5), (6, 3), (6,), (5, 6 if hidden else 3), (5,)]
    point = [random.standard_normal(shape) for shape in shapes]
    rows = slice(3, 20)

    def loss() -> float:
        u, m, *between, out, o = point
        z = np.einsum("kc,ks,ncs->nk", u, m, made[rows].reshape(-1, 4, 5))
        if between:
            z = np.maximum(z @ between[0].T + between[1], 0)
        scaled = z @ out.T + o
        total = 0.0
        for group, values in kept.items():
            part = slice(0, 3) if group == 0 else slice(3, 5)
            mean, scale = values.mean(axis=0), np.sqrt(values.var(axis=0).mean())
            if group not in classes:
                wanted = (values[rows] - mean) / scale
                total += ((scaled[:, part] - wanted) ** 2).mean() / 2
                continue
            p, q = (
                np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
                for s in (values[rows], scaled[:, part] * scale + mean)
            )
            total += (p * np.log(p / q)).sum(axis=1).mean()
        return float(total)

    if not hidden:
        del point[2:4]
    other = [values + 1 for values in point]
    slopes = distillation._gradient([other, point], made[rows], targets, rows)  # type: ignore[list-item, arg-type]
    for values, slope in zip(point, slopes[1], strict=True):
        for place in np.ndindex(values.shape):
            at, step = values[place], 1e-5
            values[place] = at + step
            above = loss()
            values[place] = at - step
            below = loss()
            values[place] = at
            assert slope[place] == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "method", "count", "reason"),
    [
        ("one FC", "mlp:4+separable:2", 40, None),
        ("one FC", "separable:2", 40, None),
        ("one FC", "separable:2+grid:2", 40, None),
        ("one FC", "stack:2", 40, None),
        ("one FC", "stack:1+mask:2", 40, None),
        ("Relu", "collapse+separable:2", 40, None),
        ("Relu", "separable:2", 40, "use 'collapse.separable:2'"),
        ("Erf", "mlp:4+separable:2", 40, "Erf"),
        ("Relu", "mlp:4+separable:2", 15, "at least 16 samples"),
        ("Relu", "mlp:64+separable:300", 40, "no smaller"),
        ("Relu", "mlp:4+separable:2", 40, None),
    ],
)
def test_refusals(kind: str, method: str, count: int, reason: str | None) -> None:
    net = Net()
    if kind == "one FC":
        net.rows(net.gemm(net.flat(), K, 4), 4)
    else:
        net.rows(net.gemm(net.node(kind, net.gemm(net.flat(), K, 20)), 20, 4), 4)
    chain, data = head_of(net.model(), count)
    if reason is None:
        assert fitted(chain, data, method, True).params < chain.params
        return
    with pytest.raises(Refusal, match=reason):
        fitted(chain, data, method, True)


@pytest.mark.parametrize(
    ("channels", "spatial", "outputs", "answer"),
    [
        pytest.param(16, (5, 5), 10, 59_000, id="LeNet-5"),
        pytest.param(64, (6, 6), 10, 304_000, id="a small VGG"),
        pytest.param(64, (12, 12), 10, 1_200_000, id="a wide map"),
        pytest.param(32, (26, 26), 10, 216_000, id="a very wide map"),
        pytest.param(128, (4, 4), 43, 600_000, id="signs"),
        pytest.param(512, (2, 2), 100, 204_800, id="VGG on small images"),
        pytest.param(64, (8, 8), 62, 2_130_000, id="letters"),
        pytest.param(128, (8, 8), 10, 2_170_000, id="a larger net"),
        pytest.param(64, (7, 7), 200, 1_708_000, id="200 classes"),
        pytest.param(256, (6, 6), 10, 54_600_000, id="AlexNet, 10 classes"),
        pytest.param(256, (6, 6), 1000, 58_600_000, id="AlexNet"),
        pytest.param(512, (7, 7), 2, 119_500_000, id="VGG-16, 2 classes"),
        pytest.param(512, (7, 7), 4, 119_600_000, id="VGG-16, 4 classes"),
        pytest.param(512, (7, 7), 10, 119_600_000, id="VGG-16, 10 classes"),
        pytest.param(512, (7, 7), 1000, 123_600_000, id="VGG-16"),
        pytest.param(512, (7, 7), 2622, 130_300_000, id="VGG-16, 2,622 classes"),
        pytest.param(2048, (7, 7), 1000, 100_352_000, id="ResNet-50"),
        pytest.param(64, (100,), 360, 2_304_000, id="a row"),
        pytest.param(16, (4, 8, 8), 10, 41_000, id="a volume"),
    ],
)
def test_every_head_gets_a_hidden_layer_at_a_cost_that_is_known(
    channels: int,
    spatial: tuple[int, ...],
    outputs: int,
    answer: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more than some ten seconds of products and a gigabyte, whatever the machine does."""
    for module, name, value in AS_THEY_ARE:
        monkeypatch.setattr(module, name, value)
    taught = [m for m in family(3, outputs, channels, spatial) if m.form == "mlp"]
    assert taught
    for method in taught:
        positions = int(np.prod([min(method.bins or size, size) for size in spatial]))
        width = channels * positions
        maps = transfer_set.maps_for(channels * int(np.prod(spatial)), width, answer)
        steps, starts = distillation.effort_for(method.count * width)
        assert maps >= 1500
        assert maps * width * 2 <= 2**28
        assert maps * answer <= 3.1e11
        assert steps >= 200
        assert steps * 2 * 256 * method.count * width <= 2e12
        assert starts == 1 or steps * 2 * 256 * method.count * width <= 8.1e11
        quick = distillation.effort_for(method.count * width, quick=True)
        assert quick == (max(100, steps // 4), 1)


@pytest.mark.parametrize(
    ("channels", "spatial", "outputs"),
    [
        pytest.param(128, (4, 4), 43, id="signs"),
        pytest.param(512, (2, 2), 100, id="VGG on small images"),
    ],
)
def test_the_smallest_of_a_search_is_better_than_the_commonest_class(
    channels: int, spatial: tuple[int, ...], outputs: int
) -> None:
    """With few steps, on maps that no fit saw, of a head whose answers follow from kinds of
    maps, as those of a trained network do."""
    random = np.random.default_rng(0)
    size = channels * int(np.prod(spatial))
    kinds = np.maximum(random.standard_normal((30, size), dtype=np.float32), 0)
    places = random.integers(0, len(kinds), 250)
    noise = random.standard_normal((250, size), dtype=np.float32)
    maps = np.maximum(kinds[places] + 0.1 * noise, 0).reshape(250, channels, -1)
    weight = random.standard_normal((outputs, size), dtype=np.float32) / np.float32(size**0.5)

    def teacher(of: Array) -> dict[int, Array]:
        return {0: of.reshape(len(of), -1) @ weight.T}

    taught = [m for m in family(1, outputs, channels, spatial) if m.form == "mlp"]
    method = min(taught, key=lambda item: (item.count, -item.bins))
    with blas_threads.one():
        made = transfer_set.transfer_set(maps[:200], spatial, teacher, 1000, method.bins)
        some = made.on_maps(weight.reshape(outputs, channels, -1))
        units, effort = (method.count, method.rank), (200, 1)
        found = distillation.distil(made, some, frozenset([0]), units, effort)
    assert found.hidden is not None
    seen = maps[200:]
    if method.bins:
        seen = np.asarray(seen @ grid(spatial, method.bins).rows.T)  # type: ignore[union-attr]
    z = np.einsum("ncs,kc,ks->nk", seen, found.channels, found.rows, optimize=True)
    active = np.maximum(z @ found.hidden.T + found.hidden_bias, 0)
    given = active @ found.out[0].T + found.out_bias[0]
    assert np.isfinite(given).all()
    wanted = teacher(maps[200:])[0].argmax(axis=1)
    assert (given.argmax(axis=1) == wanted).mean() > 0.2 + np.bincount(wanted).max() / len(wanted)


@pytest.mark.parametrize("broken", ["useless", "not a number"])
def test_of_several_starts_a_better_one_goes_on(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three starts reads nothing of the map, so that no step gets it anywhere."""
    chain, data = head_of(planted(8, 3), 60)
    made = transfer_set.transfer_set(data.maps, (H, W), transfer_set.HeadAnswers(chain), 2000)
    [leaf] = chain.leaves
    start, begun = distillation._start, list[list[Array]]()

    def spoilt(*given: Any) -> list[Array]:
        point = start(*given)
        if not begun:
            for values in point[:2]:
                values[:] = 0 if broken == "useless" else np.nan
        begun.append(point)
        return point

    monkeypatch.setattr(distillation, "_start", spoilt)
    some = made.on_maps(np.random.default_rng(1).standard_normal((4, *data.maps.shape[1:])))
    found = distillation.distil(made, some, frozenset(), (6, 16), (400, 3))
    z = np.einsum("ncs,kc,ks->nk", data.maps, found.channels, found.rows)
    assert found.hidden is not None
    active = np.maximum(z @ found.hidden.T + found.hidden_bias, 0)
    given = active @ found.out[leaf].T + found.out_bias[leaf]
    assert len(begun) == 3
    assert relative(data.results[leaf], given) < 0.2


def test_a_grid_is_averaged_before_the_features() -> None:
    """A head of one FC on the averages of four windows is one that the windows suffice for."""
    random = np.random.default_rng(3)
    maps = random.standard_normal((80, 3, 16)).astype(np.float32)
    weight = random.standard_normal((5, 12)).astype(np.float32)

    def windows(of: Array) -> Array:
        return np.asarray(of.reshape(-1, 3, 2, 2, 2, 2).mean(axis=(3, 5)).reshape(-1, 12))

    made = transfer_set.transfer_set(
        maps, (4, 4), lambda of: {0: windows(of) @ weight.T}, 2000, 2
    )  # fmt: skip
    assert made.maps.shape == (2000, 3, 4)
    found = distillation.distil(made, weight.reshape(5, 3, 4), frozenset(), (12, 0), (1500, 1))
    z = np.einsum("ncs,kc,ks->nk", windows(maps).reshape(-1, 3, 4), found.channels, found.rows)
    given = z @ found.out[0].T + found.out_bias[0]
    assert relative(windows(maps) @ weight.T, given) < 1e-3


def test_steps_are_those_of_the_paper() -> None:
    random = np.random.default_rng(0)
    point = random.standard_normal((3, 4)).astype(np.float32)
    slopes = random.standard_normal((20, 3, 4))
    theta, m, v = point.astype(float), np.zeros((3, 4)), np.zeros((3, 4))
    adam = Adam([point], [1.0])
    for t, g in enumerate(slopes, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        theta = theta - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        adam.step([g.astype(np.float32)], 0.05)
    np.testing.assert_allclose(point, theta, rtol=1e-4, atol=1e-5)


def test_a_minimum_is_found() -> None:
    wanted = np.linspace(-2, 2, 7, dtype=np.float32)
    point = np.zeros(7, np.float32)
    adam = Adam([point], [50.0])
    for step in range(800):
        adam.step([point - wanted], rate(step / 800))
    np.testing.assert_allclose(point, wanted, atol=1e-3)


def test_steps_grow_and_then_shrink_to_nothing() -> None:
    sizes = [rate(share) for share in np.linspace(0, 1, 101)]
    top = int(np.argmax(sizes))
    assert top == 10
    assert all(np.diff(sizes[: top + 1]) > 0)
    assert all(np.diff(sizes[top:]) < 0)
    assert 0 < sizes[0] < sizes[top] / 50
    assert sizes[-1] == pytest.approx(0, abs=1e-12)
