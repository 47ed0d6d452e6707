from __future__ import annotations

import json
import os
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


#: Outputs that would overwrite what is read, a model, a policy, or one another; and with --force.
_OVERWRITES = [
    ("json=models/a.onnx", "is a model that is checked", True),
    ("json=models/../models/a.onnx", "is a model that is checked", True),
    ("json={here}/models/a.onnx", "is a model that is checked", True),
    ("json=symbolic", "is a model that is checked", True),
    ("json=hard", "is a model that is checked", True),
    ("json=folder/a.onnx", "is a model that is checked", True),
    ("json=reference.onnx", "is a model that is compared with", True),
    ("json=samples/labels.csv", "is read as samples", True),
    ("json=onnxshare.toml", "is the policy", True),
    ("json=known.json", "is the baseline", True),
    ("json=models", "is a directory", True),
    ("json=other.onnx", "is not a report", False),
    ("json=other.toml", "is not a report", False),
    ("json=text.onnxtxt", "is not a report", False),
    ("json=text.json", "is not a report", False),
    ("json=link-to-other", "is not a report", False),
    ("json=data.bin", "is not a report", False),
    ("json=new.json sarif=./new.json", "is to be written twice", True),
    ("json=new.json sarif={here}/models/../new.json", "is to be written twice", True),
    ("json=old.json sarif=hard.json", "is to be written twice", True),
    ("json=new/x.json", "no such", True),
]


@pytest.fixture
def files(folder: Path, lenet: onnx.ModelProto) -> Path:
    """Besides, files of every kind and links to them."""
    for name in ("reference.onnx", "other.onnx"):
        onnx.save(lenet, name)
    Path("symbolic").symlink_to("models/a.onnx")
    Path("folder").symlink_to("models", target_is_directory=True)
    os.link("models/a.onnx", "hard")
    Path("link-to-other").symlink_to("other.onnx")
    Path("samples").mkdir()
    texts = {
        "samples/labels.csv": "1\n",
        "onnxshare.toml": 'baseline = "known.json"\n[check]\nequivalent-to = "reference.onnx"\n'
        '[[models]]\npath = "models/a.onnx"\nsamples = "samples"\n',
        "other.toml": "a = 1\n",
        "known.json": '{"schema_version": 1, "findings": [], "metrics": {}}',
        "text.onnxtxt": "# a model\n<ir_version: 8>",
        "text.json": '{"irVersion": "8"}',
        "old.json": '{"schema_version": 1}',
        "data.bin": "\x00\x01",
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    os.link("old.json", "hard.json")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize(("reports", "reason", "always"), _OVERWRITES)
def test_no_report_is_written_over_what_is_read_or_no_report(
    cli: Cli, files: Path, reports: str, reason: str, always: bool
) -> None:
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    words = [word for name in reports.format(here=files).split() for word in ("--report", name)]
    for force in ((), ("--force",)) if always else ((),):
        ran = cli("check", "models/a.onnx", "--ignore", "EQ", "--max-params", "1M", *words, *force)
        assert ran.returncode == 2
        assert reason in ran.stderr
        assert {p: p.read_bytes() for p in files.rglob("*") if p.is_file()} == before
    if not always:
        words = [*words, "--force", "--max-params", "1M"]
        assert cli("check", "models/a.onnx", "--isolated", *words).returncode == 0
        assert Path(reports.partition("=")[2]).read_text().startswith("{")


@pytest.mark.usefixtures("files")
def test_a_baseline_and_reports_are_written_again(cli: Cli) -> None:
    for known in ("models/a.onnx", "onnxshare.toml", "other.onnx", "new.json"):
        words = ("--report", "json=new.json", "--write-baseline", known)
        ran = cli("check", "models/a.onnx", "--isolated", *words)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    words = ("--baseline", "known.json", "--write-baseline", "known.json")
    for _ in range(2):
        ran = cli("check", "models/b.onnx", *words, "--report", "markdown=new.md", "--isolated")
        assert ran.returncode == 0
