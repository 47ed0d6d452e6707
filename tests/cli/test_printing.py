"""`-o FILE` of every command that prints a report: what it prints, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.command_pages import COMMANDS

Cli = Callable[..., subprocess.CompletedProcess[str]]

#: A command line of each command that prints a report, and its exit code.
REPORTS = {
    "inspect": ("a.onnx", 0),
    "compare": ("a.onnx b.onnx --in-process", 1),
    "diff": ("a.onnx b.onnx --exit-code", 1),
    "family": ("a.onnx b.onnx", 0),
    "check": ("a.onnx --max-params 5 --isolated", 1),
    "scan": ("a.onnx b.onnx --jobs 1", 0),
    "rules": ("", 0),
    "explain": ("WS101", 0),
    "doctor": ("", 0),
}

#: `rewrite` and `init` write what they make: a model, and a policy.
MAKERS = {"rewrite": "a.onnx --fc-to-conv --no-validate", "init": ""}

READING = [name for name, (words, _) in REPORTS.items() if ".onnx" in words]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(bundled / "lenet5.onnx", "a.onnx")
    shutil.copy(bundled / "gap_net.onnx", "b.onnx")


def test_every_command_writes_to_a_file() -> None:
    assert {*REPORTS, *MAKERS} == {*COMMANDS}
    for name, command in COMMANDS.items():
        names = [item.opts for item in command.params if "-o" in item.opts]
        assert [sorted(found) for found in names] == [["--output", "-o"]], name


@pytest.mark.parametrize("name", REPORTS)
def test_the_file_has_what_is_printed(name: str, cli: Cli) -> None:
    words, code = REPORTS[name]
    printed = cli(name, *words.split())
    assert printed.returncode == code
    written = cli(name, *words.split(), "-o", "report.txt")
    assert (written.returncode, written.stdout) == (code, "")
    assert "wrote report.txt" in written.stderr
    said = Path("report.txt").read_text("utf-8")
    if name not in ("compare", "doctor"):  # memory and modules differ from run to run
        assert said == printed.stdout
    assert said.splitlines()[0].split()[0] == printed.stdout.splitlines()[0].split()[0]
    assert cli(name, *words.split(), "--output", "report.txt").returncode == code


@pytest.mark.parametrize("name", [*REPORTS, *MAKERS])
def test_a_missing_folder_is_one_line(name: str, cli: Cli) -> None:
    words = REPORTS[name][0] if name in REPORTS else MAKERS[name]
    ran = cli(name, *words.split(), "-o", "no/such/file.txt")
    assert ran.returncode == 2
    assert ran.stderr == "onnxshare: error: no/such: no such folder; create it first\n"
    assert not ran.stdout


@pytest.mark.parametrize("name", READING)
def test_no_input_is_overwritten(name: str, cli: Cli) -> None:
    kept = Path("a.onnx").read_bytes()
    Path("link.txt").symlink_to("a.onnx")
    for out in ("a.onnx", "./a.onnx", Path.cwd() / "a.onnx"):
        for force in ([], ["--force"]):
            ran = cli(name, *REPORTS[name][0].split(), "-o", out, *force)
            assert ran.returncode == 2, out
            assert ran.stderr.count("\n") == 1
    assert Path("a.onnx").read_bytes() == kept


@pytest.mark.parametrize("name", REPORTS)
def test_another_model_is_overwritten_with_force_only(name: str, cli: Cli, bundled: Path) -> None:
    words, code = REPORTS[name]
    shutil.copy(bundled / "lenet5.onnx", "other.onnx")
    ran = cli(name, *words.split(), "-o", "other.onnx")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert cli(name, *words.split(), "-o", "other.onnx", "--force").returncode == code


@pytest.mark.parametrize("name", ["inspect", "diff", "family", "explain"])
def test_after_an_error_there_is_no_file(name: str, cli: Cli) -> None:
    Path("a.onnx").write_bytes(b"not a model")
    words = "WS999" if name == "explain" else REPORTS[name][0]
    assert cli(name, *words.split(), "-o", "report.txt").returncode == 2
    assert not Path("report.txt").exists()


def test_names_that_no_encoding_has_and_devices(cli: Cli) -> None:
    assert cli("inspect", "a.onnx", "-o", "/dev/null").returncode == 0
    assert cli("inspect", "a.onnx", "-o", "-").stderr.startswith("onnxshare: error: -: is not")
    assert cli("inspect", "a.onnx", "-o", ".").stderr.startswith("onnxshare: error: .: is a dir")


def test_all_files_of_one_command_differ(cli: Cli) -> None:
    ran = cli("inspect", "a.onnx", "-o", "x.html", "--html", "x.html")
    assert ran.stderr == ("onnxshare: error: x.html: is to be written twice; name another file\n")


@pytest.mark.parametrize("columns", [80, 200])
def test_a_scan_has_all_its_columns(
    columns: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for bars, they are left out, and not the last numbers."""
    monkeypatch.setenv("COLUMNS", str(columns))
    head, row, *_ = cli("scan", "a.onnx", "b.onnx", "--jobs", "1").stdout.splitlines()
    assert head.split()[-2:] == ["memory", "heads"]
    assert row.split()[-1] == "1"
    assert ("█" in row) == (columns >= 90)
