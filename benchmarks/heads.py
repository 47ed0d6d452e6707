"""A model's head with what it does on samples, for the benchmarks of small heads."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxshare.io.load import load
from onnxshare.runtime.session import opened
from onnxshare.samples.samples import Array
from rewrites.base import study
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.training_data import HeadData, collect

MODELS = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Measured:
    """A head, what it does on samples, and their labels where they have some."""

    chain: Chain
    data: HeadData
    labels: Array | None

    @property
    def classes(self) -> frozenset[int]:
        return frozenset(self.chain.leaves)

    def take(self, rows: Array) -> Measured:
        results = {place: values[rows] for place, values in self.data.results.items()}
        labels = None if self.labels is None else self.labels[rows]
        given = None if self.data.labels is None else self.data.labels[rows]
        data = replace(self.data, maps=self.data.maps[rows], results=results, labels=given)
        return Measured(self.chain, data, labels)


def measure(path: Path, image: Array, labels: Array | None = None) -> Measured:
    """Run a model of one input on images and keep what its first head does."""
    model = load(path)
    subject = study(model)
    chain = chain_of(subject, subject.heads[0])
    [name] = [value.name for value in model.skeleton.graph.input[:1]]

    def features(
        proto: onnx.ModelProto, names: tuple[str, ...]
    ) -> Generator[Mapping[str, Any], None, None]:
        with opened(replace(model, skeleton=proto), "cpu", names) as session:
            yield from session.iter_batches({name: image})

    data = collect(chain, features, len(image), frozenset(chain.leaves))
    return Measured(chain, data, labels)


def agreement(wanted: Array, given: Array) -> float:
    return float((wanted.argmax(axis=1) == given.argmax(axis=1)).mean())


def bundled(name: str) -> tuple[Measured, Measured]:
    """One of the project's nets on its calibration images, and on its labelled test images."""
    path = MODELS / f"{name}.onnx"
    test = np.load(MODELS / "test.npz")
    calibration = np.load(MODELS / "calibration.npz")["image"]
    return measure(path, calibration), measure(path, test["image"], test["labels"])
