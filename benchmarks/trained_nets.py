"""Two larger nets for the benchmarks of small heads, trained here in some minutes, with NumPy only.

- `wide`: Fashion-MNIST, a map of 128×8×8 and a head of 2.2 million parameters, 256 → 256 → 10;
- `pairs`: two digits of MNIST side by side as one number of 100, a map of 64×7×14 → 128 → 100.

Two convolutions of 3×3, each with a ReLU and a max-pooling of 2, then the FCs; trained by Adam on
images that no benchmark fits to or measures on. The data is the zoo's: of Fashion-MNIST 7,000 for
training, 1,000 to fit to and 2,000 to measure on (the same parts as of the bundled nets); of 5,000
digits 3,200, 800 and 1,000, from which pairs are drawn.

Run: ONNXSHARE_ZOO=… python benchmarks/trained_nets.py FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]

_BATCH = 64
_RATE = 1.5e-3


@dataclass(frozen=True)
class Images:
    """Images `[n, 1, H, W]` from 0 to 1, and their classes."""

    image: Array
    labels: Array


@dataclass(frozen=True)
class Parts:
    """Images to train on, to fit to and to measure on."""

    train: Images
    seen: Images
    unseen: Images


def fashion() -> Parts:
    """Fashion-MNIST's test images on 32×32, in the parts of the bundled nets."""
    folder = Path(os.environ["ONNXSHARE_ZOO"], "data")
    models = Path(__file__).resolve().parents[1] / "models"
    with gzip.open(folder / "fashion_t10k-images-idx3-ubyte.gz") as file:
        image = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "fashion_t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(int)
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))[:, None].astype(np.float32) / 255
    places = {row.tobytes(): place for place, row in enumerate(padded)}
    seen = np.load(models / "calibration.npz")["image"]
    test = np.load(models / "test.npz")
    used = [places[row.tobytes()] for row in seen]
    rest = set(used) | {places[row.tobytes()] for row in test["image"]}
    left = np.array(sorted(set(range(len(padded))) - rest))
    return Parts(
        Images(padded[left], labels[left]),
        Images(seen, labels[used]),
        Images(test["image"], test["labels"]),
    )


