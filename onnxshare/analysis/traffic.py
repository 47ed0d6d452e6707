"""Bytes that a node moves, its arithmetic intensity, and what bounds its time.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", Communications of the ACM 52(4), 2009: a kernel that does fewer operations per byte
than its machine can (the machine's balance) takes the time that its memory traffic takes.

The traffic is the least there can be, for one sample: each weight that is used is read once, as it
is stored, each activation is read and written once, and nothing stays in a cache between nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod

from onnxshare.io.tensors import BITS, bytes_of
from onnxshare.shapes.types import ABSENT, TensorType

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
    """Bytes of one tensor for one sample: its share of the rows of axis 0, if that is a batch."""
    sizes, dtype = tensor.sizes, tensor.dtype
    if sizes is None or dtype not in BITS:
        return None
    count = prod(sizes)
    if sizes and sizes[0] % batch == 0:
        count //= batch
    return bytes_of(count, dtype)


def weights_moved(stored: int, params: int, connections: int | None) -> int:
    """Bytes of weights that one sample needs: of an embedding only the rows that it looks up."""
    if connections is None or connections >= params:
        return stored
    return ceil(stored * connections / params)


def intensity(flops: int | None, weights: int, activations: int | None) -> float | None:
    """FLOPs per byte moved; None where either is unknown or nothing is computed."""
    if not flops or activations is None or not weights + activations:
        return None
    return flops / (weights + activations)


def bound_by(ratio: float | None, weights: int, activations: int | None) -> str | None:
    """What takes the time at this intensity: `arithmetic`, or the larger part of the traffic,
    `weights` or `activations`; None where the intensity is unknown."""
    if ratio is None or activations is None:
        return None
    if ratio >= MACHINE_BALANCE:
        return "arithmetic"
    return "weights" if weights > activations else "activations"
