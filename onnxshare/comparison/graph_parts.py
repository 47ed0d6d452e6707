"""Parts of two graphs that differ, between tensors that stand for each other.

Two tensors stand for each other if the same nodes make them of the same inputs and weights; or if
they have one name, or the same nodes make the same outputs of them, and their values are equal on
some samples. What lies between such tensors is a part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import onnx
from onnx import AttributeProto, defs

from onnxshare.comparison.function_digest import Digester, digest_of
from onnxshare.comparison.tensor_statistics import close
from onnxshare.graph.attribute_defaults import attribute_value, schema_defaults
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.graph.random_operators import random_tensors
from onnxshare.io.load import Model
from onnxshare.io.node_reader import reads, refill
from onnxshare.io.tensors import Array
from onnxshare.samples.input_specs import input_specs
from onnxshare.weights.content import same_bits

#: Operators behind which a tensor may hold any numbers.
_MIXERS = (
    *(Effect.CONVOLUTION, Effect.PRODUCT, Effect.RECURRENT, Effect.ATTENTION, Effect.LOOKUP),
    Effect.CONTROL_FLOW,
)

#: Elements, at most, of constants of which all are tried; else the least and the largest.
_SMALL = 16

#: Returns tensors of model "A" or "B" on some samples.
Runner = Callable[[str, Sequence[str]], Mapping[str, Array]]


class Side:
    """One of the models, and digests of its values."""

    def __init__(self, model: Model) -> None:
        """Look at a model; `know` reads what is stored."""
        self.model, self.proto = model, model.skeleton
        self._digester = Digester(model)
        self.constants: dict[str, onnx.TensorProto] = {}
        for tensor in self.proto.graph.initializer:
            self.constants[tensor.name] = tensor
        self.nodes = []
        for node in self.proto.graph.node:
            value = next((item.t for item in node.attribute if item.name == "value"), None)
            if node.op_type == "Constant" and value is not None:
                self.constants[node.output[0]] = value
            else:
                self.nodes.append(node)
        self._stored: dict[str, str] = {}
        self.inputs = {spec.name for spec in input_specs(self.proto)}
        self.outputs = [value.name for value in self.proto.graph.output]
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self._versions = {item.domain: item.version for item in self.proto.opset_import}

    def know(self, other: Side) -> None:
        """Digest what is stored; tensors that another model has too, under one name, are not read
        twice.

        Raises:
            ModelFileError, ModelError: a weight cannot be read.
        """
        alike = {_kind(tensor) for tensor in other.constants.values()}
        for name, tensor in self.constants.items():
            word = "" if name in self._stored else self._shared(other, name)
            if word:
                self._stored[name] = other._stored[name] = word
            elif name not in self._stored and _kind(tensor) in alike:
                self._stored[name] = self._digester.tensor(tensor)
            elif name not in self._stored:
                self._stored[name] = f"in one: {name} {_kind(tensor)}"

    def _shared(self, other: Side, name: str) -> str:
        ours, theirs = self.constants[name], other.constants.get(name)
        if theirs is None or _kind(ours) != _kind(theirs):
            return ""
        arrays = self.model.read(ours), other.model.read(theirs)
        return f"in both: {name}" if same_bits(*arrays) else ""

    def digests(self, meetings: Mapping[str, str]) -> dict[str, str]:
        """What is made of the inputs and of some values (`meetings`: their names, and a word that
        stands for each), as digests by name."""
        known = {**{name: f"input {name}" for name in self.inputs}, **self._stored}
        made = {}
        for node in self.nodes:
            digest = self._node(node, known)
            for place, name in enumerate(node.output):
                if name:
                    made[name] = f"{digest} {place}"
                    known[name] = meetings.get(name, made[name])
        return made

    @cached_property
    def endings(self) -> dict[str, str]:
        """Digests of what becomes of each value, up to the outputs; none where another value that
        is not constant takes part."""
        ends: dict[str, list[str]] = {}
        for place, name in enumerate(self.outputs):
            ends.setdefault(name, []).append(f"output {place}")
        for node in reversed(self.nodes):
            after = [digest_of(*sorted(ends.get(name, []))) for name in node.output]
            for name in set(node.input) - self._stored.keys() - {""}:
                operands = dict.fromkeys(node.input, "other") | self._stored | {name: "here"}
                ends.setdefault(name, []).append(digest_of(self._node(node, operands), *after))
        return {name: digest_of(*sorted(found)) for name, found in ends.items()}

    def _node(self, node: onnx.NodeProto, known: Mapping[str, str]) -> str:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._versions.get(domain, 1)
        bare = _without_defaults(node, domain, version)
        since = _since(node.op_type, version, domain)
        return self._digester.node(bare, known, version=since)

    def cone(self, name: str, ends: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that make a value, in order, and the values that they start from: the inputs,
        or some that are given."""
        stop, needed, seen, cuts = {*ends, *self.inputs}, [name], set[str](), set[str]()
        found = set()
        while needed:
            value = needed.pop()
            if value in seen or value in self.constants:
                continue
            seen.add(value)
            if value in stop and (value != name or value in self.inputs):
                cuts.add(value)
            elif value in self.makers:
                found.add(id(self.makers[value]))
                needed += reads(self.makers[value])
        return [node for node in self.nodes if id(node) in found], cuts


