from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxshare.checks.model_names import find_models
from onnxshare.errors import UsageError


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
