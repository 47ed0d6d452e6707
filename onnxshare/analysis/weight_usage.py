"""One walk over all nodes: which stored tensors each uses, as what, and how much work it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from onnxshare.analysis.heads.element_order import dynamic_scale
from onnxshare.analysis.heads.fully_connected import bias_node, fully_connected
from onnxshare.analysis.node_patterns import Pattern, Patterns
from onnxshare.analysis.operators.attribute_weights import as_read, unknown
from onnxshare.analysis.operators.formulas.elementwise import bias, nothing
from onnxshare.analysis.operators.formulas.elementwise import elementwise as applied
from onnxshare.analysis.operators.operator import (
    CONSTANT,
    PARAM,
    QUANTIZATION,
    STATISTIC,
    STRUCTURE,
    Operator,
    Work,
)
from onnxshare.analysis.operators.table import UNKNOWN, lookup
from onnxshare.analysis.operators.tables.standard import LAYOUT
from onnxshare.analysis.sliced_weights import CUT_OR_JOIN, SIZES, Views
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.graph.loop_values import loop_trips
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.node_reader import Operation
from onnxshare.io.tensors import types
from onnxshare.shapes.inference import Shapes

#: The Add that gives an FC its bias: a bias is a parameter even where it is one number.
_BIAS = Operator("elementwise", "PP", bias)

#: The product of the scales of data, which is quantized at run time, and of a weight.
_SCALES = Operator("elementwise", "QQ", applied)

#: Of nodes without parameters; never changed.
_NONE: list[Stored] = []
_EMPTY: dict[int, Stored] = {}

#: Operators that run a subgraph once: a branch, or what is done to all scores at once.
_ONCE = frozenset(("If", "FlexAttention"))

#: Operators that are looked at though they read no constant.
_LOOKED_AT = SIZES | {"If", "Scan"}

#: Stronger roles first: a tensor used as a weight anywhere is a parameter.
_STRENGTH = (PARAM, STATISTIC, QUANTIZATION, CONSTANT, STRUCTURE)


@dataclass(slots=True)
class TensorUse:
    """A stored tensor, its strongest role, the nodes that use it as a parameter, and how many
    elements they use together, each node's counted apart."""

    stored: Stored
    role: str = STRUCTURE
    users: list[str] = field(default_factory=list)
    used: int = 0

    @property
    def ties(self) -> int:
        """How many nodes it ties; 1 where each may use a part of its own, as after a Split."""
        return len(self.users) if self.used > self.stored.elements else 1


@dataclass(slots=True)
class NodeUse:
    """A node with what it does in one run.

    Attributes:
        node: the node.
        pattern: what it has in common with nodes that do the same.
        params: the parameter tensors it uses, each once; of one that is cut, the part it uses.
        slots: the parameter tensor of each input that is one.
        times: how often one run executes it; None if unknown.
        counted: False in the smaller branch of an If.
    """

    node: Node
    pattern: Pattern
    params: list[Stored]
    slots: dict[int, Stored]
    times: int | None
    counted: bool = True

    @property
    def operator(self) -> Operator:
        """Its row in the table of operators."""
        return self.pattern.operator

    @property
    def work(self) -> Work | None:
        """Its work in one execution; None if unknown."""
        return self.pattern.work


@dataclass
class WeightUsage:
    """All nodes in graph order, all stored tensors that are read, what could not be told, and the
    tensors of the main graph that are computed from constants alone."""

    nodes: list[NodeUse]
    tensors: dict[str, TensorUse]
    warnings: list[str]
    computed: set[str] = field(default_factory=set)