def _without_defaults(node: onnx.NodeProto, domain: str, version: int) -> onnx.NodeProto:
    """The node without attributes that say what holds anyway, which one exporter writes and another
    does not."""
    defaults = schema_defaults(node.op_type, domain, version) if node.attribute else {}
    kept = [
        item
        for item in node.attribute
        if item.name not in defaults or attribute_value(item) != defaults[item.name]
    ]
    if len(kept) == len(node.attribute):
        return node
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    refill(bare.attribute, kept)
    return bare


def _kind(tensor: onnx.TensorProto) -> tuple[int, ...]:
    return tensor.data_type, *tensor.dims


@dataclass(frozen=True)
class Part:
    """What makes a tensor of A, and what makes the one of B that stands for it.

    Attributes:
        name: the tensor, as A calls it.
        other: as B calls it.
        nodes: of A and of B.
        cuts: the tensors that both start from, as A calls them, and as B does.
        constants: the numbers and vectors, and floats in attributes.
        affine: whether they differ in nothing but layers, and what moves values.
    """

    name: str
    other: str
    nodes: tuple[list[onnx.NodeProto], list[onnx.NodeProto]]
    cuts: Mapping[str, str]
    constants: tuple[Array, ...] = ()
    affine: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for parts of the same operators, attributes and small constants."""
        numbers = (f"{array.dtype} {array.tolist()}" for array in self.constants)
        return (*map(str, (_counted(nodes) for nodes in self.nodes)), *numbers)

    @property
    def words(self) -> str:
        """How the nodes differ."""
        ours, theirs = (_counted(nodes) for nodes in self.nodes)
        only = [list((ours - theirs).elements()), list((theirs - ours).elements())]
        counts = tuple(map(len, only))
        if counts == (1, 1):
            (op, attributes), (op_b, attributes_b) = only[0][0], only[1][0]
            if op != op_b:
                return f"'{op}' became '{op_b}'"
            one, other = dict(attributes), dict(attributes_b)
            name = next(n for n in sorted({*one, *other}) if one.get(n) != other.get(n))
            values = [side.get(name, "left to its default") for side in (one, other)]
            return f"attribute {name} of '{op}' is {values[0]} in A and {values[1]} in B"
        if counts == (1, 0):
            return f"'{only[0][0][0]}' is left out in B"
        if counts == (0, 1):
            return f"'{only[1][0][0]}' was added in B"
        if counts == (0, 0):
            return "a constant or the order of operators differs"
        lists = (", ".join(kind[0] for kind in kinds[:5]) or "nothing" for kinds in only)
        return " became ".join(lists)


def _counted(nodes: Iterable[onnx.NodeProto]) -> Counter[tuple[str, tuple[tuple[str, str], ...]]]:
    found: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    for node in nodes:
        if node.op_type in ("Identity", "Dropout"):
            continue
        given = sorted((item.name, _shown(item)) for item in node.attribute)
        found[node.op_type, tuple(given)] += 1
    return found


def _shown(item: AttributeProto) -> str:
    if item.type in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.INT):
        return str(list(item.ints or item.floats) if item.type != AttributeProto.INT else item.i)
    if item.type == AttributeProto.FLOAT:
        return f"{item.f:g}"
    if item.type == AttributeProto.STRING:
        return item.s.decode(errors="replace")
    return f"a value of {item.ByteSize()} bytes"


def sides(a: Model, b: Model) -> tuple[Side, Side]:
    """Both models, with digests of what is stored.

    Raises:
        ModelFileError, ModelError: a weight cannot be read.
    """
    one, other = Side(a), Side(b)
    one.know(other)
    other.know(one)
    return one, other


def same_graphs(a: Side, b: Side) -> bool:
    """Whether two models are the same nodes and weights, whatever these are called."""
    return _equal_outputs(a, a.digests({}), b.digests({}))


def _equal_outputs(a: Side, ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    return bool(a.outputs) and all(
        name in ours and ours[name] == theirs.get(name) for name in a.outputs
    )


@cache
def _since(op_type: str, version: int, domain: str) -> int:
    """The version in which an operator was last changed; 0 if it is not one of onnx's."""
    try:
        return defs.get_schema(op_type, version, domain).since_version
    except defs.SchemaError:
        return 0


