"""Receptive fields: which part of an image-like input each position of a feature map sees.

Per spatial axis a field has a size, a stride (the distance between the fields of neighbouring
positions) and a start (the first position that position 0 sees; negative in the padding), as in
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019
(https://distill.pub/2019/computing-receptive-fields). The recurrences are in `windows.py`. Where
paths meet, the field is the union: it holds the field of each.

An input is image-like if a convolution or pooling slides over some of its axes; those are its
spatial axes, wherever layout nodes put them. So nothing is guessed from names or ranks. What
operators do is told by name or by their effect (`operator_traits`). One of neither is not followed:
the field behind it is null, with its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from onnxshare.analysis.heads.element_order import trains
from onnxshare.analysis.receptive_field import layout_rules, resize_rules, window_rules
from onnxshare.analysis.receptive_field.axis_tracking import (
    WHOLE_INPUT,
    Key,
    NotFollowed,
    Place,
    Plan,
    State,
    Step,
    forget,
    joined,
)
from onnxshare.analysis.receptive_field.windows import ITSELF, Window
from onnxshare.analysis.results import ReceptiveField
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import Effect, operators_where, traits_of
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import NOTHING

Rule = Callable[[Step], State | list[State]]

SAME, NORMALIZED = layout_rules.elementwise, layout_rules.normalized


def _rows(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


#: What operators do that stand for themselves.
_STANDARD: dict[str, Rule] = {
    **_rows(window_rules.convolution, "Conv ConvInteger"),
    **_rows(partial(window_rules.convolution, weight=3), "QLinearConv"),
    **_rows(window_rules.transposed_convolution, "ConvTranspose"),
    **_rows(window_rules.pooling, "MaxPool AveragePool LpPool"),
    **_rows(layout_rules.kept, "CastLike LRN Dropout"),
    **_rows(layout_rules.normalized, "BatchNormalization QuantizeLinear DequantizeLinear"),
    **_rows(layout_rules.everything, "DynamicQuantizeLinear"),
    **_rows(layout_rules.product, "MatMul MatMulInteger"),
    **_rows(partial(layout_rules.product, right=3), "QLinearMatMul"),
    **_rows(layout_rules.fully_connected, "Gemm"),
    **_rows(layout_rules.gathered, "Gather"),
    **_rows(layout_rules.transposed, "Transpose"),
    **_rows(layout_rules.squeezed, "Squeeze"),
    **_rows(layout_rules.unsqueezed, "Unsqueeze"),
    **_rows(layout_rules.flattened, "Flatten"),
    **_rows(layout_rules.reshaped, "Reshape"),
    **_rows(layout_rules.expanded, "Expand"),
    **_rows(resize_rules.resize, "Resize Upsample"),
    **_rows(resize_rules.cut, "Slice"),
    **_rows(resize_rules.pad, "Pad"),
    **_rows(resize_rules.split, "Split"),
    **_rows(resize_rules.concatenated, "Concat"),
    **_rows(resize_rules.space_to_depth, "SpaceToDepth DepthToSpace"),
}

_CHANNELS_LAST = partial(window_rules.convolution, channels_last=True, added=(3,))

_CONTRIB: dict[str, Rule] = {
    **_rows(partial(window_rules.convolution, added=(3,)), "FusedConv"),
    **_rows(_CHANNELS_LAST, "NhwcConv NhwcFusedConv"),
    **_rows(window_rules.pooling, "NhwcMaxPool QLinearAveragePool"),
    **_rows(
        layout_rules.normalized, "QuantizeLinear DequantizeLinear QLinearSigmoid QLinearLeakyRelu"
    ),
    **_rows(resize_rules.concatenated, "QLinearConcat"),
    **_rows(layout_rules.product, "MatMulIntegerToFloat"),
    **_rows(layout_rules.fully_connected, "FusedGemm QGemm"),
}

#: What all other operators of an effect do.
_BY_EFFECT: dict[Effect, Rule] = {
    Effect.ELEMENTWISE: SAME,
    Effect.GLOBAL_POOLING: window_rules.global_pooling,
}
_STANDARD_BY_EFFECT: dict[Effect, Rule] = _BY_EFFECT | {
    Effect.NORMALIZATION: layout_rules.along_axis,
    Effect.SOFTMAX: layout_rules.along_axis,
    Effect.REDUCTION: layout_rules.reduced,
}

#: Operators that slide a window, or would if its size were known.
_SLIDING = operators_where(lambda traits: traits.slides)


def rule_of(node: Node) -> Rule | None:
    """What a node's operator does to receptive fields, if it is known."""
    if node.standard:
        own, by_effect = _STANDARD, _STANDARD_BY_EFFECT
    elif node.domain == "com.microsoft":
        own, by_effect = _CONTRIB, _BY_EFFECT
    else:
        return None
    return own.get(node.op_type) or by_effect.get(traits_of(node).effect)


