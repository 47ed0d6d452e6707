"""Seeded random inputs, of several kinds, so that whatever scale a model expects is among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array, read
from onnxshare.samples.input_specs import Batching, InputSpec, batching, input_specs

#: Above this many bytes random inputs are refused.
MAX_BYTES = 2 * 2**30

_COLOURS = 3

#: Longer sequences are not generated.
_LONGEST = 1024

#: A long sequence, where nothing says how long one may be.
_LONG = 300


@dataclass(frozen=True)
class Guess:
    """What dynamic sizes are set to.

    Attributes:
        side: height and width of images.
        length: of sequences.
        waveform: of floats of rank 2, which may be sound.
        width: of images that are not square.
        integers: the least and the largest integer, where nothing says what they index.
    """

    side: int = 64
    length: int = 8
    waveform: int = 1024
    width: int | None = None
    integers: tuple[int, int] = (0, 1)

    @property
    def words(self) -> str:
        """The sizes as people read them."""
        side = f"{self.side}×{self.width}" if self.width else self.side
        return f"{side} for images, {self.length} for sequences, {self.waveform} for sound"


#: A second set of sizes: what two models share at one may be lost at the other.
OTHER = Guess(96, 12, 1536)

#: An odd size that is not square, and one for models that take even ones only.
ODD = (Guess(65, 13, 1537, width=97), Guess(96, 14, 1536, width=160))

#: Integers beyond 0 and 1, and single values where the size of an output follows them.
INTEGERS = tuple(Guess(integers=pair) for pair in ((-9, 30), (0, 9), (5, 5), (3, 3), (1, 1)))

#: More sets, for models whose open sizes are not as open as they say: usual sizes of images.
MORE = (Guess(224, 16, 16000), Guess(32, 32, 512), Guess(28, 128, 4096), Guess(299, 1, 784))


def open_sizes(proto: onnx.ModelProto) -> bool:
    """Whether a model leaves a size open other than the batch, which is guessed."""
    specs = input_specs(proto)
    batch = {spec.symbols[0] for spec in specs if spec.symbols}
    return any(
        size is None and (symbol is None or symbol not in batch)
        for spec in specs
        for size, symbol in list(zip(spec.shape or (), spec.symbols, strict=True))[1:]
    )


def open_integers(proto: onnx.ModelProto) -> bool:
    """Whether a model takes integers of which nothing says what they index."""
    return any(
        spec.dtype.kind in "iu"
        and spec.dtype.itemsize > 1
        and "mask" not in spec.name.lower()
        and _table(proto, spec.name) is None
        for spec in input_specs(proto)
    )


def long_sequences(*protos: onnx.ModelProto) -> tuple[Guess, ...]:
    """Sequences as long as the tables that models slice or gather, or longer than what they cut off
    at, the longest first; without either, a long one."""
    rows: set[int] = set()
    for proto in protos:
        tables = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            dims = tables[node.input[0]].dims if node.input and node.input[0] in tables else ()
            if node.op_type in ("Slice", "Gather"):
                rows.update(dims[:-1])
            if node.op_type == "Slice":
                ends = [tables[name] for name in node.input[1:3] if name in tables]
                rows.update(int(end) + 1 for tensor in ends for end in read(tensor).ravel())
    known = sorted((size for size in rows if OTHER.length < size <= _LONGEST), reverse=True)
    return tuple(replace(OTHER, length=size) for size in (*known[:3], _LONG))


def make(
    proto: onnx.ModelProto,
    count: int,
    seed: int,
    sizes: Mapping[str, int],
    *,
    guess: Guess = Guess(),
) -> dict[str, Array]:
    """Make `count` samples for each input of a model.

    Floats take turns, sample by sample: standard normal, uniform in [0, 1], uniform in [0, 255],
    and smooth (a few low-frequency cosines, in [0, 1] or [0, 255]); every other of the normal ones
    is 64 times as large. Integers that a Gather or OneHot reads stay within its table; int8 and
    uint8 take their whole range; inputs that are called masks are 1 and from some place on 0, as
    padding is marked; other integers are 0 or 1, or as guessed. Dynamic sizes are those of `sizes`,
    by symbol; else the batch is 1 (samples are the batch), channels what the first convolution
    takes (else 3), the others as guessed.

    Raises: SamplesError: more than 2 GiB would be needed, or an input holds strings.
    """
    if count < 1:
        raise SamplesError(f"--count {count}: at least one sample is needed")
    specs = input_specs(proto)
    layout = batching(specs)
    sizes = dict(sizes)
    if layout.whole:
        inner = {symbol for spec in specs for symbol in spec.symbols[1:]}
        firsts = {s.symbols[0] for s in specs if s.shape and s.shape[0] is None} - inner
        sizes = {**{name: 1 for name in firsts if name}, **sizes}
    shapes = {spec.name: _sample_shape(proto, spec, layout, sizes, guess) for spec in specs}
    _check_memory(specs, shapes, count)
    generator = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        shape, table = (count, *shapes[spec.name]), _table(proto, spec.name)
        made[spec.name] = _values(generator, spec, shape, table, guess)
    return made


def _check_memory(
    specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], count: int
) -> None:
    # Python integers: sizes from a file may overflow anything else. Made in double precision.
    needed = sum(8 * count * math.prod(shapes[spec.name]) for spec in specs)
    if needed > MAX_BYTES:
        plural = "" if count == 1 else "s"
        raise SamplesError(
            f"{count} random sample{plural} would take {needed / 2**30:.1f} GiB",
            "lower --count" if needed <= MAX_BYTES * count else "pass --samples",
        )


def _sample_shape(
    proto: onnx.ModelProto,
    spec: InputSpec,
    layout: Batching,
    sizes: dict[str, int],
    guess: Guess,
) -> tuple[int, ...]:
    """The sizes of one sample; what is guessed for a symbol holds for all inputs (`sizes`)."""
    if spec.shape is None:
        raise SamplesError(
            f"input '{spec.name}' has no shape, so no random inputs can be made", "pass --samples"
        )
    guesses = _guess(proto, spec, guess)
    shape = []
    for axis, (known, symbol) in enumerate(zip(spec.shape, spec.symbols, strict=True)):
        size = known or sizes.get(symbol or "", guesses[axis])
        if symbol and known is None and (axis or layout.whole):
            sizes.setdefault(symbol, size)
        shape.append(size)
    return tuple(shape if layout.whole else shape[1:])


def _guess(proto: onnx.ModelProto, spec: InputSpec, guess: Guess) -> list[int]:
    """What each size should be where it is dynamic."""
    shape = spec.shape or ()
    rank = len(shape)
    if rank < 4:
        length = guess.waveform if rank == 2 and spec.dtype.kind == "f" else guess.length
        return [1, *[length] * (rank - 1)] if rank else []
    # Channels last: the last size is known and small, and the second is not known or is larger.
    last, second = shape[-1], shape[1]
    if last is not None and last <= 4 and (second is None or second > 4):
        return [1, *[guess.side] * (rank - 3), guess.width or guess.side, guess.side]
    sides = [*[guess.side] * (rank - 3), guess.width or guess.side]
    return [1, _channels(proto, spec.name), *sides]


def _channels(proto: onnx.ModelProto, name: str) -> int:
    weights = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in weights:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(weights[node.input[1]][1] * group)
    return _COLOURS


def _table(proto: onnx.ModelProto, name: str) -> int | None:
    """The rows of the smallest stored table that input `name` indexes by Gather or OneHot."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    stored = {tensor_name: tensor.dims for tensor_name, tensor in tensors.items()}
    names, rows = {name}, []
    for node in proto.graph.node:
        if node.op_type == "Constant":
            values = [item.t for item in node.attribute if item.name == "value"]
            stored.update((node.output[0], value.dims) for value in values)
            tensors.update((node.output[0], value) for value in values)
        elif node.op_type in _CARRY and node.input[0] in names:
            names.update(node.output)
        elif node.op_type in _CARRY and node.input[0] in stored:
            if node.op_type in _SAME_SHAPE:
                stored[node.output[0]] = stored[node.input[0]]
        elif node.op_type == "OneHot" and node.input[0] in names and node.input[1] in tensors:
            rows.append(int(read(tensors[node.input[1]]).ravel()[0]))
        elif node.op_type == "Gather" and node.input[1] in names and node.input[0] in stored:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            dims = stored[node.input[0]]
            if -len(dims) <= axis < len(dims):
                rows.append(int(dims[axis]))
    return min(rows, default=None)


