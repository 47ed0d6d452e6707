"""Files that a stranger may have put where they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxshare.errors import UsageError
from onnxshare.io import user_files
from onnxshare.io.user_files import read_user_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")


def test_a_file_and_a_link_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to("file")
    assert read_user_file(tmp_path / "file", UsageError) == b"words"
    assert read_user_file(tmp_path / "link", UsageError) == b"words"


@pytest.mark.parametrize("target", ["../secret", "sub/../../secret", "/etc/passwd"])
def test_a_link_out_of_the_folder_is_refused(target: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("hidden words")
    (home / "link").symlink_to(target)
    with pytest.raises(UsageError, match="leads out of its folder") as caught:
        read_user_file(home / "link", UsageError)
    assert "hidden" not in str(caught.value)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            read_user_file(path, UsageError)


def test_missing_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_user_file(tmp_path / "none", UsageError)
    monkeypatch.setattr(user_files, "MAX_SIZE", 2**20)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read_user_file(tmp_path / "large", UsageError)
