"""A process that holds a model's sessions, so that a crash, a hang or a lack of memory is its own.

Started by `worker_process.py`; it answers messages (`pipe_messages.py`) until its standard input
ends, and then it is gone at once, whatever it is doing: nothing outlives the process that started
it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import signal
import socket
import sys
import threading
from dataclasses import asdict
from typing import IO

import numpy as np

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.runtime import pipe_messages
from onnxshare.runtime.ort_engine import Array, Engine, Initializers, Racer, Settings
from onnxshare.runtime.provider_probe import try_session
from onnxshare.runtime.provider_table import Way
from onnxshare.support import memory

#: The most bytes that this process may write into a file: it has none to write.
_MOST_WRITTEN = 2**20

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

Message = tuple[pipe_messages.Header, list[Array]]


class Worker:
    """Does what messages ask for."""

    def __init__(self, files: socket.socket | None) -> None:
        self._engine = Engine()
        self._files = files

    def answer(self, header: pipe_messages.Header, arrays: list[Array]) -> Message:
        """Do one thing, and close the sessions that are no longer needed."""
        for number in header.get("closed", ()):
            self._engine.close(number)
        work = {"open": self._open, "run": self._run, "race": self._race, "try": self._try}
        return work[header["op"]](header, arrays)

    def _try(self, header: pipe_messages.Header, arrays: list[Array]) -> Message:
        way = Way(**header["way"])
        return {"probe": asdict(try_session(header["provider"], way, header["library"]))}, []

    def _open(self, header: pipe_messages.Header, arrays: list[Array]) -> Message:
        settings = Settings(**header["settings"])
        weights = self._weights(header)
        number, left = self._engine.open(arrays[0].tobytes(), weights, settings)
        return {"session": number, "on_cpu": left}, []

    def _run(self, header: pipe_messages.Header, arrays: list[Array]) -> Message:
        feed = dict(zip(header["inputs"], arrays, strict=True))
        return {}, self._engine.run(header["session"], header["outputs"], feed)

    def _race(self, header: pipe_messages.Header, arrays: list[Array]) -> Message:
        orders, feeds = arrays[0], iter(arrays[1:])
        racers = [
            Racer(told["session"], told["outputs"], {name: next(feeds) for name in told["inputs"]})
            for told in header["racers"]
        ]
        return {}, [self._engine.race(racers, orders, header["runs"])]

    def _weights(self, header: pipe_messages.Header) -> Initializers:
        """The weights in the files that come with the message, mapped."""
        maps = []
        for file in self._receive(header):
            maps.append(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
            os.close(file)
        found = {}
        for item in header["weights"]:
            shape, dtype = item["shape"], np.dtype(item["dtype"])
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(maps[item["file"]], dtype, count, item["offset"]).reshape(shape)
            found[item["name"]] = item["data_type"], values
        return found

    def _receive(self, header: pipe_messages.Header) -> list[int]:
        if "paths" in header:  # where descriptors cannot be sent: files in a private folder
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
            return [os.open(path, flags) for path in header["paths"]]
        files: list[int] = []
        while self._files is not None and len(files) < header["files"]:
            files += socket.recv_fds(self._files, 1, header["files"])[1]
        return files


def main(parent: int, limit: int, files: int) -> None:
    """Answer messages on the standard streams, below `limit` bytes of memory (0: no limit), until
    the parent is gone; `files` is the descriptor of the socket over which files come, -1 for
    none."""
    replies = _own_output()
    _die_with(parent)
    _restrain(limit)
    _leave_network()
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    worker = Worker(None if files < 0 else socket.socket(fileno=files))
    while True:
        header, arrays = inbox.get()
        try:
            answer, results = worker.answer(header, arrays)
        except RuntimeFailure as error:
            words = [error.cause, error.remedy, error.missing_kernel]
            answer, results = {"failure": words}, []
        except UsageError as error:
            answer, results = {"usage": [error.cause, error.remedy]}, []
        except MemoryError:
            answer, results = {"out_of_memory": True}, []
        except Exception as error:
            cause = f"it cannot be handed over: {type(error).__name__}: {error}"
            answer, results = {"failure": [cause]}, []
        del header, arrays
        pipe_messages.send(replies, {**answer, "peak": memory.peak()}, results)


def _own_output() -> IO[bytes]:
    """Keep standard output for messages: what libraries print goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "wb")


def _listen(inbox: queue.SimpleQueue[Message]) -> None:
    """Read messages as they come, so that the end of the input is seen during a run, too."""
    source = os.fdopen(0, "rb", buffering=0, closefd=False)
    try:
        while True:
            inbox.put(pipe_messages.receive(source))
    except (pipe_messages.Closed, OSError):
        os._exit(0)
    except BaseException:  # such as a lack of memory for what comes
        os._exit(70)


def _die_with(parent: int) -> None:
    """Where the system can, be killed when the parent dies: then no lock can be in the way."""
    # Ctrl-C is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _leave_network() -> None:
    """Where the kernel lets it: no network, and no rights that a program on disk would give."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        system = ctypes.CDLL(None)
        system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if system.unshare(_CLONE_NEWNET) != 0:  # only root may do that without the other
            system.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _restrain(limit: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limit:
            memory.limit(limit)
            resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_WRITTEN, _MOST_WRITTEN))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # if the machine runs out of memory all the same, this process goes
