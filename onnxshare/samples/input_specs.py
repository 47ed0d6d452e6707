"""What a model takes: its inputs, and how samples are laid out along their first axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxshare.errors import ModelError
from onnxshare.io.node_reader import symbol


@dataclass(frozen=True)
class InputSpec:
    """One input that a caller must feed.

    Attributes:
        name: the input's name.
        dtype: its NumPy type; strings are `object`.
        shape: its sizes, None for dynamic ones; None as a whole where not even the rank is known.
        symbols: per axis the name of a dynamic size, or None.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    symbols: tuple[str | None, ...] = ()

    @property
    def words(self) -> str:
        """The shape as people write it, such as `[batch, 3, 32, 32]`."""
        if self.shape is None:
            return "[any rank]"
        sizes = zip(self.shape, self.symbols, strict=True)
        return f"[{', '.join(symbol or '?' if n is None else str(n) for n, symbol in sizes)}]"


@dataclass(frozen=True)
class Batching:
    """How samples are fed.

    Attributes:
        size: samples that each run must get, because the model fixes its batch; None for any.
        whole: the inputs share no batch axis, so every sample is a complete set of inputs and
            sample arrays have one axis more than the model's inputs.
    """

    size: int | None = None
    whole: bool = False


def input_specs(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """Return the inputs to feed, in the model's order; initializers among them are left out.

    Raises:
        ModelError: an input is not a tensor (a sequence, a map, an optional).
    """
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(tensor.values.name for tensor in graph.sparse_initializer)
    return tuple(_spec(value) for value in graph.input if value.name not in stored)


def batching(specs: Sequence[InputSpec]) -> Batching:
    """Find the batch: axis 0 of all inputs where they agree (DESIGN: Batch)."""
    if any(spec.shape == () for spec in specs) or not specs:
        return Batching(size=1, whole=True)
    firsts = {None if spec.shape is None else spec.shape[0] for spec in specs}
    fixed = firsts - {None}
    if not fixed:
        return Batching(size=1, whole=True) if _tied(specs) else Batching()
    # One input fixed at 1 next to a dynamic one: feeding one sample at a time suits both.
    if len(fixed) == 1 and (len(firsts) == 1 or fixed == {1}):
        return Batching(size=next(iter(fixed)))
    return Batching(size=1, whole=True)


def _tied(specs: Sequence[InputSpec]) -> bool:
    """Whether the first axis of some input is an inner one of another, as in x[n, k] · w[k, m]."""
    firsts = {spec.symbols[0] for spec in specs if spec.symbols} - {None}
    inner = {symbol for spec in specs for symbol in spec.symbols[1:]}
    return len(firsts) > 1 and not firsts.isdisjoint(inner)


def unmatched(a: onnx.ModelProto, b: onnx.ModelProto) -> str:
    """Return how the names of two models' inputs or outputs differ, as text, or an empty string;
    their order does not matter."""
    for kind, *both in (("input", _fed(a), _fed(b)), ("output", a.graph.output, b.graph.output)):
        ours, theirs = ([value.name for value in values] for values in both)
        if set(ours) != set(theirs):
            one, other = (
                ", ".join(map("'{}'".format, names)) or "none" for names in (ours, theirs)
            )
            return f"A's {kind}s are {one}, B's are {other}"
    return ""


def structural_difference(a: onnx.ModelProto, b: onnx.ModelProto) -> str:
    """Return how two models' inputs or outputs differ, as text, or an empty string.

    Names, types, ranks and known sizes must be equal; a size may differ where one model leaves it
    open, and the batch (axis 0) always may.
    """
    if words := unmatched(a, b):
        return words
    for kind, ours, theirs in (
        ("input", _fed(a), _fed(b)),
        ("output", a.graph.output, b.graph.output),
    ):
        others = {value.name: value.type.tensor_type for value in theirs}
        for value in ours:
            problem = _type_difference(value.type.tensor_type, others[value.name])
            if problem:
                return f"{kind} '{value.name}' is {problem}"
    return ""


def _type_difference(a: onnx.TypeProto.Tensor, b: onnx.TypeProto.Tensor) -> str:
    if a.elem_type and b.elem_type and a.elem_type != b.elem_type:
        kinds = [onnx.TensorProto.DataType.Name(t.elem_type).lower() for t in (a, b)]
        return f"{kinds[0]} in A and {kinds[1]} in B"
    if not (a.HasField("shape") and b.HasField("shape")):
        return ""
    ours, theirs = ([dim.dim_value for dim in t.shape.dim] for t in (a, b))
    clash = any(p != q and min(p, q) > 0 for p, q in zip(ours[1:], theirs[1:], strict=False))
    if len(ours) == len(theirs) and not clash:
        return ""
    return f"{_dims(a)} in A and {_dims(b)} in B"


def _dims(tensor: onnx.TypeProto.Tensor) -> str:
    sizes = (str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim)
    return f"[{', '.join(sizes)}]"


def _fed(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    names = {spec.name for spec in input_specs(proto)}
    return [value for value in proto.graph.input if value.name in names]


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    if not value.type.HasField("tensor_type"):
        raise ModelError(
            f"input '{value.name}' is a {value.type.WhichOneof('value') or 'value without a type'}",
            "only models whose inputs are tensors can be run",
        )
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        raise ModelError(f"input '{value.name}' has no known element type") from None
    if not tensor.HasField("shape"):
        return InputSpec(value.name, dtype, None)
    dims = tensor.shape.dim
    # Some exporters write 0 or -1 for "unknown".
    sizes = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    symbols = tuple(symbol(dim) or None for dim in dims)
    return InputSpec(value.name, dtype, sizes, symbols)