NO_IMAGE = "not an image"
NO_INPUT = "depends on no input"
UNEVEN = "differs between positions: the largest size, the average stride, the start of position 0"


class Fields(NamedTuple):
    """What one node sees.

    Attributes:
        field: the field on the first image-like input that the node depends on, or None.
        note: why there is none, or what to know about it.
        by_input: where the model has several image-like inputs: the field on each that the node
            depends on.
    """

    field: ReceptiveField | None
    note: str | None
    by_input: dict[str, ReceptiveField | None]


#: Bounds on what is followed: no real model has more.
_MOST_INPUTS, _MOST_AXES = 64, 16


class ReceptiveFields:
    """The receptive fields of a graph, from one pass whose cost grows with the number of nodes.

    Attributes:
        images: the spatial axes of each image-like input.
    """

    def __init__(self, graph: Graph, shapes: Shapes, values: Values) -> None:
        self._graph, self._shapes, self._values = graph, shapes, values
        self._types = shapes.types_in("")
        self._states: dict[str, State] = {}
        self._slides: set[Key] = set()
        self._plans: dict[Plan, dict[int, Window | str]] = {}
        self._ready: dict[int, Fields] = {}
        self.images: dict[str, list[int]] = {}
        names = _candidates(graph)
        self._why = NO_IMAGE if len(names) <= _MOST_INPUTS else "too many image-like inputs"
        self._windows = 0 < len(names) <= _MOST_INPUTS
        if not self._windows:
            return
        for name in names:
            shape = shapes.get(graph.main, name)
            if shape is not None and len(shape) <= _MOST_AXES:
                places = {(name, axis): Place(axis, ITSELF) for axis in range(len(shape))}
                self._states[name] = State(len(shape), places)
        for node in graph.main.nodes:
            self._pass(node)
        for name in names:
            axes = sorted(axis for image, axis in self._slides if image == name)
            if axes:
                self.images[name] = axes

    def _pass(self, node: Node) -> None:
        states = [self._states.get(name) for name in node.inputs]
        if node.position in node.scope.children:
            states += [self._states.get(name) for name in self._graph.captured(node)]
        if not any(states) or traits_of(node).shape_only:
            return
        rule = rule_of(node)
        if rule is SAME and (same := self._unchanged(node, states)) is not None:
            self._states[node.outputs[0]] = same
            return
        if rule is NORMALIZED and states[0] and not any(states[1:]) and not trains(node):
            self._states[node.outputs[0]] = states[0]
            return
        opset = self._graph.opset
        step = Step(node, states, self._shapes, self._values, opset, self._slides, self._plans)
        try:
            result = None if rule is None else rule(step)
        except NotFollowed as reason:
            result = forget(step.tracked, reason.note, reason.rank)
        except (IndexError, ValueError, TypeError, ArithmeticError):
            result = None  # attributes that make no sense are not ours to judge
        if result is None:
            result = forget(step.tracked, f"not followed through {node.op_type}")
        found = result if isinstance(result, list) else [result] * len(node.outputs)
        for name, state in zip(node.outputs, found, strict=True):
            if name:
                self._states[name] = state

    def _unchanged(self, node: Node, states: list[State | None]) -> State | None:
        """What an element-wise node of one output sees, where all that it reads sees something in
        the shape of the result: the usual case, made quick. None elsewhere."""
        if len(node.outputs) != 1:
            return None
        if len(states) == 1:
            return states[0]
        nothing, types = NOTHING, self._types
        shape = types.get(node.outputs[0], nothing).shape
        found = []
        for name, state in zip(node.inputs, states, strict=True):
            if state is None:
                continue
            if shape is None or types.get(name, nothing).shape != shape:
                return None
            found.append(state)
        return joined(found)

    def places(self, tensor: str) -> dict[Key, Place]:
        """What each position of a tensor of the main graph sees along each spatial axis of an
        image-like input, as far as the tensor depends on it."""
        state = self._states.get(tensor)
        if state is None:
            return {}
        return {
            key: place
            for key, place in state.places.items()
            if key[1] in self.images.get(key[0], ())
        }

    def of(self, node: Node) -> Fields:
        """What a node sees: its first output that depends on an input."""
        if not self._windows:
            return Fields(None, self._why, {})
        if node.scope is not self._graph.main:
            return _INSIDE
        state = next(filter(None, map(self._states.get, node.outputs)), None)
        if state is None:
            return _NO_INPUT
        ready = self._ready.get(id(state))
        if ready is None:
            ready = self._ready[id(state)] = self._report(state)
        return ready

    def _report(self, state: State) -> Fields:
        inputs = {name for name, _ in state.places}
        found = [
            (name, *self._one(state, name, axes))
            for name, axes in self.images.items()
            if name in inputs
        ]
        if not found:
            return _NO_IMAGE
        several = found if len(self.images) > 1 else ()
        return Fields(*found[0][1:], {name: field for name, field, _ in several})

    def _one(
        self, state: State, name: str, axes: list[int]
    ) -> tuple[ReceptiveField | None, str | None]:
        places = [place for axis in axes if (place := state.places.get((name, axis)))]
        windows = [place.window for place in places if place.window]
        if len(windows) < len(axes):
            notes = {place.note for place in places if not place.window}
            whole = WHOLE_INPUT if WHOLE_INPUT in notes else None
            return None, whole or next(iter(sorted(notes)), NO_INPUT)
        if not any(place.axis is not None for place in places):
            shape = self._shapes.get(self._graph.main, name) or ()
            if all(
                window.lows[0] <= 0 and isinstance(size, int) and window.highs[0] >= size - 1
                for window, size in zip(windows, (shape[axis] for axis in axes), strict=True)
            ):
                return None, WHOLE_INPUT
        field: ReceptiveField = {
            "size": [window.size for window in windows],
            "stride": [window.stride for window in windows],
            "start": [window.lows[0] for window in windows],
        }
        uneven = any(len(window.lows) > 1 for window in windows)
        told = [UNEVEN] * uneven + [place.edges for place in places if place.edges]
        return field, "; ".join(dict.fromkeys(told)) or None


_NO_IMAGE = Fields(None, NO_IMAGE, {})
_INSIDE = Fields(None, "inside a subgraph", {})
_NO_INPUT = Fields(None, NO_INPUT, {})


def _candidates(graph: Graph) -> list[str]:
    """The inputs, in their order, that reach a convolution or pooling."""
    wanted: set[str] = set()
    for node in reversed(graph.main.nodes):
        if node.op_type in _SLIDING or not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            if node.position in node.scope.children:
                wanted.update(graph.captured(node))
    inputs = graph.main.inputs
    return [v.name for v in graph.main.graph.input if v.name in wanted and v.name in inputs]
