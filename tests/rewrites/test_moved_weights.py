from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.io.load import Model
from rewrites.head_as_maps import fc_weights
from rewrites.moved_weights import Moved, prove_weights
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]
W = np.arange(24, dtype=np.float32).reshape(4, 6)
ORDER = np.array([3, 0, 5, 1, 4, 2])


def stored(**weights: Array) -> Model:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in weights.items()]
    nodes = [node("Identity", name, f"{name}.out") for name in weights]
    return Model(model(nodes, {"x": [1]}, [n.output[0] for n in nodes], tensors))


def placed(matrix: Array) -> Array:
    """Column k at place ORDER[k]."""
    result = np.empty_like(matrix)
    for k, place in enumerate(ORDER):
        result[:, place] = matrix[:, k]
    return result


@pytest.mark.parametrize(
    ("target", "claim", "holds"),
    [
        (W, Moved("w", "v"), True),
        (W.reshape(4, 3, 2, 1), Moved("w", "v"), True),
        (W.T, Moved("w", "v", transposed=True), True),
        (W.T, Moved("w", "v"), False),
        (placed(W).reshape(4, 2, 3), Moved("w", "v", order=ORDER), True),
        (placed(W).T, Moved("w", "v", order=ORDER), False),
        (placed(W), Moved("w", "v", order=np.argsort(ORDER)), False),
        (W, Moved("w", "v", order=np.zeros(6, np.int64)), False),
        (W.astype(np.float64), Moved("w", "v"), False),
        (np.where(W == 0, np.float32(-0.0), W), Moved("w", "v"), False),
        (W[:3], Moved("w", "v"), False),
        (W, Moved("w", "nowhere"), False),
        (W, Moved("nowhere", "v"), False),
    ],
    ids="same kernel transposed not-said ordered turned-order inverse-order lost-columns "
    "type bits fewer no-target no-source".split(),
)
def test_a_claim_is_checked_bit_for_bit(target: Array, claim: Moved, holds: bool) -> None:
    proof, problem = prove_weights([(stored(w=W), stored(v=target), (claim,))])
    assert (problem is None) == holds
    assert not holds or proof.moved == 1


def test_what_no_claim_covers_was_computed() -> None:
    after = stored(w=W, v=2 * W, u=W, t=W.reshape(4, 6, 1))
    steps = [(stored(w=W), after, (Moved("w", "u"),))]
    proof, problem = prove_weights(steps)
    assert (problem, proof.moved, proof.recomputed) == (None, 2, ("v",))


@pytest.mark.parametrize(
    ("value", "problem"),
    [(W, None), (2 * W, "weight 'w' lost its values")],
    ids=["kept", "changed"],
)
def test_what_keeps_its_name_keeps_its_values(value: Array, problem: str | None) -> None:
    _, found = prove_weights([(stored(w=W, v=W), stored(w=value, v=W), ())])
    assert found == problem


def weights_of(result: Any) -> Any:
    assert result.validation is not None
    return result.validation.weights


def test_rewrites_say_what_they_moved(lenet: onnx.ModelProto) -> None:
    there = onnxshare.rewrite(lenet, ["fc-to-conv"], provider="cpu")
    assert (weights_of(there).moved, weights_of(there).recomputed) == (3, ())
    assert there.to_dict()["validation"]["weights"] == {"moved": 3, "recomputed": []}
    back = onnxshare.rewrite(there.model, ["conv-to-fc"], provider="cpu")
    assert (weights_of(back).moved, weights_of(back).recomputed) == (3, ())


def test_a_folded_factor_is_computed_and_said(lenet: onnx.ModelProto) -> None:
    scaled = onnx.ModelProto()
    scaled.CopyFrom(lenet)
    gemm = next(item for item in scaled.graph.node if item.name == "F5")
    gemm.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    proof = weights_of(onnxshare.rewrite(scaled, ["fc-to-conv"], provider="cpu"))
    assert (proof.moved, proof.recomputed) == (2, ("f5.w_map",))


def test_weights_that_are_not_what_was_claimed_are_different_without_a_run(
    lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fc_weights.moved_weight

    def off_by_one_bit(*arguments: Any) -> Array:
        kernel = right(*arguments).copy()
        kernel.reshape(-1).view(np.uint32)[0] ^= 1
        return kernel

    monkeypatch.setattr("rewrites.head_as_maps.kernels.moved_weight", off_by_one_bit)
    result = onnxshare.rewrite(lenet, ["fc-to-conv"], provider="cpu")
    assert not result.passed
    assert result.validation is not None
    assert result.validation.verdict == "different"
    assert "is not 'f5.w' moved as it is said to be" in result.validation.reason
    assert result.validation.outputs == ()


def test_a_wrong_order_that_is_claimed_as_written_is_caught_by_running(
    lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels taken for the last axis, in the weight and in the claim alike."""

    def wrong(index: Array, sizes: tuple[int, ...]) -> Array:
        order = np.arange(index.shape[1]).reshape(sizes[1:])
        return np.ascontiguousarray(np.moveaxis(order, 0, -1)).reshape(-1)

    monkeypatch.setattr("onnxshare.analysis.heads.element_order.column_order", wrong)
    result = onnxshare.rewrite(lenet, ["fc-to-conv"], provider="cpu")
    assert not result.passed
    assert weights_of(result).moved == 3
    assert result.validation is not None
    assert result.validation.verdict == "different"
    assert result.validation.outputs != ()
