"""Small heads against the head they replace: parameters, agreement and accuracy.

Nothing is trained: each head is fitted on N unlabelled images, for three choices of the images, and
measured on labelled ones that no fit has seen. The bundled nets bring their images; models of the
zoo are measured where ONNXSHARE_ZOO names the folder that holds them, and two larger nets with it
where --trained names a folder: they are trained there if it does not hold them yet.

Run: python benchmarks/small_heads.py [--net NAME] [--methods NAME …] [--counts N …]
     [--trained FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import trained_nets
from heads import Measured, agreement, bundled, measure

from onnxshare.samples.samples import Array
from rewrites.refusal import Refusal
from rewrites.small_heads import blas_threads
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


#: What reads a net: on images to fit to, and on others that measure.
Read = Callable[[str], tuple[Measured, Measured]]


def nets(trained: str = "") -> dict[str, Read]:
    """All nets that can be measured here, by name; `trained` is the folder of the larger ones."""
    found: dict[str, Read] = {"lenet5": bundled, "vgg_small": bundled}
    if os.environ.get("ONNXSHARE_ZOO"):
        found |= dict.fromkeys(MNIST, zoo)
    if os.environ.get("ONNXSHARE_ZOO") and trained:
        found |= dict.fromkeys(trained_nets.NETS, partial(larger, Path(trained)))
    return found


def larger(folder: Path, name: str) -> tuple[Measured, Measured]:
    """A net that is trained here."""
    path, parts = trained_nets.trained(name, folder)
    seen, unseen = parts.seen, parts.unseen
    return measure(path, seen.image, seen.labels), measure(path, unseen.image, unseen.labels)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}"


def scores(
    seen: Measured, unseen: Measured, method: str, count: int
) -> tuple[list[float], list[float], int]:
    """Agreement in percent and the drop of accuracy in points, per choice of the images; and the
    parameters of the head."""
    [leaf] = seen.chain.leaves
    wanted, labels = unseen.data.results[leaf], unseen.labels
    assert labels is not None
    kept, dropped = [], []
    for seed in range(SEEDS if count < seen.data.count else 1):
        rows = np.random.default_rng(seed).permutation(seen.data.count)[:count]
        with blas_threads.one():
            head = fit_head(seen.data, np.sort(rows), parse(method))
        given: Array = predict(unseen.data, head, np.arange(unseen.data.count))[leaf]
        right = [(values.argmax(axis=1) == labels).mean() for values in (wanted, given)]
        kept.append(100 * agreement(wanted, given))
        dropped.append(100 * float(right[0] - right[1]))
    return kept, dropped, head.params


def table(
    name: str, seen: Measured, unseen: Measured, methods: list[str], most: list[int]
) -> Iterator[str]:
    chain, [leaf] = seen.chain, seen.chain.leaves
    wanted, labels = unseen.data.results[leaf], unseen.labels
    accuracy = 100 * float((wanted.argmax(axis=1) == labels).mean())
    channels, sizes = chain.head.channels, "×".join(map(str, chain.head.spatial))
    yield (
        f"\n**{name}**: head of {chain.params:,} parameters on {channels}×{sizes}, "
        f"{accuracy:.1f} % of {len(wanted):,} images right\n"
    )
    counts = [min(count, seen.data.count) for count in most]
    cells = " | ".join(f"N = {count:,}: same class, % | accuracy lost" for count in counts)
    yield f"| Head | ÷ | {cells} |\n|---|---:|{'---:|' * 2 * len(counts)}"
    depth = max(len(chain.path(leaf)) for leaf in chain.leaves)
    outputs, head = wanted.shape[1], chain.head
    found_here = family(depth, outputs, head.channels, head.spatial)
    names = methods or [method.name for method in found_here]
    for method in names:
        try:
            found = [scores(seen, unseen, method, count) for count in counts]
        except Refusal as refusal:
            yield f"| {method} | {refusal} |" + " |" * 2 * len(counts)
            continue
        params = max(params for *_, params in found)
        if params >= chain.params:
            continue
        cells = " | ".join(f"{spread(kept)} | {spread(lost)}" for kept, lost, _ in found)
        yield f"| {method} | {chain.params / params:.1f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="", help="only nets whose name holds this")
    parser.add_argument("--methods", nargs="*", default=[], help="only these methods")
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS, help="images to fit to")
    parser.add_argument("--trained", default="", help="the folder of the nets that are trained")
    given = parser.parse_args()
    for name, read in nets(given.trained).items():
        if given.net in name:
            seen, unseen = read(name)
            for line in table(name, seen, unseen, given.methods, given.counts):
                print(line, flush=True)


if __name__ == "__main__":
    main()
