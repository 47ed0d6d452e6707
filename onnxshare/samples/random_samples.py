"""Seeded random inputs, of several kinds, so that whatever scale a model expects is among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxshare.errors import SamplesError
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.tensors import Array, element_count, read
from onnxshare.samples.input_specs import Batching, InputSpec, batching, input_specs
from onnxshare.samples.input_uses import InputUses, input_uses, stored_tensors
from onnxshare.samples.tree_rows import tree_rows
from onnxshare.support.option_text import option

#: Above this many bytes random inputs are refused.
MAX_BYTES = 2 * 2**30

_COLOURS = 3

#: Longer sequences are not generated.
_LONGEST = 1024

#: The types of sizes, and how many there are of one tensor, at most.
_SIZES, _AXES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32), 8

#: How far from the thresholds of trees numbers are, as a share of the largest.
_APART = 1e-3

#: Of so many integers one is 0, the last one, or a number that the model compares with.
_SPECIAL = 4

#: The largest of random unsigned integers.
_LARGEST_UNSIGNED = 2**32 - 1

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
INTEGERS = tuple(
    Guess(integers=pair)
    for pair in ((-9, 30), (0, 30), (0, 19), (0, 9), (5, 5), (3, 3), (1, 1), (0, 0))
)

#: Integers as large as most that are counted, where they decide no size.
WIDE = Guess(integers=(-100_000, 100_000))

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


def open_integers(proto: onnx.ModelProto, *, free: bool = False) -> bool:
    """Whether a model takes integers of which nothing says what they index; or which may even be
    any."""
    uses = [
        input_uses(proto, spec.name)
        for spec in input_specs(proto)
        if spec.dtype.kind in "iu" and spec.dtype.itemsize > 1 and not _is_mask(spec)
    ]
    return any(use.free if free else use.rows is None for use in uses)


def _is_mask(spec: InputSpec) -> bool:
    return "mask" in spec.name.lower()


def long_sequences(*protos: onnx.ModelProto) -> tuple[Guess, ...]:
    """Sequences as long as the tables that models slice or gather, or longer than what they cut off
    at or compare with, the longest first; without either, a long one."""
    rows: set[int] = set()
    for proto in protos:
        tables = dict(stored_tensors(proto))
        for node in proto.graph.node:
            traits = traits_of(node)
            dims = tables[node.input[0]].dims if node.input and node.input[0] in tables else ()
            if node.op_type in ("Slice", "Gather"):
                rows.update(dims[:-1])
            limits = node.input[1:3] if node.op_type == "Slice" else node.input
            if node.op_type == "Slice" or (traits.selects and traits.elementwise):
                ends = [tables[name] for name in limits if name in tables]
                rows.update(int(end) + 1 for tensor in ends for end in _sizes(tensor))
    known = sorted((size for size in rows if OTHER.length < size <= _LONGEST), reverse=True)
    return tuple(replace(OTHER, length=size) for size in (*known[:3], _LONG))


def _sizes(tensor: onnx.TensorProto) -> list[int]:
    """The values of a small tensor of integers."""
    if tensor.data_type not in _SIZES or element_count(tensor) > _AXES:
        return []
    return [int(value) for value in read(tensor).ravel()]


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
    is 64 times as large; every other row that trees read is next to their thresholds. Integers that
    a Gather or OneHot reads stay within its table, 0 and the last row among them; int8 and uint8
    take their whole range; inputs that are called masks are 1 and from some place on 0, as padding
    is marked; other integers are 0 or 1, or as guessed. Dynamic sizes are those of `sizes`, by
    symbol; else the batch is 1 (samples are the batch), channels what the first convolution takes
    (else 3), the others as guessed.

    Raises: SamplesError: more than 2 GiB would be needed, or an input holds strings.
    """
    if count < 1:
        raise SamplesError(f"{option(f'--count {count}')}: at least one sample is needed")
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
        shape, uses = (count, *shapes[spec.name]), input_uses(proto, spec.name)
        made[spec.name] = _values(generator, spec, shape, uses, guess)
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
            f"lower {option('--count')}"
            if needed <= MAX_BYTES * count
            else f"pass {option('--samples')}",
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
            f"input '{spec.name}' has no shape, so no random inputs can be made",
            f"pass {option('--samples')}",
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


def _values(
    generator: np.random.Generator,
    spec: InputSpec,
    shape: tuple[int, ...],
    uses: InputUses,
    guess: Guess,
) -> Array:
    kind = spec.dtype.kind
    if _is_mask(spec) and uses.rows is None and len(shape) > 1 and kind in "biu":
        ends = generator.integers(1, shape[-1] + 1, (*shape[:-1], 1))
        return (np.arange(shape[-1]) < ends).astype(spec.dtype)
    if kind == "b":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    if kind in "iu":
        return _integers(generator, spec, shape, uses, guess)
    if kind not in "fV":  # "V": bfloat16 and its kin
        what = "strings" if kind == "O" else f"{spec.dtype} values"
        raise SamplesError(
            f"input '{spec.name}' holds {what}: not generated", f"pass {option('--samples')}"
        )
    samples = np.stack([_floats(generator, index, shape[1:]) for index in range(shape[0])])
    for tree in uses.trees if len(shape) > 1 else ():
        rows = samples[1::2].reshape(-1, shape[-1])
        found = tree_rows(tree, shape[-1], generator, _APART)[: len(rows)]
        rows[: len(found)] = found
        samples[1::2] = rows.reshape(samples[1::2].shape)
    return samples.astype(spec.dtype)


def _integers(
    generator: np.random.Generator,
    spec: InputSpec,
    shape: tuple[int, ...],
    uses: InputUses,
    guess: Guess,
) -> Array:
    known = np.iinfo(spec.dtype)
    low, high = (known.min, known.max) if known.bits == 8 else guess.integers
    if guess == WIDE and not uses.free:
        low, high = Guess().integers
    elif guess == WIDE and (known.bits == 16 or known.min == 0):
        low, high = known.min, _LARGEST_UNSIGNED
    if uses.rows is not None:
        low, high = 0, uses.rows - 1
    low, high = max(low, known.min), min(high, known.max)
    values = generator.integers(low, high + 1, shape)
    if (low, high) == Guess().integers:
        return values.astype(spec.dtype)
    (others,) = generator.spawn(1)
    numbers = [n for number in uses.numbers for n in (number - 1, number, number + 1)]
    special = [value for value in sorted({0, 1, high, *numbers}) if low <= value <= high]
    chosen = others.integers(0, _SPECIAL, shape) == 0
    values[chosen] = others.choice(special, shape)[chosen]
    return values.astype(spec.dtype)


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
