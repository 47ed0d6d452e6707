"""What nodes have in common that do the same: worked out once for all of them.

Networks repeat themselves: of thousands of nodes a few dozen differ in more than their names.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxshare.analysis.memory_traffic import activation_bytes
from onnxshare.analysis.operators.formulas.elementwise import nothing
from onnxshare.analysis.operators.operator import PARAM, Context, Operator, Unknown, Work
from onnxshare.analysis.shape_rules import RULES, Operands, misfit
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.io.node_reader import Operation
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import ABSENT, TensorType

Key = tuple[object, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Pattern:
    """An operator with attributes, operands and results of certain types.

    Attributes:
        operator: its row in the table of operators.
        work: the work of one execution; None if unknown.
        roles: what the constants count as, by input, in order.
        read_as: sizes of its parameter inputs as it reads them, behind layout nodes.
        activations: bytes per sample of what it reads and makes, constants left out; None if
            unknown.
        misfit: why its shapes cannot fit; None if they may.
    """

    operator: Operator
    work: Work | None
    roles: tuple[tuple[int, str], ...]
    read_as: tuple[tuple[int, ...], ...]
    activations: int | None
    misfit: str | None


class Patterns:
    """The patterns of one graph, whose tensors have these shapes.

    Attributes:
        of_one_sample: paths of the graphs whose tensors belong to one sample, whatever the batch.
    """

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.of_one_sample: set[str] = set()
        self._graph = graph
        self._shapes = shapes
        self._main = shapes.types_in("") | {"": ABSENT}
        self._known: dict[Key, Pattern] = {}
        self._told: dict[tuple[Operator, Operation], int] = {}
        self._numbers: dict[Key, int] = {}

    def of(self, node: Node, operator: Operator, constants: dict[int, Stored]) -> Pattern:
        """The pattern of a node, with the stored tensor that each constant input carries."""
        inputs, outputs = node.inputs, node.outputs
        told = self._told.get((operator, node.operation)) or self._told_by(node, operator)
        if node.scope.parent is None:  # each different type is one object
            get = self._main.get
            key: Key = (told, len(inputs), *map(get, inputs), *map(get, outputs))
        else:
            key = told, len(inputs), *self._types(node, inputs), *self._types(node, outputs)
            key = self._batch(node), *key
        for place, item in constants.items():
            key += place, item.dtype, item.shape
        found = self._known.get(key)
        if found is None:
            types = self._types(node, inputs), self._types(node, outputs)
            found = self._known[key] = self._make(node, operator, constants, *types)
        return found

    def _told_by(self, node: Node, operator: Operator) -> object:
        """What tells a node from others in addition to types: its operator alone, or its attributes
        too, where something may depend on them."""
        operation = node.operation
        found: Key = operator, operation
        if node.op_type not in RULES and (operator.work is None or operator.work is nothing):
            found = operator, node.domain, node.op_type
        elif operation.attributes is None:
            attributes = node.proto.attribute
            return operator, operation, b"".join([a.SerializeToString() for a in attributes])
        # One number for it takes less to compare than what it stands for.
        number = self._numbers.setdefault(found, len(self._numbers) + 1)
        self._told[operator, operation] = number
        return number

    def _types(self, node: Node, names: tuple[str, ...]) -> tuple[TensorType, ...]:
        scope, type_of = node.scope, self._shapes.type_of
        return tuple([type_of(scope, name) if name else ABSENT for name in names])

    def _make(
        self,
        node: Node,
        operator: Operator,
        constants: dict[int, Stored],
        inputs: tuple[TensorType, ...],
        outputs: tuple[TensorType, ...],
    ) -> Pattern:
        roles = tuple(
            (place, operator.attribute_weight[-1 - place].role)
            if place < 0
            else (place, operator.role(place, stored, inputs[place].dtype or stored.dtype))
            for place, stored in constants.items()
        )
        params = {place: constants[place] for place, role in roles if role == PARAM}
        batch = self._batch(node)
        context = Context(
            node,
            tuple(found.sizes for found in inputs),
            tuple(found.sizes for found in outputs),
            tuple(params.get(place) for place in range(len(inputs))),
            batch,
            {place: stored for place, stored in params.items() if place < 0},
        )
        read_as = tuple(
            stored.shape if place < 0 or operator.unpack else inputs[place].sizes or stored.shape
            for place, stored in params.items()
        )
        return Pattern(
            operator,
            _work(operator, context),
            roles,
            read_as,
            self._activations(node, constants, (inputs, outputs), batch),
            misfit(Operands(node, inputs, outputs, self._graph.opset)),
        )

    def _batch(self, node: Node) -> int:
        """How many samples the tensors of a node's graph hold."""
        return 1 if node.scope.path in self.of_one_sample else self._shapes.batch

    @staticmethod
    def _activations(
        node: Node,
        constants: dict[int, Stored],
        operands: tuple[tuple[TensorType, ...], tuple[TensorType, ...]],
        batch: int,
    ) -> int | None:
        inputs, outputs = operands
        moved = [found for place, found in enumerate(inputs) if place not in constants]
        constant = node.op_type in ("Constant", "ConstantOfShape")
        if constant or (inputs and all(found is ABSENT for found in moved)):
            moved = []  # what it makes is a constant too
        else:
            moved += outputs
        return activation_bytes(moved, batch)


def _work(operator: Operator, context: Context) -> Work | None:
    if operator.work is None:
        return None
    try:
        return operator.work(context)
    except (Unknown, IndexError, ValueError, TypeError, ArithmeticError):
        return None
