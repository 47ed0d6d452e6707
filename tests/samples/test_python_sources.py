"""Samples given in Python: arrays, batches, and functions that yield them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.errors import SamplesError
from onnxshare.samples import python_sources
from onnxshare.samples.lazy_arrays import LazyArrays
from onnxshare.samples.samples import read_samples

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def lenet() -> onnx.ModelProto:
    return onnx.load(Path(__file__).parents[2] / "models" / "lenet5.onnx")


IMAGES = np.random.default_rng(0).random((50, 1, 32, 32), np.float32)
LABELS = np.arange(50) % 10


def batches(kind: str) -> Iterator[Any]:
    for start in range(0, 50, 20):
        images, labels = IMAGES[start : start + 20], LABELS[start : start + 20]
        yield {
            "names": {"image": images, "labels": labels},
            "pairs": (images, labels),
            "lists": [images.tolist(), labels.tolist()],
            "arrays": images,
            "float64": images.astype(np.float64),
        }[kind]


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("kind", ["names", "pairs", "lists", "arrays", "float64"])
def test_batches_of_every_kind(
    lenet: onnx.ModelProto, kind: str, spilled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spilled:
        monkeypatch.setattr(python_sources, "EAGER_BYTES", 10_000)
    found = read_samples(lambda: batches(kind), lenet)
    assert isinstance(found.arrays, LazyArrays) == spilled
    assert found.count == 50
    rows = [49, 3, 20]
    np.testing.assert_array_equal(found.take(rows).arrays["image"], IMAGES[rows])
    np.testing.assert_array_equal(found.arrays["image"], IMAGES)
    if kind in ("names", "pairs", "lists"):
        assert found.labels is not None
        np.testing.assert_array_equal(found.labels, LABELS)
    else:
        assert found.labels is None


@pytest.mark.parametrize(
    ("given", "labelled"),
    [
        pytest.param({"image": IMAGES, "labels": LABELS}, True, id="arrays by name"),
        pytest.param(IMAGES, False, id="an array"),
        pytest.param((IMAGES, LABELS), True, id="an array and labels"),
        pytest.param(list(batches("names")), True, id="a list of batches"),
        pytest.param(batches("pairs"), True, id="an iterator of batches"),
        pytest.param(lambda: {"image": IMAGES}, False, id="a function of one batch"),
    ],
)
def test_what_is_given_without_a_function(
    lenet: onnx.ModelProto, given: Any, labelled: bool
) -> None:
    found = read_samples(given, lenet)
    np.testing.assert_array_equal(found.arrays["image"], IMAGES)
    if labelled:
        np.testing.assert_array_equal(found.labels, LABELS)
    else:
        assert found.labels is None


def test_what_is_no_samples(lenet: onnx.ModelProto) -> None:
    with pytest.raises(SamplesError, match="int: not samples; give a path"):
        read_samples(7, lenet)  # type: ignore[arg-type]


def test_single_samples_without_a_batch_axis(lenet: onnx.ModelProto) -> None:
    found = read_samples(lambda: iter(IMAGES), lenet)
    np.testing.assert_array_equal(found.arrays["image"], IMAGES)


def test_an_array_that_is_used_again_is_copied(lenet: onnx.ModelProto) -> None:
    def again() -> Iterator[Array]:
        room = np.empty((10, 1, 32, 32), np.float32)
        for start in range(0, 50, 10):
            room[:] = IMAGES[start : start + 10]
            yield room

    np.testing.assert_array_equal(read_samples(again, lenet).arrays["image"], IMAGES)


def test_a_limit_ends_an_endless_source(lenet: onnx.ModelProto) -> None:
    assert read_samples(lambda: itertools.cycle([IMAGES]), lenet, limit=120).count == 120


def broken() -> Iterator[Array]:
    yield IMAGES
    yield IMAGES[:, :, :16]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (list, "holds no samples"),
        (lambda: [{"other": IMAGES}], "batch 0: no array for input 'image'; it holds 'other'"),
        (lambda: [(IMAGES, LABELS, LABELS)], "is 3 things"),
        (lambda: [(IMAGES, LABELS[:7])], "differ in their number of samples"),
        (lambda: [(IMAGES, LABELS), {"image": IMAGES}], "100 samples but 50 labels"),
        (lambda: [IMAGES * np.nan], "NaN"),
        (broken, "broken, batch 1"),
    ],
)
def test_what_does_not_fit_is_named(lenet: onnx.ModelProto, source: Any, said: str) -> None:
    with pytest.raises(SamplesError, match=said):
        read_samples(source, lenet)


def test_rewrite_and_compare_take_a_function(bundled: Path) -> None:
    """A function that yields other samples each time is read once: a second reading of it would
    mix what is fitted to with what certifies."""
    calls = []
    with np.load(bundled / "calibration.npz") as file:
        images = file["image"][:200]

    def source() -> Iterator[dict[str, Array]]:
        calls.append(1)
        for start in range(0, 200, 50):
            yield {"image": images[start : start + 50]}

    path = bundled / "lenet5.onnx"
    result = onnxshare.rewrite(path, ["fc-to-gap"], approximate=True, samples=source)
    assert result.validation is not None
    assert result.validation.samples == 50
    assert result.validation.origin == "source"
    assert len(calls) == 1
    assert onnxshare.compare(path, path, samples=source).passed
