"""The policy on the command line: what comes before what, baselines, and the commands around it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from onnxshare.checks.rules import BY_CODE
from tests.checks.pairs import lenet, small

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model of 61,590 parameters and one of 150."""
    (tmp_path / "models").mkdir()
    onnx.save(lenet(), tmp_path / "models" / "large.onnx")
    onnx.save(small(), tmp_path / "models" / "small.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(ran: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^[A-Z]{2}\d{3}", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "variable", "option", "code"),
    [
        (None, None, "100k", 0),
        ("1k", None, None, 1),
        ("1k", "100k", None, 0),
        ("1k", "100k", "2k", 1),
        ("100k", "1k", None, 1),
        ("100k", "1k", "90k", 0),
    ],
)
def test_options_beat_variables_beat_the_file(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
    variable: str | None,
    option: str | None,
    code: int,
) -> None:
    if file:
        Path("onnxshare.toml").write_text(f'[check]\nmax-params = "{file}"\n')
    if variable:
        monkeypatch.setenv("ONNXSHARE_MAX_PARAMS", variable)
    options = ["--max-params", option] if option else []
    assert cli("check", "models", *options).returncode == code
    # Alone, the options decide.
    alone = cli("check", "models", "--isolated", "--max-params", "100k")
    assert (alone.returncode, found(alone)) == (0, [])


def test_a_bad_variable_is_a_usage_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXSHARE_MAX_PARAMS", "lots")
    ran = cli("check", "models")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "max-params: expected a whole number" in ran.stderr


def test_rules_by_code_family_and_name(cli: Cli) -> None:
    assert found(cli("check", "models", "--isolated", "--select", "WS104,size-locked")) == [
        "WS104",
        "WS108",
    ]
    ran = cli("check", "models", "--isolated", "--select", "WS", "--ignore", "WS101,WS102")
    assert found(ran) == ["WS103", "WS104", "WS108"]
    ran = cli("check", "models", "--isolated", "--select", "WS104", "--warn", "convolution-form")
    assert (ran.returncode, found(ran)) == (0, ["WS104"])
    assert "1 finding (1 only warns)" in ran.stdout
    ran = cli("check", "models", "--select", "WS199")
    assert ran.returncode == 2
    assert "--select WS199: no such rule, did you mean WS10" in ran.stderr
    ran = cli("check", "models", "--select", "BG203")
    assert "--select BG203: needs a limit, give --max-macs" in ran.stderr


def test_without_a_policy_there_are_rules_too(cli: Cli) -> None:
    ran = cli("check", "models")
    assert (ran.returncode, found(ran)) == (0, ["WS101"])
    assert "1 only warns" in ran.stdout


def test_a_way_from_nothing_to_a_gate(cli: Cli) -> None:
    """init, edit, check, baseline, a worse model: the path of docs/how-to/gate-a-repository.md."""
    assert cli("init", "--preset", "edge").stderr.startswith("wrote onnxshare.toml; edit it")
    ran = cli("check")
    assert (ran.returncode, set(found(ran))) == (1, {"WS101", "WS102"})
    policy = Path("onnxshare.toml")
    edited = policy.read_text().replace("# baseline = ", "baseline = ")
    policy.write_text(edited.replace('max-fc-share = "50%"', "max-fc-share = false"))
    wrote = cli("check", "--write-baseline", "onnxshare-baseline.json")
    assert wrote.returncode == 0
    assert wrote.stderr == "wrote onnxshare-baseline.json: 1 known finding\n"
    ran = cli("check")
    assert (ran.returncode, found(ran)) == (0, [])
    assert "1 silenced" in ran.stdout
    onnx.save(lenet(), "models/small.onnx")  # grew behind our back
    ran = cli("check")
    assert ran.returncode == 1
    assert {"WS102", "RG501"} == set(found(ran))
    assert "parameters: 150 → 61,590 (+40960.0%)" in ran.stdout
    onnx.save(small(), "models/small.onnx")
    onnx.save(small(), "models/large.onnx")
    ran = cli("check")
    assert ran.returncode == 0
    assert ran.stdout.count("stale  baseline WS102") == 1


def test_slack(cli: Cli) -> None:
    cli("check", "models", "--max-params", "1G", "--write-baseline", "b.json")
    text = Path("b.json").read_text()
    Path("b.json").write_text(text.replace('"params": 61590', '"params": 60000'))
    arguments = ("check", "models", "--baseline", "b.json", "--max-params", "1G")
    assert found(cli(*arguments)) == ["RG501"]  # 2.65 % more
    assert found(cli(*arguments, "--max-regression", "3%")) == []
    assert found(cli(*arguments, "--ignore", "RG501")) == []


ENTRIES = """
[check]
max-params = "1M"
select = ["WS104"]
ignore = ["WS108"]
[[models]]
path = "models/small.onnx"
check = { max-params = 1, convolution-form = false, size-locked = true }
"""


@pytest.mark.parametrize(
    ("arguments", "variables", "limits"),
    [
        ([], {}, {"max-params": 1, "size-locked": True}),
        (["--max-params", "5"], {}, {"max-params": 5, "size-locked": True}),
        ([], {"MAX_PARAMS": "5"}, {"max-params": 5, "size-locked": True}),
        (["--max-params", "6"], {"MAX_PARAMS": "5"}, {"max-params": 6, "size-locked": True}),
        (
            ["--select", "WS104"],
            {},
            {"convolution-form": True, "size-locked": True, "max-params": 1},
        ),
        (["--ignore", "WS108"], {}, {"max-params": 1}),
        (["--isolated", "--max-params", "5"], {"MAX_PARAMS": "6"}, {"max-params": 5}),
        (
            ["--isolated", "--config", "onnxshare.toml"],
            {"MAX_PARAMS": "6"},
            {"max-params": 1, "size-locked": True},
        ),
    ],
    ids=lambda value: " ".join(value) or "none",
)
def test_options_come_before_variables_and_these_before_the_file_and_its_entries(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    limits: dict[str, object],
) -> None:
    Path("onnxshare.toml").write_text(ENTRIES)
    for name, value in variables.items():
        monkeypatch.setenv(f"ONNXSHARE_{name}", value)
    ran = cli("check", "models/small.onnx", "--format", "json", *arguments)
    assert json.loads(ran.stdout)["models"][0]["limits"] == limits, ran.stderr