def take(graph: Graph, shapes: Shapes, values: Values) -> WeightUsage:
    """Walk over all nodes of a graph, subgraphs included; the cost grows with their number."""
    usage = WeightUsage([], {}, [])
    walk = _Walk(graph, shapes, usage)
    biases = {bias_node(graph, layer) for layer in fully_connected(graph)}
    dynamic = any(op_type == "DynamicQuantizeLinear" for _, op_type in graph.operators)
    times: dict[Scope, int | None] = {}
    operators: dict[Operation, Operator] = {}
    for node in graph.nodes():
        if node.scope not in times:
            times[node.scope], by_sample = _times(node.scope, shapes, values, usage.warnings)
            if by_sample:
                walk.patterns.of_one_sample.add(node.scope.path)
        operator = operators.get(node.operation)
        if operator is None:
            operator = operators[node.operation] = lookup(node.domain, node.op_type)
        if node in biases:
            operator = _BIAS
        elif dynamic and node.op_type == "Mul" and _scales(node, graph):
            operator = _SCALES
        walk.look(node, operator, times[node.scope])
    walk.finish()
    if len(graph.scopes) > 1:
        _choose_branches(usage, graph, values)
    return usage


def _scales(node: Node, graph: Graph) -> bool:
    return any(dynamic_scale(graph, node.scope, name) for name in node.inputs)


class _Walk:
    """Looks at one node after the other and notes in a weight usage what it does and uses."""

    def __init__(self, graph: Graph, shapes: Shapes, usage: WeightUsage) -> None:
        self._graph, self._usage = graph, usage
        self.patterns, self._views = Patterns(graph, shapes), Views(graph, shapes)
        self._constant = graph.constants(graph.main)
        self._ordinary: set[Operator] = set()
        self._computing: dict[Operator, Operator] = {}
        self._once: dict[Operator, Operator] = {}
        self._cut: dict[str, tuple[list[Stored], int]] = {}

    def look(self, node: Node, operator: Operator, times: int | None) -> None:
        """Look at the next node, which one run executes so often; its operator's row is given."""
        views = self._views
        if (views.known or node.op_type in CUT_OR_JOIN) and views.follow(node):
            operator = LAYOUT
            constants = self._constants(node)
        else:
            constants = self._constants(node)
            looked = constants or views.computed or views.sized or node.op_type in _LOOKED_AT
            if looked and views.computes(node, constants, partial(self._standing, node, operator)):
                operator = self._of_constants(operator)
            elif (
                views.computed
                and {(node.scope.path, name) for name in node.outputs} & views.computed
            ):
                operator = self._done_once(operator)
        if operator not in self._ordinary:
            operator, constants = self._read(node, operator, constants)
        pattern = self.patterns.of(node, operator, constants)
        params, slots = _NONE, _EMPTY
        if constants:
            params, slots = _parameters(node, pattern, constants, self._usage, self._cut)
        self._usage.nodes.append(NodeUse(node, pattern, params, slots, times))

    def _of_constants(self, operator: Operator) -> Operator:
        """The row of an operator whose result stands for the weights that it reads: they are used
        where that is. Statistics, limits and scales are what they always are."""
        found = self._computing.get(operator)
        if found is None:
            kind = "other" if operator.kind in ("conv", "recurrent") else operator.kind
            roles = "".join(letter if letter in "CTQ" else "S" for letter in operator.roles or "")
            once = self._done_once(operator)
            found = self._computing[operator] = replace(once, kind=kind, roles=roles)
        return found

    def _done_once(self, operator: Operator) -> Operator:
        """The row of an operator that reads constants only: that is done once, when a runtime loads
        the model, and not with every inference."""
        found = self._once.get(operator)
        if found is None:
            work = None if operator.work is None else nothing
            found = self._once[operator] = replace(operator, work=work)
        return found

    def _standing(self, node: Node, operator: Operator, at: int, stored: Stored) -> bool:
        """Whether what a node makes of constants stands for this one, an input: it is data or a
        weight, not a limit, a scale or a statistic."""
        role, data = operator.role(at, stored, stored.dtype), traits_of(node).data
        apart = role == STRUCTURE and data is not None and at not in data and not stored.parts
        return not apart and role in (PARAM, STRUCTURE)

    def finish(self) -> None:
        """Count what no node uses of a tensor that is cut with the first that uses a part."""
        views = self._views
        self._usage.computed = {
            name
            for path, name in views.known.keys() | views.computed
            if not path and (path, name) not in views.sized
        }
        for key, (params, place) in self._cut.items():
            tensor = self._usage.tensors[key]
            left = tensor.stored.elements - tensor.used
            if left > 0:
                params[place] = tensor.stored.part(params[place].elements + left)

    def _constants(self, node: Node) -> dict[int, Stored]:
        """The stored tensor or view that each constant input carries, by position."""
        scope, views, constants, position = node.scope, self._views, _EMPTY, -1
        known = self._constant if scope.parent is None else None
        for name in node.inputs:  # written out, because it is done for every node of every model
            position += 1
            stored = self._graph.source(scope, name) if known is None else known.get(name)
            if stored is None and views.known:
                stored = views.get(scope, name)
            if stored is not None:
                if constants is _EMPTY:
                    constants = {}
                constants[position] = stored
        if constants and self._graph.calls:
            return {place: self._graph.once(stored) for place, stored in constants.items()}
        return constants

    def _read(
        self, node: Node, operator: Operator, constants: dict[int, Stored]
    ) -> tuple[Operator, dict[int, Stored]]:
        """What is not told by the row alone: weights in attributes, packed ones, and what an
        operator holds that nobody knows."""
        if operator.work is None:
            label = f"{node.domain or 'ai.onnx'}.{node.op_type}"
            self._usage.warnings.append(
                f"operator {label} is not known: its MACs and the uses of its weights are not "
                "counted"
            )
        if operator is UNKNOWN:
            operator = unknown(node, operator)
        if operator.attribute_weight or operator.unpack:
            constants = as_read(node, operator, constants)
        elif operator.work is not None:
            self._ordinary.add(operator)
        return operator, constants