class Parts:
    """The parts of two models that are not the same nodes and weights."""

    def __init__(self, a: Side, b: Side, run: Runner) -> None:
        """Find which tensors stand for each other; `run` returns them on some samples."""
        self.a, self.b, self._run = a, b, run
        ours, theirs = a.digests({}), b.digests({})
        same = {digest: name for name, digest in reversed(theirs.items())}
        self.twins = {name: same[d] for name, d in ours.items() if d in same}
        self.alike = _equal_outputs(a, ours, theirs)
        self._seen: dict[str, str] = {}
        self._drawn = {**random_tensors(a.proto), **random_tensors(b.proto)}
        if not self.alike:
            self._pair(set(ours) - self._drawn.keys(), set(theirs) - self._drawn.keys())

    def _pair(self, ours: set[str], theirs: set[str]) -> None:
        taken = set(self.twins.values())
        pairs = {n: n for n in self.a.outputs if n in ours and n in theirs}
        free = ours - self.twins.keys() - pairs.keys()
        guessed = {name: name for name in free if name in theirs and name not in taken}
        ends: list[dict[str, list[str]]] = [{}, {}]
        for side, side_ends in zip((self.a, self.b), ends, strict=True):
            for name, ending in side.endings.items():
                side_ends.setdefault(ending, []).append(name)
        for ending, names in ends[0].items():
            others = ends[1].get(ending, [])
            if len(names) == len(others) == 1 and names[0] in free and others[0] not in taken:
                guessed.setdefault(names[0], others[0])
        self._seen = self._equal(guessed) | pairs
        self.twins.update(self._seen)

    def _equal(self, guessed: Mapping[str, str]) -> dict[str, str]:
        """Those pairs whose values are equal."""
        if not guessed:
            return {}
        ours = self._run("A", list(guessed))
        theirs = self._run("B", list(dict.fromkeys(guessed.values())))
        return {
            one: other
            for one, other in guessed.items()
            if one in ours
            and other in theirs
            and _speaks(ours[one])
            and close(ours[one], theirs[other])
        }

    def differing(self) -> Iterator[Part]:
        """The parts, from the inputs to the outputs; none that is nothing but layers, written
        otherwise, of which what they make was seen to be equal: it is equal everywhere then."""
        ours = self.a.digests(self.twins and {n: f"meeting {n}" for n in self.twins})
        back = {other: f"meeting {one}" for one, other in self.twins.items()}
        theirs = self.b.digests(back)
        for name in ours:
            other = self.twins.get(name)
            if other is not None and theirs.get(other) != ours[name]:
                part = self.part(name, self.twins)
                if part is not None and not (name in self._seen and _only_layers(part)):
                    yield part

    def part(self, name: str, meetings: Mapping[str, str]) -> Part | None:
        """What makes a tensor of others that stand for each other; None where it cannot be cut
        out."""
        other = self.twins[name]
        nodes, cuts = self.a.cone(name, meetings)
        nodes_b, cuts_b = self.b.cone(other, meetings.values())
        back = {theirs: ours for ours, theirs in meetings.items()}
        ours, theirs = {*cuts}, {back.get(cut, cut) for cut in cuts_b}
        for cut in sorted(ours ^ theirs):  # one side goes past it, to what it is made of
            if cut in meetings and self._made_of(cut, (ours | theirs) - {cut}):
                rest = {one: other for one, other in meetings.items() if one != cut}
                return self.part(name, rest)
        known = {cut: meetings.get(cut, cut) for cut in sorted(ours | theirs)}
        made = {out for node in nodes for out in node.output}
        if not (nodes or nodes_b) or any(traits_of(n).effect is Effect.RANDOM for n in nodes):
            return None
        if name in known or made & known.keys():
            return None
        sides = ((self.a, nodes), (self.b, nodes_b))
        small = tuple(array for side in sides for array in self._small(*side))
        bent = [[node for node in found if not _is_affine(node)] for _, found in sides]
        words = [
            sorted(str((a.dtype, a.tolist())) for a in self._small(side, found))
            for (side, _), found in zip(sides, bent, strict=True)
        ]
        affine = _counted(bent[0]) == _counted(bent[1]) and words[0] == words[1]
        return Part(name, other, (nodes, nodes_b), known, small, affine)

    def _made_of(self, name: str, others: set[str]) -> bool:
        """Whether a tensor of A is made of one of others, so that not both can be random."""
        return not others.isdisjoint(self.a.cone(name, others)[1])

    def from_products(self, part: Part) -> Part | None:
        """The same tensor, and all that makes it up to layers that may give any numbers."""
        ends = {
            name: other
            for name, other in self.twins.items()
            if name != part.name
            and (maker := self.a.makers.get(name)) is not None
            and traits_of(maker).effect in _MIXERS
        }
        return self.part(part.name, ends)

    def _small(self, side: Side, nodes: Iterable[onnx.NodeProto]) -> Iterator[Array]:
        for node in nodes:
            for name in node.input:
                tensor = side.constants.get(name)
                if tensor is None or len(tensor.dims) > 1 or not all(tensor.dims):
                    continue
                array = side.model.read(tensor)
                if array.dtype.kind in "fiu":
                    small = array.size <= _SMALL
                    yield array if small else np.array([array.min(), array.max()])
            for item in node.attribute:
                if item.type == AttributeProto.FLOAT:
                    yield np.array([item.f], np.float32)

    def models(self, part: Part, arrays: Mapping[str, Array]) -> tuple[Model, Model]:
        """Both sides of a part as models, whose inputs are of the types and shapes of arrays."""
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ]
        return (
            _cut(self.a, part.nodes[0], inputs, part.name, {}),
            _cut(self.b, part.nodes[1], inputs, part.other, {b: a for a, b in part.cuts.items()}),
        )


