"""What `scan` costs per model beside `python -c "import onnx"`, and its memory, on 10,000 models.

    python benchmarks/scan_many.py [MODELS] [ROUNDS]

The models are LeNet-5 with other weights each, so that no two files are equal; they take 2.5 GB.
The cost per model is the processor time that a scan of all takes longer than one of a single model,
divided by their number: the start of the command is in both. Memory is the most that the process
held (VmHWM), for a tenth of the models and for all. Rounds alternate.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

MODEL = Path(__file__).resolve().parents[1] / "models" / "lenet5.onnx"

#: Runs the command, and says the most memory that it held.
COMMAND = """
import sys
from onnxshare.cli.main import main

try:
    main()
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


def build(folder: Path, count: int) -> None:
    """Models whose weights differ in their first bytes."""
    proto = onnx.load(MODEL)
    data = bytearray(proto.SerializeToString())
    weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data)).raw_data
    place = data.index(weights)
    for number in range(count):
        data[place : place + 4] = np.float32(number + 1).tobytes()
        part = folder / f"{number // 1000:03}"
        part.mkdir(exist_ok=True)
        (part / f"{number:05}.onnx").write_bytes(data)


def cost(*words: str) -> tuple[float, int]:
    """Processor seconds of a process, and the most memory that it held, in KiB."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system, int(
        (done.stderr.split() or ["0"])[-1]
    )


def main(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "models")
        folder.mkdir()
        build(folder, count)
        scan = ("-c", COMMAND, "scan", "--jobs", "1", "--format", "csv", "-o", f"{name}/rows.csv")
        one = str(folder / "000" / "00000.onnx")
        few = [str(folder / f"{part:03}") for part in range(max(1, count // 10_000))]
        ratios, costs = [], []
        for _ in range(rounds):
            floor, _ = cost("-c", "import onnx")
            single, _ = cost(*scan, one)
            tenth, small = cost(*scan, *few)
            all_of_them, large = cost(*scan, str(folder))
            rows = Path(name, "rows.csv").read_text("utf-8").splitlines()
            assert len(rows) == count + 1, len(rows)
            costs.append((all_of_them - single) / count)
            ratios.append(costs[-1] / floor)
            print(
                f"{1e3 * costs[-1]:.2f} ms per model, import onnx {1e3 * floor:.0f} ms, ratio "
                f"{ratios[-1]:.4f}; {small / 1024:.0f} MiB for a tenth ({tenth:.1f} s), "
                f"{large / 1024:.0f} MiB for {count:,}",
                flush=True,
            )
        print(f"median: {1e3 * statistics.median(costs):.2f} ms, {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(numbers[0] if numbers else 10_000, numbers[1] if numbers[1:] else 3)
