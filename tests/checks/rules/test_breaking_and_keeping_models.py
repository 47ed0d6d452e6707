"""Every rule, through the command line, in every format: a model that breaks it, and a twin."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxshare.checks.rules import BY_CODE
from tests.checks.formats import READERS
from tests.checks.pairs import PAIRS, Pair, Writer

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_every_rule_has_a_pair() -> None:
    assert set(PAIRS) == set(BY_CODE)


def checked(
    cli: Cli, folder: Path, pair: Pair, write: Writer, *more: str
) -> subprocess.CompletedProcess[str]:
    path = folder / "net.onnx"
    if pair.before is not None:
        pair.before(path)
        wrote = cli(
            "check", path, "--max-params", "1T", "--write-baseline", folder / "baseline.json"
        )
        assert wrote.returncode == 0, wrote.stderr
    write(path)
    options = [option.format(folder=folder) for option in pair.options]
    return cli("check", path, "--isolated", *options, *more)


@pytest.mark.parametrize("code", PAIRS)
def test_a_model_that_breaks_it_in_every_format(cli: Cli, tmp_path: Path, code: str) -> None:
    pair = PAIRS[code]
    files = {name: tmp_path / f"report.{name}" for name in READERS}
    reports = [word for name, file in files.items() for word in ("--report", f"{name}={file}")]
    ran = checked(cli, tmp_path, pair, pair.broken, *reports)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.startswith(code)
    for name, read in READERS.items():
        codes = read(files[name].read_text(encoding="utf-8"))
        assert codes, name
        assert set(codes) == {code}, name


@pytest.mark.parametrize("code", PAIRS)
def test_its_twin_in_every_format(cli: Cli, tmp_path: Path, code: str) -> None:
    pair = PAIRS[code]
    files = {name: tmp_path / f"report.{name}" for name in READERS}
    reports = [word for name, file in files.items() for word in ("--report", f"{name}={file}")]
    ran = checked(cli, tmp_path, pair, pair.head_map, *reports)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert "no findings" in ran.stdout
    for name, read in READERS.items():
        assert read(files[name].read_text(encoding="utf-8")) == [], name


@pytest.mark.parametrize("code", [code for code, pair in PAIRS.items() if pair.fixed])
def test_the_fix_makes_the_finding_go_away(
    cli: Cli, tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = PAIRS[code]
    pair.broken(Path("net.onnx"))
    options = [option.format(folder=".") for option in pair.options]
    before = set(tmp_path.glob("*.onnx"))
    found = cli("check", "net.onnx", *options)
    (fix,) = [line.partition("fix: ")[2] for line in found.stdout.splitlines() if "fix: " in line]
    words = shlex.split(fix)
    if words[0] == "onnxshare":
        assert cli(*words[1:]).returncode == 0
    else:
        assert words[0] == "python"
        subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    (made,) = set(tmp_path.glob("*.onnx")) - before
    assert cli("check", made, *options).returncode == 0
