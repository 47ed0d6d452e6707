"""What rewritten networks do on a GPU: verdicts, errors against the CPU with TensorFloat-32 off and
on, and latency. Prints a section for docs/benchmarks.md, or puts it there.

Run, where `onnxshare doctor` says that CUDA works: python benchmarks/gpu.py [--write]
`--provider cpu` tries the script itself on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from latency import BATCHES, MODELS, rewritten, row

import onnxshare
from onnxshare.comparison.results import Verdict
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import load
from onnxshare.runtime.providers import CUDA_OPTIONS, Provider, choose
from onnxshare.runtime.session import run_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEADING = "## On a GPU"


def verdicts(pairs: list[tuple[str, str, Path, Path]], provider: str) -> Iterator[str]:
    yield "| network | rewrite | verdict | largest error / tolerance | left to the CPU |"
    yield "|---|---|---|---:|---|"
    for name, label, before, after in pairs:
        found = onnxshare.compare(before, after, provider=provider, samples=MODELS / "test.npz")
        worst = f"{max((row.worst or 0.0 for row in found.outputs), default=0.0):.2g}"
        if found.verdict is Verdict.APPROXIMATE:
            worst = "–"  # an approximation differs by more, and says by how much
        left = (found.left_to_cpu or {}).get("b") or ["none"]
        yield f"| {name} | {label} | {found.verdict} | {worst} | {', '.join(left)} |"


def errors(pairs: list[tuple[str, str, Path, Path]], provider: Provider) -> Iterator[str]:
    """The largest error over the largest value of an output, on the test images."""
    images = {"image": np.load(MODELS / "test.npz")["image"][:256]}
    fast = replace(provider, options={**CUDA_OPTIONS, "use_tf32": "1"})
    yield "| model | TF32 off | TF32 on |"
    yield "|---|---:|---:|"
    files = dict.fromkeys(file for pair in pairs for file in pair[2:])
    for file in files:
        (expected,) = run_model(load(file), images, provider="cpu").values()
        shown = [_error(file, images, expected, how) for how in _ways(provider, fast)]
        yield f"| {file.stem} | {shown[0]} | {shown[1]} |"


def _ways(provider: Provider, fast: Provider) -> tuple[Provider, Provider]:
    return (provider, fast) if provider.options else (provider, provider)


def _error(file: Path, images: Mapping[str, Any], expected: Any, provider: Provider) -> str:
    (found,) = run_model(load(file), images, provider=provider).values()
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}"


def latencies(pairs: list[tuple[str, str, Path, Path]], provider: str) -> Iterator[str]:
    yield "| network | rewrite | batch | before | after | after/before | result |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for name, label, before, after in pairs:
        found = onnxshare.compare(before, after, provider=provider, latency=BATCHES, count=2)
        yield from (row(name, label, item) for item in found.latency or ())


def section(request: str, provider: Provider) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = list(rewritten(request, Path(folder)))
        yield HEADING
        yield ""
        yield f"{provider.label} (`python benchmarks/gpu.py --write`)."
        yield ""
        yield "Rewritten networks against the original, both on this device:"
        yield ""
        yield from verdicts(pairs, request)
        yield ""
        yield "This device against the CPU, largest error over largest value:"
        yield ""
        yield from errors(pairs, provider)
        yield ""
        yield "Latency, inputs and outputs bound to the device:"
        yield ""
        yield from latencies(pairs, request)
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--write", action="store_true", help="put the section into the page")
    arguments = parser.parse_args()
    if arguments.write and arguments.provider != "cuda":
        parser.error("only figures of a GPU are written")
    try:
        provider = choose(arguments.provider)
    except OnnxShareError as error:
        sys.exit(f"benchmarks/gpu.py: {error}")
    lines = []
    for line in section(arguments.provider, provider):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        rest = re.sub(rf"{re.escape(HEADING)}\n.*?(?=^## |\Z)", "", page, flags=re.S | re.M)
        PAGE.write_text(rest.rstrip("\n") + "\n\n" + "\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
