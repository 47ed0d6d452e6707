"""FCs that read several maps: what slides, what does not, and what `inspect` says of them."""

from __future__ import annotations

import numpy as np
import pytest

import onnxshare
from tests.rewrites.checking import inputs, run
from tests.rewrites.forms import BOTH, FORMS, C, H, K, Net, W


def test_kernels_of_several_widths_slide_over_longer_texts() -> None:
    """Each position is the original on the text under it: 8 of 13, so 6 positions."""
    model = FORMS["kernels of several widths"].model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], fully_convolutional=True, provider="cpu")
    assert result.passed
    text = np.random.default_rng(0).standard_normal((2, 2, 13)).astype(np.float32)
    (name,) = (value.name for value in inputs(model))
    (maps,) = run(result.model, {name: text})
    assert maps.shape == (2, 5, 6)
    for place in range(6):
        (old,) = run(model, {name: text[:, :, place : place + 8].copy()})
        np.testing.assert_allclose(maps[:, :, place], old, rtol=1e-5, atol=1e-5)


def test_a_vector_beside_the_map_is_the_same_at_every_position() -> None:
    model = FORMS["map and vector"].model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], fully_convolutional=True, provider="cpu")
    assert result.passed
    rng = np.random.default_rng(1)
    image, vector = (value.name for value in inputs(model))
    given = rng.standard_normal((2, 2, 7, 9)).astype(np.float32)
    goal = rng.standard_normal((2, 4)).astype(np.float32)
    (maps,) = run(result.model, {image: given, vector: goal})
    assert maps.shape == (2, 5, 3, 4)
    for y in range(3):
        for x in range(4):
            crop = given[:, :, y : y + 5, x : x + 6].copy()
            (old,) = run(model, {image: crop, vector: goal})
            np.testing.assert_allclose(maps[:, :, y, x], old, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["several scales", "pyramid pooling", "nested Concats"])
def test_maps_that_do_not_slide_in_step_are_refused(name: str) -> None:
    model = FORMS[name].model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], fully_convolutional=True, provider="cpu")
    assert not result.changes
    assert "do not slide in step" in (result.sites[0].refused or "")


def test_inspect_shows_the_head_and_what_fits() -> None:
    (head,) = onnxshare.inspect(FORMS["several scales"].model()).heads
    assert [layer.in_features for layer in head.fcs] == [BOTH, 6]
    assert head.rewrites["fc-to-conv"]["exact"] is True
    assert "split by the two tensors" in head.rewrites["fc-to-conv"]["detail"]
    assert "several feature maps" in head.rewrites["fc-to-gap"]["refused"]
    assert head.uniformity is None
    assert head.layout == "joined"


def test_each_map_gets_its_own_columns() -> None:
    """Kernels of the first FC, put together by hand, are the weight as it was."""
    model = FORMS["map and vector"].model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert result.validation is not None
    assert result.validation.weights is not None
    assert result.validation.weights.recomputed == ()
    old = {t.name: onnxshare.load(model).read(t) for t in model.graph.initializer}
    new = {t.name: onnxshare.load(result.model).read(t) for t in result.model.graph.initializer}
    (weight,) = (value for value in old.values() if value.shape == (6, K + 4))
    pieces = [v.reshape(6, -1) for v in new.values() if v.ndim == 4 and len(v) == 6]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), weight)


def test_many_fcs_at_every_position_are_one_refused_head() -> None:
    """As in a transformer after a convolution that makes patches: one line, not one per FC."""
    net = Net()
    x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    for _ in range(9):
        x = net.node("Add", x, net.node("MatMul", x, net.weight(C, C)))
    net.output(x, "n", H, W, C)
    model = net.model()
    (head,) = onnxshare.inspect(model).heads
    assert len(head.fcs) == 9
    (site,) = onnxshare.rewrite(model, ["fc-to-conv"]).sites
    assert "12 rows of each sample" in (site.refused or "")
