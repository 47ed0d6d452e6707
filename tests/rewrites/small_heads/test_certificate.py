"""Bounds and numbers of samples against their definitions, and names of methods."""

from __future__ import annotations

from math import comb, inf, log

import numpy as np
import pytest

from onnxshare.comparison.target import Measure, agreement_lower_bound, percent
from onnxshare.errors import UsageError
from onnxshare.runtime.latency import Latency
from rewrites.small_heads.certificate import (
    Estimate,
    Target,
    estimate,
    fixed_sequence,
    samples_needed,
)
from rewrites.small_heads.methods import EXACT, INT8, Method, family, parse
from rewrites.small_heads.search import by_cost, ladder, settle
from rewrites.small_heads.search_result import Candidate, Search


@pytest.mark.parametrize(
    ("keep", "needed"), [(0.99, 299), (0.95, 59), (0.9, 29), (0.999, 2995), (0.5, 5)]
)
def test_samples_needed(keep: float, needed: int) -> None:
    """The least n with keepⁿ ≤ 0.05."""
    assert samples_needed(Target(keep=keep)) == needed
    assert keep**needed <= 0.05 < keep ** (needed - 1)


@pytest.mark.parametrize(("wrong", "count"), [(0, 299), (0, 298), (1, 473), (1, 472), (3, 773)])
def test_agreement_is_proven_exactly_when_the_binomial_says_so(wrong: int, count: int) -> None:
    """At an agreement of 99 %, so few misses have a probability of at most 5 %."""
    scores = np.eye(2)[np.zeros(count, int)]
    given = scores.copy()
    given[:wrong] = given[:wrong, ::-1]
    found = estimate({0: scores}, {0: given}, frozenset([0]))
    tail = sum(comb(count, k) * 0.01**k * 0.99 ** (count - k) for k in range(wrong + 1))
    assert found.reaches(Target(keep=0.99)) is (tail <= 0.05)
    assert found.agreement == pytest.approx(1 - wrong / count)


def test_agreement_of_several_outputs_is_joint() -> None:
    scores = np.eye(2)[np.zeros(10, int)]
    first, second = scores.copy(), scores.copy()
    first[0], second[1] = first[0, ::-1], second[1, ::-1]
    found = estimate({0: scores, 1: scores}, {0: first, 1: second}, frozenset([0, 1]))
    assert found.agreement == pytest.approx(0.8)


@pytest.mark.parametrize("count", [40, 400])
def test_error_bound_covers(count: int) -> None:
    """Over 400 draws the bound lies below the true relative error in about 5 %."""
    random = np.random.default_rng(count)
    broken = 0
    for _ in range(400):
        wanted = random.standard_normal((count, 3))
        given = wanted + 0.1 * random.standard_normal((count, 3))
        found = estimate({0: wanted}, {0: given}, frozenset())
        assert found.error is not None
        assert found.error_high is not None
        assert found.error < found.error_high
        broken += found.error_high < 0.1
    assert broken <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize(
    ("wanted", "given", "high"),
    [
        pytest.param(np.ones((5, 2)), np.ones((5, 2)), 0.0, id="no error"),
        pytest.param(np.ones((5, 2)), np.zeros((5, 2)), np.inf, id="outputs that never move"),
        pytest.param(np.ones((1, 2)), np.zeros((1, 2)), np.inf, id="one sample"),
    ],
)
def test_error_bound_at_the_edges(wanted: np.ndarray, given: np.ndarray, high: float) -> None:
    assert estimate({0: wanted}, {0: given}, frozenset()).error_high == high


@pytest.mark.parametrize(
    ("share", "words"), [(0.99, "99.0 %"), (0.9995, "99.95 %"), (0.9, "90.0 %"), (0.05, "5.0 %")]
)
def test_percent(share: float, words: str) -> None:
    assert percent(share) == words


NAMES = {
    "gap": Method("first", "gap"),
    "grid:3": Method("first", "grid", 3),
    "mask:12": Method("first", "mask", 12),
    "depthwise": Method("first", "depthwise"),
    "collapse": Method("collapse", "full"),
    "collapse+gap": Method("collapse", "gap"),
    "collapse+mask:4": Method("collapse", "mask", 4),
    "stack:16": Method("stack", "full", 1, 16),
    "stack:12+mask:8": Method("stack", "mask", 8, 12),
    "mlp:16+separable:24": Method("mlp", "separable", 24, 16),
    "mlp:16+separable:24+grid:4": Method("mlp", "separable", 24, 16, 4),
    "separable:6": Method("first", "separable", 6),
    "collapse+separable:6+grid:2": Method("collapse", "separable", 6, 0, 2),
    "int8": INT8,
    "gap+int8": Method("first", "gap", int8=True),
    "stack:32+int8": Method("stack", "full", 1, 32, int8=True),
    "mlp:16+separable:24+int8": Method("mlp", "separable", 24, 16, int8=True),
    "exact": EXACT,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_back(name: str) -> None:
    assert parse(name) == NAMES[name]
    if name != "exact":
        assert NAMES[name].name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "mask", "gap:2", "mask:-1", "mask:2+mask:3", "Collapse", "stack", "+", "mask:1e3"),
        *("mlp:8", "mlp:8+grid:4", "mlp:8+mask:4", "stack:2+separable:4", "mlp+separable:4"),
        *("mlp:8+separable:4+grid", "mlp:8+separable:4+mask:2", "mask:2+grid:4"),
        *("int8:4", "int8+int8", "exact+int8", "int4"),
    ],
)
def test_no_names(name: str) -> None:
    with pytest.raises(UsageError, match="no method"):
        parse(name)


