"""Puts calls of local functions back where a rewrite left what they expand to as it was.

Rewrites see a model with its functions expanded, so that weights and heads inside them are found.
What a call expanded to stands in one piece in its place; where that piece is still there, node by
node, the call takes its place again, and only functions that a rewrite reached into stay expanded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import onnx

from onnxshare.graph.onnx_sandbox import inline_functions
from onnxshare.io.load import Model
from onnxshare.io.node_reader import all_nodes, count_reads, function_key, reads, refill
from rewrites.base import Change

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Piece:
    """A node of the original's main graph, and the nodes that it expanded to."""

    node: onnx.NodeProto
    expanded: list[bytes]


def with_functions(
    original: Model, result: Model, changes: tuple[Change, ...]
) -> tuple[Model, tuple[Change, ...]]:
    """Put the calls of local functions back that no change reached into, and say which stay
    expanded."""
    if not original.skeleton.functions:
        return result, changes
    model = onnx.ModelProto()
    model.CopyFrom(result.skeleton)
    notes = refold(original.skeleton, model, original.name)
    last = replace(changes[-1], notes=(*changes[-1].notes, *notes))
    return replace(result, skeleton=model), (*changes[:-1], last)


def refold(original: onnx.ModelProto, rewritten: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """Bring back, in place, the calls and the functions that a rewrite did not touch. Returns notes
    for the user: which functions stay expanded."""
    if not original.functions:
        return ()
    pieces = _pieces(original, inline_functions(original, name))
    nodes = list(rewritten.graph.node)
    if pieces is None:
        return ("its local functions are expanded",)
    calls = [piece for piece in pieces if piece.expanded != [_bytes(piece.node)]]
    folded, left = _fold(nodes, calls, rewritten.graph)
    refill(rewritten.graph.node, folded)
    _restore_functions(original, rewritten)
    _drop_descriptions(original.graph, rewritten.graph)
    return tuple(
        f"local function '{call}' is expanded where it is called for what was rewritten"
        for call in dict.fromkeys(piece.node.op_type for piece in left)
    )


def _bytes(node: onnx.NodeProto) -> bytes:
    return bytes(node.SerializeToString(deterministic=True))


def _pieces(original: onnx.ModelProto, inlined: onnx.ModelProto) -> list[_Piece] | None:
    """What each node expanded to; None if that cannot be told for certain."""
    bodies = {function_key(function): function for function in original.functions}
    sizes: dict[Key, int] = {}

    def size(key: Key) -> int:
        """Nodes that one expands to; functions cannot call themselves."""
        if key not in bodies:
            return 1
        if key not in sizes:
            sizes[key] = sum(size(function_key(node)) for node in bodies[key].node)
        return sizes[key]

    pieces: list[_Piece] = []
    place = 0
    expanded = list(inlined.graph.node)
    for node in original.graph.node:
        count = size(function_key(node))
        part = expanded[place : place + count]
        made = {name for item in part for name in item.output}
        if len(part) < count or not made >= set(filter(None, node.output)):
            return None
        pieces.append(_Piece(node, [_bytes(item) for item in part]))
        place += count
    return pieces if place == len(expanded) else None


def _fold(
    nodes: list[onnx.NodeProto], calls: list[_Piece], graph: onnx.GraphProto
) -> tuple[list[onnx.NodeProto], list[_Piece]]:
    """The nodes with calls put back, and the calls that could not be."""
    data = [_bytes(node) for node in nodes]
    readers = count_reads(graph, nodes)
    starts: dict[bytes, list[int]] = {}
    for place, item in enumerate(data):
        starts.setdefault(item, []).append(place)
    at: dict[int, _Piece] = {}
    left = []
    for piece in calls:
        count = len(piece.expanded)
        places = starts.get(piece.expanded[0], []) if piece.expanded else []
        start = next((p for p in places if data[p : p + count] == piece.expanded), None)
        if start is None or not _closed(piece, nodes[start : start + count], readers):
            left.append(piece)
        else:
            at[start] = piece
    folded = []
    place = 0
    while place < len(nodes):
        found = at.get(place)
        folded.append(nodes[place] if found is None else found.node)
        place += len(found.expanded) if found is not None else 1
    return folded, left


def _closed(piece: _Piece, part: list[onnx.NodeProto], readers: Counter[str]) -> bool:
    """Whether nothing but the piece itself reads what is inside it."""
    own = Counter(name for node in part for name in reads(node))
    inside = {name for node in part for name in node.output if name} - set(piece.node.output)
    return all(readers[name] == own[name] for name in inside)


def _called(nodes: Iterable[onnx.NodeProto], bodies: dict[Key, onnx.FunctionProto]) -> set[Key]:
    """The functions that nodes call, directly or not."""
    found: set[Key] = set()
    waiting = {function_key(node) for node in all_nodes(nodes)} & bodies.keys()
    while waiting:
        found |= waiting
        inner = (node for key in waiting for node in bodies[key].node)
        waiting = ({function_key(node) for node in all_nodes(inner)} & bodies.keys()) - found
    return found


def _restore_functions(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> None:
    """All functions but those that only what was rewritten called, and the domains they need."""
    bodies = {function_key(function): function for function in original.functions}
    before = _called(original.graph.node, bodies)
    now = _called(rewritten.graph.node, bodies)
    kept = (
        f for f in original.functions if function_key(f) in now or function_key(f) not in before
    )
    refill(rewritten.functions, kept)
    versions = {opset.domain: opset.version for opset in original.opset_import}
    more = [o for o in rewritten.opset_import if o.domain not in versions]
    refill(rewritten.opset_import, [*original.opset_import, *more])


def _drop_descriptions(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    """Drop what is said of tensors that are inside calls again."""
    made = {name for node in after.node for name in node.output}
    made.update(value.name for value in [*before.value_info, *after.input])
    refill(after.value_info, (value for value in after.value_info if value.name in made))
