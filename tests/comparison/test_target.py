"""What is kept of classes, against NumPy and the binomial distribution by hand."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxshare
from onnxshare.cli import options
from onnxshare.comparison.promise import declared
from onnxshare.comparison.target import Criterion, Target
from onnxshare.errors import SamplesError, UsageError
from onnxshare.samples.samples import Samples
from rewrites.base import Options
from rewrites.small_heads.sample_split import split
from tests.comparison.test_tolerance import WEIGHT, X, moved, scores

A = np.array([[3, 2, 1, 0], [0, 3, 2, 1], [0, 1, 2, 3], [9, 0, 0, 0]])
B = np.array([[1, 3, 2, 0], [0, 3, 2, 1], [3, 2, 1, 0], [5, 5, 5, 5]])
LABELS = np.array([0, 1, 0, 3])
NOT = np.full((4, 4), np.nan)


@pytest.mark.parametrize(
    ("kind", "count", "b", "wanted"),
    [
        ("keep", 0, B, [0, 1, 0, 1]),
        ("keep_top", 1, B, [0, 1, 0, 0]),  # of equal scores the class comes last
        ("keep_top", 3, B, [1, 1, 0, 0]),
        ("keep_top", 3, NOT, [0, 0, 0, 0]),
        ("within", 1, B, [1, 1, 0, 1]),
        ("within", 3, B, [1, 1, 1, 1]),
        ("max_loss", 0, B, [-1, 0, 1, 0]),
    ],
)
def test_outcomes(kind: str, count: int, b: Any, wanted: list[int]) -> None:
    found = Criterion(kind, 0.9, count).outcomes(A, b, LABELS)
    assert found is not None
    assert found.tolist() == wanted


def test_without_labels_nothing_is_known_of_accuracy() -> None:
    assert Criterion("max_loss", -0.01).outcomes(A, B) is None
    assert Criterion("max_loss", -0.01).outcomes(A, B, LABELS[:2]) is None


def below(successes: int, trials: int, p: float) -> float:
    """The probability of at most so many successes."""
    return sum(comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes + 1))


def test_a_loss_is_bounded_by_what_gets_wrong_and_what_gets_right() -> None:
    """200 samples, 6 become wrong, 3 right: each bound is where its tail has 2.5 %."""
    found = Criterion("max_loss", -0.05).measure(3, 6, 200)
    wrong = next(p / 1e5 for p in range(10**5) if below(6, 200, p / 1e5) <= 0.025)
    right = next(p / 1e5 for p in range(10**5) if 1 - below(2, 200, p / 1e5) >= 0.025)
    assert found.value == pytest.approx(-0.015)
    assert found.low == pytest.approx(right - wrong, abs=3e-5)


@pytest.mark.parametrize(
    ("criterion", "needed"),
    [
        (Criterion("keep_top", 0.99, 5), 299),  # 0.99²⁹⁹ <= 5 %
        (Criterion("within", 0.95, 2), 59),
        (Criterion("max_loss", -0.01), 368),  # 0.99³⁶⁸ <= 2.5 %
    ],
)
def test_samples_needed(criterion: Criterion, needed: int) -> None:
    assert criterion.samples_needed == needed
    assert criterion.reached(0, needed)
    assert not criterion.reached(0, needed - 1)


def test_false_promises_of_a_loss_are_rare() -> None:
    """Draws in which the bound lies below the true loss of 2 points."""
    random, broken = np.random.default_rng(0), 0
    for _ in range(400):
        less, more, _ = random.multinomial(500, [0.05, 0.03, 0.92])
        broken += Criterion("max_loss", -0.02).measure(more, less, 500).low > -0.02
    assert broken <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


RIGHT = (X @ WEIGHT).argmax(axis=1)


@pytest.mark.parametrize(
    ("given", "least"),
    [
        ({"keep_top": (2, 0.95)}, 0.95),
        ({"within": (1, 0.95)}, 0.95),
        ({"max_loss": 0.03}, -0.03),
    ],
)
@pytest.mark.parametrize("size", [0.02, 2.0])
def test_what_compare_allows(given: dict[str, Any], least: float, size: float) -> None:
    """By the share that NumPy counts: far from the limit on both sides."""
    weight = moved(size).astype(np.float32)
    b = X @ weight
    same = {
        "keep_top": (np.argsort(-b, axis=1)[:, :2] == RIGHT[:, None]).any(axis=1),
        "within": np.abs(b.argmax(axis=1) - RIGHT) <= 1,
        "max_loss": (b.argmax(axis=1) == RIGHT).astype(float) - 1,
    }[next(iter(given))].mean()
    assert abs(same - least) > 0.01
    found = onnxshare.compare(
        scores(), scores(weight), samples=Samples({"x": X}, RIGHT), provider="cpu", **given
    )
    assert found.verdict == ("approximate" if same > least else "different"), found.reason
    [measure] = found.outputs[0].kept
    assert measure.value == pytest.approx(same)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep_top": (5.5, 0.9)}, "keep_top is"),
        ({"within": (2, 1.5)}, "within is"),
        ({"max_loss": 1.0}, "max_loss is"),
        ({"max_loss": 0.01}, "no labels"),
    ],
)
def test_what_compare_refuses(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        onnxshare.compare(scores(), scores(moved(0.1)), samples=Samples({"x": X}), **given)


def test_a_small_head_keeps_its_promise_in_the_file(root: Path, tmp_path: Path) -> None:
    """Written by `rewrite` and read by `compare`, on images that neither fit nor promise saw."""
    models = root / "models"
    path, out = models / "lenet5.onnx", tmp_path / "small.onnx"
    asked: dict[str, Any] = {"keep_top": (3, 0.8), "within": (8, 0.8), "max_loss": 0.3}
    with np.load(models / "test.npz") as file:
        images, labels = file["image"], file["labels"]
    seen = Samples({"image": images[:400]}, labels[:400])
    fresh = Samples({"image": images[400:]}, labels[400:])
    result = onnxshare.rewrite(path, "fc-to-gap", method="mask:8", samples=seen, **asked)
    assert result.passed
    result.save(out)
    promise = declared(result.model)
    assert promise is not None
    assert promise.target == Target(**asked)
    assert promise.agreement_low is None
    found = onnxshare.compare(path, out, samples=fresh, provider="cpu")
    assert found.verdict == "approximate"
    assert "class among the first 3 ≥ 80.0 % was promised" in found.reason
    shown = {measure.criterion for measure in found.outputs[0].kept}
    assert shown == {"keep_top:3", "within:8", "max_loss"}
    unlabelled = onnxshare.compare(path, out, samples=replace(fresh, labels=None), provider="cpu")
    assert unlabelled.verdict == "inconclusive"
    assert "with labels" in unlabelled.reason


@pytest.mark.parametrize(
    ("text", "wanted"), [("5:99%", (5, 0.99)), (None, None), ("2:0.95", (2, 0.95))]
)
def test_counted_shares(text: str | None, wanted: object) -> None:
    assert options.counted_share("--keep-top", text) == wanted


@pytest.mark.parametrize("text", ["1pt", "1 points", "1%", "0.01"])
def test_points(text: str) -> None:
    assert options.points("--max-loss", text) == pytest.approx(0.01)


@pytest.mark.parametrize("text", ["5", "0:99%", "5:", "a:99%", "1.5:99%"])
def test_no_counted_shares(text: str) -> None:
    with pytest.raises(UsageError, match=r"write it like|is not a share"):
        options.counted_share("--keep-top", text)


@pytest.mark.parametrize("text", ["pt", "120pt", "-1pt", "1.2.3pt", "much"])
def test_no_points(text: str) -> None:
    with pytest.raises(UsageError, match="max-loss"):
        options.points("--max-loss", text)


@pytest.mark.parametrize(
    ("given", "count", "held"),
    [
        ({"keep": 0.9}, 1000, 500),  # of 2,436
        ({"keep": 0.9}, 6000, 2436),  # 100 · 1.645² · 0.9 / 0.1
        ({"keep": 0.9, "search_share": 0.7}, 1000, 300),
        ({"search_share": 0.6}, 100, 40),
        ({}, 100, 25),
    ],
)
def test_the_split_follows_the_promise(given: dict[str, Any], count: int, held: int) -> None:
    samples = Samples({"x": np.arange(float(count))})
    fitted, certified = split(samples, Options(method="auto", **given))
    assert certified.count == held
    assert sorted([*fitted.arrays["x"], *certified.arrays["x"]]) == list(range(count))


def test_a_split_that_proves_nothing_is_refused() -> None:
    samples = Samples({"x": np.arange(400.0)})
    with pytest.raises(UsageError, match=r"search.share of 90% leaves 40 of 400 samples"):
        split(samples, Options(method="auto", keep=0.95, search_share=0.9))
    with pytest.raises(SamplesError, match=r"give 598 or more \(198 more than now"):
        split(samples, Options(method="auto", keep=0.99))
