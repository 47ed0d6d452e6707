"""`--fc-to-conv`: kernels by hand, and what it says of weights that are shared or stored twice."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare import RewriteResult
from tests.rewrites.checking import (
    assert_same_results,
    feeds,
)
from tests.rewrites.forms import FORMS, C, H, K, Net, W


@functools.cache
def rewritten(name: str) -> RewriteResult:
    """What becomes of a form."""
    return onnxshare.rewrite(FORMS[name].model(), ["fc-to-conv"], provider="cpu", validate=False)


def kernel_of(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The kernel of the first convolution that the rewrite made."""
    result = rewritten(name)
    node = next(n for n in result.model.graph.node if n.op_type == "Conv" and "/Conv" in n.name)
    stored = {t.name: t for t in result.model.graph.initializer}
    return numpy_helper.to_array(stored[node.input[1]])


def original_weight(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The only stored matrix of a form with one FC, or the larger one."""
    matrices = [t for t in FORMS[name].model().graph.initializer if len(t.dims) == 2]
    return numpy_helper.to_array(max(matrices, key=lambda t: int(np.prod(t.dims))))


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        pytest.param("flatten", lambda w: w.reshape(5, C, H, W), id="rows of C, H, W"),
        pytest.param(
            "channels last",
            lambda w: w.T.reshape(6, H, W, C).transpose(0, 3, 1, 2),
            id="columns of H, W, C",
        ),
        pytest.param(
            "width first", lambda w: w.reshape(5, W, C, H).transpose(0, 2, 3, 1), id="W, C, H"
        ),
        pytest.param(
            "Gemm, transB, alpha",
            lambda w: (w.astype(np.float64) * np.float32(0.7)).reshape(5, C, H, W),
            id="alpha folded",
        ),
        pytest.param("weight on the left", lambda w: w.reshape(5, C, H, W), id="on the left"),
        pytest.param("1-D", lambda w: w.reshape(6, C, 7), id="1-D"),
        pytest.param("3-D", lambda w: w.reshape(6, C, 2, 3, 2), id="3-D"),
    ],
)
def test_kernel_by_position(name: str, by_hand: object) -> None:
    assert callable(by_hand)
    expected = np.asarray(by_hand(original_weight(name)), np.float32)
    np.testing.assert_array_equal(kernel_of(name), expected)


@pytest.mark.parametrize("name", ["tied", "tied, transposed"])
def test_a_shared_weight_stays_shared_only_where_it_is_read_alike(name: str) -> None:
    result = rewritten(name)
    made = [n for n in result.model.graph.node if n.op_type == "Conv" and "/Conv" in n.name]
    kernels = {node.input[1] for node in made}
    assert len(made) == 3
    assert len(kernels) == (2 if name == "tied" else 3)


def test_the_shape_arithmetic_dies_with_its_reshape() -> None:
    for name in ("shape, gather", "shape, concat", "shape, cast, slice", "IR 3"):
        result = rewritten(name)
        kinds = {node.op_type for node in result.model.graph.node}
        assert kinds <= {"Conv", "Relu", "Flatten"}, name


def test_nothing_is_asked_of_a_name() -> None:
    """The same head, every tensor and node renamed: the same operators come out."""
    model = FORMS["policy and value"].model()
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    kept = {v.name for v in [*renamed.graph.input, *renamed.graph.output]}
    for node in renamed.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = name if name in kept else f"{name}_map"
    for tensor in renamed.graph.initializer:
        tensor.name += "_map"
    results = [onnxshare.rewrite(m, ["fc-to-conv"], provider="cpu") for m in (model, renamed)]
    kinds = [[node.op_type for node in r.model.graph.node] for r in results]
    assert kinds[0] == kinds[1]
    assert all(result.passed for result in results)
    assert_same_results(model, results[1].model, feeds(model, 2))


def test_input_shape_settles_a_map_of_unknown_size() -> None:
    net = Net()
    image = net.input(2, "h", "w")
    flat = net.node("Reshape", net.trunk(image=image), net.ints(-1, K))
    net.rows(net.gemm(flat, K, 5), 5)
    model = net.model()
    blind = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", validate=False)
    assert "give input_shapes" in (blind.sites[0].refused or "")
    shapes = {image: (1, 2, H + 2, W + 2)}
    seen = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", input_shapes=shapes)
    assert len(seen.changes) == 1
    given = {image: np.ones((2, 2, H + 2, W + 2), np.float32)}
    assert_same_results(model, seen.model, given)


def notes(model: onnx.ModelProto) -> list[str]:
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    return [note for change in result.changes for note in change.notes]


def test_a_weight_that_is_stored_twice_afterwards_is_said() -> None:
    net = Net()
    weight = net.weight(K, 5)
    flat = net.flat()
    net.rows(net.node("MatMul", flat, weight), 5)
    net.output(net.node("ReduceSum", weight, keepdims=0), *())
    (note,) = notes(net.model())
    assert f"'{weight}' is used by 'ReduceSum" in note
    assert "stored 2 times now" in note
    (note,) = notes(FORMS["tied, transposed"].model())
    assert "was read in 2 layouts" in note
    assert notes(FORMS["tied"].model()) == []
    assert notes(FORMS["flatten"].model()) == []