def _parameters(
    node: Node,
    pattern: Pattern,
    constants: dict[int, Stored],
    usage: WeightUsage,
    cut: dict[str, tuple[list[Stored], int]],
) -> tuple[list[Stored], dict[int, Stored]]:
    """The parameter tensors that a node uses, each once, and that of each input that is one; all
    its constants are noted, and in `cut` where the first part of each tensor is."""
    slots: dict[int, Stored] = {}
    params: list[Stored] = []
    tensors = usage.tensors
    for position, role in pattern.roles:
        stored = constants[position]
        if role == PARAM:
            slots[position] = stored
        for source, elements in stored.parts or ((stored, stored.elements),):
            tensor = tensors.get(source.key)
            if tensor is None:
                tensor = tensors[source.key] = TensorUse(source, role, [])
            elif tensor.role != role:  # the strongest of its roles
                tensor.role = min(tensor.role, role, key=_STRENGTH.index)
            if role != PARAM:
                continue
            read = source if elements >= source.elements else source.part(elements)
            before = _place(params, source) if params else None
            if before is not None:  # another input reads it too, perhaps another part of it
                tensor.used -= params[before].elements
                params[before] = read = source.part(params[before].elements + read.elements)
            else:
                if read is not source:
                    cut.setdefault(source.key, (params, len(params)))
                params.append(read)
                tensor.users.append(node.name)
            tensor.used += read.elements
    return params, slots


def _place(params: list[Stored], source: Stored) -> int | None:
    """Where a tensor, or a part of it, is among those of a node."""
    return next((place for place, one in enumerate(params) if one.key == source.key), None)


def _times(
    scope: Scope, shapes: Shapes, values: Values, warnings: list[str]
) -> tuple[int | None, bool]:
    """How often one run executes the nodes of a scope: trip counts of the loops around it. Where
    one is not known, that is noted. And whether one of them runs over the samples of a fixed batch:
    then it is how often for one sample."""
    times, by_sample = 1, False
    while scope.holder is not None:
        holder = scope.holder
        steps: int | None = None
        if holder.op_type in _ONCE:
            steps = 1
        elif holder.op_type == "Loop":
            steps = loop_trips(values, holder, scope)
        elif holder.op_type == "Scan":
            steps = _scan_steps(holder, shapes)
        elif holder.op_type == "SequenceMap":
            home = holder.scope.home(holder.inputs[0])
            steps = None if home is None else shapes.lengths.get((home.path, holder.inputs[0]))
        if steps is None:
            warnings.append(
                f"{holder.op_type} '{holder.name}': how often it runs its body is known only at "
                "run time, so the work of the nodes in it is unknown"
            )
            return None, False
        if not by_sample and _runs_over_batch(scope, steps, shapes):
            steps, by_sample = steps // shapes.batch, True
        times *= steps
        scope = holder.scope
    return times, by_sample


