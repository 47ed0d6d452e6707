"""What the analysis of a long graph costs, against onnx's own reading and shape inference of it.

Pairs in one process, `onnxshare.inspect(path)` against `infer_shapes(onnx.load(path))`, and pairs
of processes, `onnxshare inspect path --format json` against `python -c` with the same two calls.

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
    print(f"| {count:,} nodes | `onnxshare.inspect` | `onnxshare inspect --format json` |")
    print("|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, build) in enumerate(KINDS.items()):
            path = str(Path(folder) / f"{number}.onnx")
            onnx.save(build(count), path)
            here = ratio(lambda p=path: onnxshare.inspect(p), lambda p=path: _onnx(p), _PAIRS)  # type: ignore[misc]
            words = [sys.executable, "-m", "onnxshare", "inspect", path, "--format", "json"]
            there = ratio(command(words), command([sys.executable, "-c", _YARDSTICK, path]), _PAIRS)
            print(f"| {kind} | {here} | {there} |", flush=True)


def _onnx(path: str) -> object:
    return onnx.shape_inference.infer_shapes(onnx.load(path))


if __name__ == "__main__":
    main()
