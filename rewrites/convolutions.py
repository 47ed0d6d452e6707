"""Emits the convolutions that take an FC's place: one per map that it reads, and their sum."""

from __future__ import annotations

from onnxshare.analysis.fc import FullyConnected
from onnxshare.analysis.heads import Subject
from rewrites.emitter import Emitter
from rewrites.kernels import Kernels
from rewrites.twins import Columns


class Convolutions:
    """The convolutions of one head.

    Args:
        subject: the model.
        out: where nodes and constants are emitted.
    """

    def __init__(self, subject: Subject, out: Emitter) -> None:
        self._out = out
        self._kernels = Kernels(subject, out)

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
        total = ""
        for place, columns in enumerate(read):
            weight = self._kernels.weight(layer, columns)
            inputs = [columns.part.name, weight, *([bias] if bias and place == 0 else [])]
            name = wanted if len(read) == 1 else f"{wanted}_{place + 1}"
            kernel: dict[str, object] = {"kernel_shape": list(columns.part.sizes[1:])}
            made = self._out.emit(layer.node, "Conv", inputs, name, kernel)
            if total:
                last = place == len(read) - 1
                sum_name = wanted if last else f"{wanted}_sum"
                made = self._out.emit(layer.node, "Add", [total, made], sum_name)
            total = made
        return total
