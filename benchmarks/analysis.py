"""What the analysis of a long graph costs, against onnx's own reading and shape inference of it.

Pairs in one process, against `infer_shapes(onnx.load(path))`: `onnxshare.inspect(path)`, which
gives totals, heads and warnings, and the same with all rows of nodes and weights, which are made
when they are requested. And pairs of processes, `onnxshare inspect path --format json`, which
prints all rows, against `python -c` with the two calls of onnx.

Run: python benchmarks/analysis.py [NODES]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
from long_graphs import KINDS
from paired import command, ratio

import onnxshare

_PAIRS = 9
_YARDSTICK = "import onnx, sys; onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"| {count:,} nodes | `inspect` | `inspect`, all rows | `inspect --format json` |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, build) in enumerate(KINDS.items()):
            path = str(Path(folder) / f"{number}.onnx")
            onnx.save(build(count), path)
            here = ratio(lambda p=path: onnxshare.inspect(p), lambda p=path: _onnx(p), _PAIRS)  # type: ignore[misc]
            rows = ratio(lambda p=path: _rows(p), lambda p=path: _onnx(p), _PAIRS)  # type: ignore[misc]
            words = [sys.executable, "-m", "onnxshare", "inspect", path, "--format", "json"]
            there = ratio(command(words), command([sys.executable, "-c", _YARDSTICK, path]), _PAIRS)
            print(f"| {kind} | {here} | {rows} | {there} |", flush=True)


def _rows(path: str) -> object:
    report = onnxshare.inspect(path)
    return report.nodes, report.weights


def _onnx(path: str) -> object:
    return onnx.shape_inference.infer_shapes(onnx.load(path))


if __name__ == "__main__":
    main()