def _only_layers(part: Part) -> bool:
    nodes = [*part.nodes[0], *part.nodes[1]]
    return part.affine and all(
        traits_of(node).effect in (Effect.CONVOLUTION, Effect.PRODUCT) or traits_of(node).moves
        for node in nodes
    )


def _is_affine(node: onnx.NodeProto) -> bool:
    """Whether a node moves numbers, or sums them with weights."""
    traits = traits_of(node)
    weighted = traits.effect in (Effect.CONVOLUTION, Effect.PRODUCT) and not traits.quantized
    return weighted or traits.moves or traits.linear or node.op_type == "BatchNormalization"


def _cut(
    side: Side,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    output: str,
    names: Mapping[str, str],
) -> Model:
    """Some nodes as a model; values that it starts from have other names outside."""
    proto = onnx.ModelProto(ir_version=side.proto.ir_version)
    proto.opset_import.extend(side.proto.opset_import)
    proto.functions.extend(side.proto.functions)
    graph = proto.graph
    graph.name = "part"
    needed = {output}.union(*map(reads, nodes))
    graph.input.extend(inputs)
    stored = [tensor for tensor in side.proto.graph.initializer if tensor.name in needed]
    graph.initializer.extend(stored)
    graph.node.extend(
        onnx.helper.make_node("Identity", [outside], [inside])
        for inside, outside in names.items()
        if inside != outside and inside in needed
    )
    kept = {id(node) for node in nodes}
    for node in side.proto.graph.node:
        if id(node) in kept or (node.op_type == "Constant" and node.output[0] in needed):
            graph.node.append(onnx.NodeProto.FromString(node.SerializeToString()))
    made = onnx.ValueInfoProto(name="onnxshare.part")
    graph.node.append(onnx.helper.make_node("Identity", [names.get(output, output)], [made.name]))
    graph.output.append(made)
    return replace(side.model, skeleton=proto)


def _speaks(array: Array) -> bool:
    """Whether equal values say something: not where they are the same number all over."""
    return array.size <= 1 or not bool((array == array.flat[0]).all())
