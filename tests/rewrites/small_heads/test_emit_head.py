"""The finished model in float32 against the fitted head in float64, on images nobody has seen."""

from __future__ import annotations

import gzip
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.io.load import Model, load, with_data
from onnxshare.runtime.session import opened
from onnxshare.samples.input_specs import input_specs
from rewrites.base import study
from rewrites.small_heads import blas_threads
from rewrites.small_heads.emit_head import emit_head
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.methods import family, parse
from rewrites.small_heads.training_data import HeadData, collect

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Net:
    """A model with its head, what that does on samples to fit to, and images nobody has seen."""

    model: Model
    chain: Chain
    data: HeadData
    test: Array
    maps: Array


def on(model: Model, chain: Chain, image: Array) -> HeadData:
    (given,) = input_specs(model.skeleton)

    def features(
        proto: onnx.ModelProto, names: tuple[str, ...]
    ) -> Generator[Mapping[str, Array], None, None]:
        with opened(replace(model, skeleton=proto), "cpu", names) as session:
            yield from session.iter_batches({given.name: image})

    return collect(chain, features, len(image))


@cache
def digits() -> Array:
    """MNIST as other people's networks take it, samples first; shuffled."""
    with gzip.open(Path(os.environ["ONNXSHARE_ZOO"], "data", "mnist_5k.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", usecols=range(784), dtype=np.float32)
    return rows[np.random.default_rng(2).permutation(len(rows))]


#: By network: the FCs one after the other, and the channels and sizes of its map.
NETS = {
    "lenet5": (3, 16, (5, 5)),
    "vgg_small-torchscript": (3, 64, (6, 6)),
    "mnist8_cntk": (1, 16, (4, 4)),
    "marabou_mnist_maxpool2": (2, 4, (11, 11)),
    "zkml_lenet_small": (2, 8, (4, 4)),
}
BUNDLED = ("lenet5", "vgg_small-torchscript")


@cache
def net(name: str, folder: Path) -> Net:
    model = load(folder / f"{name}.onnx")
    subject = study(model)
    chain = chain_of(subject, subject.heads[0])
    depth = len(chain.path(chain.leaves[0]))
    assert (depth, chain.head.channels, tuple(chain.head.spatial)) == NETS[name]
    if name in BUNDLED:
        image = np.load(folder / "calibration.npz")["image"][:200]
        test = np.load(folder / "test.npz")["image"]
    else:
        (given,) = input_specs(model.skeleton)
        assert given.shape is not None
        scaled = digits() / (1 if name != "zkml_lenet_small" else 255 * 0.3)
        scaled = scaled.reshape(-1, *(size or 1 for size in given.shape[1:]))
        image, test = scaled[:200], scaled[200:2200]
    return Net(model, chain, on(model, chain, image), test, on(model, chain, test).maps)


def methods(name: str) -> list[str]:
    """All that a search would try on one of the project's nets, a part of it on the others."""
    depth, channels, spatial = NETS[name]
    known = family(depth, 10, channels, spatial)
    found = [item.name for item in known if item.form != "prune" or name in BUNDLED]
    return found if name == "lenet5" else found[len(name) % 4 :: 4]


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in NETS for method in methods(name)],
)
def test_float32_equals_the_fit(
    name: str, method: str, bundled: Path, request: pytest.FixtureRequest
) -> None:
    """Within rounding, relative to the scores' range, and with the same class on every image."""
    folder = bundled if name in BUNDLED else request.getfixturevalue("zoo") / "models"
    with blas_threads.one():
        given = net(name, folder)
        chain, leaf = given.chain, given.chain.leaves[0]
        chosen = np.arange(given.data.count)
        data = replace(given.data, classes=frozenset([leaf]))
        head = fit_head(data, chosen, parse(method))
        wanted = head.predict(given.maps)[leaf]
    proto, _, _ = emit_head(head)
    finished = with_data(replace(given.model, skeleton=proto))
    onnx.checker.check_model(finished, full_check=True)
    result = chain.layers[leaf].result
    with opened(replace(given.model, skeleton=proto), "cpu", (result,)) as session:
        found = session.run({input_specs(proto)[0].name: given.test})[result].reshape(wanted.shape)
    assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    stored = sum(int(np.prod(array.dims)) for array in _floats(finished))
    before = sum(int(np.prod(array.dims)) for array in _floats(with_data(given.model)))
    assert before - stored == chain.params - head.params


def _floats(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
