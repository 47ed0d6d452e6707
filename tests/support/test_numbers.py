"""Whole numbers in text, and quotients."""

from __future__ import annotations

import pytest

from onnxshare.support.numbers import quotient, whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("224", 224), (" 8 ", 8), ("007", 7), ("9" * 18, 10**18 - 1)],
)
def test_numbers(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1.0",
        "1_000",
        "1e3",
        "0x10",
        "²",
        "٣",
        "１",
        "inf",
        "nan",
        "9" * 5000,
        "1 2",
    ],
)
def test_what_is_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize(
    ("number", "by", "value"),
    [(7, 2, 3.5), (0, 5, 0.0), (None, 5, None), (5, 0, None), (10**400, 3, None)],
)
def test_quotients(number: int | None, by: int, value: float | None) -> None:
    assert quotient(number, by) == value
