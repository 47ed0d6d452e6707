"""Treemaps: areas are as sizes, modules hold together, small things are folded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshare.report.page.treemap import Leaf, Place, color, draw, lay_out, squarify

WHOLE = Place(0, 0, 960, 480)
AREA = WHOLE.width * WHOLE.height


def leaf(size: float, *module: str, name: str = "x", uses: int = 1) -> Leaf:
    return Leaf(name, module, size, params=10, connections=10 * uses)


def overlap(a: Place, b: Place) -> float:
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return max(wide, 0) * max(high, 0)


def inside(part: Place, place: Place) -> bool:
    return (
        part.x >= place.x - 0.01
        and part.y >= place.y - 0.01
        and part.x + part.width <= place.x + place.width + 0.01
        and part.y + part.height <= place.y + place.height + 0.01
    )


def test_the_example_of_the_paper() -> None:
    """Sizes 6, 6, 4, 3, 2, 2, 1 in 6 × 4: the first two, 3 × 2 each, fill the left half; the next
    two stand above each other's strip (Bruls et al., figure 4)."""
    first, second, third, fourth, *_ = squarify([6, 6, 4, 3, 2, 2, 1], Place(0, 0, 6, 4))
    assert (first, second) == (Place(0, 0, 3, 2), Place(0, 2, 3, 2))
    assert third.height == pytest.approx(7 / 3)
    assert third.width == pytest.approx(12 / 7)
    assert fourth.width == pytest.approx(9 / 7)


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=60))
def test_areas_are_as_sizes(sizes: list[float]) -> None:
    sizes = sorted(sizes, reverse=True)
    parts = squarify(sizes, WHOLE)
    for size, part in zip(sizes, parts, strict=True):
        area = part.width * part.height
        assert area == pytest.approx(size / sum(sizes) * AREA, rel=1e-6, abs=1e-6)
        assert inside(part, WHOLE)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.lists(st.sampled_from("abc"), max_size=4)),
        min_size=1,
        max_size=40,
    )
)
def test_modules_hold_together(items: list[tuple[int, list[str]]]) -> None:
    layout = lay_out((leaf(size, *module) for size, module in items), WHOLE, 100)
    total = sum(size for size, _ in items)
    assert sum(part.width * part.height for _, part in layout.leaves) == pytest.approx(AREA)
    for item, part in layout.leaves:
        assert part.width * part.height == pytest.approx(item.size / total * AREA, rel=1e-6)
        for path, place in layout.modules:
            belongs = item.module[: len(path)] == path
            shared = overlap(part, place)
            assert shared == pytest.approx(part.width * part.height * belongs, abs=1e-3)


def test_what_has_no_size_is_left_out() -> None:
    assert [item.size for item, _ in lay_out([leaf(0), leaf(3)], WHOLE, 10).leaves] == [3]
    assert lay_out([], WHOLE, 10).leaves == ()


def test_deep_modules_are_one_leaf_where_there_are_too_many() -> None:
    leaves = [leaf(1, f"block{at // 4}", "inner", uses=10) for at in range(40)]
    layout = lay_out(leaves, WHOLE, 20)
    found = sorted((item.name, item.size, item.role) for item, _ in layout.leaves)
    assert found == sorted((f"block{at}/inner", 4, "u10") for at in range(10))


def test_in_the_end_the_smallest_are_one() -> None:
    layout = lay_out([leaf(size, name=str(size)) for size in range(1, 101)], WHOLE, 10)
    names = [item.name for item, _ in layout.leaves]
    assert len(names) == 10
    assert "91 smaller layers" in names
    assert sum(item.size for item, _ in layout.leaves) == 5050


def test_names_of_very_many_parts() -> None:
    deep = tuple("a" * 20_000)
    layout = lay_out([leaf(1, *deep), leaf(2, *deep)], WHOLE, 10)
    assert len(layout.leaves) == 2


@pytest.mark.parametrize(
    ("params", "connections", "role"),
    [
        (0, 0, "unweighted"),
        (10, None, "unknown"),
        (10, 5, "once"),
        (10, 10, "once"),
        (10, 11, "u1"),
        (10, 100, "u10"),
        (10, 9_990, "u100"),
        (10, 10_000, "u1000"),
        (10, 10**7, "u10000"),
    ],
)
def test_colors(params: int, connections: int | None, role: str) -> None:
    assert color(params, connections) == role


def test_a_label_stands_only_where_there_is_room() -> None:
    layout = lay_out([leaf(1000, name="large"), leaf(1, name="a_very_long_name")], WHOLE, 10)
    texts = [shape.text for shape in draw(layout, WHOLE, "t").shapes if hasattr(shape, "text")]
    assert texts == ["large"]
