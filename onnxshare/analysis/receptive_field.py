"""Receptive fields: which part of an image-like input each position of a feature map sees.

Per spatial axis a field has a size, a stride (the distance between the fields of neighbouring
positions) and a start (the first position that position 0 sees; negative in the padding), as in
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019
(https://distill.pub/2019/computing-receptive-fields). The recurrences are in `windows`. Where paths
meet, the field is the union: it holds the field of each.

An input is image-like if a convolution or pooling slides over some of its axes; those are its
spatial axes, wherever layout nodes put them. So nothing is guessed from names or ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from onnxshare.analysis import mixing, rearranging, resampling, sliding
from onnxshare.analysis.layout import UNARY
from onnxshare.analysis.places import WHOLE_INPUT, Key, Place, Plan, State, Step, forget
from onnxshare.analysis.windows import ITSELF, Window
from onnxshare.graph import Graph, Node
from onnxshare.shapes import Shapes
from onnxshare.values import Values

#: size, stride and start per spatial axis; a stride is a fraction after upsampling.
Field = dict[str, list[int | float]]

NO_IMAGE = "not an image"
NO_INPUT = "depends on no input"
INSIDE = "inside a subgraph"
UNEVEN = "differs between positions: the largest size, the average stride, the start of position 0"


@dataclass(frozen=True)
class Fields:
    """What one node sees.

    Attributes:
        field: the field on the first image-like input that the node depends on, or None.
        note: why there is none, or what to know about it.
        by_input: where the model has several image-like inputs: the field on each that the node
            depends on.
    """

    field: Field | None
    note: str | None
    by_input: dict[str, Field | None]


Rule = Callable[[Step], State | list[State]]

_SAME = rearranging.elementwise


def _rows(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_WINDOWS: dict[str, Rule] = {
    **_rows(sliding.convolution, "Conv ConvInteger"),
    **_rows(partial(sliding.convolution, weight=3), "QLinearConv"),
    **_rows(sliding.transposed_convolution, "ConvTranspose"),
    **_rows(sliding.pooling, "MaxPool AveragePool LpPool"),
    **_rows(sliding.global_pooling, "GlobalAveragePool GlobalMaxPool GlobalLpPool"),
}

_STANDARD: dict[str, Rule] = {
    **_WINDOWS,
    **dict.fromkeys(UNARY - {"Clip"}, _SAME),
    **_rows(
        _SAME,
        "Add Sub Mul Div Pow Mod Sum Mean Max Min Where PRelu Clip Not And Or Xor Equal Greater "
        "GreaterOrEqual Less LessOrEqual IsNaN IsInf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh "
        "Acosh Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
    ),
    **_rows(rearranging.kept, "CastLike LRN Dropout"),
    **_rows(mixing.normalised, "BatchNormalization QuantizeLinear DequantizeLinear"),
    **_rows(mixing.everything, "DynamicQuantizeLinear"),
    **_rows(
        mixing.along_axis,
        "InstanceNormalization GroupNormalization LayerNormalization RMSNormalization "
        "MeanVarianceNormalization LpNormalization Softmax LogSoftmax Hardmax",
    ),
    **_rows(
        mixing.reduced,
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin",
    ),
    **_rows(mixing.product, "MatMul MatMulInteger"),
    **_rows(partial(mixing.product, right=3), "QLinearMatMul"),
    **_rows(mixing.fully_connected, "Gemm"),
    **_rows(mixing.gathered, "Gather"),
    **_rows(rearranging.transposed, "Transpose"),
    **_rows(rearranging.squeezed, "Squeeze"),
    **_rows(rearranging.unsqueezed, "Unsqueeze"),
    **_rows(rearranging.flattened, "Flatten"),
    **_rows(rearranging.reshaped, "Reshape"),
    **_rows(rearranging.expanded, "Expand"),
    **_rows(resampling.resize, "Resize Upsample"),
    **_rows(resampling.cut, "Slice"),
    **_rows(resampling.pad, "Pad"),
    **_rows(resampling.split, "Split"),
    **_rows(resampling.concatenated, "Concat"),
    **_rows(resampling.space_to_depth, "SpaceToDepth DepthToSpace"),
}

_CHANNELS_LAST = partial(sliding.convolution, channels_last=True, added=(3,))

_CONTRIB: dict[str, Rule] = {
    **_rows(partial(sliding.convolution, added=(3,)), "FusedConv"),
    **_rows(_CHANNELS_LAST, "NhwcConv NhwcFusedConv"),
    **_rows(sliding.pooling, "NhwcMaxPool QLinearAveragePool"),
    **_rows(sliding.global_pooling, "QLinearGlobalAveragePool"),
    **_rows(_SAME, "Gelu QuickGelu FastGelu BiasGelu QLinearAdd QLinearMul"),
    **_rows(mixing.normalised, "QuantizeLinear DequantizeLinear QLinearSigmoid QLinearLeakyRelu"),
    **_rows(resampling.concatenated, "QLinearConcat"),
    **_rows(mixing.product, "MatMulIntegerToFloat"),
    **_rows(mixing.fully_connected, "FusedGemm QGemm"),
}

#: Operators that slide a window, or would if its size were known.
_SLIDING = frozenset(_WINDOWS) | frozenset(
    "FusedConv NhwcConv NhwcFusedConv NhwcMaxPool QLinearAveragePool "
    "QLinearGlobalAveragePool".split()
)

#: Bounds on what is followed: no real model has more.
_MOST_INPUTS, _MOST_AXES = 64, 16

#: What these give depends on the shape of what they read, not on its elements.
_SHAPE_ONLY = frozenset(
    "Shape Size ConstantOfShape EyeLike RandomNormalLike RandomUniformLike".split()
)


class ReceptiveFields:
    """The receptive fields of a graph, from one pass whose cost grows with the number of nodes.

    Args:
        graph: the indexed model.
        shapes: sizes, which padding of the kind SAME and layout nodes need.
        values: constants that operators take their axes and sizes from.
    """

    def __init__(self, graph: Graph, shapes: Shapes, values: Values) -> None:
        self._graph, self._shapes, self._values = graph, shapes, values
        self._states: dict[str, State] = {}
        self._slides: set[Key] = set()
        self._plans: dict[Plan, dict[int, Window | str]] = {}
        self._ready: dict[int, Fields] = {}
        self._images: dict[str, list[int]] = {}
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
                self._images[name] = axes

    def _pass(self, node: Node) -> None:
        states = [self._states.get(name) for name in node.inputs]
        if node.position in node.scope.children:
            states += [self._states.get(name) for name in _captured(self._graph, node)]
        if not any(states) or node.op_type in _SHAPE_ONLY:
            return
        rule = self._rule(node)
        opset = self._graph.opset
        step = Step(node, states, self._shapes, self._values, opset, self._slides, self._plans)
        try:
            result = None if rule is None else rule(step)
        except (IndexError, ValueError, TypeError, ArithmeticError):
            result = None  # attributes that make no sense are not ours to judge
        if result is None:
            result = forget(step.tracked, f"not followed through {node.op_type}")
        found = result if isinstance(result, list) else [result] * len(node.outputs)
        for name, state in zip(node.outputs, found, strict=True):
            if name:
                self._states[name] = state

    def _rule(self, node: Node) -> Rule | None:
        if node.standard:
            return _STANDARD.get(node.op_type)
        return _CONTRIB.get(node.op_type) if node.domain == "com.microsoft" else None

    def window(self, tensor: str, source: str, axis: int) -> Window | None:
        """What each position of a tensor of the main graph sees along an axis of an input."""
        state = self._states.get(tensor)
        place = state.places.get((source, axis)) if state is not None else None
        return place.window if place is not None else None

    def of(self, node: Node) -> Fields:
        """What a node sees: its first output that depends on an input."""
        if not self._windows:
            return Fields(None, self._why, {})
        if node.scope is not self._graph.main:
            return _INSIDE
        for name in node.outputs:
            state = self._states.get(name)
            if state is not None:
                break
        else:
            return _NO_INPUT
        ready = self._ready.get(id(state))
        if ready is None:
            ready = self._ready[id(state)] = self._report(state)
        return ready

    def _report(self, state: State) -> Fields:
        inputs = {name for name, _ in state.places}
        found = {
            name: self._one(state, name, axes)
            for name, axes in self._images.items()
            if name in inputs
        }
        if not found:
            return _NO_IMAGE
        first = next(iter(found.values()))
        several = len(self._images) > 1
        return Fields(
            first[0], first[1], {name: f for name, (f, _) in found.items()} if several else {}
        )

    def _one(self, state: State, name: str, axes: list[int]) -> tuple[Field | None, str | None]:
        places = [state.places.get((name, axis)) for axis in axes]
        windows = [place.window for place in places if place is not None and place.window]
        if len(windows) < len(axes):
            notes = {place.note for place in places if place is not None and not place.window}
            whole = WHOLE_INPUT if WHOLE_INPUT in notes else None
            return None, whole or next(iter(sorted(notes)), NO_INPUT)
        if all(place is not None and place.axis is None for place in places):
            shape = self._shapes.get(self._graph.main, name) or ()
            if all(
                window.lows[0] <= 0 and isinstance(size, int) and window.highs[0] >= size - 1
                for window, size in zip(windows, (shape[axis] for axis in axes), strict=True)
            ):
                return None, WHOLE_INPUT
        field: Field = {
            "size": [max(window.sizes) for window in windows],
            "stride": [window.stride for window in windows],
            "start": [window.lows[0] for window in windows],
        }
        return field, UNEVEN if any(len(window.lows) > 1 for window in windows) else None


_NO_IMAGE = Fields(None, NO_IMAGE, {})
_INSIDE = Fields(None, INSIDE, {})
_NO_INPUT = Fields(None, NO_INPUT, {})


def _candidates(graph: Graph) -> list[str]:
    """The inputs, in their order, that reach a convolution or pooling."""
    wanted: set[str] = set()
    for node in reversed(graph.main.nodes):
        if node.op_type in _SLIDING or not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            if node.position in node.scope.children:
                wanted.update(_captured(graph, node))
    inputs = graph.main.inputs
    return [v.name for v in graph.main.graph.input if v.name in wanted and v.name in inputs]


def _captured(graph: Graph, node: Node) -> list[str]:
    """The names that the subgraphs of a node read, their own included."""
    names: list[str] = []
    scopes = list(graph.subgraphs(node).values())
    while scopes:
        scope = scopes.pop()
        names += [value.name for value in scope.graph.output]
        for inner in scope.nodes:
            names += inner.inputs
            scopes += graph.subgraphs(inner).values()
    return names
