"""Where two models part: the first tensor that both have whose error is more than rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxshare.comparison import Divergence
from onnxshare.errors import RuntimeFailure
from onnxshare.graph.random_operators import random_tensors
from onnxshare.io.load import Model
from onnxshare.noise import NoiseMeter
from onnxshare.runtime.session import Session
from onnxshare.samples.samples import Array, Samples
from onnxshare.statistics import Tally
from onnxshare.verdict import judge

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
        tally.discrete = noise.quantised
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