def _runs_over_batch(scope: Scope, steps: int, shapes: Shapes) -> bool:
    """Whether the steps of a loop are the samples of a fixed batch, or rows of them. As many steps
    as samples may also be steps of all samples: the work of one sample is the same either way.
    Steps that need the one before are not samples."""
    batch = shapes.batch
    if batch < 2 or not steps or steps % batch or _needs_the_step_before(scope, shapes):
        return False
    sizes = (found.sizes for found in shapes.types_in(scope.path).values())
    return steps == batch or not any(item and item[0] == batch for item in sizes)


_PRODUCTS = (Effect.PRODUCT, Effect.CONVOLUTION, Effect.RECURRENT, Effect.ATTENTION)
_FLOATS = types("FLOAT DOUBLE FLOAT16 BFLOAT16")


def _needs_the_step_before(scope: Scope, shapes: Shapes) -> bool:
    """Whether a product in the body of a loop reads numbers that the step before has made; what
    only gathers results, or counts, does not."""
    assert scope.holder is not None
    states = [value.name for value in scope.graph.input]
    if scope.holder.op_type == "Loop":
        states = states[2:]
    elif scope.holder.op_type == "Scan":
        states = states[: -int(scope.holder.attribute("num_scan_inputs", 1))]
    else:
        states = []
    made = {name for name in states if shapes.dtype(scope, name) in _FLOATS}
    for node in scope.nodes if made else ():
        if not made.isdisjoint(node.inputs):
            if traits_of(node).effect in _PRODUCTS:
                return True
            made.update(node.outputs)
    return False


def _scan_steps(holder: Node, shapes: Shapes) -> int | None:
    scanned = int(holder.attribute("num_scan_inputs", 1))
    axes = holder.attribute("scan_input_axes") or [0] * scanned
    shape = shapes.get(holder.scope, holder.inputs[-scanned])
    if shape is None or not -len(shape) <= axes[0] < len(shape):
        return None
    steps = shape[axes[0]]
    return steps if isinstance(steps, int) else None


def _choose_branches(usage: WeightUsage, graph: Graph, values: Values) -> None:
    """Count only one branch of each If: the one that is taken, where its condition is constant,
    else the larger."""
    by_scope: dict[str, list[NodeUse]] = {}
    for use in usage.nodes:
        by_scope.setdefault(use.node.scope.path, []).append(use)
    for holder in [use.node for use in usage.nodes if use.node.op_type == "If"]:
        branches = graph.subgraphs(holder)
        inside = {name: list(_within(scope, by_scope)) for name, scope in branches.items()}
        work = {name: sum(map(_size, uses)) for name, uses in inside.items()}
        if len(work) < 2:
            continue
        taken = values.branch(holder)
        chosen = taken or max(work, key=lambda name: work[name])
        for name, uses in inside.items():
            for use in uses:
                use.counted = use.counted and name == chosen
        if taken is None and len(set(work.values())) > 1:
            usage.warnings.append(f"If '{holder.name}': its larger branch, {chosen}, is counted")


def _size(use: NodeUse) -> int:
    return 0 if use.work is None else use.work.macs + use.work.connections


def _within(scope: Scope, by_scope: dict[str, list[NodeUse]]) -> Iterator[NodeUse]:
    """The nodes of a subgraph and of those inside it."""
    yield from by_scope.get(scope.path, ())
    for children in scope.children.values():
        for child in children.values():
            yield from _within(child, by_scope)
