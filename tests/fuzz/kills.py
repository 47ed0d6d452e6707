"""Kills commands that save at random moments, and runs many on one folder at once.

`python -m tests.fuzz.kills [COUNT] [SEED]` prints what it found wrong. Commands are forked, not
started: so their time is spent on the work, where the kill is to hit.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Words that no command may print.
_BROKEN = ("Traceback", "internal error")


def build(path: Path, seed: int, side: int) -> None:
    """A model with external data of twice `side` × `side` numbers, of which one is enough."""
    values = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"])]
    nodes.append(helper.make_node("MatMul", ["h", "b"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", side]) for name in "xy")
    stored = [numpy_helper.from_array(values, name) for name in "ab"]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path, save_as_external_data=True, location=f"{path.name}.bin")


def start(words: list[str], said: Path) -> int:
    """Run a command in a forked process, and return its number; what it prints goes to a file."""
    child = os.fork()
    if child:
        return child
    try:
        from onnxshare.cli import main

        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["onnxshare", *words]
        main.main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    finally:
        os._exit(99)


def ended(child: int) -> int:
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Stage:
    """A folder that models are saved into, and the models."""

    def __init__(self, home: Path, side: int = 1024) -> None:
        self.home, self.folder = home, home / "out"
        self.folder.mkdir()
        self.target, self.said = self.folder / "o.onnx", home / "said"
        for seed in (1, 2):
            build(home / f"{seed}.onnx", seed, side)
        self.whole = {self._content(home / f"{seed}.onnx") for seed in (1, 2)}

    def save(self, seed: int) -> list[str]:
        """The command that saves one of the models."""
        words = ["rewrite", f"{self.home}/{seed}.onnx", "--share", "--no-validate", "--force"]
        return [*words, "-o", str(self.target)]

    def faults(self, *, clean: bool) -> list[str]:
        """What is wrong: a model that is none of the two, and, where it is to be clean, files that
        nothing names."""
        found = [f"prints {word!r}" for word in _BROKEN if word in self.text()]
        named: set[str] = set()
        if self.target.exists():
            try:
                if self._content(self.target) not in self.whole:
                    found.append("the model is a mixture")
            except Exception as error:
                found.append(f"the model is broken: {error}")
            loaded = onnx.load(self.target, load_external_data=False)
            named = {e.value for t in loaded.graph.initializer for e in t.external_data}
            named = {name for name in named if name.startswith("o.onnx")} | {"o.onnx"}
        reports = {"report.json", "known.json"}
        left = set(os.listdir(self.folder)) - named - reports
        return [*found, *(f"left: {name}" for name in left if clean)]

    def text(self) -> str:
        """What the commands printed."""
        with contextlib.suppress(OSError):
            return self.said.read_text(errors="replace")
        return ""

    @staticmethod
    def _content(path: Path) -> bytes:
        """The first numbers and the last ones."""
        tensor = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
        return bytes(tensor[0].tobytes() + tensor[-1].tobytes())


def kill_saves(stage: Stage, count: int, how: signal.Signals, seed: int = 0) -> Counter[str]:
    """Kill saves at random moments: how often each end and each fault came."""
    rng, found = random.Random(seed), Counter[str]()
    begin = time.monotonic()
    assert ended(start(stage.save(1), stage.said)) == 0, stage.text()
    whole = time.monotonic() - begin
    for turn in range(count):
        child = start(stage.save(1 + turn % 2), stage.said)
        time.sleep(rng.uniform(0, 1.1 * whole))
        os.kill(child, how)
        found[f"exit {ended(child)}"] += 1
        # What Ctrl-C would clean up, this does too.
        found.update(stage.faults(clean=how == signal.SIGTERM))
        found[f"next: exit {ended(start(stage.save(1 + turn % 2), stage.said))}"] += 1
        found.update(stage.faults(clean=True))
    return found


def at_once(stage: Stage, count: int = 20) -> Counter[str]:
    """Run so many commands on one folder at once: how often each end and each fault came."""
    target, found = str(stage.target), Counter[str]()
    ended(start(stage.save(1), stage.said))
    check = [
        "check",
        target,
        "--isolated",
        "--max-params",
        "9G",
        "--limit",
        "max-duplicate-bytes=9G",
    ]
    kinds = [
        stage.save(1),
        stage.save(2),
        [*check, "--report", f"json={stage.folder}/report.json"],
        [*check, "--write-baseline", f"{stage.folder}/known.json"],
        ["inspect", target, "--hash"],
    ]
    children = [start(kinds[number % len(kinds)], stage.said) for number in range(count)]
    found.update(f"exit {ended(child)}" for child in children)
    found.update(stage.faults(clean=False))
    found[f"next: exit {ended(start(stage.save(1), stage.said))}"] += 1
    found.update(stage.faults(clean=True))
    return found


def main(count: int = 100, seed: int = 0) -> None:
    """Kill so many saves in either way, and run many commands at once."""
    import onnxshare.api
    import onnxshare.cli.commands
    import rewrites.run

    assert onnxshare.api
    onnxshare.cli.commands.make_app(onnxshare.cli.commands.SUMMARIES)
    assert rewrites.run
    for how in (signal.SIGKILL, signal.SIGTERM):
        with tempfile.TemporaryDirectory() as home:
            print(how.name, dict(kill_saves(Stage(Path(home)), count, how, seed)), flush=True)
    for _ in range(max(1, count // 20)):
        with tempfile.TemporaryDirectory() as home:
            print("at once", dict(at_once(stage := Stage(Path(home)))), flush=True)
            print(*sorted(set(stage.text().splitlines()))[:20], sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
