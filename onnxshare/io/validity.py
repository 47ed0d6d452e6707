"""Checks that a model which could be parsed does not contradict itself, before anything uses it.

What is checked here is cheap, and what later code relies on: every name can be read, every tensor's
dims fit its bytes, and functions expand to something that fits into memory. Nodes that are out of
order are not a contradiction (`node_order.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from math import prod
from operator import attrgetter, itemgetter
from typing import NoReturn

import onnx
from onnx import AttributeProto, TensorProto

from onnxshare.errors import ModelError, ModelFileError
from onnxshare.io.function_limits import check_functions
from onnxshare.io.node_order import in_order
from onnxshare.io.node_reader import (
    MAX_RANK,
    PLAIN_ATTRIBUTES,
    Operation,
    Reader,
    Reading,
    TensorRow,
    tensor_rows,
)
from onnxshare.io.skeleton import Payloads
from onnxshare.io.tensors import BITS, Array, read

DAMAGED = "the file is truncated or damaged: export or download it again"

_RAW_DATA, _FLOAT_DATA = "raw_data", "float_data"

#: The fields that hold values, by number, and the one for each element type: where it is none of
#: these, `int32_data` (onnx/onnx.proto).
_FIELDS: dict[int, str] = {
    field.number: field.name
    for field in TensorProto.DESCRIPTOR.fields
    if field.name.endswith("_data") and field.name != "external_data"
}
_TYPED_FIELDS = tuple(name for name in _FIELDS.values() if name != _RAW_DATA)
_typed_values = attrgetter(*_TYPED_FIELDS)
_TYPED: dict[int, str] = {
    TensorProto.FLOAT: _FLOAT_DATA,
    TensorProto.COMPLEX64: _FLOAT_DATA,
    TensorProto.INT64: "int64_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.STRING: "string_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}


def check(
    proto: onnx.ModelProto, payloads: Payloads | None, name: str
) -> tuple[bool, Reading, bool]:
    """Refuse a model, perhaps without large payloads, that contradicts itself.

    Returns:
        Whether any of its tensors is stored outside the model, what was read of its main graph, and
        whether the nodes are in topological order.

    Raises:
        ModelFileError: it is not a model, or a name in it cannot be read.
        ModelError: it contradicts itself.
    """
    try:
        _require_model(proto, name)
        checker = _Checker(name, payloads)
        reading = checker.model(proto)
        check_functions(proto, name)
        return checker.external, reading, checker.in_order
    except UnicodeDecodeError as error:  # some versions of protobuf; see `readable`
        raise ModelFileError(f"{name}: a name in it is not valid UTF-8", DAMAGED) from error


def _require_model(proto: onnx.ModelProto, name: str) -> None:
    """A damaged file may still parse as a protobuf message: ask for what every model has."""
    if not proto.HasField("graph") or not (proto.graph.output or proto.graph.node):
        raise ModelFileError(f"{name}: holds no graph", DAMAGED)
    if not proto.opset_import:
        raise ModelFileError(f"{name}: names no opset version", DAMAGED)
    for opset in proto.opset_import:
        if opset.version < 1:
            raise ModelFileError(
                f"{name}: names version {opset.version} of opset '{opset.domain or 'ai.onnx'}', "
                "which does not exist",
                DAMAGED,
            )


class _Checker:
    """One walk over a model."""

    def __init__(self, name: str, payloads: Payloads | None) -> None:
        self.name = name
        self.payloads = payloads
        self.reader = Reader()
        self.graphs: list[onnx.GraphProto] = []
        self.checked: set[Operation] = set()
        self.external = False
        self.in_order = True

    def refuse(self, words: str, remedy: str = DAMAGED) -> NoReturn:
        """Raise what is wrong with the model."""
        raise ModelError(f"{self.name}: {words}", remedy)

    def model(self, proto: onnx.ModelProto) -> Reading:
        """Check all graphs and functions; returns what was read of the main graph."""
        self.readable([proto.producer_name, proto.producer_version, proto.domain])
        self.readable(opset.domain for opset in proto.opset_import)
        for entry in proto.metadata_props:
            self.readable([entry.key, entry.value])
        for training in proto.training_info:
            self.graphs += [training.initialization, training.algorithm]
        for function in proto.functions:
            self.readable([function.name, function.domain, function.overload])
            self.readable([*function.input, *function.output, *function.attribute])
            self.readable(opset.domain for opset in function.opset_import)
            self.nodes(self.reader.nodes(function.node))
        reading = self.graph(proto.graph)
        while self.graphs:
            self.graph(self.graphs.pop())
        return reading

    def graph(self, graph: onnx.GraphProto) -> Reading:
        """Check one graph; those inside it are left for later."""
        self.readable([graph.name])
        self.values(graph)
        reading = self.reader.read(graph)
        tensors = [row[1] for row in reading.tensors]
        tensors += [sparse.values.name for sparse in graph.sparse_initializer]
        self.distinct(tensors, "initializer")
        self.tensors(reading.tensors)
        for sparse in graph.sparse_initializer:
            self.sparse(sparse)
        self.nodes(reading)
        return reading

    def values(self, graph: onnx.GraphProto) -> None:
        """Names and symbols of inputs, outputs and inner tensors can be read and differ."""
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor_type = value.type.tensor_type
            self.readable([value.name, *(dim.dim_param for dim in tensor_type.shape.dim)])
            if tensor_type.elem_type:
                self.known(tensor_type.elem_type, value.name)
        self.distinct([value.name for value in graph.input], "input")
        self.distinct([value.name for value in graph.output], "output")

    def readable(self, texts: Iterable[str]) -> None:
        """Texts are valid UTF-8: protobuf raises where they are not, or hands out bytes."""
        try:
            "".join(texts)
        except (TypeError, UnicodeDecodeError) as error:
            raise ModelFileError(
                f"{self.name}: a name in it is not valid UTF-8", DAMAGED
            ) from error

    def known(self, dtype: int, tensor: str) -> None:
        """An element type is one that this version of onnx knows."""
        if dtype not in BITS and dtype != TensorProto.STRING:
            self.refuse(
                f"tensor '{tensor}' has the element type {dtype}, which this version of onnx does "
                "not know",
                "install a newer onnx; or the file is damaged",
            )

    def distinct(self, names: list[str], what: str) -> None:
        """Every name can be read, is there, and is there once."""
        self.readable(names)
        if "" in names:
            self.refuse(f"an {what} has no name")
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            self.refuse(f"two {what}s are named '{twice}'", "rename one of them")

    def nodes(self, reading: Reading) -> None:
        """Names, operators and attributes of nodes."""
        rows = reading.nodes
        self.readable(map(itemgetter(2), rows))
        self.readable(chain.from_iterable(map(itemgetter(3), rows)))
        self.readable(chain.from_iterable(map(itemgetter(4), rows)))
        self.in_order = self.in_order and in_order(rows)
        for operation in dict.fromkeys([row[1] for row in rows]):
            if operation not in self.checked:
                self.operation(operation)
                self.checked.add(operation)
        for node, operation, name, _, _ in rows:
            if operation.attributes is None:
                self.attributes(node, name)

    def operation(self, operation: Operation) -> None:
        """What nodes of equal operator and attributes have in common."""
        first = operation.first
        self.readable([operation.op_type, operation.domain])
        if not operation.op_type:
            self.refuse(f"node '{first.name}' names no operator")
        if operation.attributes:
            self.attributes(first, first.name)

    def attributes(self, node: onnx.NodeProto, name: str) -> None:
        """Each attribute of a node, which is there once."""
        seen: set[str] = set()
        for attribute in node.attribute:
            self.attribute(attribute, name)
            if attribute.name in seen:
                self.refuse(f"node '{name}' has its attribute '{attribute.name}' twice")
            seen.add(attribute.name)

    def plain(self, attribute: AttributeProto, node: str) -> None:
        """An attribute that says that it is a number, a text or a list of these."""
        self.readable([attribute.name, attribute.ref_attr_name])
        if not attribute.name or attribute.HasField("g") or attribute.HasField("t"):
            self.refuse(
                f"attribute '{attribute.name}' of node '{node}' does not hold what its type says"
            )

    def attribute(self, attribute: AttributeProto, node: str) -> None:
        """The tensors of an attribute; its graphs are left for later."""
        if attribute.type in PLAIN_ATTRIBUTES:
            self.plain(attribute, node)
            return
        self.readable([attribute.name, attribute.ref_attr_name])
        held = [attribute.t] if attribute.HasField("t") else []
        held += attribute.tensors
        self.tensors(tensor_rows(held))
        if attribute.HasField("sparse_tensor"):
            self.sparse(attribute.sparse_tensor)
        for sparse in attribute.sparse_tensors:
            self.sparse(sparse)
        if attribute.HasField("g"):
            self.graphs.append(attribute.g)
        self.graphs.extend(attribute.graphs)

    def sparse(self, sparse: onnx.SparseTensorProto) -> None:
        """Dims, bytes and indices of a sparse tensor."""
        dims, name = tuple(sparse.dims), sparse.values.name
        self.dims(dims, name)
        self.tensors(tensor_rows([sparse.values, sparse.indices]))
        count, shape = list(sparse.values.dims), list(sparse.indices.dims)
        if not dims or len(count) != 1 or shape not in (count, [*count, len(dims)]):
            self.refuse(
                f"sparse tensor '{name}' of dims {list(dims)} has values of dims {count} and "
                f"indices of dims {shape}"
            )
        indices = self.indices(sparse.indices)
        if indices is None or not indices.size:
            return
        limits = dims if indices.ndim == 2 else (prod(dims),)
        columns = indices.reshape(-1, len(limits))
        if indices.dtype.kind not in "iu" or columns.min() < 0 or (columns.max(0) >= limits).any():
            self.refuse(f"sparse tensor '{name}' has an index outside its dims {list(dims)}")

    def indices(self, tensor: TensorProto) -> Array | None:
        """The indices of a sparse tensor; None where they are outside the model file."""
        payload = self.payloads.find(tensor) if self.payloads is not None else None
        if payload is not None and self.payloads is not None:
            return self.payloads.array(tensor, payload)
        return None if tensor.data_location == TensorProto.EXTERNAL else read(tensor)

    def tensors(self, rows: list[TensorRow]) -> None:
        """The dims of tensors, and their bytes where they are in the file."""
        self.readable([row[1] for row in rows])
        fits: set[tuple[int, ...]] = set()
        for tensor, name, dtype, dims, count in rows:
            if dims not in fits:
                self.dims(dims, name)
                fits.add(dims)
            if dtype not in BITS:
                self.known(dtype, name)
            if tensor.data_location == TensorProto.EXTERNAL:
                self.left_out(tensor, count)
            else:
                self.held(tensor, count)

    def held(self, tensor: TensorProto, count: int) -> None:
        """The values of a tensor are there once, where its type has them, and as many as that."""
        raw = tensor.HasField(_RAW_DATA)
        values = _typed_values(tensor)
        filled = [f for f, v in zip(_TYPED_FIELDS, values, strict=True) if v] if any(values) else []
        if len(filled) + raw > 1:
            both = " and ".join([_RAW_DATA, *filled] if raw else filled)
            self.refuse(f"tensor '{tensor.name}' has its values twice, in {both}")
        if raw:
            self.right_field(tensor, _RAW_DATA)
            self.fills(tensor, count, BITS.get(tensor.data_type, 0), len(tensor.raw_data))
        elif filled:
            self.right_field(tensor, filled[0])
            self.typed(tensor, count, len(getattr(tensor, filled[0])))
        elif count:
            self.refuse(f"tensor '{tensor.name}' has no values, and its dims announce {count:,}")

    def right_field(self, tensor: TensorProto, field: str) -> None:
        """The field is one for values of the tensor's type: strings are never raw."""
        dtype = tensor.data_type
        right = _TYPED.get(dtype, "int32_data")
        if field != right and (field != _RAW_DATA or dtype == TensorProto.STRING):
            self.refuse(
                f"tensor '{tensor.name}' has its values in {field}, and those of its element type "
                f"are in {right}"
            )

    def left_out(self, tensor: TensorProto, count: int) -> None:
        """The bytes of a tensor that are not in the skeleton, but in the file or outside it."""
        payload = self.payloads.find(tensor) if self.payloads is not None else None
        if payload is None:
            self.external = True
            return
        bits, field = BITS.get(tensor.data_type, 0), _FIELDS[payload.field]
        self.right_field(tensor, field)
        if field not in (_RAW_DATA, _FLOAT_DATA):
            return
        self.fills(tensor, count, bits, payload.value_end - payload.value)

    def fills(self, tensor: TensorProto, count: int, bits: int, held: int) -> None:
        """So many bytes are what so many elements of so many bits take; 0 bits: not known."""
        if bits and held != (count * bits + 7) // 8:
            self.refuse(
                f"tensor '{tensor.name}' is damaged: its dims announce "
                f"{(count * bits + 7) // 8:,} bytes, and it holds {held:,}"
            )

    def typed(self, tensor: TensorProto, count: int, held: int) -> None:
        """So many elements are what a typed field holds; of narrow types several share one, and of
        complex ones each takes two."""
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            count *= 2
        if held != count and BITS.get(tensor.data_type, 8) >= 8:
            self.refuse(
                f"tensor '{tensor.name}' is damaged: its dims announce {count:,} elements, and it "
                f"holds {held:,}"
            )

    def dims(self, sizes: tuple[int, ...], tensor: str) -> None:
        """There are not too many dims, none is negative, and an array could be as large."""
        if len(sizes) > MAX_RANK:
            self.refuse(f"tensor '{tensor}' has {len(sizes):,} dims")
        if sizes and min(sizes) < 0:
            self.refuse(f"tensor '{tensor}' has a negative dim")
        # A size of 0 hides the others from the product.
        if prod(size for size in sizes if size) >= 2**63:
            self.refuse(f"tensor '{tensor}' has more than 2^63 elements by its dims")