@pytest.mark.parametrize(
    ("family", "codes"),
    [
        ("WS", [f"WS1{number:02}" for number in range(1, 11)]),
        ("BG", ["BG205"]),  # the others need a limit
        ("EQ", ["EQ302"]),
        ("DP", ["DP402", "DP403", "DP404", "DP405", "DP406"]),
        ("RG", ["RG501"]),
    ],
)
def test_a_family_is_those_of_its_rules_that_have_a_limit(
    cli: Cli, family: str, codes: list[str]
) -> None:
    ran = cli("check", "models/small.onnx", "--isolated", "--select", family, "--format", "json")
    limits = json.loads(ran.stdout)["limits"]
    assert [code for code, rule in BY_CODE.items() if rule.option in limits] == codes


def test_a_regression_that_nothing_can_be_compared_with_is_said(cli: Cli) -> None:
    arguments = ("check", "models/small.onnx", "--isolated", "--max-regression", "5%")
    ran = cli(*arguments)
    assert (ran.returncode, ran.stderr[:43]) == (0, "note: RG501 judges nothing without a baseli")
    assert cli(*arguments, "--write-baseline", "b.json").stderr.startswith("wrote b.json")
    assert cli(*arguments, "--baseline", "b.json").stderr == ""


def test_a_baseline_is_not_written_over_an_unread_model(cli: Cli) -> None:
    Path("models/bad.onnx").write_bytes(b"x")
    ran = cli("check", "models", "--write-baseline", "b.json")
    assert ran.returncode == 2
    assert "b.json: not written, because a model could not be read" in ran.stderr
    assert not Path("b.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--report", "sarif"], "--report 'sarif' is not FORMAT=FILE"),
        (["--report", "word=a.doc"], "there is no format 'word'"),
        (["--report", "json=no/where.json"], "no: no such folder"),
        (["--report", "json=-"], "needs a file; --format json prints the report"),
        (["--limit", "max-params"], "--limit 'max-params' is not NAME=LIMIT"),
        (["--limit", "max-parms=3"], "--max-parms: unknown key, did you mean max-params?"),
        (["--baseline", "none.json"], "none.json: no such file"),
        (["--target", "tensorrt"], "--target: expected a target such as"),
        (["--max-file-size", "much"], "--max-file-size: expected a size such as 20MiB"),
    ],
)
def test_usage_errors(cli: Cli, arguments: list[str], part: str) -> None:
    ran = cli("check", "models/small.onnx", "--isolated", *arguments)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert part in ran.stderr


def test_init_keeps_a_file_that_is_there(cli: Cli) -> None:
    Path("onnxshare.toml").write_text("mine")
    ran = cli("init")
    assert (ran.returncode, Path("onnxshare.toml").read_text()) == (2, "mine")
    assert "already exists; edit it, or overwrite it with --force" in ran.stderr
    assert cli("init", "--force").returncode == 0


def test_explain_and_rules(cli: Cli) -> None:
    for code, rule in BY_CODE.items():
        assert cli("explain", code).stdout.startswith(f"### {code} {rule.name}\n")
        assert f"\n{code}  " in "\n" + cli("rules").stdout
    assert cli("explain", "ws105").stdout == cli("explain", "gap-is-exact").stdout
    listed = json.loads(cli("rules", "--format", "json").stdout)["rules"]
    assert [rule["code"] for rule in listed] == list(BY_CODE)
    ran = cli("explain", "WS199")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "did you mean WS10" in ran.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "--help"], ["rules"], ["explain", "EQ302"]]
)
def test_words_about_rules_import_neither_onnx_nor_onnxruntime(words: list[str]) -> None:
    script = (
        "import sys; from onnxshare.cli.main import run; run(sys.argv[1:]); "
        "sys.exit(bool({'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_files_for_ci_in_the_docs(root: Path, cli: Cli) -> None:
    def blocks(name: str) -> list[Any]:
        text = (root / "docs" / "how-to" / f"gate-{name}.md").read_text(encoding="utf-8")
        return [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.+?)```", text, re.DOTALL)]

    github, rights = blocks("a-repository")
    assert rights == {"permissions": {"contents": "read", "pull-requests": "write"}}
    included, gitlab = blocks("with-gitlab")
    (hook,) = blocks("with-pre-commit")
    component = (root / "templates" / "check.yml").read_text(encoding="utf-8")
    known = yaml.safe_load(component.partition("\n---\n")[0])["spec"]["inputs"]
    assert set(included["include"][0]["inputs"]) <= set(known)
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    assert set(github["jobs"]["check"]["steps"][-1]["with"]) <= set(action["inputs"])
    script = gitlab["models"]["script"][-1]
    ran = cli(*script.split()[1:], "models")
    assert ran.returncode == 0
    for path in gitlab["models"]["artifacts"]["reports"].values():
        assert Path(path).exists()
    hooks = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["repos"][0]["hooks"][0]["id"] == hooks[0]["id"]
