"""Emits the convolutions that take an FC's place: one per map that it reads, and their sum."""

from __future__ import annotations

from onnxshare.analysis.heads.fully_connected import FullyConnected
from onnxshare.analysis.heads.head import Subject
from rewrites.emitter import Emitter
from rewrites.integers import Data, fused_attributes, quantised, to_floats, with_scales
from rewrites.kernels import Kernels
from rewrites.twins import Columns


class Convolutions:
    """The convolutions of one head.

    Args:
        subject: the model.
        out: where nodes and constants are emitted.
    """

    def __init__(self, subject: Subject, out: Emitter) -> None:
        self._subject, self._out = subject, out
        self._kernels = Kernels(subject, out)
        self.copies = self._kernels.copies

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
        bias = self._kernels.bias(layer)
        last = layer.activation is None and layer.arithmetic not in ("scaled", "dynamic")
        plain = wanted if last else f"{wanted}_sum"
        total, data = "", Data("")
        for place, columns in enumerate(read):
            name = plain if len(read) == 1 else f"{wanted}_{place + 1}"
            data = quantised(self._out, layer, columns.part.name)
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
        kernel = [self._kernels.weight(layer, read), *([bias] if bias else [])]
        op_type, inputs = "Conv", [data.name, *kernel]
        if layer.arithmetic != "float":
            op_type, inputs = with_scales(self._subject, self._out, layer, data, kernel)
        sizes: dict[str, object] = {"kernel_shape": list(read.part.sizes[1:])}
        return self._out.emit(layer.node, op_type, inputs, wanted, sizes)
