"""How a model's own noise is measured: which runs are made, on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from onnxshare.comparison.rounding_noise import DRAWS, VISIBLE, NoiseMeter
from onnxshare.errors import RuntimeFailure
from onnxshare.io.load import load
from onnxshare.runtime.provider_table import CPU
from onnxshare.runtime.providers import Provider
from onnxshare.runtime.session import Session
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]
X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)


class Recorder:
    """A session that gives its input back, and notes what it was run on."""

    provider = Provider(CPU, "CPU")

    def __init__(self, *, fails: bool = False) -> None:
        self.ran: list[Array] = []
        self.variants: list[dict[str, Any]] = []
        self._fails = fails

    def run(self, inputs: Mapping[str, Array], batch: int = 0) -> dict[str, Array]:
        self.ran.append(inputs["x"])
        return {"y": inputs["x"]}

    def variant(self, changed: object = None, **how: Any) -> Recorder:
        if self._fails:
            raise RuntimeFailure("loads only when it is optimised")
        self.variants.append(how)
        return self


def meter(session: Recorder) -> NoiseMeter:
    proto = model([node("Relu", "x", "y")], {"x": ["n", 3]}, ["y"])
    return NoiseMeter(load(proto), cast(Session, session), seed=0)


def test_inputs_move_by_one_rounding_and_the_last_run_is_not_optimised() -> None:
    session = Recorder()
    results = meter(session).runs({"x": X}, 8)
    assert len(results) == DRAWS + 1
    moved = [result["y"] for result in results[:-1]]
    for values in moved:
        relative = np.abs(values - X) / np.abs(X)
        assert 0 < relative.max() <= 2.0**-22
    assert not np.array_equal(moved[0], moved[1])  # drawn anew
    assert np.array_equal(results[-1]["y"], X)
    assert session.variants == [{"optimise": False}]


def test_a_model_that_loads_only_when_optimised_is_measured_by_the_draws() -> None:
    assert len(meter(Recorder(fails=True)).runs({"x": X}, 8)) == DRAWS


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_only_floats_are_moved_visibly(dtype: type) -> None:
    values: Array = (X * 100).astype(dtype)
    found = meter(Recorder()).response({"x": values}, 8)
    if dtype is np.int64:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_allclose(np.abs(found["y"] / values - 1), VISIBLE, rtol=1e-4)
