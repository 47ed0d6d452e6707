"""Weights that are cut out of stored tensors, joined from several, repeated, or computed from them,
before anything uses them.

Exporters reorder a cell's gates with Slice and Concat, cut a fused projection with Split or Gather,
and repeat a learned row with Expand or Tile. What such nodes pass on is used where it is multiplied
with data, not where it is cut. What is computed from stored numbers alone (Exp(W), W0 + W1), or
from them and sizes (a table that is resized to the input), stands for those numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from onnx import TensorProto

from onnxshare.analysis.heads.element_order import trains
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.graph.operator_traits import Effect, operators_where, traits_of
from onnxshare.shapes.inference import Shapes

#: The most tensors that one is joined from.
_MAX_PARTS = 64

#: Types of sizes, indices and masks, which are not weights.
_STRUCTURE = frozenset((TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL))

#: Operators whose result may be a view.
CUT_OR_JOIN = operators_where(lambda traits: traits.views)


#: Operators that make sizes of data.
SIZES = operators_where(lambda traits: traits.effect is Effect.SHAPE)

#: What these make is not a function of what they read, or nobody knows it.
_NO_FUNCTION = frozenset((Effect.RANDOM, Effect.CONTROL_FLOW, Effect.TRAINING, Effect.UNKNOWN))

#: Stored tensors, and how many elements of each.
Parts = tuple[tuple[Stored, int], ...]


class Views:
    """The cut and joined constants of a graph, found node by node in graph order."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self._graph = graph
        self._shapes = shapes
        #: By scope path and name.
        self.known: dict[tuple[str, str], Stored] = {}
        #: What is computed from constants, and what is computed from sizes of data too.
        self.computed: set[tuple[str, str]] = set()
        self.sized: set[tuple[str, str]] = set()

    def get(self, scope: Scope, name: str) -> Stored | None:
        """The view that a name seen from a scope is, or None."""
        home = scope.home(name)
        return None if home is None else self.known.get((home.path, name))

    def follow(self, node: Node) -> bool:
        """Look at the next node; returns whether it only cuts, joins or rearranges constants."""
        traits = traits_of(node)
        if traits.views and node.standard:
            parts = self._parts(node) if self._passes_on(node) else ()
        elif self.known and traits.carries and node.standard and node.inputs:
            carried = self.get(node.scope, node.inputs[0])
            parts = () if carried is None else carried.parts
        else:
            return False
        return bool(parts) and self._make(node, parts)

    def computes(
        self,
        node: Node,
        constants: Mapping[int, Stored],
        stands: Callable[[int, Stored], bool] = lambda at, stored: True,
    ) -> bool:
        """Look at the next node, of which `follow` said no, with the stored tensor or view that
        each constant input carries, and what says whether the result would stand for it; returns
        whether what it makes of constants and sizes stands for stored numbers."""
        scope, path = node.scope, node.scope.path
        if node.op_type in SIZES and node.standard:
            self.sized.update((path, name) for name in node.outputs)
            return False
        if scope.children and self._graph.subgraphs(node):
            return self._enter(node)
        sized = False
        for place, name in enumerate(node.inputs):
            key = (path, name)
            if scope.parent is not None:
                home = scope.home(name)
                key = (path if home is None else home.path, name)
            if key in self.sized:
                sized = True
            elif name and place not in constants and key not in self.computed:
                return False
        traits = traits_of(node)
        if not node.inputs or traits.effect in _NO_FUNCTION or (traits.views and trains(node)):
            return False
        made = self.sized if sized else self.computed
        made.update((path, name) for name in node.outputs if name)
        kept = traits.views or traits.effect in (Effect.LOOKUP, Effect.SOURCE)
        kept = kept or self._graph.source(scope, node.outputs[0]) is not None
        if kept or self._shapes.dtype(scope, node.outputs[0]) in (None, *_STRUCTURE):
            return False
        several = [o for at, o in constants.items() if o.elements > 1 and stands(at, o)]
        # Scales and zero points that are computed with a quantized weight are not that weight.
        return self._stand_for(scope, node.outputs[: 1 if traits.quantized else None], several)

    def _stand_for(self, scope: Scope, names: Sequence[str], of: list[Stored]) -> bool:
        """Note that tensors are made of all elements of stored ones, if those are weights."""
        parts = {
            part.key: (part, elements)
            for stored in of
            for part, elements in stored.sources
            if part.dtype not in _STRUCTURE
        }
        if not 0 < len(parts) <= _MAX_PARTS:
            return False
        whole = sum(elements for _, elements in parts.values())
        for name in filter(None, names):
            sizes = self._shapes.sizes(scope, name)
            dtype = self._shapes.dtype(scope, name) or TensorProto.FLOAT
            self.known[scope.path, name] = Stored(
                f"{scope.path}:{name}",
                name,
                dtype,
                (whole,) if sizes is None else sizes,
                parts=tuple(parts.values()),
            )
        return True

    def _enter(self, node: Node) -> bool:
        """Hand weights into the body of a loop, a slice for each step of a Scan; and take what a
        loop makes of them alone, or those that an If picks from its branches, whichever it is."""
        branches = self._graph.subgraphs(node)
        if not node.standard:
            return False
        if node.op_type in ("Loop", "Scan") and "body" in branches:
            return self._loop(node, branches["body"])
        if node.op_type != "If":
            return False
        for body in branches.values():
            self._look_inside(body)
        picked = False
        for place, name in enumerate(node.outputs):
            found = [
                self.constant(body, value.name)
                for body in branches.values()
                for value in body.graph.output[place : place + 1]
            ]
            if len(found) < len(branches):
                continue  # a branch that gives less than the node announces
            if name and all(one is not None and one.elements > 1 for one in found):
                given = [one for one in found if one is not None]
                picked |= self._stand_for(node.scope, [name], given)
        return picked

    def _look_inside(self, body: Scope) -> None:
        for made in body.nodes:
            read = ((at, self.constant(body, name)) for at, name in enumerate(made.inputs))
            if not self.follow(made):
                self.computes(made, {at: one for at, one in read if one is not None})

    def _loop(self, node: Node, body: Scope) -> bool:
        """A Loop or a Scan. A state is a weight where each trip makes it of weights alone."""
        scanned = int(node.attribute("num_scan_inputs", 0)) if node.op_type == "Scan" else 0
        first = 0 if scanned else 2  # a Loop has a count and a condition before its states
        kept = len(node.inputs) - scanned
        names = [value.name for value in body.graph.input]
        results = [value.name for value in body.graph.output][first and 1 :]
        weights = {at: self._weight(node.scope, node.input(at)) for at in range(first, len(names))}
        given = {at: one for at, one in weights.items() if one is not None}
        while True:
            for at, stored in given.items():
                self._stand_for(body, [names[at]], [stored])
            self._look_inside(body)
            made = {at: self.constant(body, name) for at, name in enumerate(results)}
            lost = [at for at in given if at < kept and made.get(at - first) is None]
            if not lost:
                break
            given = {at: one for at, one in given.items() if at not in lost}
            self._forget(body)
        picked = False
        for at, name in enumerate(node.outputs):
            one, before = made.get(at), given.get(at + first)
            if not name or one is None or (at + first < kept and before is None):
                continue
            picked |= self._stand_for(node.scope, [name], [one, *([before] if before else [])])
        return picked

    def _weight(self, scope: Scope, name: str) -> Stored | None:
        stored = self.constant(scope, name) if name else None
        whole = stored is None or stored.dtype in _STRUCTURE or stored.elements < 2
        return None if whole else stored

    def _forget(self, body: Scope) -> None:
        """Take back what was found in a body."""
        keys = {*self.known, *self.computed, *self.sized}
        inside = {key for key in keys if f"{key[0]}/".startswith(f"{body.path}/")}
        for key in inside & self.known.keys():
            del self.known[key]
        self.computed -= inside
        self.sized -= inside

    def _passes_on(self, node: Node) -> bool:
        """Whether what a node makes of a weight is that weight: not a lookup of rows, a mask, or a
        number that is repeated."""
        if node.op_type == "Dropout":
            return not trains(node)
        effect = traits_of(node).effect
        if effect not in (Effect.LOOKUP, Effect.REPEAT) and node.op_type != "Trilu":
            return True
        stored = self.constant(node.scope, node.inputs[0])
        if stored is None or stored.elements < 2:
            return False
        if effect is Effect.LOOKUP:  # of one matrix out of several
            index = self._graph.source(node.scope, node.inputs[1])
            return index is not None and index.elements == 1
        return node.op_type != "Trilu" or (stored.fill is None and stored.tensor is not None)

    def _parts(self, node: Node) -> Parts:
        """The stored tensors that the data is made of, and how many elements of each."""
        found = [self.constant(node.scope, name) for name in node.inputs if name]
        if not all(found):
            return ()
        data = found if node.op_type == "Concat" else found[:1]
        parts: dict[str, tuple[Stored, int]] = {}
        for stored in data:
            if stored is None or stored.dtype in _STRUCTURE:
                return ()
            for part, elements in stored.sources:
                before = parts[part.key][1] if part.key in parts else 0
                parts[part.key] = part, before + elements
        # Which of several are cut is not told.
        effect = traits_of(node).effect
        several = len(parts) > 1 and effect in (Effect.CUT, Effect.LOOKUP)
        return () if several or len(parts) > _MAX_PARTS else tuple(parts.values())

    def constant(self, scope: Scope, name: str) -> Stored | None:
        """The constant that a name seen from a scope carries, stored or a view; None for data."""
        return self._graph.source(scope, name) or self.get(scope, name)

    def _make(self, node: Node, parts: Parts) -> bool:
        outputs = [name for name in node.outputs if name]
        sizes = [self._shapes.sizes(node.scope, name) for name in outputs]
        if None in sizes:
            return False
        traits, path = traits_of(node), node.scope.path
        cut = traits.views and traits.effect is not Effect.JOIN
        whole = sum(elements for _, elements in parts) or 1
        for name, shape in zip(outputs, sizes, strict=True):
            shape = shape or ()
            times = prod(shape)
            made = tuple((part, times * count // whole) for part, count in parts) if cut else parts
            dtype = self._shapes.dtype(node.scope, name) or parts[0][0].dtype
            self.known[path, name] = Stored(f"{path}:{name}", name, dtype, shape, parts=made)
        return True
