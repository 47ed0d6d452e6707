from __future__ import annotations

import datetime

import pytest

from onnxshare.checks.limits import Unit, parse_limit, resolved, show


@pytest.mark.parametrize(
    ("given", "unit", "expected"),
    [
        (5_000_000, "count", 5_000_000),
        (0, "count", 0),
        ("5M", "count", 5_000_000),
        ("5m", "count", 5_000_000),
        (" 5 M ", "count", 5_000_000),
        ("1.2G", "count", 1_200_000_000),
        ("2.3T", "count", 2_300_000_000_000),
        ("0.001K", "count", 1),
        ("1e6", "count", 1_000_000),
        ("61_706", "count", 61_706),
        (3.0, "count", 3),
        ("20MiB", "bytes", 20 * 1024 * 1024),
        ("1 kB", "bytes", 1000),
        ("1.5gib", "bytes", 1_610_612_736),
        ("2200B", "bytes", 2200),
        ("5M", "bytes", 5_000_000),
        (1048576, "bytes", 1_048_576),
        ("95%", "share", 0.95),
        ("99.9%", "share", 0.999),
        (0.5, "share", 0.5),
        (1, "share", 1.0),
        ("0", "share", 0.0),
        (10, "ratio", 10.0),
        ("2.5", "ratio", 2.5),
        ("1k", "ratio", 1000.0),
        ("ref.onnx", "model", "ref.onnx"),
    ],
)
def test_reads_numbers_and_suffixes(given: object, unit: Unit, expected: float | str) -> None:
    value = parse_limit(given, unit)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        ("many", "count"),
        ("", "count"),
        ("M", "count"),
        ("5Q", "count"),
        ("5MM", "count"),
        ("1,5", "ratio"),
        (1.5, "count"),
        ("1.2345K", "count"),
        (-1, "count"),
        (True, "count"),
        (float("nan"), "count"),
        (float("inf"), "ratio"),
        ("inf", "ratio"),
        ("nan", "share"),
        ("1e999999999", "count"),
        ("50%", "count"),
        ("5%", "ratio"),
        (95, "share"),
        ("101%", "share"),
        ("%", "share"),
        (-0.1, "share"),
        ([1], "count"),
        (datetime.date(2024, 1, 1), "count"),
        (None, "count"),
        ("", "model"),
        (3, "model"),
    ],
)
def test_refuses_what_is_no_limit(given: object, unit: Unit) -> None:
    with pytest.raises(ValueError, match=r"expected .+, not "):
        parse_limit(given, unit)


@pytest.mark.parametrize(
    ("value", "unit", "beside", "expected"),
    [
        (61_706, "count", None, "61,706"),
        (59_134 / 61_706, "share", None, "95.8%"),
        (1.0, "share", None, "100%"),
        (423_038 / 61_706, "ratio", None, "6.9"),
        (10.0, "ratio", None, "10"),
        (1234.5, "ratio", None, "1,234.5"),
        ("different", "model", "ref.onnx", "different"),
        # Rounded to one digit these would read "50% is above 50%".
        (0.50004, "share", 0.5, "50.004%"),
        (9.9999, "ratio", 10.0, "9.9999"),
    ],
)
def test_shows_values(value: float | str, unit: Unit, beside: float | None, expected: str) -> None:
    assert show(value, unit, near=beside) == expected


@pytest.mark.parametrize(
    ("limit", "before", "whole", "number"),
    [
        ("baseline", 100, True, 100),
        ("baseline + 2%", 100, True, 102),
        ("baseline + 2%", 61_590, True, 62_821),  # 62,821.8
        ("baseline + 14%", 50, True, 57),  # 50 · 1.14 is less than 57 in binary
        ("baseline - 10%", 101, True, 90),  # 90.9
        ("baseline - 2%", 0.5, False, 0.49),
        ("baseline + 5%", 0, True, 0),
    ],
)
def test_limits_relative_to_the_baseline(
    limit: str, before: float, whole: bool, number: float
) -> None:
    assert parse_limit(f" {limit.replace(' ', '')} ", "count", relative=True) == limit
    assert resolved(limit, before, whole=whole) == number
