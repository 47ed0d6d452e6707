"""Runs much that is damaged through workers, and collects what should not have happened."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.fuzz.mutations import mutants
from tests.fuzz.seeds import calls_functions, computes_shapes, policies
from tests.fuzz.text_mutations import mutants as text_mutants
from tests.fuzz.worker import MODELS

#: Seconds of processors that a case may take, and of the clock: others may use the machine too.
MOST_SECONDS, TIME_OUT = 10.0, 60.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What became of the damaged cases."""

    ends: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, bytes, str]] = field(default_factory=list)
    slowest: tuple[float, str, bytes] = (0.0, "", b"")
    largest: tuple[int, str, bytes] = (0, "", b"")

    @property
    def cases(self) -> int:
        """How many were tried."""
        return sum(self.ends.values())


class Worker:
    """One process that reads what it gets, started again after a crash or a hang."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, data: bytes, name: str = "") -> dict[str, object]:
        """Have one case read, as what the ending of its name says."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            words = name.encode()
            process.stdin.write(struct.pack("<QQ", len(words), len(data)) + words + data)
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], TIME_OUT)
        line = process.stdout.readline() if ready else b""
        if line:
            answer: dict[str, object] = json.loads(line)
            return answer
        self.stop()
        end = f"signal or exit {process.returncode}" if ready else "hang"
        return {"end": "bad", "details": end, "seconds": 0.0, "peak": 0}

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), _beside()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self._process


@functools.cache
def _beside() -> str:
    """A folder with the models and the policy that lie beside policies and command lines."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, data in zip(MODELS, (computes_shapes(), calls_functions()), strict=True):
        for place in (folder, os.path.join(folder, "models")):  # where starters look for them
            os.makedirs(place, exist_ok=True)
            Path(place, name).write_bytes(data)
    name, policy = policies()[0]
    Path(folder, Path(name).name).write_bytes(policy)
    return folder


def damaged(name: str, data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged forms of a case without end, as what the ending of its name says."""
    if not name.endswith((".toml", ".args", ".onnxtxt", ".json", ".textproto")):
        yield from mutants(data, seed)
    for kind, text in text_mutants(data.decode(), seed):
        yield kind, text.encode(errors="surrogatepass")


def cases(seeds: Sequence[tuple[str, bytes]], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged forms, in turn of the whole ones: a name that says how to make it again,
    and its bytes."""
    each = [
        islice(damaged(name, data, seed * 1_000_003 + place), count // len(seeds) + 1)
        for place, (name, data) in enumerate(seeds)
    ]
    numbered = (
        (f"{name} seed {seed} case {turn} {kind}", damaged)
        for turn, row in enumerate(zip(*each, strict=True))
        for (name, _), (kind, damaged) in zip(seeds, row, strict=True)
    )
    return islice(numbered, count)


def run(
    seeds: Sequence[tuple[str, bytes]], count: int, *, seed: int = 0, workers: int = 2
) -> Outcome:
    """Read so many damaged cases in some processes at once."""
    outcome, lock = Outcome(), threading.Lock()
    source = cases(seeds, count, seed)

    def drain() -> None:
        worker = Worker()
        while True:
            with lock:
                case = next(source, None)
            if case is None:
                break
            answer = worker.ask(case[1], case[0].partition(" seed ")[0])
            with lock:
                _note(outcome, case, answer)
        worker.stop()

    threads = [threading.Thread(target=drain) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _note(outcome: Outcome, case: tuple[str, bytes], answer: dict[str, object]) -> None:
    end, seconds, peak = str(answer["end"]), answer["seconds"], answer["peak"]
    assert isinstance(seconds, float)
    assert isinstance(peak, int)
    if seconds > MOST_SECONDS:
        end, answer["details"] = "bad", f"it takes {seconds:.0f} s"
    if end == "bad":
        outcome.bad.append((case[0], case[1], str(answer["details"])))
    outcome.ends[end] += 1
    outcome.slowest = max(outcome.slowest, (seconds, *case))
    if peak > outcome.largest[0]:  # a worker's peak stays what it was: the first is the cause
        outcome.largest = (peak, *case)
