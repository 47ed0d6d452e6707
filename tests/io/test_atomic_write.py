"""Files that appear whole or not at all, and outputs that are no regular files."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from onnxshare.errors import OutputError
from onnxshare.io import atomic_write
from onnxshare.io.atomic_write import is_special, replace_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")


def test_a_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    deadline = time.monotonic() + 20
    while not read and time.monotonic() < deadline:
        with contextlib.suppress(OutputError):  # the reader has not opened it yet
            replace_file(pipe, "text")
            break
        time.sleep(0.01)
    reader.join()
    assert read == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_an_error_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="nobody reads from it"):
        replace_file(pipe, "text")


@pytest.mark.parametrize("links", [0, 1, 3])
def test_a_device_behind_links_stays_one(links: int, tmp_path: Path) -> None:
    path = Path("/dev/null")
    for number in range(links):
        (link := tmp_path / f"link{number}").symlink_to(path)
        path = link
    replace_file(path, "text")
    assert stat.S_ISCHR(os.stat(path).st_mode)
    assert path.is_symlink() == (links > 0)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_an_open_file_is_written_through(tmp_path: Path) -> None:
    """As `--report json=/dev/stdout > FILE` does: neither the link nor the file is replaced."""
    with open(tmp_path / "out", "wb") as file:
        link = tmp_path / "link"
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        assert is_special(link)
        replace_file(link, "text")
        assert link.is_symlink()
        assert os.fstat(file.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    assert (tmp_path / "out").read_text() == "text"


@pytest.mark.parametrize("kind", ["file", "link to a file", "missing"])
def test_what_is_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("old")
    elif kind == "link to a file":
        (tmp_path / "old").write_text("old")
        path.symlink_to(tmp_path / "old")
    assert not is_special(path)
    replace_file(path, "new")
    assert path.read_text() == "new"


def test_temporary_files_of_dead_runs_are_swept(tmp_path: Path) -> None:
    names = {
        "dead": ".m.onnx.0123abcd.tmp",
        "dead data": ".m.onnx.data.0123abcd.tmp",
        "dead other data": ".m.onnx.11112222.data.0123abcd.tmp",
        "of another model": ".n.onnx.0123abcd.tmp",
        "no temporary file": ".m.onnx.0123abcd.tmp.txt",
        "held": ".m.onnx.33334444.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    import fcntl

    with open(tmp_path / names["held"], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        atomic_write.sweep(tmp_path / "m.onnx")
        left = set(os.listdir(tmp_path))
    gone = {kind for kind, name in names.items() if name not in left}
    assert gone == {"dead", "dead data", "dead other data"}
