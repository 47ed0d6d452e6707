"""The rewritten tensors alone: fed with random features, against the bound that rounding obeys.

A sum of K products, computed in another order, differs by rounding errors that add up like a random
walk (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019):

    |error| <= λ · √K · u · (|W||x| + |b|),    u = 2⁻²⁴ for float32.

Both models are cut: from the last tensor before the rewritten one that both have, to the rewritten
one. What comes in is random, so it moves whatever the inputs of the model do to it. Asked only
where the outputs show too little: it says nothing of what comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxshare.analysis.heads.fully_connected import (
    made_by,
    per_feature,
    stored_bias,
    weight_by_output,
)
from onnxshare.comparison.results import LocalProof
from onnxshare.comparison.verdict import VISIBILITY
from onnxshare.errors import OnnxShareError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import UNKNOWN, traits_of
from onnxshare.io.load import Model
from onnxshare.io.node_reader import refill
from onnxshare.io.tensors import Array
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.session import run_model
from onnxshare.shapes.inference import Shapes, infer

#: λ. Measured on right rewrites at most 0.7, on mixed-up axes over 400 (docs/benchmarks.md).
LIMIT = 2.0

#: The unit roundoff of float32.
_UNIT = 2.0**-24

#: Random features, and factors on them, tried until they are not lost next to a bias.
_COUNT = 8
_SCALES = (1.0, 1e3, 1e6)

#: Elements of a weight that are taken at once.
_STEP = 2**22


@dataclass(frozen=True)
class _Layer:
    """A linear layer of the original: y = W x + b, with W as [out, in] and b as [out]."""

    data: str
    weight: Array
    bias: Array


def prove_locally(
    original: Model,
    candidate: Model,
    tensors: Sequence[str],
    *,
    provider: str,
    seed: int,
    run_limits: RunLimits | None,
) -> LocalProof | None:
    """Hold rewritten tensors, which have their old names, against the bound.

    Returns:
        The largest error over √K · u · (|W||x| + |b|); None where a tensor is not the result of a
        float32 layer with stored weights, cannot be run alone, or does not live.
    """
    if not tensors:
        return None
    try:
        run = partial(run_model, provider=provider, run_limits=run_limits)
        check = _Check((original, candidate), run, seed)
        worst = [check.tensor(name) for name in tensors]
    except OnnxShareError:
        return None
    known = [value for value in worst if value is not None]
    return LocalProof(len(known), max(known), LIMIT) if len(known) == len(worst) else None


class _Check:
    def __init__(
        self, models: tuple[Model, Model], run: Callable[..., dict[str, Array]], seed: int
    ) -> None:
        self._models, self._run_model = models, run
        self._graphs = tuple(map(Graph, models))
        self._shapes = tuple(map(infer, self._graphs))
        self._values = Values(self._graphs[0], self._shapes[0].fully_known())
        self._random = np.random.default_rng([seed, 3])

    def tensor(self, name: str) -> float | None:
        """The error of one tensor over √K · u · (|W||x| + |b|); None if it cannot be told."""
        layer = self._layer(name)
        source = None if layer is None else self._source(layer.data)
        if layer is None or source is None:
            return None
        for scale in _SCALES:
            found = self._run(layer, source, name, scale)
            if found is not None:
                return found
        return None

    def _layer(self, name: str) -> _Layer | None:
        graph = self._graphs[0]
        node = graph.main.producers.get(name)
        if node is None or self._shapes[0].dtype(graph.main, name) != TensorProto.FLOAT:
            return None
        if node.op_type == "Conv":
            return self._convolution(node)
        fc = made_by(graph, node)
        if fc is None or fc.columns or fc.result_columns:
            return None
        added, factor = stored_bias(graph, fc)
        weight = weight_by_output(fc, self._values)
        bias = self._bias(added, fc.out_features)
        if weight is None or bias is None:
            return None
        if fc.alpha != 1:
            weight = weight * np.float32(fc.alpha)
        return _Layer(fc.data, weight, bias * factor)

    def _convolution(self, node: Node) -> _Layer | None:
        """A convolution whose kernel covers its whole map."""
        graph, shapes = self._graphs[0], self._shapes[0]
        weight = self._values.get(graph.main, node.inputs[1])
        result = shapes.sizes(graph.main, node.outputs[0])
        data = shapes.sizes(graph.main, node.inputs[0])
        if weight is None or result is None or data is None or prod(result[2:]) != 1:
            return None
        if int(node.attribute("group", 1)) != 1 or weight.shape[1:] != data[1:]:
            return None
        bias = self._bias(node.input(2), len(weight))
        if bias is None:
            return None
        return _Layer(node.inputs[0], weight.reshape(len(weight), -1), bias)

    def _bias(self, name: str | None, features: int) -> Array | None:
        if not name:
            return np.zeros(features, np.float32)
        return per_feature(self._values.get(self._graphs[0].main, name), features)

    def _source(self, name: str) -> str | None:
        """The last tensor before a layer's data, or that itself, which both models have."""
        ours, theirs = (graph.main for graph in self._graphs)
        while name not in theirs.producers and name not in theirs.inputs:
            node = ours.producers.get(name)
            traits = traits_of(node) if node is not None else UNKNOWN
            if node is None or not (traits.elementwise or traits.moves):
                return None
            name = node.inputs[0]
        return name

    def _run(self, layer: _Layer, source: str, name: str, scale: float) -> float | None:
        sizes = [
            shapes.sizes(graph.main, source)
            for graph, shapes in zip(self._graphs, self._shapes, strict=True)
        ]
        if sizes[0] is None or sizes[1] is None or prod(sizes[0]) != prod(sizes[1]):
            return None
        made = self._random.standard_normal((_COUNT, *sizes[0][1:]))
        made[_COUNT // 2 :] = self._random.random(made[_COUNT // 2 :].shape)  # as after a ReLU
        features = (made * scale).astype(np.float32)
        asked = [[name, layer.data] if layer.data != source else [name], [name]]
        results = [
            self._run_model(
                _cut(model, source, size, shapes),
                {source: features.reshape(_COUNT, *size[1:])},
                outputs,
            )
            for model, size, shapes, outputs in zip(
                self._models, (sizes[0], sizes[1]), self._shapes, asked, strict=True
            )
        ]
        x = results[0].get(layer.data, features).reshape(_COUNT, -1)
        ours, theirs = (result[name].reshape(_COUNT, -1) for result in results)
        if x.shape[1] != layer.weight.shape[1] or ours.shape != theirs.shape:
            return None
        return _ratio(layer, x, ours, theirs)


def _ratio(layer: _Layer, x: Array, ours: Array, theirs: Array) -> float | None:
    """The largest error over √K · u · (|W||x| + |b|); None unless half of the outputs move
    visibly next to what the bound allows."""
    size = np.empty(ours.shape)
    rows = max(1, _STEP // layer.weight.shape[1])
    for start in range(0, len(layer.weight), rows):
        part = np.abs(layer.weight[start : start + rows])
        size[:, start : start + rows] = np.abs(x) @ part.T
    unit = np.sqrt(layer.weight.shape[1]) * _UNIT * (size + np.abs(layer.bias))
    movement = np.ptp(ours.astype(np.float64), axis=0) / 2
    live = movement > VISIBILITY * LIMIT * unit.max(axis=0)
    if live.mean() < 0.5:
        return None
    error = np.abs(ours.astype(np.float64) - theirs)
    return float((error / np.maximum(unit, np.finfo(np.float32).tiny)).max())


def _cut(model: Model, source: str, sizes: tuple[int, ...], shapes: Shapes) -> Model:
    """The model with a tensor inside as its only input; what is not needed is left to `Session`."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name in stored]
    refill(graph.node, (node for node in graph.node if source not in node.output))
    first = "n" if shapes.batch_symbols else sizes[0]
    given = helper.make_tensor_value_info(source, TensorProto.FLOAT, [first, *sizes[1:]])
    refill(graph.input, [given, *kept])
    return replace(model, skeleton=proto)
