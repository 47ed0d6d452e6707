"""An operator or attribute that differs alone: parts of two graphs, run on random values.

Outputs may hide that an operator, an attribute or a node differs: a clip that no sample reaches, a
comparison with a number that none hits. So what differs between tensors that stand for each other
(`graph_parts.py`) runs alone: on values of both signs and all sizes, on the constants that it
compares with and next to them, on whole numbers, where values tie; on every row of a table that it
looks up, and at every threshold of trees. Where that shows nothing, the parts do the same.
Where it does, they run once more with all before them, back to layers that may give any numbers: a
ReLU behind a sigmoid may go. What differs still is named, and is not a pass.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx

from onnxshare.comparison.graph_parts import Part, Parts, sides
from onnxshare.comparison.rounding_noise import DRAWS, move, working_epsilon
from onnxshare.comparison.tensor_statistics import is_float
from onnxshare.comparison.verdict import FACTOR
from onnxshare.errors import OutOfMemory, RuntimeFailure
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.load import Model
from onnxshare.io.node_reader import refill
from onnxshare.io.tensors import Array
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.input_uses import LOOKUPS, InputUses, input_uses
from onnxshare.samples.samples import Samples
from onnxshare.samples.tree_rows import tree_rows

#: Samples on which tensors are checked against each other, and which say what shapes they have.
_SEEN = 2

#: Parts of one kind that are run: a fusion may be in every layer of many.
_OF_A_KIND = 2

#: Elements, at most, of what is looked up of a table at once; of a larger one some rows are.
_MOST_LOOKED_UP = 2**22

#: Runs that show whether rounding turns a result over.
_NOISY_DRAWS = 24

#: So many times more than one rounding error are those of many numbers that are added up.
_SUMMED = 16.0

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
            if self._kinds[part.key] > _OF_A_KIND and not _looks_up(part):
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
            a, b = self._alone(models, part)
            uses = {name: input_uses(models[0].skeleton, name) for name in part.cuts}
            rows = {name: use.rows for name, use in uses.items() if use.rows is not None}
            for kind, made in _made_up(seen, part, rows):
                how = a.rounding
                exact = how.exact or (how.sums and kind.make in ("steps", "integers"))
                if _unlike(a, b, made, kind.least < _LARGE, exact):
                    return made
            all_rows = _at_all_rows(seen, uses)
            if all_rows is not None:
                a, b = self._alone(self._parts.models(part, all_rows), part)
                if _unlike(a, b, all_rows, True, a.rounding.exact):
                    return all_rows
        except RuntimeFailure:  # a part that cannot be run alone
            pass
        return None

    def _alone(self, models: tuple[Model, Model], part: Part) -> tuple[_Alone, _Alone]:
        rounding = [n for nodes in part.nodes for n in nodes if not traits_of(n).exact]
        # Sums of whole numbers and halves are exact.
        sums = all(traits_of(n).linear and n.op_type != "Div" for n in rounding)
        how = _Rounding(
            exact=not rounding,
            sums=sums and not np.any(_numbers(part) * 2 % 1),
            trees=all(map(_is_tree, rounding)),
        )
        one, other = (
            _Alone(partial(self._sessions.open, letter), model, how)
            for letter, model in zip("AB", models, strict=True)
        )
        return one, other

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


def _is_tree(node: onnx.NodeProto) -> bool:
    traits = traits_of(node)
    return traits.effect is Effect.ESTIMATOR and traits.steps


def _looks_up(part: Part) -> bool:
    return any(node.op_type in LOOKUPS for nodes in part.nodes for node in nodes)


@dataclass(frozen=True)
class _Rounding:
    """What two parts round: nothing, nothing but sums, or nothing but the sums of trees."""

    exact: bool
    sums: bool
    trees: bool


class _Alone:
    """A part as a model, and what runs it."""

    def __init__(self, opener: Callable[..., Session], model: Model, rounding: _Rounding) -> None:
        self._opener, self._model, self.rounding = opener, model, rounding
        self._session = opener(model=model)
        layout = batching(input_specs(model.skeleton))
        self._whole, self._size = layout.whole, layout.size or 1
        self.unit = working_epsilon(model.skeleton)

    def run(self, values: Mapping[str, Array]) -> Array:
        given = {name: array[None] if self._whole else array for name, array in values.items()}
        return next(iter(self._session.run_once(given, self._size).values()))

    def noisy(self) -> _Alone:
        """The same with a rounding error in each result of a node."""
        return _Alone(self._opener, _noisy(self._model), self.rounding)


def _noisy(model: Model) -> Model:
    """A part in which every number that is rounded is off by a random rounding error."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    unit = working_epsilon(proto)
    nodes: list[onnx.NodeProto] = []
    for node in model.skeleton.graph.node:
        mine = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(mine)
        if traits_of(node).exact or len(node.output) > 1:
            continue
        name = node.output[0]
        mine.output[0], factor = f"{name} exact", f"{name} factor"
        draw = onnx.helper.make_node("RandomUniformLike", [mine.output[0]], [factor])
        for limit, value in (("low", 1 - unit), ("high", 1 + unit)):
            draw.attribute.append(onnx.helper.make_attribute(limit, value))
        nodes += [
            draw,
            onnx.helper.make_node("Mul", [mine.output[0], factor], [name]),
        ]
    refill(proto.graph.node, nodes)
    return replace(model, skeleton=proto)


