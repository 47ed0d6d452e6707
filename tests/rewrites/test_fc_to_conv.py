"""`--fc-to-conv` on every form of head: what comes out is right, and nothing else is touched."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxshare
from onnxshare import RewriteResult
from onnxshare.errors import RewriteError
from tests.rewrites.checking import (
    FC,
    assert_same_results,
    assert_untouched_rest,
    feeds,
    floats,
    interface,
    values_of,
)
from tests.rewrites.forms import FORMS, REFERENCE_FORMS, C, Form, H, K, Net, W

REWRITTEN = [name for name, form in FORMS.items() if form.refused is None]
REFUSED = [name for name, form in FORMS.items() if form.refused is not None]

#: Forms whose weights are folded with a factor, or spread over the outputs.
FOLDED = ("alpha", "beta", "BatchNormalization before", "C []", "C [1")


@functools.cache
def rewritten(name: str) -> tuple[onnx.ModelProto, RewriteResult]:
    """A form and what becomes of it; the original must not change."""
    model = FORMS[name].model()
    before = model.SerializeToString(deterministic=True)
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert model.SerializeToString(deterministic=True) == before
    return model, result


def fc_nodes(model: onnx.ModelProto) -> int:
    return sum(node.op_type in FC for node in model.graph.node)


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_model_is_whole(name: str) -> None:
    model, result = rewritten(name)
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert fc_nodes(result.model) == FORMS[name].left
    assert_untouched_rest(model, result.model)


@pytest.mark.parametrize(
    ("name", "batch"), [(name, batch) for name in REWRITTEN for batch in FORMS[name].batches]
)
def test_results_are_those_of_the_original(name: str, batch: int) -> None:
    model, result = rewritten(name)
    step = 0.05 if name == "data through 8 bits" else 0.0
    assert_same_results(model, result.model, feeds(model, batch), step=step * 1.001)


@pytest.mark.parametrize("name", REWRITTEN)
def test_verdict(name: str) -> None:
    _, result = rewritten(name)
    assert result.validation is not None
    expected = ("inconclusive",) if FORMS[name].unproven else ("equivalent", "identical")
    assert result.validation.verdict in expected
    assert [site.exact for site in result.sites] == [True] * len(result.sites)


@pytest.mark.parametrize("name", [n for n in REWRITTEN if not any(word in n for word in FOLDED)])
def test_weights_are_moved_not_recomputed(name: str) -> None:
    """Every stored value is still there, as often as before or as often as it is now needed."""
    model, result = rewritten(name)
    before, after = values_of(floats(model)), values_of(floats(result.model))
    assert set(after) == set(before)
    if "tied" not in name and "flattened" not in name and name != "residual":
        grown = Counter({value: count for value, count in after.items() if count > before[value]})
        assert not grown, "values were copied"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason_and_left_alone(name: str, tmp_path: object) -> None:
    model, result = rewritten(name)
    assert result.changes == ()
    assert result.validation is None
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    reason = FORMS[name].refused or ""
    if reason == "":
        assert result.sites == ()
    else:
        assert [site.exact for site in result.sites] == [None]
        assert reason in (result.sites[0].refused or "")
    with pytest.raises(RewriteError):
        result.save(f"{tmp_path}/out.onnx")


@pytest.mark.parametrize("name", list(REFERENCE_FORMS))
def test_types_that_onnx_runtime_does_not_convolve_in(name: str) -> None:
    form: Form = REFERENCE_FORMS[name]
    model = form.model()
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", validate=False)
    if form.refused is not None:
        assert result.changes == ()
        assert form.refused in (result.sites[0].refused or "")
        return
    assert interface(result.model) == interface(model)
    assert fc_nodes(result.model) == 0
    assert_untouched_rest(model, result.model)
    given = feeds(model, 3)
    protos = (model, result.model)
    old, new = (np.asarray(next(iter(ReferenceEvaluator(m).run(None, given)))) for m in protos)
    assert new.dtype == old.dtype
    wide = [value.astype(np.float64) for value in (old, new)]
    unit = 0.1 if name == "bfloat16" else 1e-13
    np.testing.assert_allclose(wide[1], wide[0], atol=unit, rtol=unit)


def kernel_of(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The kernel of the first convolution that the rewrite made."""
    _, result = rewritten(name)
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
    _, result = rewritten(name)
    made = [n for n in result.model.graph.node if n.op_type == "Conv" and "/Conv" in n.name]
    kernels = {node.input[1] for node in made}
    assert len(made) == 3
    assert len(kernels) == (2 if name == "tied" else 3)


def test_the_shape_arithmetic_dies_with_its_reshape() -> None:
    for name in ("shape, gather", "shape, concat", "shape, cast, slice", "IR 3"):
        _, result = rewritten(name)
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


def test_forms_are_many() -> None:
    """So that an emptied table cannot pass."""
    assert len(REWRITTEN) > 80
    assert len(REFUSED) > 12


def test_input_shape_settles_a_map_of_unknown_size() -> None:
    net = Net()
    image = net.input(2, "h", "w")
    flat = net.node("Reshape", net.trunk(image=image), net.ints(-1, K))
    net.rows(net.gemm(flat, K, 5), 5)
    model = net.model()
    blind = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu", validate=False)
    assert "give --input-shape" in (blind.sites[0].refused or "")
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
