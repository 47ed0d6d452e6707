"""Starts and minds a process that runs a model (`worker_main.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from onnxshare.errors import OutOfMemory, RuntimeFailure, UsageError
from onnxshare.io.memory_map import place
from onnxshare.io.tensors import Array
from onnxshare.runtime import pipe_messages
from onnxshare.support.child_environment import child_environment
from onnxshare.support.option_text import option

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from onnxshare.runtime.worker_main import main; main(*map(int, sys.argv[2:]))"
)

#: Descriptors that one message over a socket can carry.
_PER_MESSAGE = 200

#: Where arrays begin in a file: for whatever instructions may want it.
_ALIGNED = 64

#: Whether descriptors can be sent to another process.
_SENDS_FILES = hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")

#: What libraries and systems say where memory is short; ONNX Runtime has no code for it.
_LACKS_MEMORY = (
    "failed to allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "bad allocation",
    "out of memory",
)

#: What the process finds in its environment: no telemetry, and no threads of NumPy's, which would
#: reserve memory and do nothing.
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}


class ChildProcess:
    """A process that runs a model, started at once and asked later. `peak` is the most memory that
    it has had, in bytes, as of its last answer; `spent` says why it no longer answers."""

    def __init__(
        self,
        memory: int | None,
        returned: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; what it needs to import, it imports while this process goes on.

        Args:
            memory: the most bytes of memory it may take; None for no limit.
            returned: the most bytes that are taken from it at once; None for no limit.
            environment: variables that it gets in addition to those of this process.
        """
        self.peak: int | None = None
        self.spent = ""
        self._memory, self._returned = memory, returned
        self._errors = _nameless_file()
        self._socket: socket.socket | None = None
        theirs: socket.socket | None = None
        if _SENDS_FILES:
            self._socket, theirs = socket.socketpair()
        passed = () if theirs is None else (theirs.fileno(),)
        paths = json.dumps([os.path.abspath(path) for path in sys.path])  # "" is this folder
        numbers = (os.getpid(), memory or 0, passed[0] if passed else -1)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, paths, *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                env=child_environment(**_ENVIRONMENT, **(environment or {})),
                pass_fds=passed,
                # Ctrl-C in a terminal reaches the whole group: this process ends that one.
                start_new_session=True,
            )
        except OSError as error:
            raise RuntimeFailure(
                f"no process can be started for it: {error.strerror}",
                f"use {option('--in-process')}",
            ) from error
        finally:
            if theirs is not None:
                theirs.close()
        self._expired = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def ask(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        weights: Mapping[str, tuple[int, Array]] | None = None,
        *,
        seconds: float,
        what: str,
    ) -> tuple[pipe_messages.Header, list[Array]]:
        """Send a message and wait for the answer.

        Args:
            header, arrays: the message.
            weights: arrays by name, with ONNX's numbers of their types: handed over in files.
            seconds: how long to wait.
            what: what the process is to do, such as `load`, for the message of a time-out.

        Raises:
            RuntimeFailure: the model cannot be run, or the process crashes, takes too long or
                lacks memory; after these three it is gone.
            UsageError: ONNX Runtime is not installed, or broken.
        """
        if self.spent:
            raise RuntimeFailure(self.spent)
        watch = threading.Timer(seconds, self._expire)
        watch.daemon = True
        watch.start()
        try:
            message = {**header, **self._given(weights or {})}
            pipe_messages.send(cast("IO[bytes]", self._process.stdin), message, arrays)
            answer, results = pipe_messages.receive(
                cast("IO[bytes]", self._process.stdout), self._returned
            )
        except pipe_messages.TooLarge as error:
            self.stop()
            raise OutOfMemory(
                f"what it returns takes {error.args[0] / 1e9:.3g} GB at once, which is more than "
                "this process takes",
                f"raise that with {option('--memory-limit')}, or run it on a machine with more "
                "memory",
            ) from None
        except (pipe_messages.Closed, OSError):
            raise self._death(seconds, what) from None
        except MemoryError:
            raise self._too_little() from None
        finally:
            watch.cancel()
        self.peak = answer.get("peak")
        if answer.get("out_of_memory"):
            raise self._too_little()
        if "usage" in answer:
            raise UsageError(*answer["usage"])
        if "failure" in answer:
            cause, *others = answer["failure"]
            if any(words in cause.lower() for words in _LACKS_MEMORY):
                raise self._too_little()
            raise RuntimeFailure(cause, *others)
        return answer, results

    def stop(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        self.spent = self.spent or "its process was stopped"
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors, self._socket):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _death(self, seconds: float, what: str) -> RuntimeFailure:
        """Why there is no answer, as an error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.poll()
        words = self._last_words()
        self.spent = "its process has ended"
        self.stop()
        if self._expired:
            return RuntimeFailure(
                f"ONNX Runtime takes longer than {seconds:.3g} s to {what} it",
                f"give it more time with {option('--timeout SECONDS')}",
            )
        if any(sign in words.lower() for sign in (*_LACKS_MEMORY, "memoryerror")):
            return self._too_little()
        if code is not None and code == -getattr(signal, "SIGKILL", 9):
            return RuntimeFailure(
                "its process was killed, perhaps because it ran out of memory",
                "free some memory, or run it on a machine with more",
            )
        return RuntimeFailure(f"ONNX Runtime crashes on it ({_signal_name(code)})")

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            return self._errors.read(2**20)[-4000:].decode(errors="replace")
        return ""

    def _too_little(self) -> RuntimeFailure:
        """What to raise when memory runs out; the process ends, since what it took stays taken."""
        self.stop()
        if self._memory is None:
            return OutOfMemory("it needs more memory than there is")
        return OutOfMemory(
            f"it needs more memory than its process may have ({self._memory / 1e9:.3g} GB)",
            f"raise that with {option('--memory-limit')}, or run it on a machine with more",
        )

    def _given(self, weights: Mapping[str, tuple[int, Array]]) -> dict[str, Any]:
        try:
            return self._hand_over(weights)
        except OSError as error:
            if self._process.poll() is not None:
                raise
            raise RuntimeFailure(
                f"its weights cannot be handed over: {error.strerror}",
                f"free some space in {tempfile.gettempdir()}",
            ) from error

    def _hand_over(self, weights: Mapping[str, tuple[int, Array]]) -> dict[str, Any]:
        """Make weights readable for the process: descriptors of the files they lie in, which are
        open and were checked, and a file without a name for what lies in memory."""
        if not weights:
            return {"weights": [], "files": 0}
        files: dict[int, int] = {}
        items, loose = [], []
        for name, (data_type, array) in weights.items():
            found = place(array) if self._socket is not None else None
            number = -1 if found is None else files.setdefault(found.descriptor, len(files))
            items.append(
                {
                    "name": name,
                    "data_type": data_type,
                    "dtype": array.dtype.str,
                    "shape": array.shape,
                    "file": number,
                    "offset": 0 if found is None else found.offset,
                }
            )
            if found is None:
                loose.append((items[-1], array))
        message: dict[str, Any] = {"weights": items}
        if self._socket is None:
            message |= {"files": 1, "paths": [self._write_named(loose)]}
            for item, _ in loose:
                item["file"] = 0
            return message
        with contextlib.ExitStack() as kept:
            if loose:
                spare = kept.enter_context(tempfile.TemporaryFile(buffering=0))
                _write(spare, loose)
                for item, _ in loose:
                    item["file"] = len(files)
                files[spare.fileno()] = len(files)
            descriptors = list(files)
            for start in range(0, len(descriptors), _PER_MESSAGE):
                some = descriptors[start : start + _PER_MESSAGE]
                socket.send_fds(self._socket, [b"f"], some)
        return {**message, "files": len(files)}

    def _write_named(self, loose: Sequence[tuple[dict[str, Any], Array]]) -> str:
        """Write arrays into a folder that nobody else may enter; it goes with the process."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        handle, path = tempfile.mkstemp(dir=self._folder.name)
        with os.fdopen(handle, "wb", buffering=0) as file:
            _write(file, loose)
        return str(Path(path))


def _nameless_file() -> IO[bytes]:
    """Where the process may complain: no pipe, which would have to be emptied."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise RuntimeFailure(
            f"no process can be started for it: {error.strerror}",
            f"set TMPDIR to a folder that can be written, or use {option('--in-process')}",
        ) from error


def _write(file: IO[bytes], loose: Sequence[tuple[dict[str, Any], Array]]) -> None:
    for item, array in loose:
        item["offset"] = offset = -(-file.tell() // _ALIGNED) * _ALIGNED
        file.seek(offset)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        while len(data):
            data = data[file.write(data) :]


def _signal_name(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code >= 0:
        return f"exit code {code}" if code < 2**16 else f"exit code 0x{code:08X}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