_SAME_SHAPE = frozenset("Cast Identity DequantizeLinear".split())
_CARRY = _SAME_SHAPE | frozenset("Reshape Squeeze Unsqueeze Flatten".split())


def _values(
    generator: np.random.Generator,
    spec: InputSpec,
    shape: tuple[int, ...],
    table: int | None,
    guess: Guess,
) -> Array:
    kind = spec.dtype.kind
    if "mask" in spec.name.lower() and table is None and len(shape) > 1 and kind in "biu":
        ends = generator.integers(1, shape[-1] + 1, (*shape[:-1], 1))
        return (np.arange(shape[-1]) < ends).astype(spec.dtype)
    if kind == "b":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    if kind in "iu":
        known = np.iinfo(spec.dtype)
        low, high = (known.min, known.max) if known.bits == 8 else guess.integers
        if table is not None:
            low, high = 0, table - 1
        span = max(low, known.min), min(high, known.max) + 1
        return generator.integers(*span, shape).astype(spec.dtype)
    if kind not in "fV":  # "V": bfloat16 and its kin
        what = "strings" if kind == "O" else f"{spec.dtype} values"
        raise SamplesError(f"input '{spec.name}' holds {what}: not generated", "pass --samples")
    samples = [_floats(generator, index, shape[1:]) for index in range(shape[0])]
    return np.stack(samples).astype(spec.dtype)


def _floats(generator: np.random.Generator, index: int, shape: tuple[int, ...]) -> Array:
    kind = index % 4
    if kind == 0:
        return generator.standard_normal(shape) * (64.0 if index % 8 == 4 else 1.0)
    if kind == 3:
        return _smooth(generator, shape) * (255.0 if index % 8 == 7 else 1.0)
    return generator.uniform(0.0, 255.0 if kind == 2 else 1.0, shape)


def _smooth(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A sum of four products of cosines, with at most three half-waves per axis, in [0, 1]."""
    total = np.zeros(shape)
    for _ in range(4):
        wave = np.full(shape, generator.standard_normal())
        for axis, size in enumerate(shape):
            waves, phase = generator.integers(0, 4), generator.uniform(0.0, 2.0 * np.pi)
            profile = np.cos(np.pi * waves * np.arange(size) / size + phase)
            wave = wave * profile.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        total += wave
    span = float(np.ptp(total)) if total.size else 0.0
    return (total - total.min()) / span if span else np.full(shape, generator.uniform())