def test_family_has_no_two_alike() -> None:
    shapes = ((1, 8, (7, 7)), (2, 3, (2, 2)), (3, 4, (1,)), (2, 512, (9, 14)), (1, 2, (6, 4, 20)))
    for depth, channels, spatial in shapes:
        names = [method.name for method in family(depth, 10, channels, spatial)]
        assert len(set(names)) == len(names)
        assert [parse(name).name for name in names] == names


def test_past_the_deadline_only_the_first_is_measured() -> None:
    sure, target = Estimate(100, 1.0, 0.97), Target(keep=0.9)
    order = ["surest", "cheaper", "cheapest"]
    for deadline, measured in ((-inf, order[:1]), (inf, order)):
        found = fixed_sequence(order, lambda _: sure, target, deadline)
        assert [name for name, _ in found] == measured


def test_half_of_what_is_certain_is_not_promised() -> None:
    """59 samples without a miss prove 95 %, and not 95.1 %."""
    same = np.eye(2)[np.zeros(59, int)]
    found = estimate({0: same}, {0: same}, frozenset([0]))
    assert found.agreement_low == pytest.approx(np.exp(log(0.05) / 59))
    assert found.reaches(Target(keep=0.95))
    assert not found.reaches(Target(keep=0.951))


def result(low: float) -> Estimate:
    return Estimate(300, low, low)


@pytest.mark.parametrize(
    ("lows", "measured", "kept"),
    [
        ((0.99, 0.98, 0.97), "abc", "abc"),
        ((0.99, 0.94, 0.97), "ab", "a"),  # c would pass, and is not looked at
        ((0.94, 0.99, 0.99), "a", ""),
        ((), "", ""),
    ],
)
def test_fixed_sequence_ends_at_the_first_failure(
    lows: tuple[float, ...], measured: str, kept: str
) -> None:
    known = dict(zip("abc", lows, strict=False))
    found = fixed_sequence(list(known), lambda name: result(known[name]), Target(keep=0.95))
    assert "".join(name for name, _ in found) == measured
    assert "".join(name for name, item in found if item.reaches(Target(keep=0.95))) == kept


def test_ladder_goes_from_the_surest_to_the_cheapest() -> None:
    """What is dearer and no surer than another is left out, and what does not reach the target."""
    rows = [("a", 10, 0.97), ("b", 20, 0.96), ("c", 30, 0.99), ("d", 40, 0.98), ("e", 5, 0.90)]
    candidates = tuple(
        Candidate(name, params, params, params, result(low), reaches=low >= 0.95)
        for name, params, low in rows
    )
    found = Search(Target(keep=0.95), "", 300, 50, candidates, "a")
    assert ladder(found, "params") == ["c", "a"]


@pytest.mark.parametrize(
    ("cheap", "dear", "rungs"),
    [
        pytest.param((100, 0.97, 0.92), (500, 0.965, 0.948), ["cheap"], id="bounds of few"),
        pytest.param((100, 0.97, 0.92), (500, 0.972, 0.957), ["cheap"], id="little better"),
        pytest.param((100, 0.97, 0.92), (500, 0.977, 0.963), ["dear", "cheap"], id="better"),
        pytest.param((100, 1.0, 0.97), (500, 1.0, 0.994), ["dear", "cheap"], id="both perfect"),
    ],
)
def test_a_dearer_head_is_a_rung_if_it_misses_clearly_less(
    cheap: tuple[int, float, float], dear: tuple[int, float, float], rungs: list[str]
) -> None:
    """By what was estimated: what was fitted once has a low bound, because it was measured on a
    fifth of the samples."""
    candidates = tuple(
        Candidate(name, params, params, params, Estimate(*figures), reaches=True)
        for name, params, figures in (("cheap", 12, cheap), ("dear", 30, dear))
    )
    found = Search(Target(keep=0.95), "", 500, 50, candidates, "cheap")
    assert ladder(found, "params") == rungs


