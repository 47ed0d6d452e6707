"""Tells a file whose graphs are nested too deep for protobuf from one that is damaged."""

from __future__ import annotations

import contextlib

from onnxshare.io.wire import BYTES, fields

#: protobuf's own limit on messages in messages.
PROTOBUF_DEPTH = 100

# For each kind of message, the fields that lead to graphs (onnx/onnx.proto).
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION = range(5)
_INNER: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {6: _GRAPH, 11: _GRAPH},
    _FUNCTION: {7: _NODE},
}


def nested_too_deep(data: bytes | memoryview) -> bool:
    """Whether graphs are nested deeper than protobuf's parser follows."""
    waiting = [(0, len(data), _MODEL, 1)]
    while waiting:
        start, end, kind, depth = waiting.pop()
        if depth > PROTOBUF_DEPTH:
            return True
        inner = _INNER[kind]
        with contextlib.suppress(ValueError):
            for field in fields(data, start, end):
                below = inner.get(field.number)
                if below is not None and field.wire == BYTES:
                    waiting.append((field.value, field.end, below, depth + 1))
    return False
