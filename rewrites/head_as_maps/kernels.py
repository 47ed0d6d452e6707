"""Brings the weights of FCs into the new graph as the kernels of convolutions, each once.

Emits the convolutions that take an FC's place: one per map that it reads, and their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from onnxshare.analysis.heads.fully_connected import FullyConnected, stored_bias
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node, Stored
from onnxshare.io.tensors import Array
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import users_of, values_of
from rewrites.head_as_maps.fc_weights import (
    bias_of,
    moved_weight,
    permuted,
    quantized_weight,
)
from rewrites.head_as_maps.maps import Columns
from rewrites.head_as_maps.quantized import (
    Data,
    fused_attributes,
    less_zero_points,
    quantized,
    to_floats,
    with_scales,
)


class Convolutions:
    """The convolutions of one head, with their kernels and biases."""

    def __init__(self, subject: Subject, out: Emitter) -> None:
        self._subject, self._out = subject, out
        self._graph, self._values = subject.graph, subject.probe.values
        self._known: dict[tuple[str, ...], str] = {}
        self._stored: dict[str, tuple[Stored, list[str]]] = {}

    def _weight(self, layer: FullyConnected, read: Columns) -> str:
        """The kernel `[out, C, spatial…]` of the columns that read one map.

        An FC that shares its weight with another keeps sharing it, if it reads it alike.

        Raises:
            Refusal: the weight's values cannot be had.
        """
        if self._out.pretends:
            return "weight"
        stored = self._graph.source(self._graph.main, layer.weight)
        key = (
            stored.key if stored else "",
            layer.weight,
            f"{layer.alpha} {layer.stored_by_output} {read.part.sizes}",
            "" if read.columns is None else read.columns.tobytes().hex(),
            read.order.tobytes().hex(),
        )
        if key not in self._known:
            quantized = quantized_weight(self._subject, layer)
            if quantized is not None:
                self._known[key] = self._quantized(layer, quantized, read)
            else:
                kernel = moved_weight(layer, self._values, read)
                self._known[key] = self._place(layer, kernel, read)
            if stored is not None and read.columns is None:
                self._stored.setdefault(stored.key, (stored, []))[1].append(self._known[key])
        return self._known[key]

    def copies(self, gone: Iterable[Node]) -> Iterator[str]:
        """Notes on weights that are now stored more often than before.

        Args:
            gone: the nodes that no longer read them.
        """
        users = users_of(self._graph)
        for stored, kernels in self._stored.values():
            others = users.others(stored, *gone)
            if others:
                yield (
                    f"'{stored.name}' is used by {others[0]} too, which needs it as it was: it is "
                    f"stored {len(kernels) + 1} times now"
                )
            elif len(kernels) > 1:
                yield (
                    f"'{stored.name}' was read in {len(kernels)} layouts, and is stored as many "
                    "times now"
                )

    def _place(self, layer: FullyConnected, kernel: Array, read: Columns) -> str:
        wanted = f"{layer.weight}_map"
        if layer.alpha != 1:
            return self._out.constant(kernel, wanted)
        return self._out.move(
            kernel,
            wanted,
            layer.weight,
            transposed=not layer.stored_by_output,
            columns=read.columns,
            order=read.order,
        )

    def _quantized(self, layer: FullyConnected, node: Node, read: Columns) -> str:
        """Move the stored integers and dequantize them as before: same scales, same zero points,
        along the kernel's first axis where there is one per output."""
        stored = values_of(self._subject, self._graph.main, node.inputs[0])
        moved = permuted(stored if layer.stored_by_output else stored.T, read)
        name = self._out.move(
            moved.reshape(layer.out_features, *read.part.sizes),
            f"{node.inputs[0]}_map",
            node.inputs[0],
            transposed=not layer.stored_by_output,
            columns=read.columns,
            order=read.order,
        )
        scale = self._graph.source(self._graph.main, node.inputs[1])
        single = scale is None or scale.elements == 1
        return self._out.copy(
            node, [name, *node.inputs[1:]], f"{layer.weight}_map", None if single else {"axis": 0}
        )

    def _bias(self, layer: FullyConnected) -> str | None:
        """The name of the bias `[out]`, Gemm's beta applied; None without one."""
        name, vector = bias_of(self._subject, layer)
        if vector is None:
            return None
        producer = self._graph.main.producer(name) if name else None
        if name and (producer is None or producer.position < layer.node.position):
            return name
        values, wanted = np.asarray(vector), f"{layer.node.outputs[0]}_bias"
        source, factor = stored_bias(self._subject.graph, layer)
        old = self._values.get(self._graph.main, source) if source else None
        if source is None or old is None or factor != 1 or old.size != values.size:
            return self._out.constant(values, wanted)
        return self._out.move(values, wanted, source)

    def emit(self, layer: FullyConnected, read: tuple[Columns, ...], wanted: str) -> str:
        """Emit what an FC is on maps.

        With the columns of its weight split by the map that they read,

            y = Σ_k W[:, k] · x[k] + b = Σ_m (W_m ∗ map_m) + b,

        one convolution per map m, the bias with the first.

        Args:
            layer: the FC.
            read: which columns read which map.
            wanted: a name for the result.

        Returns:
            The name of the result, a map `[N, F, 1, …]`.
        """
        bias = self._bias(layer)
        last = layer.activation is None and layer.arithmetic not in ("scaled", "dynamic")
        plain = wanted if last else f"{wanted}_sum"
        total, data = "", Data("")
        for place, columns in enumerate(read):
            name = plain if len(read) == 1 else f"{wanted}_{place + 1}"
            data = quantized(self._out, layer, columns.part.name)
            made = self._one(layer, columns, data, bias if place == 0 else None, name)
            if total:
                name = plain if place == len(read) - 1 else f"{wanted}_sum"
                made = self._out.emit(layer.node, "Add", [total, made], name)
            total = made
        rank = len(read[0].part.sizes) - 1
        total = to_floats(self._subject, self._out, layer, data, total, wanted, rank)
        if layer.activation is None:
            return total
        attributes = fused_attributes(layer)
        return self._out.emit(layer.node, layer.activation, [total], wanted, attributes)

    def _one(
        self, layer: FullyConnected, read: Columns, data: Data, bias: str | None, wanted: str
    ) -> str:
        kernel = [self._weight(layer, read), *([bias] if bias else [])]
        op_type, inputs = "Conv", [data.name, *kernel]
        if layer.arithmetic != "float":
            op_type, inputs = with_scales(self._subject, self._out, layer, data, kernel)
        sizes = read.part.sizes
        shape: dict[str, object] = {"kernel_shape": list(sizes[1:])}
        made = self._out.emit(layer.node, op_type, inputs, wanted, shape)
        less = f"{wanted}_less"
        return less_zero_points(self._subject, self._out, layer, data, made, sizes, less)
