"""What the analysis of a long graph costs, against onnx's own reading and shape inference of it.

Pairs in one process, against `infer_shapes(onnx.load(path))`: `onnxshare.inspect(path)`, which
gives totals, heads and warnings, and the same with all rows of nodes and weights, which are made
when they are requested. And pairs of whole processes by their processor time, `onnxshare
inspect path`, as JSON and as a table, against `python -c` with the two calls of onnx; and the same
of ResNet-50 against `import onnx` and `onnx.load`.

Run: python benchmarks/analysis.py [NODES]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
from long_graphs import KINDS
from paired import command, of_children, ratio

import onnxshare

_PAIRS = 9
_YARDSTICK = "import onnx, sys; onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))"
_LOADING = "import onnx, sys; onnx.load(sys.argv[1])"
_RESNET = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"| {count:,} nodes | `inspect` | `inspect`, all rows | JSON, process | table, process |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, build) in enumerate(KINDS.items()):
            path = str(Path(folder) / f"{number}.onnx")
            onnx.save(build(count), path)
            here = ratio(lambda p=path: onnxshare.inspect(p), lambda p=path: _onnx(p), _PAIRS)  # type: ignore[misc]
            rows = ratio(lambda p=path: _rows(p), lambda p=path: _onnx(p), _PAIRS)  # type: ignore[misc]
            print(f"| {kind} | {here} | {rows} | {_processes(path, _YARDSTICK)} |", flush=True)
    print(f"| ResNet-50 | | | {_processes(str(_RESNET), _LOADING)} |")


def _processes(path: str, yardstick: str) -> str:
    """Processor time of `inspect` as JSON and as a table, over that of a yardstick."""
    floor = command([sys.executable, "-c", yardstick, path])
    tool = [sys.executable, "-m", "onnxshare", "inspect", path]
    return " | ".join(
        str(ratio(command([*tool, *form]), floor, _PAIRS, clock=of_children))
        for form in (["--format", "json"], [])
    )


def _rows(path: str) -> object:
    report = onnxshare.inspect(path)
    return report.nodes, report.weights


def _onnx(path: str) -> object:
    return onnx.shape_inference.infer_shapes(onnx.load(path))


if __name__ == "__main__":
    main()
