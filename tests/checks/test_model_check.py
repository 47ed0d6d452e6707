"""Rules of other packages: told more than a limit by the policy, listed, explained, tried."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxshare.checks import Option, Problem, Rule, Subject, command, try_rule
from onnxshare.checks.rules import BY_CODE
from onnxshare.errors import UsageError
from tests.builders import model, node
from tests.checks.pairs import small
from tests.plugin_package import install

Cli = Callable[..., subprocess.CompletedProcess[str]]


def _named(subject: Subject, limit: Any) -> Iterator[Problem]:
    start, spared = subject.options["start"], subject.options["spared"]
    for one in subject.inspection.nodes:
        if not one.name.startswith(str(start)) and one.op_type not in spared:  # type: ignore[operator]
            yield Problem(f"is not named {start}…", one.name, command("inspect", "x"), one.name)


RULE = Rule(
    "AC101",
    "node-names",
    "named-nodes",
    "flag",
    True,
    measures="whether the name of every node begins as the team's do",
    why="Reports name nodes.",
    fix="Name the layers.",
    judge=_named,
    short="A node has a foreign name",
    options={
        "start": Option("text", "net", "how names begin"),
        "spared": Option("names", ("Relu",), "operators that may have any name"),
    },
)


def two_nodes() -> onnx.ModelProto:
    nodes = [node("Relu", "x", "a", name="r"), node("Exp", "a", "y", name="e")]
    return model(nodes, {"x": ["N", 3]}, ["y"])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ["e"]),
        ({"start": "e"}, []),
        ({"spared": ["Exp"]}, ["r"]),
        ({"spared": "Exp,Relu"}, []),
    ],
)
def test_a_rule_is_tried_without_being_installed(options: dict[str, Any], found: list[str]) -> None:
    findings = try_rule(RULE, two_nodes(), options=options)
    assert [finding.node for finding in findings] == found
    assert [finding.code for finding in findings] == ["AC101"] * len(found)


@pytest.mark.parametrize(
    ("rule", "limit", "options", "part"),
    [
        (replace(RULE, code="WS999"), None, {}, "codes such as WS999 are onnxshare's own"),
        (replace(RULE, name="params"), None, {}, "'params' is taken"),
        (replace(RULE, option="max-findings"), None, {}, "'max-findings' is taken"),
        (replace(RULE, options={"limit": RULE.options["start"]}), None, {}, "may not be called"),
        (RULE, "many", {}, "expected true or false"),
        (RULE, None, {"spared": 3}, "expected a list of names"),
        (RULE, None, {"strat": "x"}, "did you mean start?"),
        (replace(RULE, default=None), None, {}, "expected true or false"),
    ],
)
def test_a_rule_that_cannot_be_used(
    rule: Rule, limit: object, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(UsageError) as caught:
        try_rule(rule, two_nodes(), limit, options=options)
    assert part in str(caught.value)


def test_our_own_rules_are_tried_too() -> None:
    """61,590 − 150 is beyond what 2 % leave of 100 parameters."""
    (found,) = try_rule(BY_CODE["BG202"], small(), "baseline + 2%", before={"params": 100})
    assert found.text == "150 parameters; the limit is at most 102 (baseline + 2%)"
    assert try_rule(BY_CODE["BG202"], small(), "baseline - 0.5%", before={"params": 151}) == ()
    assert try_rule(BY_CODE["BG202"], small(), "baseline") == ()  # nothing was measured before


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    entries = "[onnxshare.rules]\nnames = acme_names:RULE\n"
    install(tmp_path / "site", monkeypatch, entries, "acme_names", f"from {__name__} import RULE\n")
    onnx.save(two_nodes(), "a.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("check", "nodes"),
    [
        ("named-nodes = true", ["e"]),
        ("[check.node-names]", ["e"]),
        ('[check.node-names]\nstart = "e"\nspared = ["Exp"]', ["r"]),
        ('named-nodes = false\n[check.node-names]\nstart = "e"', None),
        ("[check.node-names]\nlimit = false", None),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_policy_tells_a_rule_more_than_its_limit(
    cli: Cli, check: str, nodes: list[str] | None
) -> None:
    Path("onnxshare.toml").write_text(f"[check]\nmax-params = 1\n{check}\n")
    ran = cli("check", "a.onnx", "--format", "json")
    (found,) = json.loads(ran.stdout)["models"]
    assert ran.returncode == (1 if nodes else 0)
    assert [finding["node"] for finding in found["findings"]] == (nodes or [])
    assert ("named-nodes" in found["limits"]) is (nodes is not None)


@pytest.mark.usefixtures("installed")
def test_what_a_policy_says_wrongly_is_named(cli: Cli) -> None:
    Path("onnxshare.toml").write_text("[check.node-names]\nstrat = 'x'\nspared = 3\n")
    ran = cli("check", "a.onnx")
    assert ran.returncode == 2
    assert "check.node-names.strat: unknown key, did you mean start?" in ran.stderr
    assert "check.node-names.spared: expected a list of names" in ran.stderr


@pytest.mark.usefixtures("installed")
def test_its_options_are_listed_and_explained(cli: Cli) -> None:
    assert "node-names.start" in cli("rules").stdout
    document = json.loads(cli("rules", "--format", "json").stdout)
    (rule,) = [rule for rule in document["rules"] if rule["code"] == "AC101"]
    assert rule["options"]["start"]["about"] == "how names begin"
    text = cli("explain", "AC101").stdout
    assert '[check.node-names]\nstart = "net"  # how names begin\nspared = ["Relu"]  # op' in text


def test_every_rule_of_ours_says_in_short_what_is_wrong() -> None:
    for rule in BY_CODE.values():
        assert 15 < len(rule.short) < 70, rule.code
        assert rule.short[-1] != "."
