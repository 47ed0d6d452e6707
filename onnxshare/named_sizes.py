"""Sizes by the names that a model gives them: `{"batch": 1}`, `--dim batch=1`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import onnx

from onnxshare.errors import UsageError, hint
from onnxshare.input_shapes import InputShapes
from onnxshare.io.load import Model
from onnxshare.io.node_reader import model_inputs

#: Sizes given by the user: symbolic size → size.
Dims = Mapping[str, int]


def with_dims(
    model: Model, input_shapes: InputShapes | None, dims: Dims | None
) -> InputShapes | None:
    """The sizes of inputs that sizes by name amount to.

    Args:
        model: the model, whose inputs have symbolic sizes.
        input_shapes: sizes by input, which stay as they are.
        dims: sizes by symbol.

    Raises:
        UsageError: no input has such a symbolic size, a size is not positive, or it contradicts
            `input_shapes`.
    """
    if not dims:
        return input_shapes
    inputs = model_inputs(model.skeleton.graph)
    _check(model.name, _symbols(inputs), dims)
    shapes = {name: list(sizes) for name, sizes in (input_shapes or {}).items()}
    for value in inputs:
        symbols = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        if not any(symbol in dims for symbol in symbols):
            continue
        sizes = shapes.setdefault(value.name, [None] * len(symbols))
        if len(sizes) != len(symbols):
            continue  # whoever uses the sizes says that they do not fit
        for axis, symbol in enumerate(symbols):
            if symbol not in dims:
                continue
            if sizes[axis] not in (None, dims[symbol]):
                raise UsageError(
                    f"--input-shape makes '{symbol}' of input '{value.name}' {sizes[axis]}, and "
                    f"--dim makes it {dims[symbol]}",
                    "give one of them",
                )
            sizes[axis] = dims[symbol]
    return shapes


def for_each(
    models: Sequence[Model], input_shapes: InputShapes | None, dims: Dims | None
) -> list[InputShapes | None]:
    """The sizes of inputs of several models, each given what it has an input or a symbol for.

    Args:
        models: the models.
        input_shapes: sizes by input.
        dims: sizes by symbol.

    Raises:
        UsageError: none of them has such an input or symbol, or one contradicts its sizes.
    """
    shapes, sizes = dict(input_shapes or {}), dict(dims or {})
    inputs = [model_inputs(model.skeleton.graph) for model in models]
    names = [{value.name for value in values} for values in inputs]
    symbols = [_symbols(values) for values in inputs]
    for name in shapes:
        if not any(name in inputs_of for inputs_of in names):
            among = sorted(set().union(*names))
            raise UsageError(
                f"--input-shape names '{name}', which is no input of any of the models",
                hint(name, among, "inputs"),
            )
    known = {symbol: None for found in symbols for symbol in found}
    _check(" or ".join(model.name for model in models), known, sizes)
    return [
        with_dims(
            model,
            {name: shapes[name] for name in shapes if name in inputs_of} or None,
            {symbol: sizes[symbol] for symbol in sizes if symbol in symbols_of},
        )
        for model, inputs_of, symbols_of in zip(models, names, symbols, strict=True)
    ]


def _symbols(inputs: list[onnx.ValueInfoProto]) -> dict[str, None]:
    """The symbolic sizes of inputs, each once, in order."""
    return {
        dim.dim_param: None
        for value in inputs
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }


def _check(models: str, known: Mapping[str, None], dims: Dims) -> None:
    for symbol, size in dims.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise UsageError(f"--dim {symbol}={size}: a size is a whole number above 0")
        if symbol not in known:
            raise UsageError(
                f"--dim names '{symbol}', which is no symbolic size of an input of {models}",
                hint(symbol, list(known), "symbolic sizes")
                if known
                else "its inputs have no symbolic sizes",
            )
