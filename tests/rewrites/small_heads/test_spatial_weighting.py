"""Weightings against the ONNX operators they stand for, and masks against what was planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from rewrites.small_heads.spatial_weighting import (
    Weighting,
    average,
    channel_energy,
    channel_masks,
    full,
    grid,
    shared_masks,
)

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("spatial", [(4, 4), (5, 7), (6,), (3, 4, 2)], ids=str)
def test_grid_is_average_pooling(spatial: tuple[int, ...], bins: int) -> None:
    weighting = grid(spatial, bins)
    maps = np.random.default_rng(0).standard_normal((2, 3, *spatial)).astype(np.float32)
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=weighting.kernel, strides=weighting.strides
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, maps.shape)],
        [value("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    [expected] = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": maps})
    counts = [min(bins, size) for size in spatial]
    assert np.asarray(expected).shape[2:] == tuple(counts)
    found = weighting.apply(maps.reshape(2, 3, -1))
    np.testing.assert_allclose(found, np.asarray(expected).reshape(2, -1), rtol=1e-5, atol=1e-6)
    assert weighting.rows is not None
    assert (weighting.rows.sum(axis=0) > 0).all()  # every position counts
    np.testing.assert_allclose(weighting.rows.sum(axis=1), 1)


def weightings() -> dict[str, Weighting]:
    random = np.random.default_rng(1)
    return {
        "gap": average((2, 3)),
        "grid": grid((2, 3), 2),
        "mask": Weighting("mask", (2, 3), random.standard_normal((4, 6))),
        "depthwise": Weighting("depthwise", (2, 3), random.standard_normal((5, 1, 6))),
        "full": full((2, 3)),
    }


@pytest.mark.parametrize("kind", weightings())
def test_features_and_projections_by_hand(kind: str) -> None:
    """z[n, c·r + k] = Σ_s A[c, k, s] x[n, c, s]; the projection is least squares per channel."""
    weighting = weightings()[kind]
    random = np.random.default_rng(2)
    maps, weight = random.standard_normal((4, 5, 6)), random.standard_normal((3, 5, 6))
    rows = np.eye(6) if weighting.rows is None else weighting.rows
    each = weighting.per_channel
    features = weighting.apply(maps)
    projected = weighting.project(weight)
    for c in range(5):
        a = rows[c] if rows.ndim == 3 else rows
        part = slice(c * each, (c + 1) * each)
        np.testing.assert_allclose(features[:, part], maps[:, c] @ a.T)
        solved = np.linalg.lstsq(a.T, weight[:, c].T, rcond=None)[0]
        np.testing.assert_allclose(projected[:, part], solved.T, atol=1e-12)


def test_masks_span_what_was_planted() -> None:
    random = np.random.default_rng(3)
    planted = random.standard_normal((3, 20))
    weight = random.standard_normal((40, 6, 3)) @ planted
    found = shared_masks([weight[:15], weight[15:]], np.ones(6), (4, 5), 5)
    assert found.rows is not None
    assert found.rows.shape == (3, 20)  # no more than the weights span
    inside = planted @ found.rows.T @ found.rows
    np.testing.assert_allclose(inside, planted, atol=1e-10)


def test_masks_with_noise_are_close_to_what_was_planted() -> None:
    random = np.random.default_rng(4)
    planted = np.linalg.qr(random.standard_normal((20, 3)))[0].T
    weight = random.standard_normal((200, 6, 3)) @ planted
    weight += 0.05 * random.standard_normal(weight.shape)
    found = shared_masks([weight], np.ones(6), (4, 5), 3)
    assert found.rows is not None
    cosines = np.linalg.svd(found.rows @ planted.T)[1]
    assert cosines.min() > 0.999


def test_dead_channels_have_no_say() -> None:
    """The dead channel's weights are a hundred times larger and point elsewhere."""
    random = np.random.default_rng(5)
    weight = random.standard_normal((30, 4, 1)) @ random.standard_normal((1, 9))
    live = weight.copy()
    weight[:, 2] = 100 * random.standard_normal((30, 9))
    maps = random.standard_normal((50, 4, 9))
    maps[:, 2] = 0
    energy = channel_energy(maps, np.arange(50))
    assert energy[2] == 0
    found = shared_masks([weight], energy, (3, 3), 1)
    assert found.rows is not None
    assert found.rows[0] @ live[0, 0] == pytest.approx(np.linalg.norm(live[0, 0]), rel=1e-9)


@pytest.mark.parametrize("dead", ["weights", "maps"])
def test_all_dead_gives_some_mask(dead: str) -> None:
    random = np.random.default_rng(6)
    weight, maps = random.standard_normal((3, 2, 4)), random.standard_normal((5, 2, 4))
    (weight if dead == "weights" else maps)[...] = 0
    energy = channel_energy(maps, np.arange(5))
    shared = shared_masks([weight], energy, (2, 2), 2)
    single = channel_masks([weight], maps, np.arange(5), (2, 2))
    for found in (shared, single):
        assert found.rows is not None
        assert np.isfinite(found.rows).all()
        assert (np.abs(found.rows).sum(axis=-1) > 0).all()


def test_channel_masks_minimise_the_error_of_the_outputs() -> None:
    """No other mask of a channel, the projected weight fitted to it, leaves less error."""
    random = np.random.default_rng(7)
    mix = random.standard_normal((6, 6))
    maps = random.standard_normal((400, 1, 6)) @ mix
    weight = random.standard_normal((5, 1, 6))
    found = channel_masks([weight], maps, np.arange(400), (2, 3))
    assert found.rows is not None
    wanted = maps[:, 0] @ weight[:, 0].T

    def error(row: Array) -> float:
        feature = maps[:, 0] @ row
        return float(
            ((wanted - np.outer(feature, wanted.T @ feature / (feature @ feature))) ** 2).sum()
        )

    best = error(found.rows[0, 0])
    for seed in range(200):
        other = found.rows[0, 0] + 0.3 * np.random.default_rng(seed).standard_normal(6)
        assert best <= error(other) * 1.001
