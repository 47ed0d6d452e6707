"""Names are broken where their parts meet; numbers are read at a glance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from onnxshare.report.text_tools import folded, rounded


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        pytest.param("conv1", 12, ["conv1"], id="fits"),
        pytest.param("model/dense/MatMul", 13, ["model/dense/", "MatMul"], id="slash"),
        pytest.param("block.attention.query", 16, ["block.attention.", "query"], id="dot"),
        pytest.param("a/reparametrised_conv", 18, ["a/reparametrised_", "conv"], id="late border"),
        pytest.param("abcdefgh", 3, ["abc", "def", "gh"], id="no border"),
        pytest.param("卷积层/乘", 6, ["卷积层", "/乘"], id="wide characters"),
    ],
)
def test_names(name: str, width: int, lines: list[str]) -> None:
    assert folded(name, width).split("\n") == lines


@given(st.text(st.characters(exclude_characters="\n"), max_size=40), st.integers(2, 20))
def test_nothing_is_lost_and_every_line_fits(name: str, width: int) -> None:
    lines = folded(name, width).split("\n")
    assert "".join(lines) == name
    assert all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (999, "999"),
        (1_000, "1 k"),
        (999_600, "1 M"),
        (19_632_062_464, "19.6 G"),
        (2_500_000_000_000_000, "2,500 T"),
        (10**400, f"{10**388:,} T"),  # sizes that a damaged file announces are no floats
    ],
)
def test_rounded(number: int | None, text: str) -> None:
    assert rounded(number) == text
