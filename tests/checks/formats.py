"""Reads the codes out of every format of `check`, and holds two formats to their schemas."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import xmlschema

_DATA = Path(__file__).resolve().parents[1] / "data"
_CODE = re.compile(r"[A-Z]{2}\d{3}")


@functools.cache
def _sarif() -> Any:
    schema = json.loads((_DATA / "sarif-schema-2.1.0.json").read_bytes())
    return jsonschema.Draft4Validator(schema)


@functools.cache
def _junit() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(_DATA / "junit.xsd")


def of_full(text: str) -> list[str]:
    return [line[:5] for line in text.splitlines() if _CODE.match(line)]


def of_json(text: str) -> list[str]:
    models = json.loads(text)["models"]
    return [finding["code"] for model in models for finding in model["findings"]]


def of_github(text: str) -> list[str]:
    commands = [line for line in text.splitlines() if line]
    assert all(re.match(r"::(error|warning|notice) ", line) for line in commands)
    verdict, *kinds = [line[2] for line in commands]
    assert verdict == "n", "the verdict comes first"
    assert kinds == sorted(kinds, key="ewn".index), "then errors"
    return [found[1] for line in commands if (found := re.search(r"title=([A-Z]{2}\d{3}) ", line))]


def of_sarif(text: str) -> list[str]:
    document = json.loads(text)
    _sarif().validate(document)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    found = [result for result in run["results"] if "suppressions" not in result]
    assert [rules[result["ruleIndex"]] for result in found] == [r["ruleId"] for r in found]
    return [result["ruleId"] for result in found]


def of_junit(text: str) -> list[str]:
    _junit().validate(text)
    suites = ElementTree.fromstring(text)
    for suite in suites:
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
    return [failure.attrib["type"] for failure in suites.iter("failure")]


def of_gitlab(text: str) -> list[str]:
    items = json.loads(text)
    assert len({item["fingerprint"] for item in items}) == len(items)
    for item in items:
        assert item["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert item["location"]["path"]
        assert item["location"]["lines"]["begin"] >= 1
    return [item["check_name"][:5] for item in items if _CODE.match(item["check_name"])]


def of_markdown(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for table in re.split(r"\n\n", text):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(bars) <= 1, "every row of a table has the same number of cells"
    shown = text.split("<details>")[0]
    return [
        found[1]
        for row in rows
        if row in shown and (found := re.match(r"\| ([A-Z]{2}\d{3}) ", row))
    ]


def of_csv(text: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(text))
    return [code for row in rows for code in row["codes"].split()]


def of_jsonl(text: str) -> list[str]:
    return [code for line in text.splitlines() for code in json.loads(line)["codes"]]


def of_html(text: str) -> list[str]:
    """The rule of each finding: a heading per rule, and a part per finding below it."""
    return [
        code
        for code, part in re.findall(r"<h2>([A-Z]{2}\d{3}) [^<]*</h2>(.*?)</section>", text, re.S)
        for _ in re.findall(r"<li><h3>", part)
    ]


READERS = {
    "full": of_full,
    "concise": of_full,
    "json": of_json,
    "github": of_github,
    "sarif": of_sarif,
    "junit": of_junit,
    "gitlab": of_gitlab,
    "markdown": of_markdown,
    "comment": of_markdown,
    "csv": of_csv,
    "jsonl": of_jsonl,
    "html": of_html,
}
