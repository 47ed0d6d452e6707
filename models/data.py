"""Fashion-MNIST's 10,000 test images as three fixed parts: training, calibration and test.

Only NumPy is needed. Run as a command it writes ``calibration.npz`` and ``test.npz``
beside itself: ``python models/data.py --data FOLDER``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"
CLASSES = 10
SIZE = 32
SEED = 2024
TRAIN, CALIBRATION, TEST = 7_000, 1_000, 2_000

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Images ``[n, 1, 32, 32]`` with values from 0 to 1, and their classes ``[n]``."""

    images: Images
    labels: Labels

    def __getitem__(self, rows: slice) -> Part:
        return Part(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Split:
    """The three parts; no image is in two of them."""

    train: Part
    calibration: Part
    test: Part


def find(data: Path | None) -> Path:
    """The folder that holds the two IDX files: ``data``, else ``$ONNXSHARE_ZOO/data``."""
    zoo = os.environ.get("ONNXSHARE_ZOO")
    folder = data or (Path(zoo) / "data" if zoo else None)
    if folder is None:
        raise SystemExit("no data: pass --data FOLDER or set ONNXSHARE_ZOO")
    return folder


def read_idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes, named as published or with ``fashion_`` in front."""
    paths = [folder / name, folder / f"fashion_{name}"]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise SystemExit(f"neither {paths[0]} nor {paths[1].name} is there")
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an IDX file of unsigned bytes")
    rank = raw[3]
    header = 4 + 4 * rank
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
    if len(raw) != header + math.prod(shape):
        raise SystemExit(f"{path} has not the size that its header says")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def prepare(pixels: npt.NDArray[np.uint8]) -> Images:
    """28×28 bytes to 32×32 numbers from 0 to 1, with a border of zeros."""
    border = (SIZE - pixels.shape[-1]) // 2
    padded = np.pad(pixels, ((0, 0), (border, border), (border, border)))
    return (padded[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def order(count: int, seed: int = SEED) -> list[int]:
    """A fixed shuffle of ``range(count)`` that depends on no random number generator."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def load(data: Path | None = None) -> Split:
    """Reads the images and splits them: 7,000 for training, 1,000, and 2,000 for the test."""
    folder = find(data)
    pixels, classes = read_idx(folder, IMAGES), read_idx(folder, LABELS)
    count = TRAIN + CALIBRATION + TEST
    if pixels.shape != (count, 28, 28) or classes.shape != (count,):
        raise SystemExit(f"{folder}: expected {count} images of 28×28 with as many labels")
    rows = order(count)
    whole = Part(prepare(pixels[rows]), classes[rows].astype(np.int64))
    return Split(
        train=whole[:TRAIN],
        calibration=whole[TRAIN : TRAIN + CALIBRATION],
        test=whole[TRAIN + CALIBRATION :],
    )


def write(split: Split, folder: Path = HERE) -> None:
    """Writes the calibration images (without labels) and the test images with labels."""
    np.savez_compressed(folder / "calibration.npz", image=split.calibration.images)
    np.savez_compressed(folder / "test.npz", image=split.test.images, labels=split.test.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write calibration.npz and test.npz.")
    parser.add_argument("--data", type=Path, help="folder with the IDX files")
    write(load(parser.parse_args().data))


if __name__ == "__main__":
    main()
