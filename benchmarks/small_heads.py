"""Small heads against the head they replace: parameters, agreement and accuracy.

Nothing is trained: each head is fitted on N unlabelled images, for three choices of the images, and
measured on labelled ones that no fit has seen. The bundled nets bring their images; models of the
zoo are measured where ONNXSHARE_ZOO names the folder that holds them.

Run: python benchmarks/small_heads.py [--net NAME] [--methods NAME …]
"""

from __future__ import annotations

import argparse
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from heads import Measured, agreement, bundled, measure

from onnxshare.samples.samples import Array
from rewrites.refusal import Refusal
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.methods import family, parse
from rewrites.small_heads.search import predict

COUNTS = (64, 256, 1000)
SEEDS = 3

#: Models of the zoo that classify MNIST: how their inputs are scaled and laid out.
MNIST = {
    "mnist8_cntk": (1.0, 0.0, "NCHW"),
    "marabou_mnist_maxpool2": (1.0, 0.0, "NHWC"),
    "zkml_lenet_small": (255 * 0.3081, 0.1307 / 0.3081, "NCHW"),
}

#: Images that no fit sees.
HELD_OUT = 2000


def zoo(name: str) -> tuple[Measured, Measured]:
    """A model of the zoo on images to fit to, and on others that measure."""
    folder = Path(os.environ["ONNXSHARE_ZOO"])
    with gzip.open(folder / "data" / "mnist_5k.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    scale, shift, layout = MNIST[name]
    image = (rows[:, :-1] / scale - shift).reshape(-1, 1, 28, 28).astype(np.float32)
    if layout == "NHWC":
        image = image.transpose(0, 2, 3, 1)
    whole = measure(folder / "models" / f"{name}.onnx", image, rows[:, -1].astype(int))
    order = np.arange(len(rows))
    return whole.take(order[HELD_OUT:]), whole.take(order[:HELD_OUT])


def nets() -> dict[str, object]:
    found: dict[str, object] = {"lenet5": bundled, "vgg_small": bundled}
    if os.environ.get("ONNXSHARE_ZOO"):
        found |= dict.fromkeys(MNIST, zoo)
    return found


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


def scores(seen: Measured, unseen: Measured, method: str, count: int) -> tuple[list[float], ...]:
    """Agreement in percent and the drop of accuracy in points, per choice of the images."""
    [leaf] = seen.chain.leaves
    wanted, labels = unseen.data.results[leaf], unseen.labels
    assert labels is not None
    kept, dropped = [], []
    for seed in range(SEEDS):
        rows = np.random.default_rng(seed).permutation(seen.data.count)[:count]
        head = fit_head(seen.data, np.sort(rows), parse(method))
        given: Array = predict(unseen.data, head, np.arange(unseen.data.count))[leaf]
        right = [(values.argmax(axis=1) == labels).mean() for values in (wanted, given)]
        kept.append(100 * agreement(wanted, given))
        dropped.append(100 * float(right[0] - right[1]))
    return kept, dropped


def table(name: str, seen: Measured, unseen: Measured, methods: list[str]) -> Iterator[str]:
    chain, [leaf] = seen.chain, seen.chain.leaves
    wanted, labels = unseen.data.results[leaf], unseen.labels
    accuracy = 100 * float((wanted.argmax(axis=1) == labels).mean())
    channels, sizes = chain.head.channels, "×".join(map(str, chain.head.spatial))
    yield (
        f"\n**{name}**: head of {chain.params:,} parameters on {channels}×{sizes}, "
        f"{accuracy:.1f} % of {len(wanted):,} images right\n"
    )
    counts = [min(count, seen.data.count) for count in COUNTS]
    cells = " | ".join(f"N = {count:,}: same class, % | accuracy lost" for count in counts)
    yield f"| Head | ÷ | {cells} |\n|---|---:|{'---:|' * 2 * len(counts)}"
    depth = max(len(chain.path(leaf)) for leaf in chain.leaves)
    outputs, head = wanted.shape[1], chain.head
    found_here = family(depth, outputs, head.channels, head.spatial)
    names = methods or [method.name for method in found_here]
    for method in names:
        try:
            head = fit_head(seen.data, np.arange(64), parse(method))
            found = [scores(seen, unseen, method, count) for count in counts]
        except Refusal as refusal:
            yield f"| {method} | {refusal} |" + " |" * 2 * len(counts)
            continue
        if head.params >= chain.params:
            continue
        cells = " | ".join(f"{spread(kept)} | {spread(lost)}" for kept, lost in found)
        yield f"| {method} | {chain.params / head.params:.1f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="", help="only nets whose name holds this")
    parser.add_argument("--methods", nargs="*", default=[], help="only these methods")
    given = parser.parse_args()
    for name, read in nets().items():
        if given.net in name:
            seen, unseen = read(name)  # type: ignore[operator]
            for line in table(name, seen, unseen, given.methods):
                print(line, flush=True)


if __name__ == "__main__":
    main()
