"""Large heads made small: how long a search and a fit take, their memory, and what they save.

The head is 512×7×7 → 4096 → 4096 → 1000 with a softmax, 494 MB, behind a convolution of one weight
per channel that stands for the network before it. Its weights and the maps it reads are random,
but not white noise: maps are sparse and smooth, and so is most of the first weight over space.

`--search` runs the whole command `onnxshare rewrite --fc-to-gap --method auto --keep 90%` on 1,000
samples, twice: on maps of which no two are alike, where nothing but the head as it is in 8 bits
keeps so much, and on maps of 200 kinds, as classes are. Seconds are processor time of all processes
together, and also given as a ratio to a fixed piece of work with NumPy, done before and after, as
other work on the machine makes both slower. `--shapes` fits the smallest head with a hidden layer
of a search to heads of other sizes, each in a process of its own.

The fit runs as a process of its own: it opens the model, computes what the head does on 512 maps,
fits, and emits the nodes. So does the whole command `onnxshare rewrite`, which also compares the
result with the original on 171 maps more, and writes it. Memory is the most that all processes
held together. Then both heads are timed in pairs, on other maps. What such a random head keeps of
its classes says nothing of real ones, and is not shown.

Run: python benchmarks/large_head.py [--search | --shapes | --methods NAME …] [--folder FOLDER]

It needs 1.5 GB of disk in FOLDER, or in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from heads import measure as on_samples
from onnx import TensorProto, helper, numpy_helper
from vgg19 import measure

import onnxshare
from onnxshare.comparison.promise import PROMISE_KEY
from onnxshare.report.compare import seconds
from onnxshare.samples.samples import Array
from rewrites.small_heads import blas_threads
from rewrites.small_heads.emit_head import emit_head
from rewrites.small_heads.fit_head import expected_params, fit_head
from rewrites.small_heads.methods import family, parse


class Shape(NamedTuple):
    """A map and the outputs of the FCs that follow."""

    channels: int
    side: int
    widths: tuple[int, ...]

    @property
    def name(self) -> str:
        words = (f"{self.channels}×{self.side}×{self.side}", *map(str, self.widths))
        return " → ".join(words)


VGG16 = Shape(512, 7, (4096, 4096, 1000))

#: Shapes of well-known networks and tutorials.
SHAPES = (
    *(Shape(256, 6, (4096, 4096, classes)) for classes in (10, 1000)),
    *(Shape(512, 7, (4096, 4096, classes)) for classes in (2, 4, 10, 1000, 2622)),
    Shape(64, 12, (128, 10)),
    Shape(128, 4, (512, 43)),
    Shape(64, 8, (512, 62)),
    Shape(512, 2, (512, 100)),
    Shape(128, 8, (256, 256, 10)),
    Shape(64, 7, (512, 200)),
    Shape(32, 26, (10,)),
)

#: Maps that are fitted to, a command's samples, of which three quarters are, and unseen ones.
FITTED, SAMPLES, UNSEEN = 512, 683, 200

METHODS = ("collapse+gap", "collapse+mask:4", "stack:64+mask:8")


def blobs(count: int, side: int, random: np.random.Generator) -> Array:
    """Smooth bumps over the positions of a square, `[count, side²]`."""
    grid = np.arange(side)
    centres, width = random.uniform(-1, side, (2, count, 1)), random.uniform(1.0, 3.0, (count, 1))
    rows, columns = (np.exp(-(((grid - centre) / width) ** 2)) for centre in centres)
    bumps: Array = (rows[:, :, None] * columns[:, None, :]).reshape(count, -1).astype(np.float32)
    return bumps


def maps(count: int, random: np.random.Generator, shape: Shape = VGG16) -> Array:
    """Non-negative maps `[count, 512, 7, 7]`; about a tenth of the channels speaks per sample."""
    shapes = blobs(64, shape.side, random)
    made = np.empty((count, shape.channels, shape.side, shape.side), np.float32)
    themes = random.standard_normal((40, shape.channels)).astype(np.float32)
    for sample in made:
        strength = random.standard_normal(40).astype(np.float32) @ themes / 6
        strength += 0.4 * random.standard_normal(shape.channels).astype(np.float32)
        where = shapes[random.integers(0, len(shapes), shape.channels)]
        spoken = np.maximum(strength - 1.0, 0)[:, None] * where
        sample[:] = spoken.reshape(sample.shape)
    return made


def maps_of_kinds(
    count: int, random: np.random.Generator, shape: Shape = VGG16, kinds: int = 200
) -> Array:
    """Non-negative maps `[count, 512, 7, 7]` of so many kinds, which differ more from each other
    than maps of one kind do."""
    shapes = blobs(64, shape.side, random)
    themes = random.standard_normal((kinds, shape.channels)).astype(np.float32)
    where = shapes[random.integers(0, len(shapes), (kinds, shape.channels))]
    made = np.empty((count, shape.channels, shape.side, shape.side), np.float32)
    for sample, kind in zip(made, random.integers(0, kinds, count), strict=True):
        strength = themes[kind] + 0.03 * random.standard_normal(shape.channels).astype(np.float32)
        place = 0.97 * where[kind] + 0.03 * where[random.integers(0, kinds)]
        sample[:] = (np.maximum(strength - 0.8, 0)[:, None] * place).reshape(sample.shape)
    return made


def first_weight(outputs: int, random: np.random.Generator, shape: Shape) -> Array:
    """Some rows of the first weight: smooth over space, but for a part that is not."""
    shapes = blobs(12, shape.side, random)
    parts = random.standard_normal((outputs, shape.channels, len(shapes))).astype(np.float32)
    rough = random.standard_normal((outputs, shape.channels, shape.side**2)).astype(np.float32)
    rows: Array = (parts @ shapes + 0.3 * rough).reshape(outputs, -1)
    return rows * np.float32((2 / (40 * len(shapes))) ** 0.5)


def build(path: Path, head: Shape = VGG16) -> None:
    """Write a head, its weights beside it."""
    random = np.random.default_rng(0)
    stored, nodes, name, start = [], [], "flat", 0
    conv = helper.make_node("Conv", ["map", "ones"], ["conv"], name="conv", group=head.channels)
    stored.append(numpy_helper.from_array(np.ones((head.channels, 1, 1, 1), np.float32), "ones"))
    nodes += [conv, helper.make_node("Flatten", ["conv"], ["flat"], name="flatten")]
    with Path(f"{path}.data").open("wb") as file:
        widths = (head.channels * head.side**2, *head.widths)
        for place, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            for rows in range(0, outputs, 64):
                count = min(64, outputs - rows)
                if place == 1:
                    first_weight(count, random, head).tofile(file)
                else:
                    deviation = np.float32((2 / inputs) ** 0.5)
                    weight = random.standard_normal((count, inputs), np.float32) * deviation
                    weight.tofile(file)
            (0.1 * random.standard_normal(outputs, np.float32)).tofile(file)
            for what, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                tensor = TensorProto(name=f"fc{place}.{what}", dims=shape, data_location=1)
                tensor.data_type = TensorProto.FLOAT
                size = 4 * int(np.prod(shape))
                for key, value in (
                    ("location", f"{path.name}.data"), ("offset", start), ("length", size)
                ):  # fmt: skip
                    tensor.external_data.add(key=key, value=str(value))
                stored.append(tensor)
                start += size
            fc = [name, f"fc{place}.weight", f"fc{place}.bias"]
            nodes.append(helper.make_node("Gemm", fc, [f"h{place}"], name=f"fc{place}", transB=1))
            name = f"h{place}"
            if place < len(head.widths):
                nodes.append(helper.make_node("Relu", [name], [f"r{place}"], name=f"relu{place}"))
                name = f"r{place}"
    nodes.append(helper.make_node("Softmax", [name], ["classes"], name="softmax"))
    shape = ["batch", head.channels, head.side, head.side]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["batch", head.widths[-1]])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def fit(model: str, maps_at: str, method: str) -> None:
    """Fit on the first 512 maps and emit the model; print the seconds."""
    image = np.load(maps_at)[:FITTED]
    start = time.perf_counter()
    head = on_samples(Path(model), image)
    chosen = np.arange(len(image))
    with blas_threads.one():
        small = fit_head(head.data, chosen, parse(method))
    emit_head(small)
    print(time.perf_counter() - start)


def smallest(model: str, shape: Shape) -> None:
    """Fit the smallest head with a hidden layer as a command does, and print a row: it is measured
    on maps that no fit saw, next to the share of the commonest class."""
    made = maps_of_kinds(500 + UNSEEN, np.random.default_rng(1), shape)
    head = on_samples(Path(model), made)
    chain, [leaf] = head.chain, head.chain.leaves
    outputs, sizes = shape.widths[-1], (shape.side, shape.side)
    taught = [
        m for m in family(len(shape.widths), outputs, shape.channels, sizes) if m.form == "mlp"
    ]
    method = min(taught, key=lambda item: expected_params(chain, item))
    start = time.process_time()
    with blas_threads.one():
        small = fit_head(replace(head.data, classes=head.classes), np.arange(500), method)
        took = time.process_time() - start
        given = small.predict(head.data.maps[500:])[leaf]
    assert np.isfinite(given).all()
    wanted = head.data.results[leaf][500:]
    same = float((given.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    commonest = float(np.bincount(wanted.argmax(axis=1)).max()) / UNSEEN
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ratio = chain.params / small.params
    print(
        f"| {shape.name} | {method.name} | {ratio:,.0f} | {took:.0f} | {took / work():.1f} | "
        f"{peak / 1e9:.1f} | {same:.0%} | {commonest:.0%} |"
    )


def work() -> float:
    """Processor time of a fixed piece of work with NumPy, in one thread: products, and passes over
    more memory than a cache holds."""
    square = np.random.default_rng(0).standard_normal((1536, 1536), dtype=np.float32)
    large = np.zeros(2**24, np.float32)
    with blas_threads.one():
        start = time.process_time()
        for _ in range(12):
            square @ square
        for _ in range(6):
            large.astype(np.float64).sum()
        return time.process_time() - start


def children() -> float:
    """Processor time of all processes that were started, and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def searched(model: Path, seen: Path, kind: str) -> str:
    """A row for a search with the whole command."""
    out = model.with_name("small.onnx")
    words = [sys.executable, "-m", "onnxshare", "rewrite", str(model), "--fc-to-gap"]
    words += ["--method", "auto", "--keep", "90%", "--samples", str(seen), "-o", str(out)]
    before, unit = children(), work()
    clock, peak = measure([*words, "--force", "--provider", "cpu"], poll=0.2)
    took, unit = children() - before, (unit + work()) / 2
    count, whole = (onnxshare.inspect(at).totals for at in (out, model))
    made = onnx.load(out, load_external_data=False)
    notes = {item.key: item.value for item in made.metadata_props}
    method = json.loads(notes[PROMISE_KEY])["method"] if PROMISE_KEY in notes else "exact"
    load, cores = os.getloadavg()[0], os.cpu_count()
    ratios = (whole.params / count.params, whole.param_bytes / count.param_bytes)
    return (
        f"| {kind} | {method} | {ratios[0]:.0f} | {ratios[1]:.1f} | {took:.0f} | "
        f"{took / unit:.0f} | {clock:.0f} | {peak / 1e9:.1f} | {load:.1f} on {cores} |"
    )


