"""Maps that are made out of those of a few samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewrites.small_heads import augmentation
from rewrites.small_heads.augmentation import Augmentation

Array = np.ndarray[Any, np.dtype[Any]]


def drawn(maps: Augmentation, count: int) -> Array:
    return np.concatenate(list(maps.batches(count)))


@pytest.mark.parametrize("spatial", [(7,), (4, 5), (2, 3, 2)], ids=["1-D", "2-D", "3-D"])
def test_what_is_near_is_made_of_two_samples(
    spatial: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of map n all values are n or, once in ten, 0: so which sample a value is from can be seen."""
    monkeypatch.setattr(augmentation, "_MOVED", 0)
    size = int(np.prod(spatial))
    maps = np.broadcast_to(np.arange(1.0, 6.0)[:, None, None], (5, 3, size))
    made = drawn(Augmentation(maps, spatial, np.random.default_rng(0)), 1536)
    assert made.shape == (1536, 3, size)
    assert 0.08 < (made == 0).mean() < 0.12
    mixed, boxed, switched = made[:512], made[512:1024], made[1024:]
    for sample in mixed:
        values = sample[sample > 0]
        assert np.ptp(values) < 1e-5
        assert 1 <= values.mean() <= 5 + 1e-5
    assert len(np.unique(np.round(mixed, 3))) > 100
    for sample in switched:  # channel by channel one sample, two together
        assert all(len(set(channel[channel > 0])) <= 1 for channel in sample)
        assert len(set(sample[sample > 0])) <= 2
    partly = 0
    for sample in boxed:  # what is from the first is a box, the same for all channels
        from_one = {v: (sample == v).any(axis=0).reshape(spatial) for v in set(sample[sample > 0])}
        assert len(from_one) <= 2
        fits = [_is_box(where, sample.max(axis=0).reshape(spatial) > 0) for where in
                from_one.values()]  # fmt: skip
        assert any(fits)
        partly += len(from_one) == 2
    assert partly > 200


def _is_box(where: Array, seen: Array) -> bool:
    """Whether all seen places within the bounds of `where` are in it."""
    places = np.argwhere(where)
    bounds = tuple(
        slice(a, b + 1) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True)
    )
    return bool((where[bounds] | ~seen[bounds]).all())


def clouds(samples: int, size: int, seed: int = 0) -> Array:
    """Four clouds of maps, far from each other, `[samples, 2, size / 2]`."""
    random = np.random.default_rng(seed)
    centres = 20 * random.standard_normal((4, size))
    maps = centres[np.arange(samples) % 4] + random.standard_normal((samples, size))
    return np.asarray(maps.reshape(samples, 2, -1), np.float32)


@pytest.mark.parametrize("samples", [2, 5, 40, 700], ids="{} samples".format)
def test_neighbours_are_the_nearest(samples: int) -> None:
    """Against all distances, written out; 700 samples take two blocks."""
    maps = clouds(samples, 12)
    found = Augmentation(maps, (6,), np.random.default_rng(0))._near
    flat = maps.reshape(samples, -1).astype(float)
    distances = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    few = min(10, samples - 1)
    wanted = np.sort(distances, axis=1)[:, :few]
    given = np.sort(np.take_along_axis(distances, found, axis=1), axis=1)
    np.testing.assert_allclose(given, wanted, rtol=1e-4)


def test_neighbours_in_large_maps_are_of_the_same_cloud() -> None:
    """Where distances are those of random directions."""
    maps = clouds(60, 3000)
    found = Augmentation(maps, (1500,), np.random.default_rng(0))._near
    assert found.shape == (60, 10)
    assert (found % 4 == np.arange(60)[:, None] % 4).all()


def test_neighbours_of_many_samples_are_looked_for_among_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augmentation, "_AMONG", 100)
    found = Augmentation(clouds(600, 12), (6,), np.random.default_rng(0))._near
    assert len(np.unique(found)) <= 100
    assert not (found == np.arange(600)[:, None]).any()
    assert (found % 4 == np.arange(600)[:, None] % 4).mean() > 0.99


def test_maps_are_moved_along_the_difference_of_two_neighbours() -> None:
    maps = clouds(48, 8)
    made = Augmentation(maps, (4,), np.random.default_rng(0))
    chosen = np.tile(np.arange(48), 10)
    moved = made._moved(chosen)
    flat, lowest = maps.reshape(48, -1), maps.min()
    stayed = 0
    for sample, result in zip(chosen, moved.reshape(480, -1), strict=True):
        move = result - flat[sample]
        if not move.any():
            stayed += 1
            continue
        free = result > lowest  # a value that would be lower is raised to that
        cloud = [n for n in range(48) if n % 4 == sample % 4 and n != sample]
        along = [
            np.abs(length * (flat[a] - flat[b])[free] - move[free]).max() < 1e-3 and length <= 1
            for a in cloud
            for b in cloud
            if a != b and (length := _share(move[free], (flat[a] - flat[b])[free])) >= 0
        ]
        assert any(along)
    # A fifth, and of the rest one in ten, whose two neighbours are one.
    assert stayed / 480 == pytest.approx(0.28, abs=0.06)
    assert (moved >= lowest).all()


def _share(move: Array, difference: Array) -> float:
    return float(move @ difference / (difference @ difference))


def test_values_do_not_fall_below_those_that_occur() -> None:
    maps = np.maximum(clouds(40, 30), 0)
    made = drawn(Augmentation(maps, (15,), np.random.default_rng(1)), 900)
    assert made.min() == 0
    assert made.max() > maps.max()


def test_partners_are_near_more_often_than_by_chance() -> None:
    made = Augmentation(clouds(400, 12), (6,), np.random.default_rng(0))
    chosen = np.tile(np.arange(400), 20)
    same = (made._partners(chosen) % 4 == chosen % 4).mean()
    assert same == pytest.approx(0.3 + 0.7 / 4, abs=0.02)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_and_copies(samples: int) -> None:
    maps = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(1, 2, 3), (samples, 2, 3))
    made = drawn(Augmentation(maps, (3,), np.random.default_rng(0)), 50)
    assert ((made == maps[0]) | (made == 0)).all()
