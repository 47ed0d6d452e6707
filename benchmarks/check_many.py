"""What `check` costs per model beside `python -c "import onnx"`, on 100 models of ResNet-50's size.

    python benchmarks/check_many.py [ROUNDS]

The models are names of one file of 102 MB, so that the disk holds it once; each is opened, read
and judged for itself. The cost per model is what 101 models take longer than one, divided by 100:
the start of the command is in both. Rounds alternate, and the median of their ratios is printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

MODELS = 100


def resnet(path: Path) -> None:
    """ResNet-50 with weights of its real size: those of the onnx wheel are made when it runs."""
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(light / "light_resnet50.onnx")
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        array = np.full(shapes[node.input[0]], 0.01, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, path)


def seconds(*command: str, cwd: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=False, capture_output=True)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    check = (sys.executable, "-m", "onnxshare", "check", "--max-params", "1G", "--jobs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many").mkdir()
        resnet(folder / "one.onnx")
        for number in range(MODELS):
            os.link(folder / "one.onnx", folder / "many" / f"{number:03}.onnx")
        print(f"a model has {(folder / 'one.onnx').stat().st_size / 1e6:.0f} MB")
        for jobs in ("1", "2"):
            ratios, costs, floors = [], [], []
            for _ in range(rounds):
                floor = seconds(sys.executable, "-c", "import onnx", cwd=folder)
                one = seconds(*check, jobs, "one.onnx", cwd=folder)
                many = seconds(*check, jobs, "one.onnx", "many", cwd=folder)
                costs.append((many - one) / MODELS)
                floors.append(floor)
                ratios.append(costs[-1] / floor)
            print(
                f"--jobs {jobs}: {1e3 * statistics.median(costs):.1f} ms per model, "
                f"import onnx {1e3 * statistics.median(floors):.1f} ms, "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
