"""What the command line costs: whole processes against `python -c "import onnx"`, the floor.

Run: python benchmarks/startup.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from paired import command, ratio

ROOT = Path(__file__).resolve().parents[1]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def main() -> None:
    tool = [sys.executable, "-m", "onnxshare"]
    floor = command([sys.executable, "-c", "import onnx"])
    cases = {
        "--help": [*tool, "--help"],
        "inspect LeNet-5, JSON": [
            *tool,
            "inspect",
            str(ROOT / "models" / "lenet5.onnx"),
            "--format",
            "json",
        ],
        "inspect ResNet-50 (415 nodes), JSON": [
            *tool,
            "inspect",
            str(LIGHT / "light_resnet50.onnx"),
            "--format",
            "json",
        ],
    }
    print("| process | time / time of `import onnx` (middle half) |")
    print("|---|---:|")
    for name, words in cases.items():
        print(f"| {name} | {ratio(command(words), floor, 15)} |", flush=True)


if __name__ == "__main__":
    main()
