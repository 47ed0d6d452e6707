from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from onnxshare.api import check
from onnxshare.report.checks.text import print_findings

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path, lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with models/a.onnx and models/b.onnx."""
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        onnx.save(lenet, tmp_path / "models" / f"{name}.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_models_that_keep_their_limits(cli: Cli) -> None:
    ran = cli("check", "models", "--max-params", "61706", "--min-sharing-ratio", "6")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "2 models checked, no findings (WS102, BG202)\n"


@pytest.mark.usefixtures("folder")
def test_each_finding_is_a_line_and_its_fix_another(cli: Cli) -> None:
    ran = cli("check", "models/*.onnx", "--max-params", "50k", "--max-macs", "1M")
    assert (ran.returncode, ran.stderr) == (1, "")
    a, b = str(Path("models/a.onnx")), str(Path("models/b.onnx"))
    fix = "--fc-to-gap --method auto --keep 99% --samples FILE"
    assert ran.stdout.splitlines() == [
        f"BG202  {a}  61,706 parameters; the limit is at most 50,000",
        f"       fix: onnxshare rewrite {a} {fix}",
        f"BG202  {b}  61,706 parameters; the limit is at most 50,000",
        f"       fix: onnxshare rewrite {b} {fix}",
        "2 models checked, 2 findings (BG202, BG203)",
    ]


def test_an_unreadable_model_among_others(cli: Cli, folder: Path) -> None:
    (folder / "models" / "bad.onnx").write_bytes(b"")
    ran = cli("check", "models", "none.onnx", "--max-params", "1k")
    assert ran.returncode == 2
    first, second = ran.stderr.splitlines()
    assert first.startswith(f"onnxshare: error: {Path('models/bad.onnx')}: is an empty file")
    assert second.startswith("onnxshare: error: none.onnx: no such file")
    assert ran.stdout.count("BG202") == 3
    assert "2 models checked, 2 findings, 2 models could not be read" in ran.stdout


@pytest.mark.usefixtures("folder")
def test_a_glob_without_models_among_others(cli: Cli) -> None:
    ran = cli("check", "none/*.onnx", "models", "--max-params", "1k", "--format", "concise")
    assert ran.returncode == 2
    assert ran.stderr == "onnxshare: error: none/*.onnx: matches no file; check the pattern\n"
    assert ran.stdout.count("BG202  models") == 2
    assert "2 models checked, 2 findings, 1 model could not be read" in ran.stdout


@pytest.mark.usefixtures("folder")
def test_json(cli: Cli) -> None:
    ran = cli("check", "models/a.onnx", "none.onnx", "--max-params=1k", "--format", "json")
    document = json.loads(ran.stdout)
    assert ran.returncode == 2
    assert document["limits"] == {"max-params": 1000}
    assert [model["path"] for model in document["models"]] == [
        str(Path("models/a.onnx")),
        "none.onnx",
    ]
    assert document["models"][0]["findings"][0]["measured"] == 61_706
    assert document["models"][0]["metrics"]["macs"] == 416_520


def test_models_and_limits_of_the_policy_file(cli: Cli, folder: Path) -> None:
    (folder / "onnxshare.toml").write_text(
        'models = ["models/*.onnx"]\n[check]\nmax-params = "50k"\n'
    )
    ran = cli("check")
    assert ran.returncode == 1
    assert "2 models checked, 2 findings (BG202)" in ran.stdout
    ran = cli("check", "models/b.onnx", "--max-params", "62k")
    assert (ran.returncode, ran.stdout) == (0, "1 model checked, no findings (BG202)\n")


def test_a_policy_file_elsewhere(cli: Cli, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "ci"
    other.mkdir()
    (other / "gate.toml").write_text('models = ["../models/a.onnx"]\n[check]\nmax-macs = 1\n')
    ran = cli("check", "--config", "ci/gate.toml")
    assert ran.returncode == 1
    assert "1 model checked, 1 finding (BG203)" in ran.stdout
    assert str(Path("ci/../models/a.onnx")) in ran.stdout


def test_errors_of_the_policy_file_are_one_line(cli: Cli, folder: Path) -> None:
    (folder / "onnxshare.toml").write_text("[check]\nmax-parms = 3\nmax-macs = 'x'\n")
    ran = cli("check", "models/a.onnx")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "check.max-parms: unknown key, did you mean max-params?" in ran.stderr
    assert "check.max-macs: expected a whole number" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["models", "--max-params", "1", "--ignore", "BG202"], "every rule is left out"),
        (["models", "--max-params", "lots"], "--max-params: expected a whole number"),
        (["--max-params", "1"], "the current folder holds no .onnx file"),
        (["x/*.onnx", "--max-params", "1"], "matches no file"),
        (["models", "--config", "none.toml"], "none.toml: no such file"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_usage_errors(cli: Cli, arguments: list[str], part: str) -> None:
    ran = cli("check", *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert part in ran.stderr


@pytest.mark.usefixtures("folder")
def test_the_only_model_of_the_folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("models/b.onnx").unlink()
    monkeypatch.chdir("models")
    ran = cli("check", "--max-params", "1M")
    assert (ran.returncode, ran.stdout) == (0, "1 model checked, no findings (BG202)\n")


@pytest.mark.usefixtures("folder")
def test_equivalence_through_the_command_line(cli: Cli) -> None:
    ran = cli("check", "models", "--equivalent-to", "models/a.onnx", "--provider", "cpu")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 models checked, no findings (EQ301)\n"


def test_colours_only_on_a_terminal_and_never_under_no_color(
    lenet: onnx.ModelProto, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = check(lenet, max_params=1)

    def printed(*, terminal: bool) -> str:
        print_findings(report, Console(force_terminal=terminal, highlight=False))
        return capsys.readouterr().out

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    plain = printed(terminal=False)
    assert "\x1b" not in plain
    assert "\x1b[1;31mBG202" in printed(terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed(terminal=True)
    assert "31mBG202" not in printed(terminal=True)


@pytest.mark.skipif("sys.platform == 'win32'", reason="such names are not possible there")
def test_a_hostile_name_is_escaped_and_long_lines_are_not_broken(
    cli: Cli, folder: Path, lenet: onnx.ModelProto
) -> None:
    name = "[bold]x\x1b[31m" + "y" * 150 + ".onnx"
    onnx.save(lenet, folder / name)
    ran = cli("check", folder / name, "--max-params", "1")
    assert "\x1b" not in ran.stdout
    assert "[bold]x\\x1b[31m" in ran.stdout
    assert len(ran.stdout.splitlines()) == 3
