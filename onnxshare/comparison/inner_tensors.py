"""Tensors inside two models: the first that differs, and those that speak for hidden outputs.

Where models part is the first tensor that both have by name whose error is more than rounding.

An output behind a ReLU that is 0 throughout, a saturated softmax or an ArgMax barely changes, so
equal values prove nothing. But where both models end in the same operators with the same
attributes, the tensors that go into these stand for each other, whatever their names; if they
agree and move, the outputs are the same function of them. They can only speak for the models:
paired in error, they would differ, and then nothing follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx

from onnxshare.comparison.results import Divergence
from onnxshare.comparison.rounding_noise import NoiseMeter
from onnxshare.comparison.tensor_statistics import Tally
from onnxshare.comparison.verdict import judge
from onnxshare.errors import RuntimeFailure
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.graph.random_operators import random_tensors
from onnxshare.io.load import Model
from onnxshare.runtime.session import Session
from onnxshare.samples.samples import Array, Samples

#: Tensors that are looked at in one run.
_AT_ONCE = 32

#: Bytes that these may take in each of the runs.
_MOST_BYTES = 2**28

#: Samples that are run: the ones with the largest errors, filled up with others.
_MOST_SAMPLES = 8

#: Opens a session of model "A" or "B" that returns these tensors.
Opener = Callable[[str, Sequence[str]], Session]


@dataclass(frozen=True)
class _Pair:
    a: Model
    open: Opener
    seed: int


def first_divergence(
    a: Model,
    b: Model,
    samples: Samples,
    worst: Sequence[int],
    *,
    opener: Opener,
    seed: int,
) -> Divergence | None:
    """Find the first tensor of A, in topological order, that B has too and that differs.

    The tensors are run a few at a time and let go again, so memory stays bounded; those after the
    first that differs are not run. Being returned, they are not fused away: both models, and the
    noise of A, are measured in the same form.

    Args:
        a: the model that is right.
        b: the model that differs.
        samples: the inputs.
        worst: the samples with the largest errors.
        opener: opens sessions.
        seed: of the noise.

    Returns:
        The tensor, which may be an output; None if nothing that could be run differs.
    """
    rows = list(dict.fromkeys([*worst[:_MOST_SAMPLES], *range(min(samples.count, _MOST_SAMPLES))]))
    part = samples.take(rows[:_MOST_SAMPLES])
    part = replace(part, arrays=dict(part.arrays))
    pair = _Pair(a, opener, seed)
    names = _shared(a.skeleton, b.skeleton)
    for start in range(0, len(names), _AT_ONCE):
        group = names[start : start + _AT_ONCE]
        tally = _first_excess(pair, group, part)
        if tally is not None:
            return _describe(tally, a.skeleton, b.skeleton)
    return None


def _first_excess(pair: _Pair, names: Sequence[str], samples: Samples) -> Tally | None:
    try:
        return next(_excesses(pair, names, samples), None)
    except RuntimeFailure:
        if len(names) == 1:
            return None  # a tensor that cannot be returned, such as a sequence
    for name in names:
        tally = _first_excess(pair, [name], samples)
        if tally is not None:
            return tally
    return None


def _excesses(pair: _Pair, names: Sequence[str], samples: Samples) -> Iterator[Tally]:
    """The tensors of a group that differ, in order."""
    ours, theirs = pair.open("A", names), pair.open("B", names)
    one = ours.run(samples.take([0]).arrays)
    room = _MOST_BYTES // max(1, sum(value.nbytes for value in one.values()))
    inputs = samples.take(slice(max(2, min(room, samples.count)))).arrays
    first, second = ours.run(inputs), theirs.run(inputs)
    suspects = [name for name in names if not _same(first[name], second[name])]
    if not suspects:
        return
    noise = NoiseMeter(pair.a, ours, seed=pair.seed)
    own = noise.runs(inputs, len(next(iter(inputs.values()), [0])))
    deeper: list[dict[str, Array]] = []
    for name in suspects:
        tally = Tally(name)
        tally.add(first[name], second[name], [run[name] for run in own])
        tally.discrete = noise.quantized
        if judge(tally, internal=True).excess and not tally.problem:
            deeper = deeper or noise.deeper(inputs, _MOST_SAMPLES)
            tally.add_noise(first[name], [run[name] for run in deeper])
        if judge(tally, internal=True).excess:
            yield tally


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b))


def _describe(tally: Tally, a: onnx.ModelProto, b: onnx.ModelProto) -> Divergence:
    row = judge(tally, internal=True).row
    return Divergence(
        tally.name,
        _maker(a, tally.name),
        _maker(b, tally.name),
        row.max_abs,
        row.tolerance,
        tally.problem,
        tally.name in {value.name for value in a.graph.output},
    )


def _maker(proto: onnx.ModelProto, name: str) -> str:
    """The node that makes a tensor, by its name or else its operator and place."""
    for index, node in enumerate(proto.graph.node):
        if name in node.output:
            return node.name or f"{node.op_type}_{index}"
    return ""


def _shared(a: onnx.ModelProto, b: onnx.ModelProto) -> list[str]:
    """Tensors that both models compute from their inputs, in the order of A."""
    known = _computed(b)
    drawn = {*random_tensors(a), *random_tensors(b)}
    return [name for name in _computed(a) if name in known and name not in drawn]


def _computed(proto: onnx.ModelProto) -> dict[str, None]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    depends = {value.name for value in proto.graph.input} - stored
    found: dict[str, None] = {}
    for node in proto.graph.node:
        inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if inner or not depends.isdisjoint(node.input):
            depends.update(filter(None, node.output))
            found.update(dict.fromkeys(filter(None, node.output)))
    return found


@dataclass(frozen=True)
class _End:
    """What stands between a tensor and an output: operators from the output backwards."""

    tensor: str
    steps: tuple[bytes, ...]


def before_the_end(
    a: onnx.ModelProto, b: onnx.ModelProto, *, hidden: bool = True
) -> dict[str, tuple[str, str]]:
    """Per output the tensors of A and B that go into the same last operators; only outputs where
    something hides them, unless `hidden` is false."""
    ends = [_ends(proto) for proto in (a, b)]
    found = {}
    for name, ours in ends[0].items():
        theirs = ends[1].get(name)
        if theirs is None or (hidden and not ours.steps):
            continue
        if ours.steps == theirs.steps:
            found[name] = (ours.tensor, theirs.tensor)
    return found


def _ends(proto: onnx.ModelProto) -> dict[str, _End]:
    makers = {name: node for node in proto.graph.node for name in node.output if name}
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {value.name: _end(value.name, makers, stored) for value in proto.graph.output}


def _end(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> _End:
    steps: list[bytes] = []
    while (node := makers.get(name)) is not None and node.domain in ("", "ai.onnx"):
        keeps = node.op_type == "Identity" or traits_of(node).effect is Effect.RESHAPE
        step = b"" if keeps else _step(node, name, makers, stored)
        if step is None or node.input[0] not in makers:
            break
        if step:
            steps.append(step)
        name = node.input[0]
    return _End(name, tuple(steps))


def _step(
    node: onnx.NodeProto,
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, onnx.TensorProto],
) -> bytes | None:
    """All that says what a node does but for its names; None where it is not one to look behind."""
    traits = traits_of(node)
    if not (traits.hides or traits.effect is Effect.PERMUTATION):
        return None
    parts = [node.op_type.encode(), str(list(node.output).index(name)).encode()]
    attributes = sorted(node.attribute, key=lambda item: item.name)
    parts += [item.SerializeToString(deterministic=True) for item in attributes]
    for operand in node.input[1:]:
        value = _value(operand, makers, stored)
        if value is None:
            return None
        parts.append(value)
    return b"\0".join(parts)


def _value(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> bytes | None:
    """The bytes of a small constant; None for anything else."""
    tensor = stored.get(name)
    maker = makers.get(name)
    if tensor is None and maker is not None and maker.op_type == "Constant":
        tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
    if not name:
        return b""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return onnx.numpy_helper.to_array(tensor).tobytes() if prod(tensor.dims) <= 16 else None
