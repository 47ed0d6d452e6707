"""Reads a model from wherever it is, and refuses with one clear line what is not one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import onnx
from google.protobuf.message import DecodeError

from onnxshare.errors import ModelError, ModelFileError
from onnxshare.io.external_data import ExternalData
from onnxshare.io.memory_map import require_unchanged
from onnxshare.io.node_order import in_topological_order
from onnxshare.io.node_reader import DEFAULTS_SINCE, PLAIN_ATTRIBUTES, Reading, model_inputs, refill
from onnxshare.io.open_model_file import PROTOBUF_LIMIT as PROTOBUF_LIMIT
from onnxshare.io.open_model_file import describe, map_file, read_stdin
from onnxshare.io.skeleton import Payloads, TooManyParts, nested_too_deep, skim
from onnxshare.io.tensors import Array, read
from onnxshare.io.text_formats import parse_text, text_form
from onnxshare.io.validity import DAMAGED, check
from onnxshare.support.garbage_collection import paused

#: What a model can be given as: a path (`-` for standard input), its bytes, an open binary file,
#: a ModelProto, an `onnx_ir.Model`, or anything with an attribute `model_proto`.
ModelSource = Any

_SORTED = "the nodes of the model are not in topological order: they were sorted"


@dataclass(frozen=True)
class Model:
    """A model as it was read. Never changed by onnxshare: rewrites work on copies.

    Attributes:
        skeleton: the model, where large payloads of a file are left in the file (`skeleton.py`);
            external tensors are references.
        path: the file it came from, or None.
        size: bytes of the model file (without external data), or None if it came from memory.
        payloads: where the payloads are that the skeleton leaves out; None if it is whole.
        external: reads its external data.
        whole: whether it is known that no tensor is stored outside the model file.
        notes: what was put right when it was read.
    """

    skeleton: onnx.ModelProto = field(repr=False)
    path: Path | None = None
    size: int | None = None
    payloads: Payloads | None = field(default=None, repr=False)
    external: ExternalData = field(default=ExternalData(None), repr=False, compare=False)
    whole: bool = field(default=False, repr=False, compare=False)
    notes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _readings: list[Reading] = field(default_factory=list, init=False, repr=False, compare=False)

    def take_reading(self) -> Reading | None:
        """What was read of the main graph when a file was checked, for the first who asks: it is
        not kept, and None for a model from memory, which its owner may have changed since."""
        return self._readings.pop() if self._readings else None

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The whole model, payloads included, read when first needed; external tensors are
        still references."""
        if not self.payloads:
            return self.skeleton
        whole = onnx.ModelProto()
        whole.CopyFrom(self.skeleton)
        self.payloads.fill(all_tensors(whole))
        return whole

    def read(self, tensor: onnx.TensorProto) -> Array:
        """The values of one of its tensors, wherever they are stored; see `tensors.read`.

        Raises:
            ModelFileError: external data is missing, or must not be read (`external_data.py`).
            ModelError: the payload does not fit the tensor's dims.
        """
        payload = self.payloads.find(tensor) if self.payloads else None
        if payload is None or self.payloads is None:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                return self.external.array(tensor)
            return read(tensor)
        try:
            return self.payloads.array(tensor, payload)
        except (ValueError, TypeError) as error:
            raise ModelError(f"tensor '{tensor.name}' is damaged: {error}") from error

    @cached_property
    def _external_files(self) -> tuple[str, ...]:
        if self.whole:
            return ()
        names: dict[str, None] = {}
        for tensor in self.external_tensors(by_type=True):
            names.update((e.value, None) for e in tensor.external_data if e.key == "location")
        return tuple(names)

    def external_tensors(self, *, by_type: bool = False) -> Iterator[onnx.TensorProto]:
        """The tensors whose data is said to be in other files, be that right or not; `by_type` is
        as of `all_tensors`."""
        for tensor in all_tensors(self.skeleton, by_type=by_type):
            held = self.payloads is not None and self.payloads.find(tensor) is not None
            if tensor.data_location == onnx.TensorProto.EXTERNAL and not held:
                yield tensor

    def external_files(self) -> tuple[str, ...]:
        """The locations of external data, as the model names them, each once."""
        return self._external_files

    @property
    def name(self) -> str:
        """The file's name as the user gave it, or `<model>` for one from memory."""
        return str(self.path) if self.path is not None else "<model>"

    @property
    def folder(self) -> Path | None:
        """Where relative external data is looked for; None for a model from memory."""
        return self.path.parent if self.path is not None else None

    def to_dict(self) -> dict[str, Any]:
        """What identifies the model, as plain types."""
        return {
            "path": None if self.path is None else str(self.path),
            "bytes": self.size,
            "ir_version": self.skeleton.ir_version,
            "opsets": {opset.domain: opset.version for opset in self.skeleton.opset_import},
            "producer": " ".join(
                filter(None, (self.skeleton.producer_name, self.skeleton.producer_version))
            ),
        }


@paused()
def load(source: ModelSource, *, follow_symlinks: str | os.PathLike[str] | None = None) -> Model:
    """Read a model without its external data.

    Args:
        source: see `ModelSource`. A `Model` is returned as it is, but for the next argument.
        follow_symlinks: a folder that links to external data may lead into, such as a cache;
            None allows no links.

    Raises:
        ModelFileError: the source is missing, unreadable, or not an ONNX model, or changes
            while it is read.

    Example:
        >>> model = onnxshare.load("models/lenet5.onnx")
        >>> len(onnxshare.inspect(model).nodes)
        12
    """
    allowed = None if follow_symlinks is None else Path(follow_symlinks)
    if isinstance(source, Model) and allowed is None:
        return source
    model = source if isinstance(source, Model) else _load(source)
    opened = replace(model, external=ExternalData(model.folder, model.name, allowed))
    opened._readings.extend(model._readings)
    if opened.folder is not None:
        opened.external.remember(opened.external_files())
    opened.notes.extend(model.notes)
    return opened


