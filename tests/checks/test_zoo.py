"""The policy of docs/how-to/gate-a-repository.md for other people's models, and its fixes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

#: The models of the zoo whose head is an FC behind a map: these have a convolution form.
HEADS = 9


@pytest.fixture
def folder(zoo: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(zoo / "models", tmp_path / "models")
    text = (root / "docs" / "how-to" / "gate-a-repository.md").read_text(encoding="utf-8")
    (policy,) = re.findall(r"<!-- policy: zoo -->\n```toml\n(.+?)```", text, re.DOTALL)
    (tmp_path / "onnxshare.toml").write_text(policy, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_policy_for_other_peoples_models(cli: Cli) -> None:
    ran = cli("check")
    assert (ran.returncode, ran.stderr) == (1, "")
    found = [line for line in ran.stdout.splitlines() if re.match(r"[A-Z]{2}\d{3} ", line)]
    assert sum(line.startswith("WS104") for line in found) == HEADS
    assert {line[:5] for line in found} == {"WS101", "WS104"}
    assert "10 models checked" in ran.stdout


@pytest.mark.usefixtures("folder")
def test_the_fixes_make_the_findings_go_away(cli: Cli) -> None:
    ran = cli("check", "--ignore", "WS101")
    lines = ran.stdout.splitlines()
    fixes = [line.partition("fix: ")[2] for line in lines if "fix: " in line]
    assert len(fixes) == HEADS
    for fix in fixes:
        words = shlex.split(fix)
        assert words[0] == "onnxshare"
        made = cli(*words[1:])
        assert made.returncode == 0, made.stdout
        old = Path(words[2])
        new = old.with_name(f"{old.stem}.fc-to-conv.onnx")
        assert cli("check", new, "--ignore", "WS101").returncode == 0
