"""The published schema of the policy file, the pages of the rules, and the file of `init`."""

from __future__ import annotations

import datetime
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from onnxshare.checks.explain import all_pages
from onnxshare.checks.policy_file import read_policy
from onnxshare.checks.policy_schema import policy_schema
from onnxshare.checks.policy_template import PRESETS, starter
from onnxshare.checks.rules import RULES
from onnxshare.errors import UsageError


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def document(text: str) -> Any:
    """TOML as JSON has it: dates are text there."""
    return json.loads(json.dumps(tomllib.loads(text), default=lambda date: date.isoformat()))


def test_the_file_in_the_repository_is_the_schema(root: Path) -> None:
    assert json.loads((root / "onnxshare.schema.json").read_text()) == policy_schema()


def test_the_pages_in_the_docs_are_those_of_the_rules(root: Path) -> None:
    assert all_pages() in (root / "docs" / "rules.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_page_says_all_that_is_asked(rule: Any) -> None:
    for text in (rule.measures, rule.why, rule.fix):
        assert len(text) > 20
    assert rule.why.endswith(".")
    assert not rule.measures.endswith(".")


@pytest.mark.parametrize("name", PRESETS)
def test_what_init_writes_is_a_policy(name: str, tmp_path: Path, validator: Any) -> None:
    for model in ("a.onnx", "deep/b.onnx"):
        (tmp_path / model).parent.mkdir(exist_ok=True)
        (tmp_path / model).write_bytes(b"")
    text = starter(name, tmp_path)
    validator.validate(document(text))
    path = tmp_path / "onnxshare.toml"
    path.write_text(text, encoding="utf-8")
    policy = read_policy(path)
    assert set(policy.limits) == set(PRESETS[name].limits)
    found = [Path(entry.path).relative_to(tmp_path).as_posix() for entry in policy.models]
    assert found == ["*.onnx", "deep/**/*.onnx"]  # those added later are checked too
    # What is commented out is right too, once its marks are taken away.
    lines = text.splitlines()
    first = lines.index('# check = { max-params = "50M", max-fc-share = false }')
    shown = [line.removeprefix("# ") for line in lines[first:] if line.startswith("# ")]
    shown = [line for line in shown if "=" in line or line.startswith("[[")]
    whole = "\n".join([*lines[: first - 3], *shown])
    validator.validate(document(whole))
    path.write_text(whole, encoding="utf-8")
    assert read_policy(path).allow[0].expires == datetime.date(2027, 6, 30)


@pytest.mark.parametrize(
    "text",
    [
        "[check]\nmax-parms = 3\n",
        "[check]\nmax-params = true\n",
        '[check]\nmax-params = "lots"\n',
        "[check]\nmax-fc-share = 2\n",
        "[check]\ngap-is-exact = 'yes'\n",
        "models = [3]\n",
        "[[models]]\nsamples = 'a'\n",
        "[[allow]]\nrule = 'WS101'\n",
        "[[allow]]\nrule = 'WS1'\nreason = 'x'\n",
        "other = 1\n",
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(
    text: str, tmp_path: Path, validator: Any
) -> None:
    assert not validator.is_valid(document(text))
    path = tmp_path / "onnxshare.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_policy(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models = ['a.onnx', 'b/*.onnx']\nbaseline = 'b.json'\n",
        "[check]\nmax-params = '5M'\nmax-file-size = '20 MiB'\nmax-fc-share = '50%'\n",
        "[check]\nmax-params = false\noperators = 'Conv,Relu'\nselect = ['WS', 'DP404']\n"
        "ignore = ['BG202']\n",
        "[[models]]\npath = 'a'\ncheck = { gap-is-exact = true }\ninput-shapes = { x = [1, 2] }\n",
    ],
)
def test_the_schema_and_the_reader_take_the_same(text: str, tmp_path: Path, validator: Any) -> None:
    validator.validate(document(text))
    path = tmp_path / "onnxshare.toml"
    path.write_text(text)
    read_policy(path)
