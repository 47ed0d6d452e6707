from __future__ import annotations

import io
import json
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxshare.runtime import pipe_messages

Array = np.ndarray[Any, np.dtype[Any]]


def through(header: dict[str, Any], *arrays: Array) -> tuple[dict[str, Any], list[Array]]:
    pipe = io.BytesIO()
    pipe_messages.send(pipe, header, arrays)
    pipe.seek(0)
    found = pipe_messages.receive(pipe)
    assert pipe.read() == b""
    return found


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(6, dtype=np.float32).reshape(2, 3), id="float32"),
        pytest.param(np.arange(6).astype(np.float16), id="float16"),
        pytest.param(np.arange(4).astype(ml_dtypes.bfloat16), id="bfloat16"),
        pytest.param(np.arange(4).astype(ml_dtypes.float8_e4m3fn), id="float8"),
        pytest.param(np.array(True), id="bool, no axes"),
        pytest.param(np.zeros((3, 0, 2), np.int64), id="empty"),
        pytest.param(np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1), id="turned"),
        pytest.param(np.arange(10, dtype=">i4")[::2], id="other byte order, gaps"),
        pytest.param(np.array([["a", ""], ["ü\n", "𝛼"]], dtype=object), id="strings"),
        pytest.param(np.array([], dtype=object), id="no strings"),
    ],
)
def test_arrays_come_as_they_were_sent(array: Array) -> None:
    header, (found, other) = through({"op": "x", "n": 1}, array, np.arange(3))
    assert header == {"op": "x", "n": 1}
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(other, np.arange(3))


def message(text: bytes) -> io.BytesIO:
    return io.BytesIO(struct.pack(">Q", len(text)) + text)


@pytest.mark.parametrize(
    "pipe",
    [
        pytest.param(io.BytesIO(b""), id="nothing"),
        pytest.param(io.BytesIO(b"\0\0"), id="half a length"),
        pytest.param(message(b"{"), id="no JSON"),
        pytest.param(message(b"[]"), id="no object"),
        pytest.param(message(b'{"arrays": ' + b"[" * 100_000), id="nested deep"),
        pytest.param(message(b"{}"), id="no arrays"),
        pytest.param(message(b'{"arrays": [{"shape": [-1], "dtype": "int8"}]}'), id="negative"),
        pytest.param(message(b'{"arrays": [{"shape": [2], "dtype": "O"}]}'), id="objects"),
        pytest.param(message(b'{"arrays": [{"shape": [2], "dtype": "nix"}]}'), id="unknown type"),
        pytest.param(message(b'{"arrays": [{"shape": [2], "strings": ["a"]}]}'), id="too few"),
        pytest.param(message(b'{"arrays": [{"shape": [9], "dtype": "int8"}]}abc'), id="cut off"),
    ],
)
def test_what_is_no_message(pipe: io.BytesIO) -> None:
    with pytest.raises(pipe_messages.Closed):
        pipe_messages.receive(pipe)


def test_arrays_larger_than_allowed_are_refused_before_memory_is_taken() -> None:
    text = json.dumps({"arrays": [{"shape": [2**40], "dtype": "float64"}]}).encode()
    with pytest.raises(pipe_messages.TooLarge):
        pipe_messages.receive(message(text), most=2**30)
    for header in (2**64 - 1, 2**27):
        with pytest.raises(pipe_messages.TooLarge):
            pipe_messages.receive(io.BytesIO(struct.pack(">Q", header) + b"{}"), most=2**30)


def test_arrays_may_be_as_large_as_is_allowed_together_and_no_larger() -> None:
    pipe = io.BytesIO()
    words = np.array(["a", "b"], dtype=object)
    pipe_messages.send(pipe, {}, [np.ones((3, 4), np.float32), words, np.ones((2, 5), np.int8)])
    pipe.seek(0)
    assert len(pipe_messages.receive(pipe, most=48 + 10)[1]) == 3
    pipe.seek(0)
    with pytest.raises(pipe_messages.TooLarge):
        pipe_messages.receive(pipe, most=48 + 9)


def test_a_pipe_that_takes_a_part_at_a_time_gets_all() -> None:
    class Narrow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:5]))

    pipe = Narrow()
    pipe_messages.send(pipe, {"op": "x"}, [np.arange(100)])
    pipe.seek(0)
    header, (found,) = pipe_messages.receive(pipe)
    assert header == {"op": "x"}
    np.testing.assert_array_equal(found, np.arange(100))
