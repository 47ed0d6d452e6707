"""Gives a model's inputs sizes for one run: what the user says, and one sample for the batch.

Sizes are given by input, or by the names that the model has for them: `{"batch": 1}`,
`--dim batch=1`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import cast

import onnx

from onnxshare.errors import UsageError, hint
from onnxshare.graph.index import Graph
from onnxshare.io.load import Model
from onnxshare.io.node_reader import model_inputs, symbol
from onnxshare.shapes.batch_axis import frames, regions, sequences
from onnxshare.support.option_text import option

#: Sizes given by the user: input name → sizes, None for "leave as it is".
InputShapes = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class Binding:
    """What symbols have become.

    Attributes:
        sizes: symbol → size, whether from the user or as batch.
        batch_symbols: those that were bound as batch.
        dims: what symbols have become, and axes without one, as `input[axis]`, that the user set.
        open: the symbols, axes and inputs that have no size, and the option that sets each.
        images: where sizes of images come from that nobody gave; "" where there are none.
    """

    sizes: dict[str, int]
    batch_symbols: tuple[str, ...]
    dims: dict[str, int]
    open: dict[str, str]
    images: str = ""


def bind(
    graph: Graph,
    weightless: onnx.ModelProto,
    given: dict[str, Sequence[int | None]],
    batch: int | None,
) -> Binding:
    """Set the sizes of the inputs of the copy that inference reads; a symbolic batch axis gets
    `batch`, and None leaves it open.

    Raises:
        UsageError: `given` names no input, or contradicts the model.
    """
    names = {value.name for value in graph.inputs}
    unknown = sorted(set(given) - names)
    if unknown:
        raise UsageError(
            f"{option('--input-shape')} names '{unknown[0]}', which is not an input of "
            f"{graph.model.name}",
            f"its inputs are: {', '.join(sorted(names))}",
        )
    inputs = [value for value in weightless.graph.input if value.name in names]
    sizes: dict[str, int] = {}
    unnamed: dict[str, int] = {}
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")  # some exporters write -1 for "any", as runtimes know
            if dim.dim_param and not symbol(dim):
                dim.ClearField("dim_param")
        if value.name in given:
            unnamed.update(_unnamed(value, given[value.name]))
            for known, size in set_shape(value, given[value.name], graph.model.name).items():
                if sizes.setdefault(known, size) != size:
                    raise UsageError(
                        f"'{known}' of {graph.model.name} cannot be both {sizes[known]} and "
                        f"{size}, which it would be in input '{value.name}'"
                    )
    taken = None if batch is None else _image_sizes(graph.proto.metadata_props)
    images = [] if taken is None else [x for x in inputs if _take(x, taken[1], sizes, unnamed)]
    timed, of_maps = sequences(graph), regions(graph)
    timed |= {value.name for value in inputs if frames(value)}  # by what the user says, too
    symbols: list[str] = []
    for value in sorted(inputs, key=lambda value: value.name in of_maps):
        if batch is None:
            break
        if value.name in of_maps and value.type.tensor_type.shape.dim:
            dim = value.type.tensor_type.shape.dim[0]
            if dim.dim_param not in sizes:
                continue  # how many regions a sample has is not a batch
        symbols += _bind_batch(value, 1 if value.name in timed else 0, sizes, batch or 1)
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    open_sizes = {name: option for value in inputs for name, option in _open(value).items()}
    said = f"{taken[0]} in the metadata of the model" if taken is not None and images else ""
    return Binding(sizes, tuple(symbols), {**sizes, **unnamed}, open_sizes, said)


#: Under which names exporters note the sizes of images: Ultralytics, timm and others.
_NOTED = ("imgsz", "input_size", "img_size", "image_size")
_NUMBERS = re.compile(
    r"""\s*[\[(]?\s*([0-9]+(?:\s*[,x×]\s*[0-9]+){0,3})\s*,?\s*[\])]?\s*(?:$|[,}])"""
)

#: Channels of images.
_CHANNELS = (1, 3, 4)


def _image_sizes(
    props: Iterable[onnx.StringStringEntryProto],
) -> tuple[str, tuple[int, int]] | None:
    """The height and width of images that a model's metadata says, and where: `imgsz = [640, 640]`,
    or within a description in JSON."""
    noted = {entry.key: entry.value for entry in props}
    for key in _NOTED:
        within = re.compile(rf"""["']{key}["']\s*:""")
        starts = [(text, place.end()) for text in noted.values() for place in within.finditer(text)]
        for text, start in [(noted.get(key, ""), 0), *starts]:
            found = _NUMBERS.match(text, start)
            if found is None:
                continue
            numbers = [int(word) for word in re.split("[,x×]", found[1])][-3:]
            if len(numbers) == 3:  # channels come first or last
                numbers = numbers[1:] if numbers[0] in _CHANNELS else numbers[:2]
            height, width = numbers[0], numbers[-1]
            if min(height, width) > 0 and max(height, width) < _LARGEST_SIDE:
                return f"{key} = {height}×{width}", (height, width)
    return None


#: No image is larger.
_LARGEST_SIDE = 2**16


def _take(
    value: onnx.ValueInfoProto,
    found: tuple[int, int],
    sizes: dict[str, int],
    unnamed: dict[str, int],
) -> bool:
    """Set the height and the width of an image where they are open; whether one was."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4:
        return False
    first = 2 if dims[1].dim_value in _CHANNELS else 1
    if dims[1 if first == 2 else 3].dim_value not in _CHANNELS:
        return False
    taken = False
    for axis, size in enumerate(found, first):
        dim = dims[axis]
        if dim.HasField("dim_value") or dim.dim_param in sizes:
            continue
        if dim.dim_param:
            sizes[dim.dim_param] = size
        else:
            unnamed[f"{value.name}[{axis}]"] = size
        dim.dim_value = size
        taken = True
    return taken


def _unnamed(value: onnx.ValueInfoProto, given: Sequence[int | None]) -> dict[str, int]:
    """The sizes that the user gives to axes which the model neither fixes nor names."""
    dims = value.type.tensor_type.shape.dim
    return {
        f"{value.name}[{axis}]": size
        for axis, size in enumerate(given)
        if size is not None
        and (axis >= len(dims) or not (dims[axis].dim_param or dims[axis].dim_value))
    }


#: Sizes that the hint gives as examples: of images, and of others but the past, which is empty.
_SIDE, _LENGTH = 224, 128


def _open(value: onnx.ValueInfoProto) -> dict[str, str]:
    """What an input leaves open, symbols, axes without one, or all there is to know, and the option
    that sets it."""
    tensor_type = value.type.tensor_type
    if value.type.HasField("tensor_type") and not tensor_type.HasField("shape"):
        return {value.name: f"--input-shape {shlex.quote(value.name)}:SIZES"}
    dims = tensor_type.shape.dim
    image = len(dims) == 4 and any(dims[axis].dim_value in _CHANNELS for axis in (1, 3))
    example = _SIDE if image else _LENGTH
    sizes = [
        str(d.dim_value) if d.HasField("dim_value") else "" if d.dim_param else str(example)
        for d in dims
    ]
    whole = f"--input-shape {shlex.quote(value.name)}:{','.join(sizes)}"
    found = {}
    for axis, dim in enumerate(dims):
        if dim.dim_param:
            size = 0 if "past" in dim.dim_param.casefold() else example
            found[dim.dim_param] = f"--dim {shlex.quote(dim.dim_param)}={size}"
        elif not dim.HasField("dim_value"):
            found[f"{value.name}[{axis}]"] = whole
    return found


def _bind_batch(
    value: onnx.ValueInfoProto, axis: int, sizes: dict[str, int], batch: int
) -> list[str]:
    """Set the batch axis where it is open; returns its symbol, if it has a new one."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) <= axis or dims[axis].HasField("dim_value") or dims[axis].dim_param in sizes:
        return []
    name: str = dims[axis].dim_param
    dims[axis].dim_value = batch
    if not name:
        return []
    sizes[name] = batch
    return [name]


#: What no axis has: sizes are stored in 64 bits.
_TOO_LARGE = 2**63


def set_shape(value: onnx.ValueInfoProto, sizes: Sequence[int | None], name: str) -> dict[str, int]:
    """Set the sizes of an input; returns what its symbols have become, for the other inputs.

    Raises:
        UsageError: these are not as many sizes as it has axes, or contradict those that it fixes.
    """
    tensor_type = value.type.tensor_type
    dims = tensor_type.shape.dim
    if not tensor_type.HasField("shape"):
        for _ in sizes:
            dims.add()
    if len(dims) != len(sizes):
        raise UsageError(
            f"{option('--input-shape')} gives '{value.name}' {len(sizes)} sizes, and {name} has "
            f"{len(dims)}"
        )
    symbols: dict[str, int] = {}
    for dim, size in zip(dims, sizes, strict=True):
        if size is None:
            continue
        if size >= _TOO_LARGE:
            raise UsageError(f"an axis of '{value.name}' cannot have {size} positions")
        if dim.HasField("dim_value") and dim.dim_value not in (0, size):
            raise UsageError(
                f"{option('--input-shape')} sets an axis of '{value.name}' to {size}, "
                f"but {name} fixes it at {dim.dim_value}"
            )
        if dim.dim_param:
            symbols[dim.dim_param] = size
        dim.dim_value = size
    return symbols


#: Sizes given by the user: symbolic size → size.
Dims = Mapping[str, int]


#: The same, where each may have several sizes.
ManyDims = Mapping[str, int | Sequence[int]]


def each_dims(dims: ManyDims | None) -> list[Dims | None]:
    """The sizes by symbol, one after the other where some have several; one size is for all.

    Raises:
        UsageError: two have different numbers of sizes.
    """
    given = dims or {}
    several = {name: sizes for name, sizes in given.items() if isinstance(sizes, (tuple, list))}
    if not several:
        return [cast("Dims | None", dims)]
    name, first = next(iter(several.items()))
    for other, sizes in several.items():
        if len(sizes) != len(first) or not sizes:
            raise UsageError(
                f"{option('--dim')} gives '{other}' {len(sizes)} sizes, and '{name}' {len(first)}",
                "give as many of each, or one for all",
            )
    return [
        {
            symbol: several[symbol][at] if symbol in several else cast("int", size)
            for symbol, size in given.items()
        }
        for at in range(len(first))
    ]


def with_dims(
    model: Model, input_shapes: InputShapes | None, dims: Dims | None
) -> InputShapes | None:
    """The sizes of inputs that sizes by symbol, together with those by input, amount to.

    Raises:
        UsageError: no input has such a symbolic size, a size is negative, or it contradicts
            `input_shapes`.
    """
    inputs = model_inputs(model.skeleton.graph)
    input_shapes = _of_the_only_input(input_shapes, inputs, model.name)
    if not dims:
        return input_shapes
    _check(model.name, _symbols(inputs), dims)
    shapes = {name: list(sizes) for name, sizes in (input_shapes or {}).items()}
    for value in inputs:
        symbols = [symbol(dim) for dim in value.type.tensor_type.shape.dim]
        if dims.keys().isdisjoint(symbols):
            continue
        sizes = shapes.setdefault(value.name, [None] * len(symbols))
        if len(sizes) != len(symbols):
            continue  # what uses the sizes says that they do not fit
        for axis, name in enumerate(symbols):
            if name not in dims:
                continue
            if sizes[axis] not in (None, dims[name]):
                raise UsageError(
                    f"{option('--input-shape')} makes '{name}' of input '{value.name}' "
                    f"{sizes[axis]}, and {option('--dim')} makes it {dims[name]}",
                    "give one of them",
                )
            sizes[axis] = dims[name]
    return shapes


def _of_the_only_input(
    input_shapes: InputShapes | None, inputs: list[onnx.ValueInfoProto], model: str
) -> InputShapes | None:
    """Sizes by input, where those of the only input may be given without a name, as ""."""
    if not input_shapes or "" not in input_shapes:
        return input_shapes
    if len(inputs) != 1:
        names = ", ".join(f"'{value.name}'" for value in inputs)
        raise UsageError(
            f"{option('--input-shape')} names no input, and {model} has {len(inputs)}",
            f"write it like NAME:1,3,224,224; its inputs are: {names}",
        )
    return {name or inputs[0].name: sizes for name, sizes in input_shapes.items()}


def for_each(
    models: Sequence[Model], input_shapes: InputShapes | None, dims: Dims | None
) -> list[InputShapes | None]:
    """The sizes of inputs of several models, each given what it has an input or a symbol for.

    Raises:
        UsageError: none of them has such an input or symbol, or one contradicts its sizes.
    """
    shapes, sizes = dict(input_shapes or {}), dict(dims or {})
    inputs = [model_inputs(model.skeleton.graph) for model in models]
    names = [{value.name for value in values} for values in inputs]
    symbols = [_symbols(values) for values in inputs]
    for name in filter(None, shapes):
        if not any(name in inputs_of for inputs_of in names):
            among = sorted(set().union(*names))
            raise UsageError(
                f"{option('--input-shape')} names '{name}', which is not an input of any of the "
                "models",
                hint(name, among, "inputs"),
            )
    known = {symbol: None for found in symbols for symbol in found}
    _check(" or ".join(model.name for model in models), known, sizes)
    return [
        with_dims(
            model,
            {name: shapes[name] for name in shapes if not name or name in inputs_of} or None,
            {known: sizes[known] for known in sizes if known in symbols_of},
        )
        for model, inputs_of, symbols_of in zip(models, names, symbols, strict=True)
    ]


def _symbols(inputs: list[onnx.ValueInfoProto]) -> dict[str, None]:
    """The symbolic sizes of inputs, each once, in order."""
    return {
        symbol(dim): None
        for value in inputs
        for dim in value.type.tensor_type.shape.dim
        if symbol(dim)
    }


def _check(models: str, known: Mapping[str, None], dims: Dims) -> None:
    for name, size in dims.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 0:
            raise UsageError(f"{option('--dim')} {name}={size}: a size is a whole number")
        if name not in known:
            raise UsageError(
                f"{option('--dim')} names '{name}', which is not a symbolic size of an input of "
                f"{models}",
                hint(name, list(known), "symbolic sizes")
                if known
                else "its inputs have no symbolic sizes",
            )
