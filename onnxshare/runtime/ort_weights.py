"""Hands a model's weights to ONNX Runtime, which never opens a data file itself.

ONNX Runtime gets a model without external data: everything it reads was opened by
`io/external_data.py`, which refuses what a hostile model could name. Small models are made whole in
memory. Of large ones the big initializers of the main graph are handed over as arrays next to the
model: views of the mapped files, which several sessions share, and which the limit of 2 GiB does
not concern.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from onnxshare.errors import RuntimeFailure
from onnxshare.io.load import PROTOBUF_LIMIT, Model, all_tensors
from onnxshare.io.memory_map import aligned
from onnxshare.io.node_reader import reads, refill
from onnxshare.io.skeleton import SMALL
from onnxshare.io.tensors import PLAIN, Array, raw_bytes

#: Models whose weights take no more bytes than this are made whole in memory.
WHOLE_BELOW = 128 * 2**20


@dataclass(frozen=True)
class Weights:
    """A model as ONNX Runtime gets it: serialized, without external data; and with it, by name,
    the initializers that are handed over (ONNX's number of their type, and the values in a NumPy
    type of the same width), with the total of their bytes."""

    model: bytes
    handed_over: dict[str, tuple[int, Array]] = field(repr=False)
    total: int

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.model) + self.total


def prepare(model: Model, structure: onnx.ModelProto) -> Weights:
    """Bring a model, or a changed copy of its skeleton, into the form that ONNX Runtime gets.

    Raises:
        ModelFileError, ModelError: weights are missing, must not be read, or are damaged.
        RuntimeFailure: weights do not fit into 2 GiB where they cannot be handed over (in
            subgraphs, functions and `Constant` nodes).
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(structure)
    proto.ClearField("training_info")  # which inference does not need
    handed_over: dict[str, tuple[int, Array]] = {}
    token = secrets.token_hex(12)  # stands for a file that no model can name
    if sum(_bytes(tensor) for tensor in all_tensors(proto)) > WHOLE_BELOW:
        _drop_unread(proto.graph)
        for tensor in proto.graph.initializer:
            if _bytes(tensor) > SMALL and tensor.data_type in PLAIN:
                handed_over[tensor.name] = _hand_over(model, tensor, token)
        handed_over = _usable(handed_over)
    for tensor in all_tensors(proto):
        stands_for = any(entry.value == token for entry in tensor.external_data)
        if tensor.data_location == TensorProto.EXTERNAL and not stands_for:
            _make_whole(model, tensor)
    if proto.ByteSize() > PROTOBUF_LIMIT:
        raise RuntimeFailure(
            "the model keeps more than 2 GiB of weights in Constant nodes, subgraphs or functions",
            "make them initializers of the main graph",
        )
    total = sum(array.nbytes for _, array in handed_over.values())
    return Weights(proto.SerializeToString(), handed_over, total)


def weight_bytes(model: Model) -> int:
    """Bytes of all stored tensors of a model."""
    return sum(_bytes(tensor) for tensor in all_tensors(model.skeleton))


def with_outputs(proto: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model that returns these tensors of its main graph, and computes no more than
    they need."""
    known = {value.name: value for value in proto.graph.output}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    del changed.graph.output[:]
    for name in dict.fromkeys(outputs):
        # A name alone will do: ONNX Runtime infers the type.
        changed.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    if not set(known) <= set(outputs):
        drop_unneeded(changed.graph)
    return changed


def drop_unneeded(graph: onnx.GraphProto) -> set[str]:
    """Remove nodes that no output needs, which ONNX Runtime would run all the same, and return
    the names that the outputs depend on."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(reads(node))
    kept.reverse()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    refill(graph.node, nodes)
    return needed


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop initializers that nothing reads, as ONNX Runtime does: it would miss them after that."""
    needed = {value.name for value in graph.output}
    for node in graph.node:
        needed |= reads(node)
    unread = {tensor.name for tensor in graph.initializer} - needed
    for entries in (graph.initializer, graph.input):
        for place in reversed(range(len(entries))):
            if entries[place].name in unread:
                del entries[place]


def _bytes(tensor: onnx.TensorProto) -> int:
    try:
        return raw_bytes(tensor)
    except ValueError:  # strings
        return 0


def _hand_over(model: Model, tensor: onnx.TensorProto, token: str) -> tuple[int, Array]:
    array = model.read(tensor)
    if tensor.data_type == TensorProto.BFLOAT16:  # which NumPy does not know by itself
        array = array.view(np.uint16)
    stub = onnx.TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
    )
    stub.external_data.add(key="location", value=token)
    tensor.CopyFrom(stub)
    return stub.data_type, array


def _usable(handed_over: dict[str, tuple[int, Array]]) -> dict[str, tuple[int, Array]]:
    """The same weights where ONNX Runtime can compute with them as they lie: otherwise each
    session would copy them."""
    try:
        arrays = aligned([array for _, array in handed_over.values()])
    except OSError:
        return handed_over
    kinds = ((name, kind) for name, (kind, _) in handed_over.items())
    return {name: (kind, array) for (name, kind), array in zip(kinds, arrays, strict=True)}


def _make_whole(model: Model, tensor: onnx.TensorProto) -> None:
    if model.payloads is not None and model.payloads.find(tensor) is not None:
        name = tensor.name
        model.payloads.fill([tensor])
        tensor.name = name
        return
    tensor.raw_data = b"".join(model.external.pieces(tensor))
    tensor.ClearField("data_location")
    del tensor.external_data[:]
