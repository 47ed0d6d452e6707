"""Memory: what activations take when the nodes run one after the other in graph order, the bytes
that a node moves, its arithmetic intensity, and what bounds its time.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", Communications of the ACM 52(4), 2009: a kernel that does fewer operations per byte
than its machine can (the machine's balance) takes the time that its memory traffic takes.

The traffic is the least there can be, for one sample: each weight that is used is read once, as it
is stored, each activation is read and written once, and nothing stays in a cache between nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from onnxshare.graph.index import Graph, Scope
from onnxshare.io.tensors import BITS, bytes_of
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import ABSENT, NOTHING, TensorType, per_sample
from onnxshare.support.numbers import quotient

#: FLOPs that a machine does in the time it moves one byte of main memory. The figure stands for
#: CPUs in float32, which have 5 to 20; GPUs have more (an H100 has 20 in float32 and 300 in
#: float16), so what traffic bounds here, it bounds there too.
MACHINE_BALANCE = 10


def activation_bytes(tensors: Iterable[TensorType], batch: int) -> int | None:
    """Bytes of some tensors for one sample; None where one's size or type is unknown, or where it
    holds strings."""
    total = 0
    for tensor in tensors:
        if tensor is ABSENT:
            continue
        size = tensor_bytes(tensor, batch)
        if size is None:
            return None
        total += size
    return total


def tensor_bytes(tensor: TensorType, batch: int) -> int | None:
    """Bytes of one tensor for one sample, or of all that a sequence holds."""
    if tensor.elements is not None:
        return activation_bytes(tensor.elements, batch)
    sizes, dtype = tensor.sizes, tensor.dtype
    if sizes is None or dtype not in BITS:
        return None
    return bytes_of(per_sample(sizes, batch), dtype)


def weights_moved(stored: int, params: int, connections: int | None) -> int:
    """Bytes of weights that one sample needs: of an embedding only the rows that it looks up."""
    if connections is None or connections >= params:
        return stored
    return -(-stored * connections // params)


def intensity(flops: int | None, weights: int, activations: int | None) -> float | None:
    """FLOPs per byte moved; None where either is unknown or nothing is computed."""
    if not flops or activations is None or not weights + activations:
        return None
    return quotient(flops, weights + activations)


def bound_by(ratio: float | None, weights: int, activations: int | None) -> str | None:
    """What takes the time at this intensity: `arithmetic`, or the larger part of the traffic,
    `weights` or `activations`; None where the intensity is unknown."""
    if ratio is None or activations is None:
        return None
    if ratio >= MACHINE_BALANCE:
        return "arithmetic"
    return "weights" if weights > activations else "activations"


@dataclass(frozen=True)
class Memory:
    """Bytes of activations in memory over one run of the main graph, for one sample: before the
    first node runs, None where a size is unknown; while each node runs, in graph order; and the
    first tensor of unknown size."""

    inputs: int | None
    at_nodes: tuple[int, ...] = ()
    unknown: str = ""

    def peak(self, names: Sequence[str]) -> tuple[int | None, str | None]:
        """The largest sum and the name of the first node at which it is reached; None for both
        where a size is unknown. There is no node where the inputs alone are the most."""
        if self.inputs is None:
            return None, None
        most = max(self.at_nodes, default=0)
        if most <= self.inputs:
            return self.inputs, None
        return most, names[self.at_nodes.index(most)]


def memory_over_run(graph: Graph, shapes: Shapes, computed: Collection[str] = ()) -> Memory:
    """Bytes of activations in memory in one run of the main graph, node by node, for one sample.

    Assumes that nodes run in graph order, that each output has memory of its own (nothing is
    computed in place, no view shares memory), that a tensor lives until its last reader has run,
    inputs included, that outputs live until the end, and that what nobody reads is not made.
    Constants, what is `computed` from them alone, and the inside of subgraphs are left out; what
    subgraphs read from around them lives until the node that holds them has run. Memory that an
    operator needs for its own work is not counted.
    """
    main = graph.main
    cost = _Cost(shapes)
    types, sizes = cost.types, cost.sizes
    known = graph.constants(main)
    last = _last_uses(graph)
    live = 0
    freed = [0] * (len(main.nodes) + 1)  # bytes, by the position after which
    for value in main.graph.input:
        name = value.name
        if name in main.inputs:
            size = cost.of(name)
            if size is None:
                return Memory(None, unknown=name)
            live += size
            if name in last:
                freed[last[name]] += size
    inputs, at_nodes = live, []
    for position, node in enumerate(main.nodes):
        for name in node.outputs:
            if name not in last or known.get(name) is not None or name in computed:
                continue
            size = sizes.get(types.get(name, NOTHING))
            if size is None:
                size = cost.of(name)
            if size is None:
                return Memory(None, unknown=name)
            live += size
            freed[last[name]] += size
        at_nodes.append(live)
        live -= freed[position]
    return Memory(inputs, tuple(at_nodes))


class _Cost:
    """Bytes of the main graph's tensors, worked out once per type."""

    def __init__(self, shapes: Shapes) -> None:
        self.types, self._batch = shapes.types_in(""), shapes.batch
        self.sizes: dict[TensorType, int | None] = {}

    def of(self, name: str) -> int | None:
        """Bytes of a tensor for one sample; None if unknown."""
        found = self.types.get(name, NOTHING)
        if found not in self.sizes:
            self.sizes[found] = tensor_bytes(found, self._batch)
        return self.sizes[found]


def _last_uses(graph: Graph) -> dict[str, int]:
    """The position of the last node that needs each tensor of the main graph."""
    main = graph.main
    last: dict[str, int] = {}
    for position, node in enumerate(main.nodes):
        for name in node.inputs:
            last[name] = position
    for scope in graph.scopes[1:]:
        holder = _holder(scope, main)
        names = [value.name for value in scope.graph.output]
        for name in [*names, *(name for node in scope.nodes for name in node.inputs)]:
            if scope.home(name) is main:
                last[name] = max(last.get(name, 0), holder)
    for value in main.graph.output:
        last[value.name] = len(main.nodes)
    return last


def _holder(scope: Scope, main: Scope) -> int:
    """The position of the node of the main graph that a subgraph is inside."""
    while scope.holder is not None and scope.holder.scope is not main:
        scope = scope.holder.scope
    return scope.holder.position if scope.holder is not None else 0
