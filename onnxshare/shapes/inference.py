"""Fills in the shape of every tensor, for one sample, and lists what stays unknown.

onnx's own inference does the work, once, on a copy without weights. Shapes declared inside the
graph are not trusted: they are used only for tensors that inference could not reach.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import onnx
from onnx import TensorProto

from onnxshare.errors import ModelFileError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.graph.onnx_sandbox import infer_shapes
from onnxshare.io.load import Model
from onnxshare.shapes.batch_axis import rows
from onnxshare.shapes.computed_sizes import leave_unknown, name_inner_nodes, settle
from onnxshare.shapes.input_sizes import Binding, InputShapes, bind
from onnxshare.shapes.rules import classical_ml, old_opsets
from onnxshare.shapes.rules.microsoft import RULES
from onnxshare.shapes.rules.substitute import substitute
from onnxshare.shapes.sequences import Sequences
from onnxshare.shapes.types import NOTHING, Shape, TensorType, TypeTable, named_types
from onnxshare.support.option_text import option

#: Rounds of inference between which computed sizes are worked out; each settles all that can be.
_MAX_ROUNDS = 8

#: Initializers above this size are hidden from inference, which needs only small ones (shapes).
_VISIBLE = 4096


class Shapes:
    """Types and shapes of all tensors of a graph, by the scope that defines them and by name.

    Attributes:
        batch: rows of one run, which counts are divided by; 1 where the batch was symbolic.
        batch_symbols: names of symbolic sizes that were set to 1 as batch.
        dims: the sizes that symbols and open axes of inputs were given (`Binding.dims`).
        open: what of the inputs has no size, and the option that sets it (`Binding.open`).
        warnings: what could not be inferred or was ignored.
        lengths: how many tensors a sequence holds, by scope path and name, where it is known.
    """

    def __init__(self, batch: int, binding: Binding, symbols: Collection[str] = ()) -> None:
        self.batch = batch
        self.batch_symbols = binding.batch_symbols
        self.dims = binding.dims
        self.open = binding.open
        self.warnings: list[str] = []
        self.lengths: Mapping[tuple[str, str], int] = {}
        if binding.images:
            self.warnings.append(
                f"the sizes of images that are open are taken from {binding.images}; "
                f"{option('--input-shape')} or {option('--dim')} sets others"
            )
        self._table = TypeTable(symbols)
        self._types: dict[str, dict[str, TensorType]] = {"": {}}

    def type_of(self, scope: Scope, name: str) -> TensorType:
        """What is known of a tensor seen from a scope."""
        if scope.parent is not None:
            home = scope.home(name)
            if home is None:
                return NOTHING
            scope = home
        return self.types_in(scope.path).get(name, NOTHING)

    def get(self, scope: Scope, name: str) -> Shape | None:
        """The shape of a tensor seen from a scope, or None if even its rank is unknown."""
        return self.type_of(scope, name).shape

    def sizes(self, scope: Scope, name: str) -> tuple[int, ...] | None:
        """The shape if every size is known."""
        return self.type_of(scope, name).sizes

    def dtype(self, scope: Scope, name: str) -> int | None:
        """The element type of a tensor seen from a scope."""
        return self.type_of(scope, name).dtype

    def size_and_type(self, scope: Scope, name: str) -> tuple[tuple[int, ...], int] | None:
        """Sizes and element type; None if either is unknown."""
        found = self.type_of(scope, name)
        if found.sizes is None or found.dtype is None:
            return None
        return found.sizes, found.dtype

    def types_in(self, path: str) -> dict[str, TensorType]:
        """The types of the tensors that a scope defines."""
        found = self._types.get(path)
        if found is None:
            found = self._types[path] = {}
        return found

    def put(self, path: str, name: str, dtype: int | None, shape: Shape | None) -> None:
        """Note the type of a tensor that the scope of this path defines."""
        self.types_in(path)[name] = self._table.make(dtype, shape)

    def put_stored(self, path: str, tensors: Iterable[Stored]) -> None:
        """Note the types of stored tensors that the scope of this path defines."""
        types, made, make = self.types_in(path), self._table.made, self._table.make
        for stored in tensors:
            found = made.get((stored.dtype, stored.shape))
            types[stored.name] = found or make(stored.dtype, stored.shape)

    def put_sequences(self, sequences: Sequences) -> None:
        """Note what sequences hold."""
        self.lengths = sequences.lengths()
        for (path, name), elements in sequences.found.items():
            self.types_in(path)[name] = self._table.sequence(elements)

    def read(self, path: str, graph: onnx.GraphProto) -> None:
        """Note what a graph says of the tensors that the scope of this path defines."""
        pairs = named_types(graph)
        found = {key: self._table.of(key) for key in {key for _, key in pairs}}
        nothing = {key for key, kind in found.items() if kind is None or kind is NOTHING}
        types: Any = self.types_in(path)
        if nothing:
            pairs = [pair for pair in pairs if pair[1] not in nothing]
        types.update([(name, found[key]) for name, key in pairs])

    @property
    def known(self) -> dict[tuple[str, str], Shape]:
        """(scope path, name) → shape, of every tensor whose rank is known."""
        return {
            (path, name): found.shape
            for path, types in self._types.items()
            for name, found in types.items()
            if found.shape is not None
        }

    def fully_known(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        """The shapes without any unknown size, by (scope path, name)."""
        return _FullyKnown(self._types)


class _FullyKnown(Mapping[tuple[str, str], tuple[int, ...]]):
    """A view, because few of the shapes of a model are ever needed by value."""

    def __init__(self, types: dict[str, dict[str, TensorType]]) -> None:
        self._types = types

    def __getitem__(self, key: tuple[str, str]) -> tuple[int, ...]:
        sizes = self._types[key[0]][key[1]].sizes
        if sizes is None:
            raise KeyError(key)
        return sizes

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for path, types in self._types.items():
            yield from ((path, name) for name, found in types.items() if found.sizes is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def infer(
    graph: Graph,
    input_shapes: InputShapes | None = None,
    batch: int | None = 1,
    *,
    strict: bool = False,
    proven: bool = False,
    doubted: Collection[Node] = (),
    impossible: Collection[str] = (),
) -> Shapes:
    """Infer all shapes.

    Args:
        graph: the indexed model.
        input_shapes: sizes for inputs, where the user gave them.
        batch: the size that a symbolic batch axis takes; None leaves it open.
        strict: refuse a graph with a node that onnx finds not to fit; else its result is unknown.
        proven: use nothing that may be wrong: neither shapes that the file declares nor what
            onnx follows of values, where it errs for tensors of several axes.
        doubted: nodes that cannot do what they are given, whose results are left unknown.
        impossible: paths of branches of an If that cannot run.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
        ModelError: onnx's inference rejects the model (InferenceRefused), or is given up.
    """
    weightless = _without_weights(graph)
    if graph.main.children:
        name_inner_nodes(graph, weightless)
        _strip_subgraphs(graph, weightless)
    rules = {**RULES, **classical_ml.RULES, **old_opsets.rules(graph.opset)}
    rules |= old_opsets.rules_of_pools(graph)
    replaced = not graph.operators.keys().isdisjoint(rules)
    if replaced:
        substitute(weightless, rules)
    if doubted:
        leave_unknown(graph, weightless, doubted)
        replaced = True
    nodes = None if replaced else graph.main.nodes
    binding = bind(graph, weightless, dict(input_shapes or {}), batch)
    shapes = _inferred(graph, weightless, binding, strict, proven, nodes)
    restored, sequences = proven, Sequences(graph)
    for _ in range(_MAX_ROUNDS):
        values = Values(graph, shapes.fully_known(), impossible, sequences.lengths())
        known = partial(_size_and_type, graph, shapes)
        if not settle(graph, weightless, known, values, sequences):
            # What the file declares may be wrong: it is asked last.
            if restored or not _restore(graph, weightless, shapes, binding.sizes):
                break
            restored, strict = True, False
        shapes = _inferred(graph, weightless, binding, strict, proven)
    for scope in graph.scopes:
        stored = map(partial(graph.source, scope), scope.initializers)
        shapes.put_stored(scope.path, filter(None, stored))
    shapes.put_sequences(sequences)
    return shapes


def _size_and_type(
    graph: Graph, shapes: Shapes, scope: Scope, name: str
) -> tuple[tuple[int, ...], int] | None:
    """Sizes and type of a tensor, stored ones included; None if either is unknown."""
    found = shapes.size_and_type(scope, name)
    stored = graph.stored(scope, name) if found is None else None
    return found if stored is None else (stored.shape, stored.dtype)


def _inferred(
    graph: Graph,
    weightless: onnx.ModelProto,
    binding: Binding,
    strict: bool,
    proven: bool = False,
    nodes: Sequence[Node] | None = None,
) -> Shapes:
    inferred = infer_shapes(
        weightless, graph.model.name, strict=strict, values=not proven, nodes=nodes
    )
    batch = 1 if binding.batch_symbols else rows(graph, inferred)
    shapes = Shapes(batch, binding, binding.open)
    for scope, copy in graph.paired(inferred.graph):
        if not scope.children:
            copy.ClearField("node")  # nobody reads them any more, nor copies them
            copy.ClearField("initializer")
        shapes.read(scope.path, copy)
    return shapes


def _restore(
    graph: Graph, weightless: onnx.ModelProto, shapes: Shapes, symbols: Mapping[str, int]
) -> bool:
    """Put declared shapes back for tensors whose shape inference could not find."""
    restored = False
    for scope, copy in graph.paired(weightless.graph):
        missing = _missing(scope, shapes)
        outputs = {value.name: value for value in copy.output} if missing else {}
        for value in (*scope.graph.value_info, *scope.graph.output) if missing else ():
            if value.name not in missing or not value.type.tensor_type.HasField("shape"):
                continue
            target = outputs.get(value.name) or copy.value_info.add()
            target.CopyFrom(value)
            for dim in target.type.tensor_type.shape.dim:
                if dim.dim_param in symbols:
                    dim.dim_value = symbols[dim.dim_param]
            restored = True
    return restored


def _missing(scope: Scope, shapes: Shapes) -> set[str]:
    """The tensors of a graph without a shape; in the main graph, while sizes are open, those behind
    subgraphs and operators that are not of the standard, because the open sizes decide the
    others."""
    types, made = shapes.types_in(scope.path), scope.producers
    missing = made.keys() - types.keys()
    if any(found.shape is None for found in set(types.values())):
        missing |= {name for name, found in types.items() if found.shape is None and name in made}
    if not shapes.open or scope.parent is not None:
        return missing
    behind: set[str] = set()
    for node in scope.nodes:
        inner = not node.standard or node.position in scope.children
        if inner or not behind.isdisjoint(node.inputs):
            behind.update(missing.intersection(node.outputs))
    return behind


def _without_weights(graph: Graph) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same type: no payload is copied."""
    proto = graph.proto
    weightless = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    weightless.opset_import.extend(proto.opset_import)
    tensors, hidden, all_copied = _visible(graph)
    if graph.model.payloads is None:  # it may hold any amount of weights: copy around them
        weightless.graph.name = proto.graph.name
        weightless.graph.node.MergeFrom(proto.graph.node)
        weightless.graph.initializer.extend(tensors)
    else:  # large payloads are left in the file: one copy is several times as fast as many
        weightless.graph.CopyFrom(proto.graph)
        for name in ("value_info", "output", "input", "sparse_initializer", "metadata_props"):
            weightless.graph.ClearField(name)
        if not all_copied:
            weightless.graph.ClearField("initializer")
            weightless.graph.initializer.extend(tensors)
    weightless.graph.input.extend(graph.inputs)
    for value in proto.graph.output:
        weightless.graph.output.add(name=value.name)
    types: dict[tuple[int, tuple[int, ...]], onnx.TypeProto] = {}
    for stored in hidden:
        key = (stored.dtype, stored.shape)
        if key not in types:
            types[key] = onnx.helper.make_tensor_type_proto(*key)
        weightless.graph.input.add(name=stored.name, type=types[key])
    return weightless


