"""The finished model in float32 against the fitted head in float64, on images nobody has seen."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxshare.io.load import Model, load, with_data
from onnxshare.runtime.session import iter_batches
from rewrites.base import study
from rewrites.chain import Chain, chain_of
from rewrites.emit_head import emit_head
from rewrites.head_data import HeadData, collect
from rewrites.methods import parse
from rewrites.small_head import fit_head
from tests.rewrites.checking import run

Array = np.ndarray[Any, np.dtype[Any]]
Net = tuple[Model, Chain, HeadData, Array, Array]


def on(model: Model, chain: Chain, image: Array) -> HeadData:
    def features(
        proto: onnx.ModelProto, names: tuple[str, ...]
    ) -> Generator[Mapping[str, Array], None, None]:
        whole = replace(model, skeleton=proto)
        yield from iter_batches(whole, {"image": image}, outputs=names, provider="cpu")

    return collect(chain, features, len(image))


@pytest.fixture(scope="module", params=["lenet5", "vgg_small-torchscript"])
def net(request: pytest.FixtureRequest, bundled: Path) -> Net:
    model = load(bundled / f"{request.param}.onnx")
    subject = study(model)
    chain = chain_of(subject, subject.heads[0])
    image = np.load(bundled / "calibration.npz")["image"][:200]
    test = np.load(bundled / "test.npz")["image"]
    return model, chain, on(model, chain, image), test, on(model, chain, test).maps


@pytest.mark.parametrize(
    "method",
    ["grid:2", "depthwise", "collapse+mask:4", "collapse", "stack:12+mask:8"],
)
def test_float32_equals_the_fit(net: Net, method: str) -> None:
    """Within rounding, relative to the scores' range, and with the same class on every image."""
    model, chain, data, test, maps = net
    leaf = chain.leaves[0]
    head = fit_head(chain, data, np.arange(data.count), parse(method), frozenset([leaf]))
    proto, _, _ = emit_head(chain, head)
    finished = with_data(replace(model, skeleton=proto))
    onnx.checker.check_model(finished, full_check=True)
    [found] = run(finished, {"image": test})
    wanted = head.predict(chain, maps)[leaf]
    assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    stored = sum(int(np.prod(array.dims)) for array in _floats(finished))
    before = sum(int(np.prod(array.dims)) for array in _floats(with_data(model)))
    assert before - stored == chain.params - head.params


def _floats(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
