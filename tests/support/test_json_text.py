"""JSON as it is written: what orjson does not do is done beside it."""

import json
import math
from typing import Any

import pytest

import onnxshare
from onnxshare.support.json_text import json_text
from tests.conftest import ROOT


@pytest.mark.parametrize("indented", [False, True])
@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": math.nan, "b": [math.inf, -math.inf, 1e300]}, {"a": None, "b": [None, None, 1e300]}),
        ({"n": 2**64, "f": math.nan}, {"n": 2**64, "f": None}),
        ({"n": [2**63, 2**64 - 1, -(2**63), -(2**63) - 1]}, None),
        ({"path": "a\udc80b"}, None),
        (
            {"z": 1, "a": -0.0, "m": 0.1, "é": (1, "x")},
            {"z": 1, "a": -0.0, "m": 0.1, "é": [1, "x"]},
        ),
        ([], None),
        ({"a": {}, "b": []}, None),
    ],
)
def test_what_is_written_is_what_json_reads(value: Any, read: Any, indented: bool) -> None:
    text = json_text(value, indented=indented)
    found = json.loads(text)
    assert found == (value if read is None else read)
    assert list(found) == list(value if read is None else read)  # in the same order
    assert ("\n" in text) == (indented and bool(value))


@pytest.mark.parametrize(
    "char",
    "\x00 \x1b \x7f \x85 \x9b \xad \u061c \u180e \u200b \u200f \u2028 \u2029 \u202e \u2060 \u2066 "
    "\ufeff \ufff9 \U000e0041 \n \r".split(" "),
)
@pytest.mark.parametrize("rest", ["", "层", 2**64, "\udc80"])
def test_what_a_terminal_obeys_is_escaped(char: str, rest: Any) -> None:
    value = {f"key{char}": f"a{char}b", "rest": rest}
    text = json_text(value)
    assert char not in text
    assert json.loads(text) == value
    assert rest != "层" or "层" in text


@pytest.mark.parametrize("name", ["##[error]x", "###[x", "a##[group]层"])
def test_no_mark_of_a_ci_system_is_written(name: str) -> None:
    text = json_text({"name": name})
    assert "##[" not in text
    assert json.loads(text) == {"name": name}


def test_records_are_written_with_the_fields_of_the_report() -> None:
    report = onnxshare.inspect(ROOT / "models" / "lenet5.onnx")
    records = report.records()
    for kind in ("nodes", "weights"):
        written = [json.loads(json_text(item)) for item in records[kind]]
        said = report.to_dict()[kind]
        assert written == json.loads(json.dumps(said))
        assert [list(item) for item in written] == [list(item) for item in said]
