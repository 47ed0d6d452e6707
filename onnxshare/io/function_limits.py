"""Counts what the local functions of a model expand to, before anything expands them.

Functions that call others twice each grow as 2ⁿ: a file of a few kilobytes can ask for more nodes
than fit into memory. The sizes are worked out on the graph of calls, one function at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx

from onnxshare.errors import ModelError
from onnxshare.io.node_reader import all_nodes, function_key

#: The most nodes and bytes that functions may expand to, and how deep they may call each other.
MAX_NODES, MAX_BYTES, MAX_DEPTH = 1_000_000, 2**28, 100

Key = tuple[str, str, str]


@dataclass
class _Body:
    """What one function holds, and, once it is known, what it expands to."""

    nodes: int = 0
    size: int = 0
    calls: Counter[Key] = field(default_factory=Counter)
    depth: int = 1


def check_functions(proto: onnx.ModelProto, name: str) -> None:
    """Refuse functions that call themselves or expand beyond the bounds.

    Raises:
        ModelError: they do.
    """
    if not proto.functions:
        return
    bodies: dict[Key, _Body] = {}
    for function in proto.functions:
        key = function_key(function)
        if key in bodies:
            raise ModelError(f"{name}: local function '{function.name}' is defined twice")
        bodies[key] = _measure(function.node, function.ByteSize())
    for key in _callees_first(bodies, name):
        _expand(bodies[key], bodies)
        if bodies[key].depth > MAX_DEPTH:
            raise ModelError(
                f"{name}: its local functions call each other more than {MAX_DEPTH} deep",
                "export it with its functions expanded",
            )
    main = _measure(proto.graph.node, 0)
    _expand(main, bodies)
    if main.nodes > MAX_NODES or main.size > MAX_BYTES:
        raise ModelError(
            f"{name}: its local functions expand to {main.nodes:,} nodes and {main.size:,} bytes, "
            f"and the bounds are {MAX_NODES:,} and {MAX_BYTES:,}",
            "export a smaller model",
        )


def _measure(nodes: Iterable[onnx.NodeProto], size: int) -> _Body:
    body = _Body(size=size)
    for node in all_nodes(nodes):
        body.nodes += 1
        body.calls[function_key(node)] += 1
    return body


def _callees_first(bodies: dict[Key, _Body], name: str) -> Iterator[Key]:
    """The functions in an order in which each comes after those that it calls."""
    done: set[Key] = set()
    for first in bodies:
        path: list[tuple[Key, list[Key]]] = [] if first in done else [_step(first, bodies)]
        open_keys = {first}
        while path:
            key, calls = path[-1]
            if not calls:
                path.pop()
                open_keys.discard(key)
                done.add(key)
                yield key
                continue
            called = calls.pop()
            if called in open_keys:
                raise ModelError(
                    f"{name}: its local function '{called[1]}' calls itself"
                    + ("" if called == key else f", by way of '{key[1]}'"),
                    "ONNX has no recursion: export the model again",
                )
            if called not in done:
                path.append(_step(called, bodies))
                open_keys.add(called)


def _step(key: Key, bodies: dict[Key, _Body]) -> tuple[Key, list[Key]]:
    return key, [called for called in bodies[key].calls if called in bodies]


def _expand(body: _Body, bodies: dict[Key, _Body]) -> None:
    for key, times in body.calls.items():
        called = bodies.get(key)
        if called is not None:
            body.nodes += times * (called.nodes - 1)
            body.size += times * called.size
            body.depth = max(body.depth, called.depth + 1)


def calls_fit(proto: onnx.ModelProto) -> bool:
    """Whether every call of a local function gives it no more inputs and outputs than it has."""
    arity = {function_key(f): (len(f.input), len(f.output)) for f in proto.functions}
    bodies = [node for function in proto.functions for node in function.node]
    for node in all_nodes([*proto.graph.node, *bodies]):
        inputs, outputs = arity.get(function_key(node), (None, 0))
        if inputs is not None and (len(node.input) > inputs or len(node.output) > outputs):
            return False
    return True
