"""--changed-since: the models that git says changed, their external data included."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

from onnxshare.checks.git_changes import changed_since, commit_since
from onnxshare.checks.jobs import Job
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
    Path("samples").mkdir()
    Path("samples/1.txt").write_text("a sample")
    Path("link").symlink_to("large.onnx")
    git("add", "-A")
    git("commit", "-qm", "first")
    return tmp_path


def found(
    models: list[Path], revision: str, *shared: Path, samples: Path | None = None, **limits: str
) -> list[Path]:
    named = {name.replace("_", "-"): value for name, value in limits.items()}
    jobs = [Job(path, str(path), dict(named)) for path in models]
    commit = commit_since(revision)
    changed = jobs if commit is None else changed_since(commit, jobs, shared, samples)
    return [job.source for job in changed if isinstance(job.source, Path)]


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
    changed = found(models, first, Path("onnxshare.toml"))
    assert [path.as_posix() for path in changed] == names
    assert found(models, "0" * 40) == models


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
    assert [path.name for path in found(models, "main")] == ["a b.onnx"]


def renamed() -> list[Path]:
    git("mv", "large.onnx", "other.onnx")
    return [Path("other.onnx"), Path("large.onnx")]


def ignored() -> list[Path]:
    Path(".gitignore").write_text("new.onnx")
    add_model()
    return [Path("new.onnx")]


def linked() -> list[Path]:
    """A link that leads to another file than it did: neither file changed."""
    Path("link").unlink()
    Path("link").symlink_to("my models/a b.onnx")
    return [Path("link")]


def outside() -> list[Path]:
    Path("out").symlink_to("..", target_is_directory=True)
    shutil.copy("large.onnx", "../large.onnx")
    return [Path("../large.onnx"), Path("out/large.onnx")]


def endless() -> list[Path]:
    Path("loop.onnx").symlink_to("loop.onnx")
    return [Path("loop.onnx")]


def odd_names() -> list[Path]:
    names = [b"new\nline.onnx", b"tab\t.onnx", b'"quoted".onnx', b"\xff.onnx", b"- --x.onnx"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(small().SerializeToString())
    return [Path(os.fsdecode(name)) for name in names]


@pytest.mark.skipif(os.name == "nt", reason="links and names that Windows has not")
@pytest.mark.parametrize("change", [renamed, ignored, linked, outside, endless, odd_names])
@pytest.mark.usefixtures("folder")
def test_models_that_are_new_missing_or_reached_in_another_way(
    change: Callable[[], list[Path]],
) -> None:
    changed = change()
    assert found([Path("my models/a b.onnx"), *changed], "HEAD") == changed
    git("add", "-Af")
    git("commit", "-qm", "second")
    inside = [path for path in changed if "large" not in path.name and "loop" not in path.name]
    assert found(inside, "HEAD") == []


@pytest.mark.usefixtures("folder")
def test_what_a_model_is_judged_by() -> None:
    model, samples = Path("my models/a b.onnx"), Path("samples")
    judged = partial(found, [model], "HEAD", samples=samples, equivalent_to="large.onnx")
    assert judged() == []
    touch_data()  # of the reference
    assert judged() == [model]
    assert found([model], "HEAD", samples=samples) == []
    for change in (
        lambda: (samples / "1.txt").write_text("else"),
        lambda: (samples / "1.txt").unlink(),
        lambda: (samples / "new.txt").write_text(""),
        lambda: shutil.copytree(samples, samples / "below"),
        lambda: samples.rename("away"),
    ):
        git("stash", "-qu")
        assert found([model], "HEAD", samples=samples) == []
        change()
        assert found([model], "HEAD", samples=samples) == [model]
    git("stash", "-qu")
    assert found([model], "HEAD", Path("onnxshare.toml"), Path("never.toml")) == []
    Path("onnxshare.toml").write_bytes(b"[check]\r\nmax-params = 1000\r\n")
    assert found([model], "HEAD", Path("onnxshare.toml")) == []  # as Windows checks it out
    Path("onnxshare.toml").unlink()
    assert found([model], "HEAD", Path("onnxshare.toml")) == [model]


@pytest.mark.usefixtures("folder")
def test_files_of_git_lfs() -> None:
    model = Path("kept.onnx")
    data = small().SerializeToString()
    pointer = (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n"
    )
    model.write_text(pointer)
    git("add", "-A")
    git("commit", "-qm", "second")
    model.write_bytes(data)
    assert found([model], "HEAD") == []
    model.write_bytes(lenet().SerializeToString())
    assert found([model], "HEAD") == [model]


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_settings_of_the_repository_run_nothing(folder: Path) -> None:
    program = folder / "planted"
    program.write_text(f"#!/bin/sh\ntouch '{folder}/ran'\ncat\n")
    program.chmod(0o755)
    (folder / ".gitattributes").write_text("* filter=f diff=f merge=f\n")
    (folder / ".git" / "config").write_text(
        "".join(
            f"[{section}]\n{key} = {program}\n"
            for section, key in (
                *(
                    ("core", key)
                    for key in ("fsmonitor", "pager", "sshCommand", "editor", "askPass")
                ),
                *(('filter "f"', key) for key in ("clean", "smudge", "process")),
                *(("diff", "external"), ('diff "f"', "textconv"), ('diff "f"', "command")),
                *(('remote "origin"', key) for key in ("url", "vcs", "uploadpack")),
                *(("pager", key) for key in ("rev-parse", "ls-tree", "cat-file", "merge-base")),
                *(("alias", key) for key in ("rev-parse", "ls-tree", "cat-file", "merge-base")),
            )
        )
        + f"[core]\nhooksPath = {folder}\nrepositoryformatversion = 0\n"
        '[extensions]\npartialClone = origin\n[remote "origin"]\npromisor = true\n'
    )
    touch_model()
    for kind in ("post-index-change", "reference-transaction", "post-checkout"):
        shutil.copy(program, folder / kind)
    assert found([Path("my models/a b.onnx")], "HEAD") == [Path("my models/a b.onnx")]
    with pytest.raises(UsageError):
        found([], "1" * 40)  # what a partial clone would fetch
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "revision",
    "nowhere| |-h|--all|--output=planted|HEAD:onnxshare.toml|HEAD^{tree}|HEAD~0..HEAD|^HEAD|"
    "HEAD HEAD|HEAD\n|\n|@{u}|/dev/null|HEAD^@|000000000|".split("|"),
)
@pytest.mark.usefixtures("folder")
def test_what_git_does_not_know(revision: str) -> None:
    with pytest.raises(UsageError, match=r"^--changed-since '"):
        found([Path("large.onnx")], revision)
    assert not Path("planted").exists()


@pytest.mark.skipif(os.name == "nt", reason="looks for programs in other ways")
def test_git_is_no_program_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "git").write_text("#!/bin/sh\ntouch ran\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", os.environ["PATH"]]))
    assert found([Path("large.onnx")], "HEAD") == []
    assert not (folder / "ran").exists()


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="not a git repository"):
        found([], "HEAD")


def test_the_command(cli: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    ran = cli("check", folder, "--changed-since", "HEAD")
    assert (ran.returncode, ran.stderr) == (0, "note: no model changed since HEAD\n")
    touch_model()
    ran = cli("check", ".", "--changed-since", "HEAD")
    assert (ran.returncode, ran.stdout.count("BG202  ")) == (1, 1)
