"""Hashes and comparisons of what tensors hold, against NumPy on the whole arrays."""

from __future__ import annotations

import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from onnxshare.weights.content import (
    PIECE,
    content,
    content_of_pieces,
    largest_gap,
    permutation_between,
    pieces,
    same_bits,
)
from tests.builders import Array, random_array


def kind(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


TYPES = {
    "float32": random_array(30, 50),
    "float16": random_array(30, 50).astype(np.float16),
    "bfloat16": random_array(30, 50).astype(ml_dtypes.bfloat16),
    "float64": random_array(30, 50).astype(np.float64),
    "int8": (random_array(30, 50) * 40).astype(np.int8),
    "int4": (random_array(30, 50) * 2).astype(ml_dtypes.int4),
    "int64": (random_array(30, 50) * 1e6).astype(np.int64),
    "bool": random_array(30, 50) > 0,
    "complex64": random_array(30, 50).astype(np.complex64),
    "complex128": random_array(30, 50).astype(np.complex128),
    "several pieces": random_array(3, PIECE // 4),
}


@pytest.mark.parametrize("name", TYPES)
def test_one_element_more_or_less(name: str) -> None:
    array = TYPES[name]
    known = content(array, kind(array))
    assert content(array.copy(), kind(array)) == known
    other = array.copy()
    flat = other.reshape(-1)
    flat[-1] = flat[0] if flat[0] != flat[-1] else flat[1]
    assert not np.array_equal(array, other)
    changed = content(other, kind(array))
    assert changed.hash != known.hash
    assert changed.bag != known.bag


@pytest.mark.parametrize("name", TYPES)
def test_another_order_is_another_hash_and_the_same_bag(name: str) -> None:
    array = TYPES[name]
    known, turned = content(array, kind(array)), content(array.T.copy(), kind(array))
    assert known.hash != turned.hash
    assert known.bag == turned.bag
    shuffled = np.random.default_rng(1).permutation(array.reshape(-1)).reshape(array.shape)
    assert content(shuffled, kind(array)).bag == known.bag


def test_type_and_dims_belong_to_the_hash() -> None:
    array = random_array(4, 6)
    hashes = {
        content(array, TensorProto.FLOAT).hash,
        content(array.reshape(6, 4), TensorProto.FLOAT).hash,
        content(array.reshape(24), TensorProto.FLOAT).hash,
        content(array.view(np.int32), TensorProto.INT32).hash,
    }
    assert len(hashes) == 4


def test_elements_are_told_whatever_the_dims() -> None:
    array = random_array(4, 6)
    known = content(array, TensorProto.FLOAT).elements
    assert content(array.reshape(2, 12), TensorProto.FLOAT).elements == known
    assert content(array.T.copy(), TensorProto.FLOAT).elements != known
    assert content(array.view(np.int32), TensorProto.INT32).elements != known


def test_bits_and_not_values() -> None:
    zero, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert content(zero, 1).hash != content(-zero, 1).hash
    assert not same_bits(zero, -zero)
    assert content(nan, 1) == content(nan.copy(), 1)
    assert same_bits(nan, nan.copy())


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (5,), (2, 3, 7), (600_001,)], ids=str)
def test_a_filled_constant_is_as_its_elements(shape: tuple[int, ...]) -> None:
    filled = np.broadcast_to(np.float32(0.25), shape)
    assert content(filled, 1) == content(np.full(shape, 0.25, np.float32), 1)
    assert content(filled, 1).uniform
    assert [part.tolist() for part in pieces(filled)] == [
        part.tolist() for part in pieces(np.full(shape, 0.25, np.float32))
    ]


def test_a_filled_constant_of_four_gigabytes_takes_no_memory() -> None:
    filled = np.broadcast_to(np.float32(0.25), (2**30,))
    tracemalloc.start()
    content(filled, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * PIECE


def test_filled_constants_are_compared_by_one_element() -> None:
    """Two of four gigabytes, and their transposes, in no time."""
    one = np.broadcast_to(np.float32(0.25), (2**10, 2**20))
    other = np.broadcast_to(np.float32(0.25), (2**20, 2**10))
    assert permutation_between(one, other) == (1, 0)
    assert not same_bits(one, np.broadcast_to(np.float32(0.5), (2**10, 2**20)))


def test_a_large_tensor_is_not_copied() -> None:
    array = random_array(40, PIECE // 4)
    tracemalloc.start()
    content(array, 1)
    assert permutation_between(array, array.T) == (1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes == 40 * PIECE
    assert peak < 16 * PIECE


def test_uniform() -> None:
    array = np.full(PIECE, 3, np.float32)
    assert content(array, 1).uniform
    for place in (-1, PIECE // 2, 0):
        other = array.copy()
        other[place] = 4
        assert not content(other, 1).uniform


def test_strings() -> None:
    one, other = np.array(["ab", "c"], object), np.array(["a", "bc"], object)
    assert content(one, TensorProto.STRING).hash != content(other, TensorProto.STRING).hash
    assert content(one, TensorProto.STRING) == content(one.copy(), TensorProto.STRING)
    assert same_bits(one, one.copy())
    assert not same_bits(one, other)


def test_the_bag_of_half_a_piece_each() -> None:
    """Cut elsewhere, the same elements have the same bag."""
    array = random_array(1000)
    parts = content_of_pieces(iter([array[:300], array[300:]]), 1, array.shape)
    assert parts.bag == content(array, 1).bag


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_order_of_axes_is_found(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=5, max_side=5))
    order = data.draw(st.permutations(range(len(shape))))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    turned = array.transpose(order).copy()
    found = permutation_between(array, turned)
    if tuple(order) == tuple(range(len(shape))):
        # The order as it was is no transpose; axes of one element may still change places.
        assert found is None or np.array_equal(array.transpose(found), turned)
        return
    assert found is not None
    assert np.array_equal(array.transpose(found), turned)
    assert content(array, 1).bag == content(turned, 1).bag


def test_no_order_of_axes_is_found_for_another_tensor() -> None:
    array = random_array(4, 3, 5)
    for order in itertools.permutations(range(3)):
        other = array.transpose(order).copy()
        other[-1, -1, -1] += 1
        assert permutation_between(array, other) is None


def test_ranks_above_the_highest_are_left_out() -> None:
    array = random_array(2, 3, 2)
    assert permutation_between(array, array.transpose(1, 0, 2), highest_rank=2) is None


@pytest.mark.parametrize("shape", [(1, 7), (5, 3), (700, 900), (3, 400_000)], ids=str)
@pytest.mark.parametrize("order", [None, (1, 0)], ids=str)
def test_same_bits(shape: tuple[int, ...], order: tuple[int, ...] | None) -> None:
    one = random_array(*shape)
    other = one.copy() if order is None else one.transpose(order).copy()
    assert same_bits(one, other, order)
    flat = other.reshape(-1)
    flat[-1] = np.nextafter(flat[-1], np.float32(9))
    assert not same_bits(one, other, order)


def test_the_largest_gap() -> None:
    one = np.array([1, -8, np.nan, np.inf, 3], np.float32)
    other = np.array([1, -8.5, np.nan, np.inf, 1], np.float32)
    assert largest_gap(one, other) == (2, np.inf)
    assert largest_gap(one[:2], other[:2]) == (0.5, 8)
    assert largest_gap(one[2:3], other[:1])[0] == np.inf  # a number and none
    fill = np.broadcast_to(np.float32(2), (300_000,))
    assert largest_gap(fill, np.arange(300_000)) == (299_997, 2)