def _load(source: ModelSource) -> Model:
    if isinstance(source, onnx.ModelProto):
        _, _, in_order = check(source, None, "<model>")
        model = Model(source)
        return model if in_order else _sorted(model)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path == Path("-"):
            return parse(read_stdin(), "<stdin>", None)
        return parse(map_file(path), str(path), path)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return parse(bytes(source), "<bytes>", None)
    if hasattr(source, "model_proto"):
        return _load(source.model_proto)
    if hasattr(source, "read"):
        return _from_file(source)
    if type(source).__module__.split(".")[0] == "onnx_ir":
        from onnx_ir import to_proto  # type: ignore[import-not-found, unused-ignore]

        return _load(to_proto(source))
    raise ModelFileError(
        f"cannot read a model from {type(source).__name__}",
        "give a path, bytes, a binary file, a ModelProto or an onnx_ir.Model",
    )


def with_data(model: Model) -> onnx.ModelProto:
    """Return a copy of the model with external tensors read in.

    Raises:
        ModelFileError: external data is missing, or must not be read (`external_data.py`).
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = b"".join(model.external.pieces(tensor))
            # As onnx's own loader leaves them.
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return proto


def without_defaults(model: Model) -> Model:
    """The model without those inputs whose values are stored. Before IR version 4, where all
    initializers are listed and none is a default, it stays as it is."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    inputs = model_inputs(proto.graph)
    if proto.ir_version < DEFAULTS_SINCE or len(inputs) == len(proto.graph.input):
        return model
    refill(proto.graph.input, inputs)
    found = replace(model, skeleton=proto)
    found.notes.extend(model.notes)
    return found


def all_tensors(proto: onnx.ModelProto, *, by_type: bool = False) -> list[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, dense and sparse, in subgraphs,
    functions and training information too; with `by_type`, which is fast, not the fields
    of an attribute that contradict its type."""
    tensors: list[onnx.TensorProto] = []
    graphs = [proto.graph]
    for training in proto.training_info:
        graphs += [training.initialization, training.algorithm]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            tensors.extend(graph.initializer)
            for sparse in graph.sparse_initializer:
                tensors += [sparse.values, sparse.indices]
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if by_type and attribute.type in PLAIN_ATTRIBUTES:
                continue
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            tensors.extend(attribute.tensors)
            sparse_tensors = list(attribute.sparse_tensors)
            if attribute.HasField("sparse_tensor"):
                sparse_tensors.append(attribute.sparse_tensor)
            for sparse in sparse_tensors:
                tensors += [sparse.values, sparse.indices]
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            graphs.extend(attribute.graphs)
    return tensors


def _from_file(file: IO[bytes]) -> Model:
    data = file.read()
    name = getattr(file, "name", "<file>")
    if not isinstance(data, bytes):
        raise ModelFileError(f"{name}: was opened as text", "open it in binary mode ('rb')")
    path = None
    if isinstance(name, str):
        with contextlib.suppress(OSError):
            path = Path(name) if Path(name).is_file() else None
    return parse(data, str(name), path)


def parse(data: Any, name: str, path: Path | None) -> Model:
    """The model in some bytes: `bytes`, a `memoryview`, or what is read by ranges like these.

    Args:
        data: the model file.
        name: what messages call it.
        path: where it is, for its external data; None if nowhere.

    Raises:
        ModelFileError: it is not a readable model.
    """
    head = bytes(data[:512])
    form = text_form(name, head)
    known = describe(head, len(data))
    if known is not None and not (form and data):
        raise ModelFileError(f"{name}: is {known[0]}", known[1])
    if len(data) > PROTOBUF_LIMIT:
        raise ModelFileError(
            f"{name}: is larger than 2 GiB, which is more than a model file can hold",
            "save it with external data",
        )
    if form:
        proto, payloads = parse_text(bytes(data), form, name), None
    else:
        proto, payloads = _parse_binary(data, name)
    require_unchanged(data)
    external, reading, in_order = check(proto, payloads, name)
    model = Model(proto, path, len(data), payloads, whole=not external)
    if not in_order:
        return _sorted(model)
    if payloads is not None:
        model._readings.append(reading)
    return model


def _sorted(model: Model) -> Model:
    """The model with its nodes in topological order; itself where there is none."""
    proto = in_topological_order(model.skeleton)
    if proto is None:
        return model
    found = replace(model, skeleton=proto)
    found.notes.append(_SORTED)
    return found


def _parse_binary(data: bytes | memoryview, name: str) -> tuple[onnx.ModelProto, Payloads]:
    proto = onnx.ModelProto()
    try:
        skeleton, payloads = skim(data)
        proto.ParseFromString(skeleton)
    except (RecursionError, TooManyParts) as error:
        raise ModelFileError(f"{name}: {error}", "simplify the model") from None
    except (DecodeError, ValueError, RuntimeError):
        if nested_too_deep(data):
            raise ModelFileError(
                f"{name}: its graphs are nested too deep", "simplify the model"
            ) from None
        raise ModelFileError(f"{name}: not a readable ONNX model", DAMAGED) from None
    return proto, payloads