def pairs() -> Parts:
    """Two digits side by side, `[n, 1, 28, 56]`: the left one is the tens."""
    with gzip.open(Path(os.environ["ONNXSHARE_ZOO"], "data", "mnist_5k.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    random = np.random.default_rng(0)
    rows = rows[random.permutation(len(rows))]

    def drawn(of: Array, count: int) -> Images:
        left, right = of[random.integers(0, len(of), (2, count))]
        halves = [side[:, :-1].reshape(-1, 1, 28, 28) / 255 for side in (left, right)]
        numbers = (10 * left[:, -1] + right[:, -1]).astype(int)
        return Images(np.concatenate(halves, axis=3).astype(np.float32), numbers)

    return Parts(drawn(rows[:3200], 12_000), drawn(rows[3200:4000], 1000), drawn(rows[4000:], 2000))


class Net:
    """Convolutions and FCs, with what a step of training needs to know of them."""

    def __init__(self, sizes: tuple[int, int], channels: list[int], widths: list[int]) -> None:
        random = np.random.default_rng(1)
        height, width = (size >> len(channels) for size in sizes)
        self.convs: list[list[Array]] = []
        self.fcs: list[list[Array]] = []
        for inputs, outputs in pairwise([1, *channels]):
            weight = random.standard_normal((outputs, inputs * 9)) * (2 / (inputs * 9)) ** 0.5
            self.convs.append([weight.astype(np.float32), np.zeros(outputs, np.float32)])
        for inputs, outputs in pairwise([channels[-1] * height * width, *widths]):
            weight = random.standard_normal((outputs, inputs)) * (2 / inputs) ** 0.5
            self.fcs.append([weight.astype(np.float32), np.zeros(outputs, np.float32)])

    @property
    def values(self) -> list[Array]:
        return [values for layer in (*self.convs, *self.fcs) for values in layer]

    def slopes(self, image: Array, labels: Array, random: np.random.Generator) -> list[Array]:
        """The gradient of the mean cross-entropy; a third of the hidden units are dropped."""
        x, kept = image.transpose(0, 2, 3, 1), []
        for weight, bias in self.convs:
            columns = _columns(x)
            y = np.maximum(columns @ weight.T + bias, 0)
            split = y.reshape(len(y), y.shape[1] // 2, 2, y.shape[2] // 2, 2, -1)
            pooled = split.max(axis=(2, 4))
            kept.append((columns, y, pooled))
            x = pooled
        shape, flat = x.shape, x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        inputs = [flat]
        for place, (weight, bias) in enumerate(self.fcs):
            flat = flat @ weight.T + bias
            if place < len(self.fcs) - 1:
                drop = random.random(flat.shape, dtype=np.float32) > 1 / 3
                flat = np.maximum(flat, 0) * drop * np.float32(1.5)
                inputs.append(flat)
        powers = np.exp(flat - flat.max(axis=1, keepdims=True))
        error = powers / powers.sum(axis=1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        found: list[Array] = []
        for place in reversed(range(len(self.fcs))):
            found[:0] = [error.T @ inputs[place], error.sum(axis=0)]
            error = error @ self.fcs[place][0]
            if place:
                error *= (inputs[place] > 0) * np.float32(1.5)
        back = error.reshape(len(x), shape[3], shape[1], shape[2]).transpose(0, 2, 3, 1)
        for place in reversed(range(len(self.convs))):
            columns, y, pooled = kept[place]
            spread = np.repeat(np.repeat(pooled, 2, axis=1), 2, axis=2)
            wide = np.repeat(np.repeat(back, 2, axis=1), 2, axis=2) * ((y == spread) & (y > 0))
            rows = wide.reshape(-1, wide.shape[3])
            found[:0] = [rows.T @ columns.reshape(len(rows), -1), rows.sum(axis=0)]
            if place:
                back = _uncolumns(wide @ self.convs[place][0])
        return found

    def export(self, path: Path, sizes: tuple[int, int]) -> None:
        """Write it as ONNX, with a softmax at its end."""
        nodes, stored, name = [], [], "image"

        def store(values: Array, key: str) -> str:
            stored.append(numpy_helper.from_array(np.ascontiguousarray(values), key))
            return key

        def emit(kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [result], name=result, **attributes))
            return result

        for place, (weight, bias) in enumerate(self.convs):
            kernel = weight.reshape(len(weight), 3, 3, -1).transpose(0, 3, 1, 2)
            inputs = [name, store(kernel, f"w{place}"), store(bias, f"b{place}")]
            conv = emit("Conv", inputs, f"conv{place}", pads=[1, 1, 1, 1])
            active = emit("Relu", [conv], f"active{place}")
            name = emit("MaxPool", [active], f"pool{place}", kernel_shape=[2, 2], strides=[2, 2])
        name = emit("Flatten", [name], "flat")
        for place, (weight, bias) in enumerate(self.fcs):
            inputs = [name, store(weight, f"fc{place}.w"), store(bias, f"fc{place}.b")]
            name = emit("Gemm", inputs, f"fc{place}", transB=1)
            if place < len(self.fcs) - 1:
                name = emit("Relu", [name], f"hidden{place}")
        emit("Softmax", [name], "classes")
        shape, outputs = ["n", 1, *sizes], len(self.fcs[-1][1])
        graph = helper.make_graph(
            nodes,
            path.stem,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", outputs])],
            stored,
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _columns(x: Array) -> Array:
    """The 3×3 surroundings of each position of `[n, H, W, C]`: `[n, H, W, 9·C]`."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    parts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(parts, axis=3)


def _uncolumns(columns: Array) -> Array:
    """The gradient of `_columns`."""
    count, height, width, size = columns.shape
    found = np.zeros((count, height + 2, width + 2, size // 9), columns.dtype)
    for place in range(9):
        part = columns[..., place * size // 9 : (place + 1) * size // 9]
        found[:, place // 3 : place // 3 + height, place % 3 : place % 3 + width] += part
    return found[:, 1:-1, 1:-1]


def train(net: Net, given: Images, epochs: int) -> None:
    """Adam, its step size falling along a cosine; images are shifted by up to one pixel."""
    random = np.random.default_rng(2)
    values = net.values
    mean, square = ([np.zeros_like(v) for v in values] for _ in range(2))
    steps, count = epochs * (len(given.labels) // _BATCH), 0
    while count < steps:
        order = random.permutation(len(given.labels))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            shift = tuple(random.integers(-1, 2, 2))
            image = np.roll(given.image[rows], shift, axis=(2, 3))
            count += 1
            size = _RATE * (1 + np.cos(np.pi * count / steps)) / 2
            slopes = net.slopes(image, given.labels[rows], random)
            for v, slope, m, s in zip(values, slopes, mean, square, strict=True):
                m += 0.1 * (slope - m)
                s += 0.001 * (slope * slope - s)
                ratio = (m / (1 - 0.9**count)) / (np.sqrt(s / (1 - 0.999**count)) + 1e-8)
                v -= np.float32(size) * ratio.astype(np.float32)


#: By name: its images, the channels of its convolutions, the widths of its FCs, and epochs.
NETS: dict[str, tuple[Any, list[int], list[int], int]] = {
    "wide": (fashion, [32, 128], [256, 256, 10], 14),
    "pairs": (pairs, [16, 64], [128, 100], 8),
}


def trained(name: str, folder: Path) -> tuple[Path, Parts]:
    """A net and its images; it is trained where the folder does not hold it yet."""
    read, channels, widths, epochs = NETS[name]
    path, parts = folder / f"{name}.onnx", read()
    if not path.exists():
        sizes = parts.train.image.shape[2:]
        net = Net(sizes, channels, widths)
        train(net, parts.train, epochs)
        net.export(path, sizes)
    return path, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for name in NETS:
        start = time.process_time()
        path, _ = trained(name, given.folder)
        print(f"{path}: {time.process_time() - start:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
