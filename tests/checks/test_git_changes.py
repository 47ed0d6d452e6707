"""--changed-since: the models that git says changed, their external data included."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxshare.checks.git_changes import changed_since
from onnxshare.errors import UsageError
from tests.builders import fc
from tests.checks.pairs import lenet, small


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    ran = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two models, one with external data, and a policy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "-q", "-b", "main")
    (tmp_path / "my models").mkdir()
    onnx.save(small(), "my models/a b.onnx")
    onnx.save(
        fc(["N", 64], 64, 64),
        "large.onnx",
        save_as_external_data=True,
        location="large.bin",
        size_threshold=0,
    )
    Path("onnxshare.toml").write_text("[check]\nmax-params = 1000\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    return tmp_path


def touch_model() -> None:
    onnx.save(lenet(), "my models/a b.onnx")


def touch_data() -> None:
    Path("large.bin").write_bytes(bytes(64 * 64 * 4 + 64 * 4))


def touch_other() -> None:
    Path("notes.txt").write_text("x")


def touch_policy() -> None:
    Path("onnxshare.toml").write_text("[check]\nmax-params = 2000\n")


def add_model() -> None:
    onnx.save(small(), "new.onnx")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (touch_model, ["my models/a b.onnx"]),
        (touch_data, ["large.onnx"]),
        (touch_other, []),
        (touch_policy, ["large.onnx", "my models/a b.onnx"]),
        (add_model, ["new.onnx"]),
    ],
)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
@pytest.mark.usefixtures("folder")
def test_what_changed(change: Callable[[], None], names: list[str], committed: bool) -> None:
    first = git("rev-parse", "HEAD")
    change()
    if committed:
        git("add", "-A")
        git("commit", "-qm", "second")
    models = sorted(Path().rglob("*.onnx"))
    found = changed_since(models, first, Path("onnxshare.toml"))
    assert [path.as_posix() for path in found] == names
    assert changed_since(models, "0" * 40, None) == models


@pytest.mark.usefixtures("folder")
def test_what_changed_on_the_other_side_does_not_count() -> None:
    git("checkout", "-qb", "feature")
    touch_model()
    git("commit", "-qam", "on the branch")
    git("checkout", "-q", "main")
    touch_data()
    git("commit", "-qam", "on main, since the two parted")
    git("checkout", "-q", "feature")
    models = sorted(Path().rglob("*.onnx"))
    assert [path.name for path in changed_since(models, "main", None)] == ["a b.onnx"]


@pytest.mark.usefixtures("folder")
def test_what_git_does_not_know() -> None:
    with pytest.raises(UsageError, match="--changed-since nowhere: git says: "):
        changed_since([], "nowhere", None)


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="not a git repository"):
        changed_since([], "HEAD", None)


def test_the_command(cli: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    ran = cli("check", folder, "--changed-since", "HEAD")
    assert (ran.returncode, ran.stderr) == (0, "no model changed since HEAD\n")
    touch_model()
    ran = cli("check", ".", "--changed-since", "HEAD")
    assert (ran.returncode, ran.stdout.count("BG202  ")) == (1, 1)
