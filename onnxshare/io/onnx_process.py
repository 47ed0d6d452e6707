"""One call into onnx's C++ code in a process of its own, with a limit on memory and time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from onnxshare.support.child_environment import child_environment

#: Memory that the process may use, in bytes, in addition to several times its input.
MEMORY, TIMES_INPUT = 3 * 2**28, 16

#: Seconds it may take, and how many more per megabyte of input.
SECONDS, SECONDS_PER_MB = 8.0, 0.5


class TaskFailed(Exception):
    """Why there is no answer: it needed too much time or memory, or crashed, and was given up; else
    onnx says no."""

    def __init__(self, reason: str, *, given_up: bool = False) -> None:
        super().__init__(reason)
        self.given_up = given_up


def run_task(task: str, data: bytes) -> bytes:
    """Do one task of `onnx_process_worker.py`, by its name, on some data.

    Raises:
        TaskFailed: onnx rejects the input, crashes, or needs too much time or memory.
    """
    memory = MEMORY + TIMES_INPUT * len(data)
    seconds = SECONDS + SECONDS_PER_MB * len(data) / 1e6
    script = Path(__file__).with_name("onnx_process_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(script), task, str(memory)],
            input=data,
            capture_output=True,
            check=False,
            timeout=seconds,
            # Threads of a linear algebra library would reserve most of the memory, and do nothing.
            env=child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
        )
    except subprocess.TimeoutExpired:
        raise TaskFailed(f"it takes longer than {seconds:.0f} s", given_up=True) from None
    if done.returncode < 0:
        try:
            what = signal.Signals(-done.returncode).name
        except ValueError:
            what = f"signal {-done.returncode}"
        raise TaskFailed(f"onnx crashes on it ({what})", given_up=True)
    if done.returncode != 0:
        raise TaskFailed("onnx fails on it, perhaps out of memory", given_up=True)
    if not done.stdout.startswith(b"+"):
        reason = done.stdout[1:].decode(errors="replace")
        raise TaskFailed(reason, given_up=done.stdout.startswith(b"!"))
    return done.stdout[1:]
