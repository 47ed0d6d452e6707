"""--baseline-ref: models as git and Git LFS have them at a commit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxshare.api import check
from onnxshare.checks.git_commit import Commit, NotStored
from onnxshare.checks.results import CheckReport, ModelReport
from onnxshare.errors import UsageError
from tests.builders import fc
from tests.checks.pairs import lenet, small
from tests.checks.test_git_changes import git

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a model in a folder, one with external data, and a reference."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "-q", "-b", "main")
    Path("models").mkdir()
    onnx.save(small(), "models/a.onnx")
    with_data(64)
    onnx.save(fc(["N", 8], 8, 4), "models/reference.onnx")
    onnx.save(fc(["N", 8], 8, 4), "models/copy.onnx")
    commit()
    return tmp_path


def commit() -> None:
    git("add", "-A")
    git("commit", "-qm", "x")


def with_data(outputs: int) -> None:
    Path("models/b.data").unlink(missing_ok=True)
    model = fc(["N", 64], 64, outputs)
    more: dict[str, Any] = {"location": "b.data", "size_threshold": 0}
    onnx.save(model, "models/b.onnx", save_as_external_data=True, **more)


def at_main(*models: str, **more: Any) -> CheckReport:
    return check([Path(name) for name in models], baseline_ref="main", **more)


def only(report: CheckReport) -> ModelReport:
    (model,) = report.models
    return model


def test_what_was_measured_and_found() -> None:
    git("checkout", "-qb", "feature")
    onnx.save(lenet(), "models/a.onnx")
    with_data(65)
    commit()
    report = at_main("models/a.onnx", "models/b.onnx", max_params=100, max_regression="100%")
    a, b = report.models
    # One convolution of 6 · 25 weights; 64 · 64 weights and 64 biases, 65 of both later.
    assert a.before is not None
    assert a.before["params"] == 150
    assert b.before is not None
    assert b.before["params"] == 4160
    size = Path("models/b.onnx").stat().st_size + 4 * 65 * 65
    assert (b.measured["params"], b.measured["file_bytes"]) == (4225, size)
    assert b.before["file_bytes"] == size - 4 * 65
    # Both had too many parameters at main; that one of them has very many more is new.
    assert [finding.code for finding in report.findings] == ["RG501"] * len(report.findings)
    assert {finding.model for finding in report.findings} == {str(Path("models/a.onnx"))}
    assert [item.finding.code for item in report.silenced] == ["BG202", "BG202"]


def test_a_budget_relative_to_the_commit() -> None:
    with_data(65)  # 1.56 % more
    for limit, passed in (("baseline + 1%", False), ("baseline + 2%", True), ("baseline", False)):
        report = at_main("models/b.onnx", max_params=limit, max_regression="10%")
        assert report.passed is passed, limit


def test_the_reference_as_it_was() -> None:
    """A copy that was none before is known; one that became none is new."""
    given: dict[str, Any] = {"equivalent_to": "models/reference.onnx", "provider": "cpu"}
    onnx.save(fc(["N", 8], 8, 4, bias=False), "models/reference.onnx")
    report = at_main("models/copy.onnx", max_regression="100%", **given)
    assert [finding.code for finding in report.findings] == ["EQ301"]
    commit()
    report = at_main("models/copy.onnx", max_regression="100%", **given)
    assert (report.findings, [item.finding.code for item in report.silenced]) == ((), ["EQ301"])


def test_what_is_fixed_and_what_is_new() -> None:
    onnx.save(lenet(), "models/a.onnx")
    commit()
    onnx.save(small(), "models/a.onnx")
    onnx.save(small(), "models/new.onnx")
    report = at_main("models/a.onnx", "models/new.onnx", max_params="1k", max_fc_share="baseline")
    assert report.passed
    assert "fixed since main: BG202 models/a.onnx" in report.notes
    assert any(note.startswith("new, so that nothing at main limits") for note in report.notes)
    assert [model.before is None for model in report.models] == [False, True]


@pytest.mark.parametrize("fetched", [True, False])
def test_files_of_git_lfs(fetched: bool) -> None:
    data = Path("models/b.data").read_bytes()
    identity = hashlib.sha256(data).hexdigest()
    Path("models/b.data").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{identity}\nsize {len(data)}\n"
    )
    commit()
    if fetched:
        stored = Path(".git/lfs/objects", identity[:2], identity[2:4], identity)
        stored.parent.mkdir(parents=True)
        stored.write_bytes(data)
    with_data(65)
    report = at_main("models/b.onnx", max_regression="100%", max_duplicate_bytes=0)
    before = only(report).before
    assert before is not None
    assert before["params"] == 4160
    assert (before["file_bytes"] is None) is not fetched
    said = "models/b.onnx: its external data as it was is not in the repository here"
    assert (said in report.notes) is not fetched
    assert report.passed


def test_a_model_of_git_lfs_that_was_never_fetched() -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n"
    Path("models/a.onnx").write_text(pointer)
    commit()
    onnx.save(small(), "models/a.onnx")
    report = at_main("models/a.onnx", max_params=1)
    assert [finding.code for finding in report.findings] == ["BG202"]
    assert "is kept by Git LFS and was never fetched" in report.notes[0]


def test_what_the_store_of_git_lfs_holds_is_not_believed(tmp_path: Path) -> None:
    identity = "1" * 64
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{identity}\nsize 5\n"
    Path("models/a.onnx").write_text(text)
    commit()
    stored = Path(".git/lfs/objects", "11", "11", identity)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"other")
    with pytest.raises(NotStored, match="is damaged"):
        Commit("main", "--baseline-ref").write("models/a.onnx", tmp_path / "out" / "a.onnx")
    stored.unlink()
    stored.symlink_to("/etc/passwd")
    with pytest.raises(NotStored, match="was never fetched"):
        Commit("main", "--baseline-ref").write("models/a.onnx", tmp_path / "out" / "a.onnx")


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_links_in_a_commit() -> None:
    Path("latest").symlink_to("models", target_is_directory=True)
    Path("models/now.onnx").symlink_to("../latest/a.onnx")
    Path("out.onnx").symlink_to("/etc/passwd")
    Path("loop.onnx").symlink_to("loop.onnx")
    commit()
    commit_ = Commit("main", "--baseline-ref")
    assert commit_.has("latest/now.onnx")
    commit_.write("latest/now.onnx", Path("copy.onnx"))
    assert Path("copy.onnx").read_bytes() == Path("models/a.onnx").read_bytes()
    for name in ("out.onnx", "loop.onnx", "models", "none.onnx", "../x.onnx"):
        with pytest.raises(NotStored):
            commit_.write(name, Path("never.onnx"))
    assert not Path("never.onnx").exists()


def test_renamed_with_its_data_and_in_another_folder() -> None:
    git("mv", "models/b.onnx", "models/c.onnx")
    git("mv", "models/a.onnx", "a.onnx")
    Path("onnxshare.toml").write_text(
        "[check]\nmax-params = 100\n"
        '[[allow]]\nrule = "BG202"\nmodel = "models/a.onnx"\nreason = "is small"\n'
    )
    report = at_main("models/c.onnx", "a.onnx", policy="onnxshare.toml")
    assert report.passed
    assert [model.former for model in report.models] == ["models/b.onnx", "models/a.onnx"]
    assert [item.by for item in report.silenced] == ["baseline", "allow"]


def test_from_a_folder_below_and_with_a_policy_above(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("onnxshare.toml").write_text(
        '[check]\nmax-params = 100\n[[models]]\npath = "models/a.onnx"\n'
    )
    commit()
    onnx.save(lenet(), "models/a.onnx")
    Path("deep/er").mkdir(parents=True)
    monkeypatch.chdir("deep/er")
    ran = cli("check", "--baseline-ref", "main", "--changed-since", "main", "--format", "github")
    lines = ran.stdout.splitlines()
    assert ran.returncode == 1
    assert lines[1].startswith("::error file=onnxshare.toml,line=4,title=RG501 regression::")
    assert any("parameters 150 → 61,590 (+40960.0%25)" in line for line in lines)
    (row,) = cli("check", "--baseline-ref", "main", "--format", "jsonl").stdout.splitlines()
    assert json.loads(row)["model"] == "models/a.onnx"


@pytest.mark.parametrize(
    "revision", ["nowhere", "--output=planted", "HEAD^{tree}", "HEAD..HEAD", ""]
)
def test_what_git_does_not_know(revision: str) -> None:
    with pytest.raises(UsageError, match=r"^baseline_ref '"):
        check(["models/a.onnx"], baseline_ref=revision, max_params=1)
    assert not Path("planted").exists()