def _visible(graph: Graph) -> tuple[list[TensorProto], list[Stored], bool]:
    """The initializers whose values inference may read, the others, and whether there are no
    others and all are read from where they are."""
    tensors: list[TensorProto] = []
    hidden: list[Stored] = []
    as_they_are = True
    sources = graph.constants(graph.main)
    if graph.model.whole and not graph.main.sparse:  # of thousands, the place of few is needed
        found = [stored for stored in map(sources.get, graph.main.initializers) if stored]
        if max((stored.elements for stored in found), default=0) <= _VISIBLE:
            return list(graph.main.initializers.values()), [], True
    for name, tensor in graph.main.initializers.items():
        stored = sources.get(name)
        if stored is None:
            continue
        readable = stored.elements <= _VISIBLE and not stored.sparse
        if readable and tensor.data_location == TensorProto.EXTERNAL:
            tensor, readable = _at_hand(graph.model, tensor)
            as_they_are = False
        if readable:
            tensors.append(tensor)
        else:
            hidden.append(stored)
    return tensors, hidden, as_they_are and not hidden


def _at_hand(model: Model, tensor: TensorProto) -> tuple[TensorProto, bool]:
    """A small external tensor with its values, if it may be a shape and its file is there."""
    if tensor.data_type not in (TensorProto.INT32, TensorProto.INT64):
        return tensor, False
    try:
        return onnx.numpy_helper.from_array(model.read(tensor), tensor.name), True
    except ModelFileError:
        return tensor, False  # only the size that it decides is unknown then


def _strip_subgraphs(graph: Graph, weightless: onnx.ModelProto) -> None:
    """Remove what the subgraphs of a copy declare of their inner and output shapes."""
    for scope, copy in graph.paired(weightless.graph):
        if scope is not graph.main:
            copy.ClearField("value_info")
            for value in copy.output:
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.ClearField("shape")


__all__ = ["InputShapes", "Shape", "Shapes", "infer"]
