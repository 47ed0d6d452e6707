"""An operator or attribute that differs alone: parts of two graphs, run on random values.

Outputs may hide that an operator, an attribute or a node differs: a clip that no sample reaches, a
comparison with a number that none hits. So what differs between tensors that stand for each other
(`graph_parts.py`) runs alone: on values of both signs and all sizes, on the constants that it
compares with, on whole numbers, where values tie. Where that shows nothing, the parts do the same.
Where it does, they run once more with all before them, back to layers that may give any numbers: a
ReLU behind a sigmoid may go. What differs still is named, and is not a pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxshare.comparison.graph_parts import Part, Parts, sides
from onnxshare.comparison.rounding_noise import DRAWS, move, working_epsilon
from onnxshare.comparison.tensor_statistics import is_float
from onnxshare.comparison.verdict import FACTOR
from onnxshare.errors import OutOfMemory, RuntimeFailure
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.samples import Samples

#: Samples on which tensors are checked against each other, and which say what shapes they have.
_SEEN = 2

#: Parts of one kind that are run: a fusion may be in every layer of many.
_OF_A_KIND = 2

#: Values from this size on may leave the range of a type for no fault of a model.
_LARGE = 64.0

#: Constants of this size are not thresholds.
_LARGEST = 1e9

#: Constants that fill all values in turn.
_SIZES = 12


@dataclass(frozen=True)
class PartDifference:
    """A part that differs, and that outputs did not show.

    Attributes:
        words: how.
        inputs: where the part starts from the models' inputs alone, some that show it.
    """

    words: str
    inputs: Mapping[str, Array] | None = None


def part_difference(
    a: Model, b: Model, sessions: Sessions, samples: Samples, seconds: float
) -> PartDifference | None:
    """Find an operator, attribute or node that makes a difference of its own.

    Args:
        a, b: the models.
        sessions: where they run, as "A" and "B".
        samples: on which their outputs agree.
        seconds: after which no more parts are looked at.

    Returns:
        The first that is found; None if the graphs are equal, or differ in no way that shows.

    Raises:
        OnnxShareError: the models cannot be read, or not be run.
    """
    return _Search(a, b, sessions, samples).run(time.monotonic() + seconds)


class _Search:
    def __init__(self, a: Model, b: Model, sessions: Sessions, samples: Samples) -> None:
        self._sessions, self._samples = sessions, samples
        self._parts = Parts(*sides(a, b), self._tensors)
        self._a = a
        self._kinds: Counter[tuple[str, ...]] = Counter()

    def run(self, end: float) -> PartDifference | None:
        if self._parts.alike:
            return None
        for part in self._parts.differing():
            self._kinds[part.key] += 1
            if self._kinds[part.key] > _OF_A_KIND:
                continue
            if time.monotonic() > end:
                return None
            found = self._differs(part)
            if found is None:
                continue
            wider = self._parts.from_products(part)
            if wider is not None and wider.cuts.keys() != part.cuts.keys():
                found = self._differs(wider)
                if found is None:
                    continue
            inputs = found if found.keys() == self._samples.arrays.keys() else None
            return PartDifference(f"{part.words}, in what makes '{part.name}'", inputs)
        return None

    def _tensors(self, letter: str, names: Sequence[str]) -> Mapping[str, Array]:
        """Tensors of a model on some samples."""
        size = min(_SEEN, self._samples.count)
        session = self._sessions.open(letter, names)
        part = self._samples.take(range(size))
        return session.run_once(part.arrays, session.fixed_batch or size)

    def _differs(self, part: Part) -> dict[str, Array] | None:
        """The values of its cuts that show a difference; None if none do."""
        seen = self._values(part)
        if seen is None:
            return None
        try:
            models = self._parts.models(part, seen)
            a, b = (
                _Alone(self._sessions.open(letter, model=model), model)
                for letter, model in zip("AB", models, strict=True)
            )
        except RuntimeFailure:  # a part that cannot be run alone
            return None
        rounding = [n for nodes in part.nodes for n in nodes if not traits_of(n).exact]
        # Sums of whole numbers and halves are exact.
        sums = all(traits_of(n).linear and n.op_type != "Div" for n in rounding)
        whole = sums and not np.any(_numbers(part) * 2 % 1)
        for kind, made in _made_up(seen, part, self._table(part)):
            exact = not rounding or (whole and kind.make in ("steps", "integers"))
            if _unlike(a, b, made, kind.least < _LARGE, exact):
                return made
        return None

    def _values(self, part: Part) -> dict[str, Array] | None:
        """The values of the cuts on some samples; None where they cannot be random."""
        given = self._samples.arrays.keys()
        inner = [name for name in part.cuts if name not in given]
        found = dict(self._tensors("A", inner)) if inner else {}
        size = min(_SEEN, self._samples.count)
        for name in part.cuts.keys() & given:
            session = self._sessions.open("A", [self._parts.a.outputs[0]])
            found[name] = session.feed(
                {n: array[:size] for n, array in self._samples.arrays.items()},
                session.fixed_batch or size,
            )[name]
        usable = all(array.dtype.kind in "fiub" and array.size for array in found.values())
        return found if found and usable else None

    def _table(self, part: Part) -> dict[str, int]:
        """Per index among the cuts the rows of the smallest table that is looked up by it."""
        rows: dict[str, int] = {}
        for node in part.nodes[0]:
            table = self._parts.a.constants.get(node.input[0]) if node.input else None
            if node.op_type == "Gather" and table is not None and table.dims:
                name = node.input[1]
                rows[name] = min(rows.get(name, table.dims[0]), table.dims[0])
        return rows


class _Alone:
    """A part as a model, and what runs it."""

    def __init__(self, session: Session, model: Model) -> None:
        self._session = session
        layout = batching(input_specs(model.skeleton))
        self._whole, self._size = layout.whole, layout.size or 1
        self.unit = working_epsilon(model.skeleton)

    def run(self, values: Mapping[str, Array]) -> Array:
        given = {name: array[None] if self._whole else array for name, array in values.items()}
        return next(iter(self._session.run_once(given, self._size).values()))


@dataclass(frozen=True)
class _Kind:
    """How values are random.

    Attributes:
        make: normal, uniform, steps (whole numbers), constants (those of the part) or filled.
        size: the factor, or the number that fills all.
        least: how large they are.
    """

    make: str
    size: float
    least: float

    def values(self, shape: tuple[int, ...], numbers: Array, random: np.random.Generator) -> Array:
        """Values of a shape; `numbers` are the constants."""
        if self.make == "normal":
            return random.standard_normal(shape) * self.size
        if self.make == "uniform":
            return random.uniform(0, self.size, shape)
        if self.make == "steps":
            return random.integers(-9, 10, shape) * self.size
        if self.make == "constants":
            return random.choice(numbers, shape)
        return np.full(shape, self.size)


def _numbers(part: Part) -> Array:
    """The constants of a part, of both signs."""
    floats = [array.ravel() for array in part.constants if array.dtype.kind == "f"]
    numbers = np.concatenate([[0.0], *floats]).astype(np.float64)
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) < _LARGEST)]
    return np.unique(np.concatenate([numbers, -numbers]))


def _kinds(numbers: Array) -> Iterator[_Kind]:
    largest = float(np.abs(numbers).max())
    for size in (1.0, 2.0**-6, 64.0, 1e-6, 1e4, 2 * largest):
        yield _Kind("normal", size, size)
    yield _Kind("uniform", 1.0, 1.0)
    yield from (_Kind("steps", size, 9.0) for size in (1.0, 0.5))
    yield _Kind("constants", 1.0, largest)
    few = numbers[np.linspace(0, len(numbers) - 1, _SIZES).astype(int)] if largest else numbers
    for size in dict.fromkeys((*map(float, few), 1.0, -1.0, 1e4, -1e4, 2 * largest, -2 * largest)):
        yield _Kind("filled", size, abs(size))


def _made_up(
    seen: Mapping[str, Array], part: Part, tables: Mapping[str, int]
) -> Iterator[tuple[_Kind, dict[str, Array]]]:
    """Values to run a part on, and of which kind they are."""
    random, numbers = np.random.default_rng(0), _numbers(part)
    kinds = list(_kinds(numbers))
    if part.affine:
        kinds = kinds[:1]  # sums with weights agree everywhere if they do in one place
    driven = {name for name, array in seen.items() if is_float(array)}
    for kind in kinds if driven else ():
        made = dict(seen)
        for name in driven:
            values = kind.values(seen[name].shape, numbers, random)
            made[name] = values.astype(seen[name].dtype)
        yield kind, made
    integers = [array.ravel() for array in part.constants if array.dtype.kind in "iu"]
    whole = {
        name: array
        for name, array in seen.items()
        if array.dtype.kind in "iub" and (array.ndim != 1 or array.size > 8 or name in tables)
    }
    for draw in range(4) if whole else []:
        made = dict(seen)
        for name, array in whole.items():
            pool = np.unique(np.concatenate([array.ravel(), *integers]).astype(np.int64))
            if array.dtype.kind == "b":
                pool = np.array([draw % 2]) if array.ndim == 0 or draw < 2 else np.arange(2)
            elif name in tables:
                first = -tables[name] if draw == 3 and array.dtype.kind == "i" else 0
                pool = np.arange(first, tables[name] or 1)
            known = np.iinfo(array.dtype) if array.dtype.kind != "b" else None
            if known is not None:
                pool = pool[(pool >= known.min) & (pool <= known.max)]
            made[name] = random.choice(pool, array.shape).astype(array.dtype)
        yield _Kind("integers", 1.0, _LARGE if draw == 3 else 1.0), made


def _unlike(a: _Alone, b: _Alone, values: dict[str, Array], moderate: bool, exact: bool) -> bool:
    """Whether the two differ by more than rounding explains."""
    try:
        one = a.run(values)
    except RuntimeFailure:
        return False
    try:
        other = b.run(values)
    except OutOfMemory:
        return False
    except RuntimeFailure:
        return moderate
    if one.shape != other.shape or one.dtype != other.dtype:
        return True
    if exact or not is_float(one):
        wrong = ~((one == other) | _both_nan(one, other))
        if not wrong.any() or exact:
            return bool(wrong.any())
        for moved in _moved(a, values):
            wrong &= moved == one
        return bool(wrong.any())
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    if moderate and (np.isfinite(left) & ~np.isfinite(right)).any():
        return True
    error = np.abs(left - right)[finite]
    unit = max(a.unit, float(np.finfo(one.dtype).eps))
    least = FACTOR * unit * np.abs(left[finite]).max(initial=0.0)
    if error.max(initial=0.0) <= least:
        return False
    noise = 0.0
    for moved in _moved(a, values):
        gap = np.abs(moved.astype(np.float64) - left)
        noise = max(noise, float(gap[np.isfinite(gap)].max(initial=0.0)))
    return bool(error.max() > max(least, FACTOR * noise))


def _both_nan(one: Array, other: Array) -> Array:
    if not is_float(one):
        return np.zeros(one.shape, np.bool_)
    return np.asarray(np.isnan(one) & np.isnan(other))


def _moved(a: _Alone, values: Mapping[str, Array]) -> Iterator[Array]:
    """What the first gives when floats move by one rounding error."""
    random = np.random.default_rng(1)
    for _ in range(DRAWS):
        moved = {n: move(v, a.unit, random) if is_float(v) else v for n, v in values.items()}
        yield a.run(moved)