@dataclass(frozen=True)
class _Kind:
    """How values are random.

    Attributes:
        make: normal, uniform, steps (whole numbers), constants (those of the part), near (these) or
            filled.
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
        if self.make == "near":
            return random.choice(numbers, shape) + random.standard_normal(shape)
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
    yield from (_Kind(make, 1.0, largest) for make in ("constants", "near"))
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


def _at_all_rows(
    seen: Mapping[str, Array], uses: Mapping[str, InputUses]
) -> dict[str, Array] | None:
    """Every row of the tables that a part looks up, and rows at the thresholds of its trees; None
    where it has neither, or its inputs share no first axis."""
    counts = {len(array) if array.ndim else 0 for array in seen.values()}
    if len(counts) > 1 or 0 in counts:
        return None
    random = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for name, array in seen.items():
        rows, trees = uses[name].rows, uses[name].trees
        if rows is not None and array.dtype.kind in "iu":
            indices = np.arange(min(rows, np.iinfo(array.dtype).max))
            if rows > _MOST_LOOKED_UP // 64:
                indices = random.permutation(indices)[: _MOST_LOOKED_UP // 64]
            width = array[0].size
            indices = np.resize(indices, (-(-len(indices) // width), *array.shape[1:]))
            found[name] = indices.astype(array.dtype)
        elif trees and array.ndim == 2 and is_float(array):
            made = [tree_rows(tree, array.shape[1], random) for tree in trees]
            found[name] = np.concatenate(made).astype(array.dtype)
    count = max(map(len, found.values()), default=0)
    if not count:
        return None
    return {
        name: np.resize(found.get(name, array), (count, *array.shape[1:]))
        for name, array in seen.items()
    }


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
        for part, expected in ((a, one), (b, other)):
            for moved in _turned_over(part, values):
                wrong &= moved == expected
                if not wrong.any():
                    return False
        return True
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    if moderate and (np.isfinite(left) & ~np.isfinite(right)).any():
        return True
    error = np.abs(left[finite] - right[finite])
    unit = max(a.unit, float(np.finfo(one.dtype).eps))
    least = FACTOR * unit * np.abs(left[finite]).max(initial=0.0)
    if error.max(initial=0.0) <= least:
        return False
    if a.rounding.trees:  # which compare exactly, and then add up
        return bool(error.max() > _SUMMED * least)
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


def _turned_over(part: _Alone, values: Mapping[str, Array]) -> Iterator[Array]:
    """What a part gives when rounding errors are others."""
    yield from _moved(part, values)
    with contextlib.suppress(RuntimeFailure):
        noisy = part.noisy()
        for _ in range(_NOISY_DRAWS):
            yield noisy.run(values)
