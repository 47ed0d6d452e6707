"""Latency of rewritten networks against the original, in ONNX Runtime on the CPU, and of models
against themselves, where any difference claimed would be a false one.

Run: python benchmarks/latency.py [--again RUNS]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxshare
from onnxshare.report.compare import seconds
from onnxshare.runtime.latency import Latency

MODELS = Path(__file__).resolve().parents[1] / "models"
BATCHES = (1, 8, 64)


def row(name: str, what: str, found: Latency) -> str:
    if found.a is None or found.b is None or found.ratio is None or found.ci95 is None:
        return f"| {name} | {what} | {found.batch} | – | – | {found.reason} | – |"
    low, high = found.ci95
    ratio = f"{found.ratio:.3f} ({low:.3f} to {high:.3f}, {found.pairs} pairs)"
    times = f"{seconds(found.a)} | {seconds(found.b)}"
    return f"| {name} | {what} | {found.batch} | {times} | {ratio} | {found.result} |"


def rewritten(provider: str, folder: Path) -> Iterator[tuple[str, str, Path, Path]]:
    """Each network, the rewrite, and the files before and after."""
    for name in ("lenet5", "vgg_small"):
        path = MODELS / f"{name}.onnx"
        exact = onnxshare.rewrite(path, ["fc-to-conv"], provider=provider)
        pooled = onnxshare.rewrite(
            path,
            ["fc-to-gap"],
            approximate=True,
            samples=MODELS / "calibration.npz",
            provider=provider,
        )
        for label, result in (("fc-to-conv", exact), ("fc-to-gap", pooled)):
            result.save(folder / f"{name}.{label}.onnx")
            yield name, label, path, folder / f"{name}.{label}.onnx"


def measured(provider: str) -> Iterator[str]:
    """The rows of the table of rewritten networks."""
    with tempfile.TemporaryDirectory() as folder:
        for name, label, before, after in rewritten(provider, Path(folder)):
            compared = onnxshare.compare(before, after, provider=provider, latency=BATCHES, count=2)
            yield from (row(name, label, found) for found in compared.latency or ())


def against_themselves(runs: int, provider: str = "cpu") -> Iterator[str]:
    """How often a difference is claimed between a model and itself, which there is none of."""
    for name in ("lenet5", "vgg_small", "gap_net"):
        path = MODELS / f"{name}.onnx"
        for batch in (1, 8):
            claims, ratios = 0, []
            for seed in range(runs):
                found = onnxshare.compare(path, path, provider=provider, latency=[batch], seed=seed)
                for latency in found.latency or ():
                    claims += latency.result not in ("no difference shown",)
                    ratios.append(latency.ratio or float("nan"))
            span = f"{min(ratios):.3f} to {max(ratios):.3f}"
            yield f"| {name} | {batch} | {runs} | {claims} | {span} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", type=int, default=0, metavar="RUNS")
    runs = parser.parse_args().again
    if runs:
        print("| network | batch | runs | differences claimed | B/A |")
        print("|---|---:|---:|---:|---:|")
        lines = against_themselves(runs)
    else:
        print("| network | rewrite | batch | before | after | after/before | result |")
        print("|---|---|---:|---:|---:|---:|---|")
        lines = measured("cpu")
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
