"""What `inspect` costs, by the size of the weights and by the size of the graph.

Whole processes, `onnxshare inspect FILE --format json`, with the floor `python -c "import onnx"`
measured in the same run; weights are sparse files, made on the spot. Needs 7 GB of address space
and next to no disk. Linux and macOS. (A script named inspect.py would hide the standard module.)

Run: python benchmarks/inspection.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The models are made by another process, and nothing large is imported here: what a process takes
# counts from what its parent took when it was started.
MODELS = Path(__file__).with_name("inspection_models.py")
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds and MiB, medians over its runs."""

    wall: float
    memory: float


def measure(words: Sequence[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} exits with {process.returncode}")
    return Cost(wall, usage.ru_maxrss / (1024 if sys.platform == "linux" else MIB))


def medians(commands: dict[str, Sequence[str]], runs: int) -> dict[str, Cost]:
    """Each command so many times, in turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for words in commands.values():
        measure(words)
    for _ in range(runs):
        for name, words in commands.items():
            costs[name].append(measure(words))
    return {
        name: Cost(
            statistics.median(cost.wall for cost in found),
            statistics.median(cost.memory for cost in found),
        )
        for name, found in costs.items()
    }


def inspect(path: Path) -> list[str]:
    return [sys.executable, "-m", "onnxshare", "inspect", str(path), "--format", "json"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chains = (2_000, 20_000, 200_000)
        build = [sys.executable, str(MODELS), name, *map(str, chains)]
        subprocess.run(build, check=True)
        floor = [sys.executable, "-c", "import onnx"]
        weights = {
            '`python -c "import onnx"`, the floor': floor,
            "ResNet-50, 102 MB": inspect(folder / "resnet.onnx"),
            "200 nodes, 5 MB embedded": inspect(folder / "5.onnx"),
            "200 nodes, 500 MB embedded": inspect(folder / "500.onnx"),
            "200 nodes, 500 MB external": inspect(folder / "external500.onnx"),
            "200 nodes, 4 GB external": inspect(folder / "external4.onnx"),
        }
        report(medians(weights, 11), list(weights))
        costs = medians({str(n): inspect(folder / f"{n}.onnx") for n in chains} | {"": floor}, 3)
        report_chains(costs, chains)


def report(costs: dict[str, Cost], names: list[str]) -> None:
    floor = costs[names[0]]
    print("| process | seconds | of the floor | peak memory, MiB | of the floor |")
    print("|---|---:|---:|---:|---:|")
    for name, cost in costs.items():
        print(
            f"| {name} | {cost.wall:.3f} | {cost.wall / floor.wall:.2f} | {cost.memory:.0f} "
            f"| {cost.memory / floor.memory:.2f} |"
        )
    small, large = costs[names[2]], costs[names[3]]
    print(
        f"\n500 MB embedded against 5 MB: {large.wall / small.wall:.2f} × the time, "
        f"{large.memory / small.memory:.2f} × the memory.\n"
    )


def report_chains(costs: dict[str, Cost], chains: Sequence[int]) -> None:
    print("| nodes | seconds | beyond the floor, µs a node | peak memory, MiB |")
    print("|---:|---:|---:|---:|")
    each = {}
    for count in chains:
        cost = costs[str(count)]
        each[count] = (cost.wall - costs[""].wall) / count
        print(f"| {count:,} | {cost.wall:.2f} | {each[count] * 1e6:.0f} | {cost.memory:.0f} |")
    print(
        f"\nTime a node from {chains[0]:,} to {chains[-1]:,} nodes: "
        f"× {each[chains[-1]] / each[chains[0]]:.2f}."
    )


if __name__ == "__main__":
    main()