def all_shapes(model: Path) -> None:
    """A row for each of the shapes."""
    print("| Head | fitted | ÷ | s | ratio | memory, GB | same class | commonest |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for place, shape in enumerate(SHAPES):
        build(model, shape)
        code = "import sys; sys.path.insert(0, {!r}); import large_head as l; "
        code = (code + "l.smallest({!r}, l.SHAPES[{}])").format(
            str(Path(__file__).parent), str(model), place
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def row(method: str, model: Path, seen: Path, unseen: Path) -> str:
    out = model.with_name("small.onnx")
    code = "import sys; sys.path.insert(0, {!r}); import large_head as l; l.fit({!r}, {!r}, {!r})"
    code = code.format(str(Path(__file__).parent), str(model), str(seen), method)
    fitted = measure([sys.executable, "-c", code])
    words = [sys.executable, "-m", "onnxshare", "rewrite", str(model), "--fc-to-gap"]
    words += ["--method", method, "--samples", str(seen), "-o", str(out), "--force"]
    whole = measure([*words, "--provider", "cpu"])
    compared = onnxshare.compare(model, out, samples=unseen, provider="cpu", latency=[1, 8])
    cells = [f"{took:.0f} s, {peak / 1e9:.1f} GB" for took, peak in (fitted, whole)]
    for found in compared.latency or ():
        if found.a is None or found.b is None or found.ratio is None or found.ci95 is None:
            cells.append(found.reason)
            continue
        low, high = (1 / ratio for ratio in reversed(found.ci95))
        times = f"{seconds(found.a)} → {seconds(found.b)}"
        cells.append(f"{times}, {1 / found.ratio:.0f} × ({low:.0f} to {high:.0f})")
    before, after = (onnxshare.inspect(at).totals.params for at in (model, out))
    return f"| {method} | {before / after:.0f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--search", action="store_true", help="run whole searches")
    parser.add_argument("--shapes", action="store_true", help="fit to heads of other sizes")
    parser.add_argument("--folder", help="where to put the model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model, seen, unseen = (Path(folder, name) for name in ("head.onnx", "a.npy", "b.npy"))
        if given.shapes:
            all_shapes(model)
            return
        build(model)
        if given.search:
            print("| Maps | chosen | ÷ | ÷ bytes | s | ratio | clock, s | memory, GB | load |")
            print("|---|---|---:|---:|---:|---:|---:|---:|---|")
            for kind, make in (("all different", maps), ("of 200 kinds", maps_of_kinds)):
                np.save(seen, make(1000, np.random.default_rng(1)))
                print(searched(model, seen, kind), flush=True)
            return
        made = maps(SAMPLES + UNSEEN, np.random.default_rng(1))
        np.save(seen, made[:SAMPLES])
        np.save(unseen, made[SAMPLES:])
        del made
        print("| Head | ÷ | fit | whole command | batch 1 | batch 8 |")
        print("|---|---:|---:|---:|---:|---:|")
        for method in given.methods:
            print(row(method, model, seen, unseen), flush=True)


if __name__ == "__main__":
    main()
