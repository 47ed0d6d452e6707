"""Carries a head over from vectors to maps: node by node, following where each element goes.

Every tensor of the head gets a twin `[N, C, spatial…]` in which features are channels: the
feature map itself before the first FC, `[N, F, 1, …]` after it. An index array says for each
element of the old tensor where it is in the twin, so layout nodes disappear, constants are moved
to where their element went, and an FC becomes a convolution whose kernel covers the map:

    y[n, f] = Σ_k W[f, k] · x[n, k] + b[f]        k = k(c, s): column of channel c, position s
            = Σ_{c,s} W[f, k(c, s)] · map[n, c, s] + b[f]

which is a convolution with kernel W'[f, c, s] = W[f, k(c, s)] at its only position (Sermanet et
al., "OverFeat", 2013; Long et al., "Fully Convolutional Networks", 2015). Weights are moved, not
recomputed, except where Gemm's alpha or beta, or a BatchNormalization before the first FC, must
be folded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxshare.analysis import layout
from onnxshare.analysis.fc import FullyConnected, bias_node, by_rows
from onnxshare.analysis.heads import Subject
from onnxshare.edit import Editor
from onnxshare.graph import Graph, Node
from onnxshare.io.tensors import Array
from onnxshare.values import Values, rearrange
from rewrites.base import Refusal
from rewrites.emitter import Emitter
from rewrites.layers import bias_of, check_type, moved_weight, permuted, quantised_weight
from rewrites.restore import is_plain, vector_to_old


@dataclass(frozen=True)
class Twin:
    """The map that stands for a tensor of the head.

    Attributes:
        name: its name in the new graph.
        sizes: `(C, spatial…)`.
        index: for each element of the old tensor its index in the twin, batch included.
        vector: whether it holds an FC's output: one position, features as channels.
    """

    name: str
    sizes: tuple[int, ...]
    index: Array
    vector: bool = False


class Mirror:
    """Builds the twins of one head and the edits that make them.

    Args:
        subject: the model.
        editor: collects the edits; None only checks, without reading any weight.
        feature_map: the tensor that the head starts from.
        sizes: its sizes `[N, C, spatial…]` under the probe.
    """

    def __init__(
        self, subject: Subject, editor: Editor | None, feature_map: str, sizes: tuple[int, ...]
    ) -> None:
        self._subject = subject
        self._graph: Graph = subject.graph
        self._values: Values = subject.probe.values
        self.out = Emitter(editor)
        self._moved: dict[tuple[str, bytes], str] = {}
        self.samples = sizes[0]
        self.twins = {feature_map: Twin(feature_map, sizes[1:], layout.index_of(sizes))}
        self.replaced: set[Node] = set()
        self.notes: list[str] = []
        self.evidence: dict[str, str] = {}
        self._given: set[Node] = set()

    def carry(self, node: Node) -> None:
        """Make the twin of a layout or element-wise node's output.

        Raises:
            Refusal: the node cannot be carried over.
        """
        data = layout.data_input(self._graph, node)
        twin = self.twins.get(data) if data is not None else None
        if data is None or twin is None:
            raise Refusal(f"node '{node.name}' reads something that is no part of the head")
        if layout.moves(node):
            index = rearrange(node, twin.index, self._values)
            if index is None:
                raise Refusal(f"the layout of node '{node.name}' cannot be followed")
            self._add(node, replace(twin, index=index))
        elif node.op_type in ("Identity", "Dropout"):
            self._add(node, twin)
        elif node.op_type == "BatchNormalization":
            self._normalise(node, twin)
        else:
            self._elementwise(node, data, twin)

    def _add(self, node: Node, twin: Twin) -> None:
        self.twins[node.outputs[0]] = twin
        self.replaced.add(node)

    def _elementwise(self, node: Node, data: str, twin: Twin) -> None:
        shared: dict[str, str] = {}
        inputs = []
        for name in node.inputs:
            if name == data:
                inputs.append(twin.name)
            elif not name:
                inputs.append("")
            else:
                inputs.append(shared.setdefault(name, self._operand(node, name, twin)))
        self._add(node, self._copy(node, inputs, twin))

    def _operand(self, node: Node, name: str, twin: Twin) -> str:
        """A constant operand, moved to where its elements went; single elements stay as named."""
        stored = self._graph.source(self._graph.main, name)
        if node.op_type in layout.QUANTISERS or node.op_type == "Clip":
            if stored is not None and stored.elements == 1:
                return name
            raise Refusal(f"'{name}' of node '{node.name}' is computed, or one per channel")
        value = self._values.get(self._graph.main, name)
        if value is None:
            raise Refusal(f"the constant '{name}' of node '{node.name}' cannot be read")
        try:
            spread = np.broadcast_to(value, twin.index.shape)
        except ValueError:
            raise Refusal(
                f"the constant '{name}' of node '{node.name}' changes the shape of its data"
            ) from None
        if value.size == 1 and value.ndim <= len(twin.sizes) + 1:
            return name
        return self.out.constant(self._to_map(spread, twin, node), f"{name}_map")

    def _to_map(self, spread: Array, twin: Twin, node: Node) -> Array:
        """Values given for each element of the old tensor, as `[C, spatial…]` of the twin, with
        axes along which they do not change reduced to size 1."""
        samples = twin.index.size // prod(twin.sizes)
        flat = np.empty(twin.index.size, spread.dtype)
        flat[twin.index.reshape(-1)] = spread.reshape(-1)
        by_sample = flat.reshape(samples, *twin.sizes)
        if not _same(by_sample, by_sample[:1]):
            raise Refusal(f"a constant of node '{node.name}' differs between samples")
        result: Array = by_sample[0]
        for axis in range(1, result.ndim):
            first = result.take([0], axis=axis)
            if _same(result, first):
                result = first
        return result

    def _normalise(self, node: Node, twin: Twin) -> None:
        """BatchNormalization after an FC normalises channels as before; before it, the features
        are elements of the map, so it becomes a product and a sum:

            γ · (x − μ) / √(σ² + ε) + β = x · s + (β − μ · s),  s = γ / √(σ² + ε)
        """
        if layout.trains(node) or twin.index.ndim != 2:
            raise Refusal(f"BatchNormalization '{node.name}' is not in its inference form")
        if twin.vector:
            if not is_plain(twin.index, self.samples) or not node.attribute("spatial", 1):
                raise Refusal(f"BatchNormalization '{node.name}' is not over features")
            self._add(node, self._copy(node, [twin.name, *node.inputs[1:]], twin))
            return
        parts = [self._values.get(self._graph.main, name) for name in node.inputs[1:5]]
        if any(part is None for part in parts):
            raise Refusal(f"the constants of BatchNormalization '{node.name}' cannot be read")
        scale, shift, mean, variance = (np.asarray(p, np.float64) for p in parts)
        dtype = np.asarray(parts[0]).dtype
        factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
        offset = shift - mean * factor
        name = twin.name
        for op_type, vector in (("Mul", factor), ("Add", offset)):
            spread = np.broadcast_to(vector.astype(dtype), twin.index.shape)
            operand = self.out.constant(self._to_map(spread, twin, node), f"{node.name}_{op_type}")
            name = self.out.emit(node, op_type, [name, operand], f"{node.outputs[0]}_{op_type}")
        self.notes.append(f"BatchNormalization '{node.name}' was folded into a product and a sum")
        self._add(node, replace(twin, name=name))

    def _copy(self, node: Node, inputs: list[str], twin: Twin) -> Twin:
        return replace(twin, name=self.out.copy(node, inputs, f"{node.outputs[0]}_map"))

    def connect(self, layer: FullyConnected) -> None:
        """Make the twin of an FC's output: a convolution that covers the whole map.

        Raises:
            Refusal: the FC cannot be written as a convolution.
        """
        order = self.check(layer)
        twin = self.twins[layer.data]
        adder = bias_node(self._graph, layer)
        bias = self._bias(layer)
        weight = self._weight(layer, order, twin.sizes)
        last = adder or layer.node
        name = self.out.emit(
            layer.node,
            "Conv",
            [twin.name, weight, *([bias] if bias else [])],
            f"{last.outputs[0]}_map",
            {"kernel_shape": list(twin.sizes[1:])},
        )
        made = self._vector(layer, name)
        if is_plain(made.index, self.samples):
            self.evidence[last.outputs[0]] = name
        self._add(layer.node, made)
        if adder is not None:
            self._add(adder, made)

    def _vector(self, layer: FullyConnected, name: str) -> Twin:
        """The twin of an FC's output, held as `[N, F]` or `[N, F, 1, …]` by the tensor `name`."""
        twin = self.twins[layer.data]
        index = layout.index_of((twin.index.size // layer.in_features, layer.out_features))
        if layer.result_columns and twin.index.ndim == 2:
            index = index.T
        else:
            index = index.reshape(self._result_shape(layer, twin))
        return Twin(name, (layer.out_features, *(1 for _ in twin.sizes[1:])), index, vector=True)

    def check(self, layer: FullyConnected) -> Array:
        """Make sure that an FC reads whole samples, in a type and with constants that can be
        moved; return the order of its columns.

        Raises:
            Refusal: it does not.
        """
        twin = self.twins.get(layer.data)
        if twin is None:
            raise Refusal(f"FC '{layer.node.name}' reads something that is no part of the head")
        order = self._column_order(layer, twin)
        check_type(self._subject, layer)
        quantised_weight(self._subject, layer)
        bias_of(self._subject, layer)
        return order

    def give_back(self, layer: FullyConnected, rows: str) -> None:
        """Let a tensor `[N, F]` made by new nodes take the place of an FC's output, bias added."""
        adder = bias_node(self._graph, layer)
        last = adder or layer.node
        index = self._vector(layer, rows).index
        if index.ndim == 2 and is_plain(index, self.samples):
            self.out.rename(rows, last.outputs[0])
        else:
            self._restore(layer.node, rows, index, last.outputs[0])
        for node in (layer.node, adder):
            if node is not None:
                self.replaced.add(node)
                self._given.add(node)

    def _restore(self, node: Node, source: str, index: Array, name: str) -> None:
        vector_to_old(self._subject, self.out, node, source, index, name, self.samples)

    def _column_order(self, layer: FullyConnected, twin: Twin) -> Array:
        index = by_rows(layer, twin.index)
        if index is None:
            raise Refusal(f"FC '{layer.node.name}' multiplies a stack of matrices")
        columns = index.shape[-1] if index.ndim else 1
        if columns != layer.in_features:
            raise Refusal(
                f"FC '{layer.node.name}' expects {layer.in_features} columns and gets {columns}"
            )
        samples = twin.index.size // prod(twin.sizes)
        order = layout.column_order(index.reshape(-1, columns), (samples, *twin.sizes))
        if isinstance(order, str):
            raise Refusal(order)
        return order

    def _result_shape(self, layer: FullyConnected, twin: Twin) -> tuple[int, ...]:
        leading = twin.index.T.shape[:-1] if layer.columns else twin.index.shape[:-1]
        return (*leading, layer.out_features)

    def _weight(self, layer: FullyConnected, order: Array, sizes: tuple[int, ...]) -> str:
        if self.out.pretends:
            return "weight"
        stored = self._graph.source(self._graph.main, layer.weight)
        # An FC that shares its weight with another keeps sharing it, if it reads it alike.
        form = (stored.key if stored else "", layer.weight, layer.alpha, layer.stored_by_output)
        key = (f"{form}|{sizes}", order.tobytes())
        if key not in self._moved:
            quantised = quantised_weight(self._subject, layer)
            if quantised is not None:
                self._moved[key] = self._quantised(layer, quantised, order, sizes)
            else:
                moved = moved_weight(layer, self._values, order, sizes)
                self._moved[key] = self._place(layer, moved, order)
        return self._moved[key]

    def _place(self, layer: FullyConnected, kernel: Array, order: Array) -> str:
        wanted = f"{layer.weight}_map"
        if layer.alpha != 1:
            return self.out.constant(kernel, wanted)
        turned = not layer.stored_by_output
        return self.out.move(kernel, wanted, layer.weight, turned=turned, order=order)

    def _quantised(
        self, layer: FullyConnected, node: Node, order: Array, sizes: tuple[int, ...]
    ) -> str:
        """Move the stored integers and dequantise them as before: same scales, same zero points,
        along the kernel's first axis where there is one per output."""
        stored = self._values.get(self._graph.main, node.inputs[0])
        if stored is None:
            raise Refusal(f"the weight of FC '{layer.node.name}' cannot be read")
        moved = permuted(stored if layer.stored_by_output else stored.T, order)
        name = self.out.move(
            moved.reshape(layer.out_features, *sizes),
            f"{node.inputs[0]}_map",
            node.inputs[0],
            turned=not layer.stored_by_output,
            order=order,
        )
        scale = self._graph.source(self._graph.main, node.inputs[1])
        single = scale is None or scale.elements == 1
        return self.out.copy(
            node, [name, *node.inputs[1:]], f"{layer.weight}_map", None if single else {"axis": 0}
        )

    def _bias(self, layer: FullyConnected) -> str | None:
        name, vector = bias_of(self._subject, layer)
        if vector is None:
            return None
        producer = self._graph.main.producer(name) if name else None
        if name and (producer is None or producer.position < layer.node.position):
            return name
        return self.out.constant(vector, f"{layer.node.outputs[0]}_bias")

    def finish(self) -> None:
        """Take the old nodes out, and give back under its old name and shape whatever the rest
        of the graph still reads.

        Raises:
            Refusal: a second output of an old node is still read.
        """
        restored = []
        leaving = set(self.replaced)
        carried = self.replaced - self._given
        for node in sorted(carried, key=lambda item: item.position, reverse=True):
            name, twin = node.outputs[0], self.twins[node.outputs[0]]
            if any(self._needed(extra, leaving) for extra in node.outputs[1:] if extra):
                raise Refusal(f"node '{node.name}' has a second output that is read")
            if not self._needed(name, leaving):
                continue
            if twin.vector:
                restored.append((node, twin))
            else:
                leaving.discard(node)  # a flattened map that others read too stays as it is
        for node, twin in reversed(restored):
            self._restore(node, twin.name, twin.index, node.outputs[0])
        for node in leaving:
            self.out.remove(node)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(next(iter(self.twins.values())).sizes) - 1

    def rename_outputs(self) -> None:
        """Let the maps that stand for the graph's outputs take over their names, and take all
        old nodes out."""
        for value in self._graph.main.graph.output:
            self.out.rename(self.twins[value.name].name, value.name)
        self.remove_replaced()

    def remove_replaced(self) -> None:
        """Take all old nodes out."""
        for node in self.replaced:
            self.out.remove(node)

    def _needed(self, name: str, leaving: set[Node]) -> bool:
        readers = self._graph.main.readers(name)
        return self._graph.is_output(self._graph.main, name) or any(
            reader not in leaving for reader in readers
        )


def _same(values: Array, reference: Array) -> bool:
    """Whether values equal a reference that broadcasts to them."""
    return bool(np.array_equal(values, np.broadcast_to(reference, values.shape)))
