"""Names of models: those that paths find, and one for each in baselines and `allow` entries."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import onnxshare
from onnxshare.checks.known_findings import write_baseline
from onnxshare.checks.model_names import covers, find_models, portable
from onnxshare.errors import UsageError
from tests.checks.pairs import lenet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.onnx", "a.onnx", "deep/c.onnx", ".hidden/d.onnx", "notes.txt", "w[1].onnx"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*given: str) -> list[str]:
    return [path.as_posix() for path in find_models(given)]


@pytest.mark.usefixtures("folder")
def test_files_folders_and_globs() -> None:
    assert names("b.onnx", "a.onnx") == ["b.onnx", "a.onnx"]
    assert names(".") == ["a.onnx", "b.onnx", "deep/c.onnx", "w[1].onnx"]
    assert names("deep") == ["deep/c.onnx"]
    assert names("?.onnx") == ["a.onnx", "b.onnx"]
    assert names("**/c.onnx") == ["deep/c.onnx"]


@pytest.mark.usefixtures("folder")
def test_each_model_once_in_the_order_given() -> None:
    assert names("b.onnx", "*.onnx", "./b.onnx") == ["b.onnx", "a.onnx", "w[1].onnx"]


@pytest.mark.usefixtures("folder")
def test_a_file_whose_name_looks_like_a_glob_is_that_file() -> None:
    assert names("w[1].onnx") == ["w[1].onnx"]


@pytest.mark.usefixtures("folder")
def test_a_missing_model_is_kept_so_that_it_is_reported() -> None:
    assert names("none.onnx", "a.onnx") == ["none.onnx", "a.onnx"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["empty", "x*.onnx", "notes.tx?t"])
def test_a_folder_or_glob_without_models_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"holds no \.onnx file|matches no file"):
        find_models([name])


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.onnx", ["a.onnx", "x/b.onnx", "x/y/c.onnx"]),
        ("**/b.onnx", ["x/b.onnx"]),
        ("x/**/*.onnx", ["x/b.onnx", "x/y/c.onnx"]),
        ("**/y/*.onnx", ["x/y/c.onnx"]),
        ("x/**/y/**/c.onnx", ["x/y/c.onnx"]),
        ("*/*.onnx", ["x/b.onnx"]),
    ],
)
def test_a_glob_walks_no_folder_twice(
    pattern: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.onnx", "x/b.onnx", "x/y/c.onnx", ".hidden/d.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for number in range(6):
        (tmp_path / f"x/y/loop{number}").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert [path.as_posix() for path in find_models([pattern])] == found


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("models/a.onnx", "", "models/a.onnx"),
        ("./models/a.onnx", "", "models/a.onnx"),
        ("ci/../models/a.onnx", "", "models/a.onnx"),
        ("{here}/models/a.onnx", "", "models/a.onnx"),
        ("models/a.onnx", "ci", "../models/a.onnx"),
        ("models/a.onnx", "{here}", "models/a.onnx"),
        # By another name of the same folder.
        ("{here}/other/models/a.onnx", "", "models/a.onnx"),
        # A link within the folder is a model's own name.
        ("link.onnx", "", "link.onnx"),
        ("*", "", "*"),
    ],
)
def test_a_model_has_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, root: str, name: str
) -> None:
    here = tmp_path / "here"
    for folder in ("models", "ci"):
        (here / folder).mkdir(parents=True)
    (tmp_path / "other").symlink_to(here, target_is_directory=True)
    (here / "link.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    monkeypatch.chdir(here)
    path = path.replace("{here}/other", str(tmp_path / "other"))
    assert portable(path.format(here=here), Path(root.format(here=here))) == name


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("*", "models/a.onnx", True),
        ("models/*.onnx", "models/a.onnx", True),
        ("models/*.onnx", "other/a.onnx", False),
        ("**/*.onnx", "a.onnx", True),
        ("**/*.onnx", "deep/er/a.onnx", True),
        ("models", "models/a.onnx", True),
        ("models", "models2/a.onnx", False),
        ("models/A.onnx", "models/a.onnx", False),
    ],
)
def test_what_a_pattern_covers(pattern: str, name: str, covered: bool) -> None:
    assert covers(pattern, name) is covered


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with models/a.onnx and a policy in ci/ that allows what it finds."""
    for name in ("models", "ci"):
        (tmp_path / name).mkdir()
    onnx.save(lenet(), tmp_path / "models" / "a.onnx")
    (tmp_path / "ci" / "gate.toml").write_text(
        '[check]\nmax-params = "1k"\n'
        '[[allow]]\nrule = "BG202"\nmodel = "../models/*.onnx"\nreason = "known"\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMES = ["models/a.onnx", "./models/a.onnx", "ci/../models/a.onnx", "{here}/models/a.onnx"]


@pytest.mark.parametrize("name", NAMES)
def test_an_allow_entry_of_a_policy_elsewhere(cli: Cli, elsewhere: Path, name: str) -> None:
    ran = cli("check", name.format(here=elsewhere), "--config", "ci/gate.toml")
    assert (ran.returncode, ran.stdout) == (0, "1 model checked, no findings, 1 silenced (BG202)\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_knows_a_model_by_any_name(cli: Cli, elsewhere: Path, name: str) -> None:
    limit = ("--max-params", "1k")
    assert cli("check", NAMES[0], *limit, "--write-baseline", "b.json").returncode == 0
    ran = cli("check", name.format(here=elsewhere), *limit, "--baseline", "b.json")
    assert (ran.returncode, "1 silenced" in ran.stdout) == (0, True)
    # What was measured is found too: one parameter is 150 + 61,440 times fewer.
    text = Path("b.json").read_text().replace('"params": 61590', '"params": 1')
    Path("b.json").write_text(text)
    ran = cli("check", name.format(here=elsewhere), *limit, "--baseline", "b.json")
    assert (ran.returncode, ran.stdout[:5]) == (1, "RG501")


@pytest.mark.usefixtures("elsewhere")
def test_a_model_that_is_named_twice_is_checked_once(cli: Cli) -> None:
    given = ["models/a.onnx", f"ci{os.sep}..{os.sep}models/a.onnx", Path("models/a.onnx").resolve()]
    ran = cli("check", *given, "--max-params", "1M")
    assert (ran.returncode, ran.stdout) == (0, "1 model checked, no findings (BG202)\n")


def test_the_same_from_python(elsewhere: Path) -> None:
    model = elsewhere / "models" / "a.onnx"
    report = onnxshare.check(model, policy="ci/gate.toml")
    assert [item.finding.code for item in report.silenced] == ["BG202"]
    write_baseline(onnxshare.check(model, max_params=1), Path("b.json"))
    assert onnxshare.check("models", max_params=1, baseline="b.json").passed
    policy = Path("ci/gate.toml")
    policy.write_text('baseline = "known.json"\n[check]\nmax-params = 1\n')
    assert not onnxshare.check(model, policy=policy).passed  # it need not exist yet
    write_baseline(onnxshare.check(model, policy=policy), Path("ci/known.json"))
    assert onnxshare.check(model, policy=policy).passed
    with pytest.raises(UsageError, match="no such file"):
        onnxshare.check(model, policy=policy, baseline="none.json")
