"""Names are broken where their parts meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from onnxshare.report.text_tools import folded


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
