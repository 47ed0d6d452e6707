"""Rewrites inside If, Loop and Scan: each body as a model of its own, and put back in its place.

What a body reads from outside becomes an input of that model, or a constant of it where it is one.
A body keeps its inputs and outputs, so nothing around it changes; the weights that were moved are
stored in the main graph, where all bodies can read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.heads.lookalikes import flattened
from onnxshare.analysis.heads.search import after_convolution
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Graph, Node, Scope
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.load import Model
from onnxshare.io.node_reader import all_nodes, refill
from onnxshare.shapes.inference import InputShapes, Shapes, infer
from onnxshare.support.option_text import option
from rewrites.base import Change, Site, refuse
from rewrites.moved_weights import Moved

#: What a body that is worth a look holds.
_WORK = frozenset((Effect.PRODUCT, Effect.CONVOLUTION))


@dataclass(frozen=True)
class Body:
    """A subgraph as a model.

    Attributes:
        holder: the If, Loop or Scan.
        attribute: which of its subgraphs.
        path: of the subgraph's scope.
        model: the subgraph as a model.
        maps: its inputs that are feature maps, or come from them; with the reason why nothing that
            reads them can be rewritten, or None.
        outside: what is made in the main graph, and was copied because it is constant.
    """

    holder: Node
    attribute: str
    path: str
    model: Model
    maps: dict[str, str | None]
    outside: set[str] = field(default_factory=set)

    def named(self, name: str) -> str:
        """A node of the body as messages call it."""
        return f"{self.path}/{name}"


def bodies(
    subject: Subject, input_shapes: InputShapes | None, maps: Mapping[str, str | None]
) -> list[Body]:
    """The subgraphs of the main graph's nodes that hold a convolution, or a product and a map that
    comes from one; `maps` as of `study`."""
    graph = subject.graph
    found = [
        (node, attribute, scope)
        for node in graph.main.nodes
        for attribute, scope in graph.subgraphs(node).items()
        if not _effects(scope).isdisjoint(_WORK)
    ]
    if not found:
        return []
    sizes = subject.probe.shapes
    single = infer(graph, input_shapes) if subject.probe.dynamic else sizes
    after = after_convolution(graph, maps).maps
    made = (_body(subject, place, (single, sizes), after) for place in found)
    return [body for body in made if body is not None]


def _effects(scope: Scope) -> set[Effect | None]:
    """What the nodes of a subgraph do, those of subgraphs inside it included."""
    inner = (child for found in scope.children.values() for child in found.values())
    return {traits_of(node).effect for node in scope.nodes}.union(*map(_effects, inner))


def _body(
    subject: Subject, place: tuple[Node, str, Scope], sizes: tuple[Shapes, Shapes], after: set[str]
) -> Body | None:
    """A subgraph as a model; None where there is no map in it, or the type of something that it
    reads is not known."""
    graph, (node, attribute, scope) = subject.graph, place
    source, proto = graph.proto, onnx.ModelProto()
    proto.ir_version = max(source.ir_version, 4)
    proto.opset_import.extend(source.opset_import)
    proto.functions.extend(source.functions)
    inner = proto.graph
    inner.name = scope.graph.name or "body"
    outside: set[str] = set()
    given = [value.name for value in scope.graph.input]
    constants: list[str] = []
    for name in _captured(scope):
        (given if graph.source(graph.main, name) is None else constants).append(name)
    maps = dict(_maps(subject, node, scope, given, after))
    values = [_value(scope, name, sizes) for name in given]
    if None in values or (not maps and Effect.CONVOLUTION not in _effects(scope)):
        return None
    for name in constants:
        _copy_constant(graph, name, inner, outside)
    inner.input.extend(filter(None, values))
    inner.node.extend(scope.graph.node)
    inner.initializer.extend(scope.graph.initializer)
    inner.sparse_initializer.extend(scope.graph.sparse_initializer)
    for value in scope.graph.output:
        inner.output.append(_value(scope, value.name, sizes) or value)
    model = replace(graph.model, skeleton=proto)
    return Body(node, attribute, scope.path, model, maps, outside)


def _captured(scope: Scope) -> list[str]:
    """What a subgraph, or one inside it, reads of the graphs around it."""
    names: dict[str, None] = {}
    waiting = [scope]
    while waiting:
        current = waiting.pop()
        read = [name for node in current.nodes for name in node.inputs if name]
        for name in (*read, *(value.name for value in current.graph.output)):
            home = current.home(name)
            if home is not None and home.parent is None:
                names[name] = None
        waiting += [child for found in current.children.values() for child in found.values()]
    return list(names)


def _copy_constant(graph: Graph, name: str, inner: onnx.GraphProto, outside: set[str]) -> None:
    """Put a constant of the main graph into a body's model, with the nodes that make it."""
    main = graph.main
    if name in outside:
        return
    outside.add(name)
    if name in main.sparse:
        inner.sparse_initializer.append(main.sparse[name])
    elif name in main.initializers:
        inner.initializer.append(main.initializers[name])
    else:
        node = main.producers[name]
        for item in filter(None, node.inputs):
            _copy_constant(graph, item, inner, outside)
        inner.node.append(node.proto)
        outside.update(node.outputs)


