"""Small files that a stranger may have put where they are read: policies, baselines, labels."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnxshare.errors import OnnxShareError

#: No such file is larger, in bytes.
MAX_SIZE = 64 * 2**20


def read_user_file(path: Path, kind: type[OnnxShareError], *, within: Path | None = None) -> bytes:
    """The content of a regular file; `kind` is the error to raise, `within` the folder that a link
    must not lead out of, by default the file's own.

    Raises:
        FileNotFoundError: there is none.
        OnnxShareError: it is a pipe, a device or a folder, a link that leads out of its folder,
            too large, or cannot be read.
    """
    home = os.path.realpath(path.parent if within is None else within)
    real = os.path.realpath(path)
    if path.is_symlink() and not Path(real).is_relative_to(home):
        raise kind(f"{path}: is a link that leads out of its folder", "put the file itself there")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device may act when it is opened
            raise kind(f"{path}: is not a regular file", "give a file")
        with os.fdopen(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise kind(f"{path}: is not a regular file", "give a file")
            if info.st_size > MAX_SIZE:
                raise kind(f"{path}: is larger than {MAX_SIZE // 2**20} MiB", "give a smaller file")
            return file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise kind(f"{path}: cannot be read: {reason}") from error
