"""`inspect(hashes=True)`: which tensors hold the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.analysis.results import WeightFacts
from tests.builders import Array, constant, model, node, random_array

FIRST = random_array(4, 4)
WIDE = random_array(4, 6)


def stored(name: str, array: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def chain(*weights: Array) -> onnx.ModelProto:
    """x · w0 · w1 …"""
    nodes = [node("MatMul", f"t{i} w{i}", f"t{i + 1}") for i in range(len(weights))]
    return model(
        nodes,
        {"t0": ["n", weights[0].shape[0]]},
        [f"t{len(weights)}"],
        [stored(f"w{i}", array) for i, array in enumerate(weights)],
    )


def weights(built: onnx.ModelProto) -> dict[str, WeightFacts]:
    return {item.name: item for item in onnxshare.inspect(built, hashes=True).weights}


def said(facts: WeightFacts) -> tuple[Any, ...]:
    return facts.same_as, facts.same_after, facts.transposed_of, facts.permutation


def negative_zero() -> Array:
    array = FIRST.copy()
    array[0, 0] = 0
    return array


NOTHING = (None, None, None, None)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        pytest.param(FIRST, ("w0", None, None, None), id="equal"),
        pytest.param(FIRST.T, (None, None, "w0", (1, 0)), id="transposed"),
        pytest.param(FIRST[::-1], NOTHING, id="other order"),
        pytest.param(FIRST + np.float32(1e-6), NOTHING, id="nearly"),
        pytest.param(-FIRST, NOTHING, id="negated"),
    ],
)
def test_two_matrices(second: Array, expected: tuple[Any, ...]) -> None:
    found = weights(chain(FIRST, second))
    assert said(found["w0"]) == NOTHING
    assert said(found["w1"]) == expected
    assert (found["w0"].hash == found["w1"].hash) == (expected[0] is not None)


def test_zero_and_negative_zero_differ() -> None:
    one, other = negative_zero(), negative_zero()
    other[0, 0] = -0.0
    assert said(weights(chain(one, other))["w1"]) == NOTHING
    assert said(weights(chain(other, other))["w1"])[0] == "w0"


def test_not_a_number_equals_itself() -> None:
    array = FIRST.copy()
    array[1, 2] = np.nan
    assert said(weights(chain(array, array))["w1"])[0] == "w0"


def test_a_group_of_four() -> None:
    found = weights(chain(WIDE, WIDE.T, WIDE, WIDE.T))
    assert [said(facts) for facts in found.values()] == [
        NOTHING,
        (None, None, "w0", (1, 0)),
        ("w0", None, None, None),
        ("w1", None, "w0", (1, 0)),
    ]


def test_other_orders_of_axes() -> None:
    kernel = random_array(4, 4, 3, 5)
    built = model(
        [
            node("Conv", "x k0", "a", auto_pad="SAME_UPPER"),
            node("Conv", "a k1", "y", auto_pad="SAME_UPPER"),
        ],
        {"x": ["n", 4, 8, 8]},
        ["y"],
        [stored("k0", kernel), stored("k1", kernel.transpose(1, 0, 3, 2))],
    )
    assert said(weights(built)["k1"]) == (None, None, "k0", (1, 0, 3, 2))


def through(name: str, op_type: str, **attributes: Any) -> onnx.NodeProto:
    return node(op_type, name, f"{name}.t", **attributes)


def test_wherever_a_tensor_comes_from() -> None:
    """A Constant node behind Identity, which is read first; one behind Transpose."""
    built = model(
        [
            node("Constant", "", "w1", value=stored("", FIRST)),
            node("Identity", "w1", "same"),
            node("Constant", "", "w2", value=stored("", FIRST.T)),
            node("Transpose", "w2", "turned"),
            node("MatMul", "x w0", "a"),
            node("MatMul", "a same", "b"),
            node("MatMul", "b turned", "y"),
        ],
        {"x": ["n", 4]},
        ["y"],
        [stored("w0", FIRST)],
    )
    found = weights(built)
    assert said(found["w1"]) == NOTHING
    assert said(found["w2"]) == (None, None, "w1", (1, 0))
    assert said(found["w0"]) == ("w1", None, None, None)


def test_a_filled_constant_equals_its_elements() -> None:
    built = model(
        [
            node("ConstantOfShape", "dims", "w1", value=constant("", [0.5], np.float32)),
            node("MatMul", "x w0", "a"),
            node("MatMul", "a w1", "y"),
        ],
        {"x": ["n", 4]},
        ["y"],
        [stored("w0", np.full((4, 4), 0.5, np.float32)), constant("dims", [4, 4])],
    )
    found = weights(built)
    assert said(found["w1"]) == ("w0", None, None, None)
    assert found["w0"].uniform
    assert not weights(chain(FIRST, FIRST))["w1"].uniform


# After dequantizing. The float twin is worked out by the formula of the standard, in NumPy.

CODES = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)


def quantized(
    scale: Array, zero: Array | None, head_map: Array, **attributes: Any
) -> onnx.ModelProto:
    given = [stored("q", CODES), stored("scale", scale), stored("f", head_map)]
    inputs = "q scale"
    if zero is not None:
        given.append(stored("zero", zero))
        inputs += " zero"
    return model(
        [
            node("DequantizeLinear", inputs, "d", **attributes),
            node("MatMul", "x d", "a"),
            node("MatMul", "x f", "b"),
            node("Add", "a b", "y"),
        ],
        {"x": ["n", 4]},
        ["y"],
        given,
        opset=21,
        ir_version=10,
    )


def single(number: float) -> Array:
    return np.array(number, np.float32)


def numbers(count: int) -> Array:
    return (np.arange(1, count + 1) / 7).astype(np.float32)


def zeros(count: int) -> Array:
    return np.arange(count, dtype=np.int8)


def per_row() -> Array:
    return (CODES - zeros(4)[:, None]).astype(np.float32) * numbers(4)[:, None]


CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "one scale": lambda: quantized(single(0.1), None, CODES.astype(np.float32) * np.float32(0.1)),
    "one scale and zero point": lambda: quantized(
        single(0.1), np.array(3, np.int8), (CODES - np.int8(3)).astype(np.float32) * np.float32(0.1)
    ),
    "per row": lambda: quantized(numbers(4), zeros(4), per_row(), axis=0),
    "per column": lambda: quantized(
        numbers(6), zeros(6), (CODES - zeros(6)).astype(np.float32) * numbers(6), axis=-1
    ),
    "per row, counted from the end": lambda: quantized(numbers(4), zeros(4), per_row(), axis=-2),
    "blocks of two rows": lambda: quantized(
        numbers(12).reshape(2, 6),
        None,
        CODES.astype(np.float32) * np.repeat(numbers(12).reshape(2, 6), 2, axis=0),
        axis=0,
        block_size=2,
    ),
    "half precision": lambda: quantized(
        np.array(0.1, np.float16), None, (CODES * np.float16(0.1)).astype(np.float16)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_after_dequantizing(name: str) -> None:
    found = weights(CASES[name]())
    assert said(found["q"]) == NOTHING
    assert said(found["f"]) == ("q", "dequantize", None, None)
    assert found["q"].hash != found["f"].hash


@pytest.mark.parametrize("part", ["scale", "q"])
def test_not_equal_after_dequantizing(part: str) -> None:
    built = CASES["per row"]()
    (tensor,) = [item for item in built.graph.initializer if item.name == part]
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[-1] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, part))
    assert said(weights(built)["f"]) == NOTHING


def test_two_quantized_tensors_of_another_zero_point() -> None:
    other = (CODES.astype(np.int16) + 128).astype(np.uint8)
    built = model(
        [
            node("DequantizeLinear", "q scale", "d"),
            node("DequantizeLinear", "r scale zero", "e"),
            node("MatMul", "x d", "a"),
            node("MatMul", "x e", "b"),
            node("Add", "a b", "y"),
        ],
        {"x": ["n", 4]},
        ["y"],
        [
            stored("q", CODES),
            stored("r", other),
            stored("scale", single(0.1)),
            stored("zero", np.array(128, np.uint8)),
        ],
    )
    assert said(weights(built)["r"]) == ("q", "dequantize", None, None)


def test_read_in_two_ways_it_stands_for_no_numbers() -> None:
    built = CASES["one scale"]()
    built.graph.node.insert(1, node("DequantizeLinear", "q other", "e"))
    built.graph.initializer.append(stored("other", single(0.2)))
    built.graph.node.append(node("MatMul", "x e", "z"))
    assert said(weights(built)["f"]) == NOTHING


# What is asked, and what is not.


def test_nothing_is_read_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(chain(random_array(200, 200), random_array(200, 200)), path)
    read: list[str] = []
    right = onnxshare.Model.read

    def spy(self: onnxshare.Model, tensor: onnx.TensorProto) -> Array:
        read.append(tensor.name)
        return right(self, tensor)

    monkeypatch.setattr(onnxshare.Model, "read", spy)
    plain = onnxshare.inspect(path)
    assert read == []
    assert {facts.hash for facts in plain.weights} == {None}
    hashed = onnxshare.inspect(path, hashes=True)
    assert read == ["w0", "w1"]  # once each
    assert all(facts.hash for facts in hashed.weights)


def test_hashes_are_those_of_other_models() -> None:
    one, other = weights(chain(FIRST, WIDE)), weights(chain(WIDE.T.copy(), FIRST))
    assert one["w0"].hash == other["w1"].hash


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    onnxshare.inspect(
        chain(random_array(600, 600), random_array(600, 600)),
        hashes=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (2 * 4 * 360_000, 2 * 4 * 360_000)


def test_sparse_tensors_have_no_hash() -> None:
    values = constant("w", [1.0, 2.0], np.float32)
    sparse = onnx.helper.make_sparse_tensor(values, constant("i", [0, 5]), [4, 4])
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 4]}, ["y"])
    built.graph.sparse_initializer.append(sparse)
    (facts,) = onnxshare.inspect(built, hashes=True).weights
    assert facts.hash is None
    assert facts.dtype == "float32"
