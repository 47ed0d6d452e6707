"""The one writer of tables."""

from __future__ import annotations

import csv
import io

import pytest

from onnxshare.report.table import Table, named, rows


@pytest.mark.parametrize(
    "word",
    [
        "=1+1",
        "-1+2",
        "@SUM(A1)",
        " =1",
        "\t=1",
        "-",
        "\uff1d1",
        "\uff0b1",
        "\uff20a",
        "\r\n=1",
        "=cmd|' /C calc'!A0",
    ],
)
def test_no_cell_is_a_formula(word: str) -> None:
    text = Table(named("name"), rows([[word]])).csv()
    (_, (cell,)) = csv.reader(io.StringIO(text))
    assert cell == "'" + word.replace("\t", "\\t").replace("\r\n", "\\r\\n")


@pytest.mark.parametrize("word", ["conv1", "a=b", "1", "-1", "-0.5", "+3", "层"])
def test_other_cells_stay_as_they_are(word: str) -> None:
    text = Table(named("name"), rows([[word]])).csv()
    (_, (cell,)) = csv.reader(io.StringIO(text))
    assert cell == word
