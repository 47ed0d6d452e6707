"""The application: the one place where errors become a line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
from types import FrameType

from onnxshare.cli.fast_path import plain_inspect
from onnxshare.cli.streams import prepared
from onnxshare.errors import OnnxShareError, printable
from onnxshare.support.garbage_collection import paused
from onnxshare.support.numbers import whole_number
from onnxshare.support.option_text import called_by_the_command_line
from onnxshare.support.plugins import blamed

#: What a full disk answers.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


#: What the system answers to names that are none, or that nobody here may use.
_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)

#: No line says more: a name or a number that a stranger wrote may be of any length.
_LONGEST = 4000


class _Terminated(BaseException):
    """This process was asked to end: it unwinds as after Ctrl-C."""


def main() -> None:
    """Run the command line and exit: 0 fine, 1 the answer is no, 2 usage, bad input or a crash."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run(sys.argv[1:])
    except (_Terminated, KeyboardInterrupt):  # before anything began, or after its end
        code = 128 + signal.SIGTERM
    gc.freeze()  # else Python looks for cycles in all there is, though the process ends here
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise _Terminated


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    # Since 1.29 onnxruntime otherwise writes a device id and a database when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for name in ("COLUMNS", "LINES"):  # what is not a width would end Python's libraries
        if (whole_number(os.environ.get(name, "")) or 0) not in range(1, 100_000):
            os.environ.pop(name, None)
    if sys.stderr is None:  # closed by who called us
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        return _fail("standard output is closed")
    with prepared():
        return _answer(arguments)


def _answer(arguments: list[str]) -> int:
    try:
        with called_by_the_command_line(), blamed():
            code = _call(arguments)
        sys.stdout.flush()
        return code
    except OnnxShareError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130
    except _Terminated:
        _fail("terminated")
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        _drop_output()  # its reader has gone
        return 0
    except MemoryError:
        return _fail("there is not enough memory for this; free some, or use a smaller model")
    except OSError as error:
        if error.errno in _NAMES and error.filename is not None:
            return _fail(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if isinstance(error, FileNotFoundError) and not _has_folder():
            return _fail("the current folder is gone; change to one that is there")
        if error.filename is not None or error.errno not in _FULL:
            return _bug(error)
        _drop_output()
        return _fail(f"the output cannot be written: {error.strerror}")
    except Exception as error:
        return _bug(error)


def _bug(error: Exception) -> int:
    if os.environ.get("ONNXSHARE_DEBUG"):
        raise error
    return _fail(
        f"internal error: {type(error).__name__}: {error}; this is a bug: "
        "set ONNXSHARE_DEBUG=1 to see where, and report it"
    )


def _drop_output() -> None:
    """Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(arguments: list[str]) -> int:
    plain = plain_inspect(arguments)
    if plain is not None:
        with paused():  # imports too make nothing that is needed no more
            from onnxshare.cli.inspect_run import show

            show(*plain)
        return 0
    from onnxshare.cli.commands import call

    return call(arguments)


def _fail(message: str) -> int:
    line = " ".join(printable(message.replace("\n", " ")).split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    with contextlib.suppress(OSError):  # nobody can be told
        print(f"onnxshare: error: {line}", file=sys.stderr, flush=True)
    return 2


def _has_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False