@pytest.mark.parametrize(
    ("target", "estimate", "used"),
    [
        pytest.param(Target(keep=0.95), Estimate(100, 0.97, 0.92), 3.5 / 101 / 0.05, id="3 of 100"),
        pytest.param(Target(max_error=0.1), Estimate(100, error=0.08), 0.8, id="values"),
        pytest.param(
            Target(keep=0.9, max_error=0.1),
            Estimate(100, 0.99, 0.9, error=0.08),
            0.8,
            id="the larger of both",
        ),
        pytest.param(
            Target(keep_top=(5, 0.99)),
            Estimate(1000, 0.5, 0.4, kept=(Measure("keep_top:5", 1000, 0.995, 0.99),)),
            5.5 / 1001 / 0.01,
            id="of the top 5",
        ),
        pytest.param(
            Target(max_loss=0.01),
            Estimate(100, 0.9, 0.8, kept=(Measure("max_loss", 100, 0.003, -0.008),)),
            0.8,
            id="the bound of points",
        ),
        pytest.param(Target(keep=1.0), Estimate(100, 0.99, 0.9), inf, id="nothing may be missed"),
        pytest.param(Target(keep=0.9), Estimate(40, 1.0, 0.93), 0.5 / 41 / 0.1, id="none of few"),
    ],
)
def test_how_much_of_what_may_be_missed_is_missed(
    target: Target, estimate: Estimate, used: float
) -> None:
    assert estimate.used(target) == pytest.approx(used)


def test_sizes_far_apart_get_a_rung_between_them() -> None:
    """The surest between them, though the smaller seems to be surer; not where they are close."""
    rows = [("a", 10, 0.97), ("b", 20, 0.955), ("c", 30, 0.96), ("d", 50, 0.99), ("e", 60, 0.98)]
    rows += [("f", 190, 0.995)]
    candidates = tuple(
        Candidate(name, params, params, params, result(low), reaches=True)
        for name, params, low in rows
    )
    found = Search(Target(keep=0.95), "", 300, 50, candidates, "a")
    assert ladder(found, "params") == ["f", "d", "c", "a"]


def test_settling_marks_what_was_measured_and_what_failed() -> None:
    """The last that passes is chosen; what comes after the first failure was never measured."""
    candidates = tuple(
        Candidate(name, 10, 10, 10, result(0.96), reaches=True, chosen=name == "a")
        for name in "abcd"
    )
    found = Search(Target(keep=0.95), "", 300, 50, candidates, "a")
    passed = [("d", result(0.98)), ("c", result(0.97)), ("b", result(0.94))]
    settled = settle(found, passed)
    assert settled.chosen == "c"
    assert settled.certified
    assert settled.certificate == result(0.97)
    assert [item.chosen for item in settled.candidates] == [False, False, True, False]
    assert [item.certified for item in settled.candidates] == [None, False, True, True]
    assert settled.candidates[0].certificate is None
    assert settled.candidates[1].certificate == result(0.94)
    failed = settle(found, [("d", result(0.9))])
    assert failed.chosen == "exact"
    assert failed.certified is False
    assert failed.certificate == result(0.9)
    assert not any(item.chosen for item in failed.candidates)


def timed(name: str, params: int, ratio: float | None) -> Candidate:
    latency = Latency(1, ratio=ratio, reason="" if ratio else "it hangs")
    return Candidate(name, params, params, params, result(0.99), latency, reaches=True)


@pytest.mark.parametrize(
    ("ratios", "order"),
    [
        ({"a": 0.2, "b": 0.5, "c": 0.8}, "abc"),
        ({"a": 0.8, "b": 0.5, "c": 0.2}, "cba"),
        ({"a": 0.505, "b": 0.5, "c": 0.495}, "abc"),  # no difference: the fewer parameters
        ({"a": 0.52, "b": 0.505, "c": 0.495}, "bca"),  # nor between the first two
        ({"a": None, "b": 0.5, "c": 0.2}, "cba"),  # what was not timed comes last
        ({"a": None, "b": None, "c": None}, "abc"),
    ],
)
def test_of_about_equal_latencies_the_smaller_head_is_the_cheaper(
    ratios: dict[str, float | None], order: str
) -> None:
    items = [timed(name, 10 + place, ratios[name]) for place, name in enumerate(ratios)]
    assert "".join(item.method for item in by_cost(items[::-1], "latency")) == order
    assert by_cost(items[::-1], "params")[0].method == "a"


def test_false_promises_of_a_fixed_sequence_are_rare() -> None:
    """Four candidates, three of them below 90 %: in at most 5 % of draws one of those is kept."""
    random = np.random.default_rng(0)
    true = {"a": 0.93, "b": 0.89, "c": 0.895, "d": 0.88}
    broken = 0
    for _ in range(600):

        def measure(name: str) -> Estimate:
            right = int(random.binomial(200, true[name]))
            low = agreement_lower_bound(right, 200)
            return Estimate(200, right / 200, low)

        found = fixed_sequence(list(true), measure, Target(keep=0.9))
        kept = [name for name, item in found if item.reaches(Target(keep=0.9))]
        broken += bool(kept) and true[kept[-1]] < 0.9
    assert broken <= 600 * 0.05 + 3 * (600 * 0.05 * 0.95) ** 0.5