def _value(scope: Scope, name: str, sizes: tuple[Shapes, Shapes]) -> onnx.ValueInfoProto | None:
    """Type and shape of a tensor; a size that grows with the number of samples is a symbol."""
    one, several = (shapes.get(scope, name) for shapes in sizes)
    dtype = sizes[0].dtype(scope, name)
    if dtype is None:
        return None
    shape: list[int | str | None] | None = None
    if one is not None and several is not None and len(one) == len(several):
        shape = [
            a if a == b else "batch" if a == 1 else f"batch_{a}"
            for a, b in zip(one, several, strict=True)
        ]
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


def _maps(
    subject: Subject, node: Node, scope: Scope, given: Sequence[str], after: set[str]
) -> Iterator[tuple[str, str | None]]:
    """The inputs of a body that come from a convolution, and why their readers are not sites."""
    own = [value.name for value in scope.graph.input]
    fed = dict(zip(own, node.inputs[len(node.inputs) - len(own) :], strict=False)) if own else {}
    products = [inner for inner in scope.nodes if traits_of(inner).effect is Effect.PRODUCT]
    weights = {name for inner in products for name in inner.inputs[1:]}
    holder = f"{node.op_type} '{node.name}'"
    for name in given:
        source = fed.get(name, name)
        if source in after:
            flat = flattened(subject.graph, subject.probe, after, source)
            words = f"'{name}' is flattened outside of {holder}, whose body reads it"
            yield name, words if flat else None
        elif name in weights and source in subject.graph.main.producers:
            yield name, f"its weight '{name}' is computed outside of {holder}, whose body reads it"


def put_back(
    subject: Subject,
    body: Body,
    result: Model,
    changes: tuple[Change, ...],
    rewrite: str,
) -> tuple[Change, ...]:
    """The changes of a body as changes of the model around it."""
    editor = Editor(subject.graph.proto, rewrite, subject.graph.model.payloads)
    before, after = body.model.skeleton.graph, onnx.GraphProto()
    after.CopyFrom(result.skeleton.graph)
    old, stored = _stored(before), _stored(after)
    names = {name: name for name in stored if name in old}
    for tensor in after.initializer:
        if tensor.name not in old:
            names[tensor.name] = _kept(subject.graph.model, editor, tensor)
    made = [name for node in after.node for name in (node.name, *node.output) if name]
    known = {name for node in before.node for name in (node.name, *node.output)}
    for name in dict.fromkeys(made):
        if name not in known:
            names[name] = editor.new_name(name)
    _rename(after.node, names)
    kept = [node for node in after.node if body.outside.isdisjoint(node.output)]
    graph = subject.graph.subgraphs(body.holder)[body.attribute].graph
    inner = onnx.GraphProto()
    inner.CopyFrom(graph)
    refill(inner.node, kept)
    refill(inner.initializer, (t for t in inner.initializer if t.name in stored))
    inside = {name for node in kept for name in node.output} | {v.name for v in inner.input}
    refill(inner.value_info, (v for v in inner.value_info if v.name in inside))
    editor.replace_body(body.holder, body.attribute, inner)
    model = editor.apply()
    main = {tensor.name for tensor in model.graph.initializer}

    def moved(claim: Moved) -> Moved | None:
        target = names.get(claim.target, claim.target)
        if target not in main or claim.source not in old | known:
            return None  # it was made by an earlier change of this body
        path = "" if claim.source in body.outside else body.path
        return replace(claim, target=target, source_scope=path)

    return tuple(
        replace(
            change,
            site=replace(change.site, node=body.named(change.site.node)),
            model=model,
            removed=tuple(map(body.named, change.removed)),
            added=tuple(body.named(names.get(name, name)) for name in change.added),
            tensors={},
            moved=tuple(filter(None, map(moved, change.moved))),
            body=(body.model, result, changes),
        )
        for change in changes
    )


def _stored(graph: onnx.GraphProto) -> set[str]:
    sparse = {item.values.name for item in graph.sparse_initializer}
    return sparse | {tensor.name for tensor in graph.initializer}


def _kept(model: Model, editor: Editor, tensor: onnx.TensorProto) -> str:
    """The name of a new tensor in the main graph: of one that holds the same already, as where
    both branches of an If move one weight, or a new one."""
    values = model.read(tensor)
    for other in model.skeleton.graph.initializer:
        alike = other.data_type == tensor.data_type and list(other.dims) == list(tensor.dims)
        if alike and np.array_equal(model.read(other), values):
            return other.name
    return editor.constant(values, tensor.name)


def _rename(nodes: Sequence[onnx.NodeProto], names: dict[str, str]) -> None:
    for node in all_nodes(nodes):
        node.name = names.get(node.name, node.name)
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                if names.get(name, name) != name:
                    values[place] = names[name]


def judged(body: Body, site: Site, *, sliding: bool) -> Site:
    """A site of a body, refused where a body cannot be rewritten as a model can."""
    if site.refused is not None:
        return site
    holder = f"{body.holder.op_type} '{body.holder.name}'"
    if sliding:
        return refuse(
            site,
            f"it is in the body of {holder}, whose outputs keep their sizes: use "
            f"{option('--fc-to-conv')} without {option('--fully-convolutional')}",
        )
    if site.exact is False:
        return refuse(
            site,
            f"{site.detail}; it is in the body of {holder}, where nothing can be fitted: use "
            f"{option('--fc-to-conv')}, which is exact",
        )
    return site
