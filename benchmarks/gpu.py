"""What rewritten networks do on a GPU provider: verdicts on right and on spoilt rewrites, errors
against the CPU, nodes left to the CPU, memory, and latency where it is hardware. Prints a section
for docs/benchmarks.md, or puts it there.

Run: python benchmarks/gpu.py [--provider NAME] [--write]; networks of the zoo where ONNXSHARE_ZOO
names its folder. `--provider cpu` tries the script itself.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from gpu_networks import CASES, SAMPLES, path_of, spoilt
from latency import BATCHES, MODELS, rewritten, row

import onnxshare
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import load
from onnxshare.runtime.provider_table import CUDA, CUDA_OPTIONS
from onnxshare.runtime.providers import Provider, choose
from onnxshare.runtime.session import run_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEADING = "## On a GPU"


def verdicts(provider: Provider) -> Iterator[str]:
    yield (
        "| network | rewrite | verdict | largest error / tolerance | from the CPU "
        "| left to the CPU | peak memory | corrupted |"
    )
    yield "|---|---|---|---:|---:|---|---:|---|"
    places = CASES if "ONNXSHARE_ZOO" in os.environ else ("models",)
    for place in places:
        for name, rewrite in CASES[place]:
            path = path_of(place, name)
            changed = onnxshare.rewrite(path, [rewrite], validate=False).model
            yield f"| {name} | {rewrite} | {' | '.join(_figures(path, changed, provider))} |"


def _figures(path: Path, changed: onnx.ModelProto, provider: Provider) -> Iterator[str]:
    found = onnxshare.compare(path, changed, provider=provider.name, count=SAMPLES)
    yield found.verdict
    yield f"{max((item.worst or 0.0 for item in found.outputs), default=0.0):.2g}"
    yield "–" if found.cpu is None or found.cpu.a is None else f"{found.cpu.a:.1e}"
    yield ", ".join((found.left_to_cpu or {}).get("b") or ["none"])
    peak = (found.memory or {}).get("a")
    yield "–" if peak is None else f"{peak / 1e6:,.0f} MB"
    wrong = onnxshare.compare(path, spoilt(changed), provider=provider.name, count=SAMPLES)
    yield wrong.verdict


def tensor_float(provider: Provider) -> Iterator[str]:
    """The largest error over the largest value of an output, on the test images."""
    images = {"image": np.load(MODELS / "test.npz")["image"][:256]}
    fast = replace(provider, options={**CUDA_OPTIONS, "use_tf32": "1"})
    yield "| model | TF32 off | TF32 on |"
    yield "|---|---:|---:|"
    for name in ("lenet5", "vgg_small"):
        model = load(path_of("models", name))
        (expected,) = run_model(model, images, provider="cpu").values()
        errors = []
        for way in (provider, fast):
            (found,) = run_model(model, images, provider=way).values()
            errors.append(f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}")
        yield f"| {name} | {' | '.join(errors)} |"


def latencies(provider: str) -> Iterator[str]:
    yield "| network | rewrite | batch | before | after | after/before | result |"
    yield "|---|---|---:|---:|---:|---:|---|"
    with tempfile.TemporaryDirectory() as folder:
        for name, label, before, after in rewritten(provider, Path(folder)):
            found = onnxshare.compare(before, after, provider=provider, latency=BATCHES, count=2)
            yield from (row(name, label, item) for item in found.latency or ())


def section(provider: Provider) -> Iterator[str]:
    yield HEADING
    yield ""
    yield f"{provider.described} (`python benchmarks/gpu.py --provider NAME --write`)."
    if provider.hardware is False:
        yield "No GPU was at hand: this adapter computes on the CPU, so no time is given."
    yield ""
    yield (
        f"Rewritten networks against the original on {SAMPLES} random samples and other batches; "
        "how far the original is from the CPU, over its largest value; and what became of the "
        "rewrite with the halves of its largest weight exchanged:"
    )
    yield ""
    yield from verdicts(provider)
    yield ""
    if provider.name == CUDA:
        yield "This device against the CPU, largest error over largest value:"
        yield ""
        yield from tensor_float(provider)
        yield ""
    if provider.hardware:
        yield "Latency, inputs and outputs bound to the device where that is CUDA:"
        yield ""
        yield from latencies(provider.name)
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--write", action="store_true", help="put the section into the page")
    arguments = parser.parse_args()
    try:
        provider = choose(arguments.provider)
    except OnnxShareError as error:
        sys.exit(f"benchmarks/gpu.py: {error}")
    if arguments.write and provider.label.startswith("CPU"):
        parser.error("only figures of a GPU provider are written")
    lines = []
    for line in section(provider):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        rest = re.sub(rf"{re.escape(HEADING)}\n.*?(?=^## |\Z)", "", page, flags=re.S | re.M)
        PAGE.write_text(rest.rstrip("\n") + "\n\n" + "\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
