"""The schemas hold for what the commands print, and for nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docs.json_schemas import PRINTED, schema
from tests.report.plot.test_tradeoff import CLASSES

Cli = Callable[..., subprocess.CompletedProcess[str]]

LENET, TWIN = "models/lenet5.onnx", "models/lenet5-torchscript.onnx"
VGG, IMAGES = "models/vgg_small.onnx", "models/calibration.npz"

#: Command lines whose output has as many different fields as there are.
LINES: dict[str, list[list[str]]] = {
    "inspect": [[LENET], [VGG, "--hash", "--dim", "batch=1,8"]],
    "rewrite": [
        [LENET, "--fc-to-conv", "--share", "--dry-run", "--in-process"],
        [VGG, "--fc-to-gap", "--dry-run"],
        [LENET, *"--fc-to-gap --approximate --dry-run --in-process --samples".split(), IMAGES],
    ],
    "compare": [[LENET, TWIN], [LENET, VGG], [LENET, "models/gap_net.onnx", "--in-process"]],
    "diff": [[LENET, TWIN], [LENET, VGG]],
    "family": [["models/enas/child-1.onnx", "models/enas/child-3.onnx"]],
    "family-write": [
        "models/enas/child-1.onnx models/enas/child-3.onnx --write out --dry-run".split()
    ],
    "check": [[VGG, "--max-fc-share", "50%", "--isolated"], [LENET, "--select", "WS"]],
    "doctor": [[]],
}


@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_fits(
    command: str, cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    judge = Draft202012Validator(schema(command))
    if command == "scan":
        ran = cli("scan", LENET, "README.md", "--format", "jsonl", "--families")
        for line in ran.stdout.splitlines():
            judge.validate(json.loads(line))
        assert len(ran.stdout.splitlines()) == 2
        return
    for words in LINES[command]:
        ran = cli(command.partition("-")[0], *words, "--format", "json")
        assert ran.returncode in (0, 1), ran.stderr
        judge.validate(json.loads(ran.stdout))


def test_what_a_search_tried_fits() -> None:
    made = schema("rewrite")
    search = {"$ref": "#/$defs/small_heads.Search", "$defs": made["$defs"]}
    Draft202012Validator(search).validate(CLASSES.to_dict())
    assert CLASSES.candidates


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "properties" in value:
            yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


@pytest.mark.parametrize("command", PRINTED)
def test_a_schema_is_one_and_explains_every_field(command: str) -> None:
    made = schema(command)
    Draft202012Validator.check_schema(made)
    for item in objects(made):
        for name, field in item["properties"].items():
            where = f"{item.get('description')}: {name}"
            if "sizes" not in where and where != "None: nodes" and where != "None: totals":
                assert field.get("description"), where


def test_another_field_does_not_fit(cli: Cli, root: Path) -> None:
    ran = cli("inspect", root / LENET, "--format", "json")
    report = json.loads(ran.stdout)
    judge = Draft202012Validator(schema("inspect"))
    assert judge.is_valid(report)
    assert not judge.is_valid({**report, "more": 1})
    assert not judge.is_valid({**report, "totals": {**report["totals"], "params": "61706"}})
    del report["nodes"][0]["macs"]
    assert not judge.is_valid(report)
