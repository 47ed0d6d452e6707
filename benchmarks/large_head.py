"""A head of VGG-16's size made small: how long the fit takes, its memory, and what it saves.

The head is 512×7×7 → 4096 → 4096 → 1000 with a softmax, 494 MB, behind a convolution of one weight
per channel that stands for the network before it. Its weights and the maps it reads are random,
but not white noise: maps are sparse and smooth, and so is most of the first weight over space.

The fit runs as a process of its own: it opens the model, computes what the head does on 512 maps,
fits, and emits the nodes. So does the whole command `onnxshare rewrite`, which also compares the
result with the original on 171 maps more, and writes it. Memory is the most that all processes
held together. Then both heads are timed in pairs, on other maps. What such a random head keeps of
its classes says nothing of real ones, and is not shown.

Run: python benchmarks/large_head.py [--methods NAME …] [--folder FOLDER]

It needs 1.5 GB of disk in FOLDER, or in the temporary folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from heads import measure as on_samples
from onnx import TensorProto, helper, numpy_helper
from vgg19 import measure

import onnxshare
from onnxshare.report.compare import seconds
from onnxshare.samples.samples import Array
from rewrites.small_heads import blas_threads
from rewrites.small_heads.emit_head import emit_head
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.methods import parse

CHANNELS, SIDE = 512, 7
WIDTHS = (CHANNELS * SIDE * SIDE, 4096, 4096, 1000)

#: Maps that are fitted to, a command's samples, of which three quarters are, and unseen ones.
FITTED, SAMPLES, UNSEEN = 512, 683, 200

METHODS = ("collapse+gap", "collapse+mask:4", "stack:64+mask:8")


def blobs(count: int, random: np.random.Generator) -> Array:
    """Smooth bumps over the positions, `[count, 49]`."""
    grid = np.arange(SIDE)
    centres, width = random.uniform(-1, SIDE, (2, count, 1)), random.uniform(1.0, 3.0, (count, 1))
    rows, columns = (np.exp(-(((grid - centre) / width) ** 2)) for centre in centres)
    bumps: Array = (rows[:, :, None] * columns[:, None, :]).reshape(count, -1).astype(np.float32)
    return bumps


def maps(count: int, random: np.random.Generator) -> Array:
    """Non-negative maps `[count, 512, 7, 7]`; about a tenth of the channels speaks per sample."""
    shapes = blobs(64, random)
    made = np.empty((count, CHANNELS, SIDE, SIDE), np.float32)
    themes = random.standard_normal((40, CHANNELS)).astype(np.float32)
    for sample in made:
        strength = random.standard_normal(40).astype(np.float32) @ themes / 6
        strength += 0.4 * random.standard_normal(CHANNELS).astype(np.float32)
        where = shapes[random.integers(0, len(shapes), CHANNELS)]
        spoken = np.maximum(strength - 1.0, 0)[:, None] * where
        sample[:] = spoken.reshape(sample.shape)
    return made


def first_weight(outputs: int, random: np.random.Generator) -> Array:
    """Some rows of the first weight: smooth over space, but for a part that is not."""
    shapes = blobs(12, random)
    parts = random.standard_normal((outputs, CHANNELS, len(shapes))).astype(np.float32)
    rough = random.standard_normal((outputs, CHANNELS, SIDE * SIDE)).astype(np.float32)
    rows: Array = (parts @ shapes + 0.3 * rough).reshape(outputs, -1)
    return rows * np.float32((2 / (40 * len(shapes))) ** 0.5)


def build(path: Path) -> None:
    """Write the head, its weights beside it."""
    random = np.random.default_rng(0)
    stored, nodes, name, start = [], [], "flat", 0
    conv = helper.make_node("Conv", ["map", "ones"], ["conv"], name="conv", group=CHANNELS)
    stored.append(numpy_helper.from_array(np.ones((CHANNELS, 1, 1, 1), np.float32), "ones"))
    nodes += [conv, helper.make_node("Flatten", ["conv"], ["flat"], name="flatten")]
    with Path(f"{path}.data").open("wb") as file:
        for place, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
            for rows in range(0, outputs, 64):
                count = min(64, outputs - rows)
                if place == 1:
                    first_weight(count, random).tofile(file)
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
            if place < len(WIDTHS) - 1:
                nodes.append(helper.make_node("Relu", [name], [f"r{place}"], name=f"relu{place}"))
                name = f"r{place}"
    nodes.append(helper.make_node("Softmax", [name], ["classes"], name="softmax"))
    shape = ["batch", CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["batch", WIDTHS[-1]])],
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
    parser.add_argument("--folder", help="where to put the model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model, seen, unseen = (Path(folder, name) for name in ("head.onnx", "a.npy", "b.npy"))
        build(model)
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
