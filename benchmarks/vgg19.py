"""What rewriting a real size costs: VGG-19, 574 MB of weights, its head into convolutions.

Paired with copying the file: each round copies it and rewrites it, once also with the run that
validates the result, and the ratios of the times are what counts. Both write through the page
cache; "to the disk" waits for fsync, which the tool always does before it renames its output.
Memory is the most that all processes of the command held together, shared pages counted once
(PSS), so that the processes in which ONNX Runtime runs are in it.

The graph is the onnx wheel's VGG-19, whose weights are fills; random ones take their place.

Run: python benchmarks/vgg19.py [FOLDER] [ROUNDS]

It needs 2 GB of disk in FOLDER, or in the temporary folder, and 3 GB of memory.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_vgg19.onnx"
VALIDATED = "onnxshare rewrite --fc-to-conv"
POLL = 0.02  # seconds between two looks at the memory


def main() -> None:
    words = sys.argv[1:]
    rounds = int(words[1]) if len(words) > 1 else 5
    with tempfile.TemporaryDirectory(dir=words[0] if words else None) as folder:
        model, out = Path(folder, "vgg19.onnx"), Path(folder, "out.onnx")
        build(model)
        size = model.stat().st_size
        steps = {
            "rewrite and save, imports apart": [
                *(sys.executable, "-c"),
                "import time, onnxshare, rewrites.run; start = time.perf_counter(); "
                f"r = onnxshare.rewrite({str(model)!r}, ['fc-to-conv'], validate=False); "
                f"r.save({str(out)!r}); print(time.perf_counter() - start)",
            ],
            VALIDATED: [
                *(sys.executable, "-m", "onnxshare", "rewrite", str(model)),
                *("--fc-to-conv", "-o", str(out)),
            ],
        }
        times: dict[str, list[float]] = {name: [] for name in ("copy", "copy to the disk", *steps)}
        peaks: dict[str, int] = {}
        for _ in range(rounds):
            for to_disk in (False, True):
                times["copy to the disk" if to_disk else "copy"].append(copy(model, out, to_disk))
                out.unlink()
            for name, words in steps.items():
                if name == VALIDATED and times[name]:
                    continue  # running both models takes minutes, and once tells enough
                seconds, peak = measure(words)
                times[name].append(seconds)
                peaks[name] = max(peak, peaks.get(name, 0))
                out.unlink()
        print(f"{size / 1e6:.0f} MB, {rounds} rounds\n")
        print("| step | time, median | ÷ copy | ÷ copy to the disk | peak memory | ÷ size |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, found in times.items():
            ratios = [
                statistics.median(a / b for a, b in zip(found, times[base], strict=False))
                for base in ("copy", "copy to the disk")
            ]
            memory = (
                f"{peaks[name] / 1e6:.0f} MB | {peaks[name] / size:.2f}" if name in peaks else " | "
            )
            print(
                f"| {name} | {statistics.median(found):.2f} s | {ratios[0]:.2f} | {ratios[1]:.2f} "
                f"| {memory} |"
            )


def build(path: Path) -> None:
    """VGG-19 with random weights of the usual size (He et al., 2015)."""
    model = onnx.load(LIGHT)
    random = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = [int(size) for size in shapes[node.input[0]]]
        fan_in = max(1, int(np.prod(shape[1:], dtype=int)))
        values = random.standard_normal(shape, np.float32)
        values *= np.float32((2 / fan_in) ** 0.5 if len(shape) > 1 else 0.1)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    path.write_bytes(model.SerializeToString())


def copy(source: Path, target: Path, to_disk: bool) -> float:
    start = time.perf_counter()
    shutil.copyfile(source, target)
    if to_disk:
        with target.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def measure(command: list[str], poll: float = POLL) -> tuple[float, int]:
    """Seconds, and the most bytes that the command and what it started held together."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(held(item) for item in family(process.pid)))
            time.sleep(poll)
        seconds = time.perf_counter() - start
        words = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(words)
    return float(words) if command[1] == "-c" else seconds, peak


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        for tasks in Path(f"/proc/{current}/task").glob("*/children"):
            try:
                waiting.extend(int(word) for word in tasks.read_text().split())
            except OSError:
                continue
    return found


def held(pid: int) -> int:
    """Bytes of memory of a process, pages that others hold too divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
