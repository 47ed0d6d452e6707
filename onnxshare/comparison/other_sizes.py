"""Rounds with other batches, sizes, integers and NaN, where the models leave them open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import numpy as np

from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounds import Round, Task, measure, stricter_of
from onnxshare.comparison.tensor_statistics import close, is_float
from onnxshare.errors import OutOfMemory, RuntimeFailure, SamplesError
from onnxshare.graph.random_operators import random_tensors
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.input_uses import input_uses
from onnxshare.samples.random_samples import (
    INTEGERS,
    MORE,
    ODD,
    OTHER,
    WIDE,
    Guess,
    long_sequences,
    open_integers,
    open_sizes,
)
from onnxshare.samples.samples import Samples, random_samples
from onnxshare.support.option_text import option

#: Samples of the second sizes.
_OTHERS = 8

#: Samples of long sequences.
_LONG_ONES = 3

#: Of so many numbers one is NaN, where a model asks for it.
_MISSING = 4

#: Samples per run, where the models take any number.
_BATCHES = (1, 2, 3)


def at_sizes_that_run(task: Task, samples: Samples) -> Round:
    """The first round; where A cannot run at sizes that were guessed, at others."""
    first = measure(task, samples)
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    if first.found.failed_model != "A" or not samples.random:
        return first
    guesses = MORE if open_sizes(stricter) else ()
    for guess in (*guesses, *(INTEGERS[-3:] if open_integers(stricter) else ())):
        other = _made(task, guess)
        again = None if other is None else measure(task, other)
        if again is not None and again.verdict is not Verdict.NOT_RUN:
            return again
    return first


def at_other_batches(task: Task, last: Round) -> Round:
    """Where the batch is open, what A runs B must run, and give the same outputs."""
    a, b = task.a.skeleton, task.b.skeleton
    layouts = [batching(input_specs(proto)) for proto in (a, b)]
    if layouts[1].size and not (layouts[0].size or any(layout.whole for layout in layouts)):
        return _at_a_batch_that_b_fixes(task, last, layouts[1].size)
    if task.sessions.in_turn or any(layout.size or layout.whole for layout in layouts):
        return last
    drawn = {**random_tensors(a), **random_tensors(b)}
    names = [value.name for value in a.graph.output if value.name not in drawn]
    for size in _BATCHES:
        part = last.samples.take(np.arange(size) % last.samples.count)
        part = replace(part, arrays=dict(part.arrays))
        words = _at_batch(task, part, names)
        if words:
            new = Comparison.on(part, Verdict.DIFFERENT, words)
            return replace(last, found=new)
    return last


def _at_a_batch_that_b_fixes(task: Task, last: Round, size: int) -> Round:
    """Where A runs other batches than the one that B fixes, B is another function."""
    other = 1 if size > 1 else 2
    part = last.samples.take(np.arange(other) % last.samples.count)
    try:
        task.sessions.open("A").run_once(part.arrays, other)
    except RuntimeFailure:
        return last
    spec = next(spec for spec in input_specs(task.a.skeleton) if spec.shape)
    sizes = [size, *(spec.shape or ())[1:]]
    way = option(f"--input-shape {quote(spec.name)}:{','.join(str(n or '') for n in sizes)}")
    words = f"A runs a batch of {other}, and B takes batches of {size} only"
    words += f"; at that batch alone ({way}), {last.found.reason}"
    return replace(last, found=Comparison.on(last.samples, Verdict.DIFFERENT, words))


def _at_batch(task: Task, part: Samples, names: Sequence[str]) -> str:
    """How B differs from A when these samples run at once; "" if it does not."""
    ours, theirs = (task.sessions.open(letter, names) for letter in ("A", "B"))
    size = part.count
    try:
        expected = ours.run_once(part.arrays, size)
    except RuntimeFailure:
        return ""
    try:
        found = theirs.run_once(part.arrays, size)
    except OutOfMemory:
        return ""
    except RuntimeFailure as error:
        return f"A runs a batch of {size}, and B does not: {error}"
    for name in names:
        one, other = expected[name], found[name]
        if one.shape != other.shape:
            shapes = f"shape {one.shape} in A and {other.shape} in B"
            return f"at a batch of {size}, '{name}' has {shapes}"
    if all(close(expected[name], found[name]) for name in names):
        return ""
    again = measure(task, part, batch=size)
    different = again.verdict is Verdict.DIFFERENT
    return f"at a batch of {size}, {again.found.reason}" if different else ""


def at_other_sizes(task: Task, last: Round) -> Round:
    """Once more at other sizes and with other integers, where the models leave them open."""
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    if open_sizes(task.a.skeleton) and not open_sizes(task.b.skeleton):
        last = last.saying(
            f"{last.found.reason}; B fixes sizes that A leaves open, and ran at these"
        )
    small = replace(task, count=min(task.count, _OTHERS))
    few = replace(small, count=min(small.count, _LONG_ONES))
    long = long_sequences(task.a.skeleton, task.b.skeleton)
    rounds = [(small, (OTHER,)), (small, ODD), (few, long)] if open_sizes(stricter) else []
    same = False
    for part, guesses in rounds:
        again, guess = _first_that_runs(part, guesses)
        if again is None:
            continue
        reason, words = again.found.reason, f"other sizes ({guess.words})"
        if again.verdict is Verdict.DIFFERENT:
            return again.saying(f"at {words}: {reason}")
        if again.found.failed_model == "B":
            words = f"A runs at {words}, and B does not: {reason}"
            return again.saying(words, Verdict.DIFFERENT)
        same |= again.found.passed
    wide = [(WIDE,)] if open_integers(stricter, free=True) else []
    for integers in (*([INTEGERS] if open_integers(stricter) else []), *wide):
        again, _ = _first_that_runs(small, integers)
        if again is not None and (again.verdict is Verdict.DIFFERENT or again.found.failed_model):
            words = f"with integers from {_range(again.samples)}: {again.found.reason}"
            return again.saying(words, Verdict.DIFFERENT)
    return last.saying(f"{last.found.reason}; the same at other sizes") if same else last


def at_other_integers(task: Task, last: Round) -> Round:
    """Where 0 and 1 move nothing, other integers may; the last round where they do not either."""
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    wide = [WIDE] if open_integers(stricter, free=True) else []
    for guess in (*(INTEGERS if open_integers(stricter) else ()), *wide):
        again, _ = _first_that_runs(task, (guess,))
        if again is None or again.verdict is Verdict.INCONCLUSIVE:
            continue
        words = f"with integers from {_range(again.samples)}: {again.found.reason}"
        return again.saying(words, Verdict.DIFFERENT if again.found.failed_model else None)
    return last


def _range(samples: Samples) -> str:
    arrays = [array for array in samples.arrays.values() if array.dtype.kind in "iu"]
    return f"{min(map(np.min, arrays))} to {max(map(np.max, arrays))}"


def with_missing_values(task: Task, last: Round) -> Round:
    """Once more with NaN among the numbers, where either model asks for NaN."""
    protos = task.a.skeleton, task.b.skeleton
    arrays = dict(last.samples.arrays)
    random = np.random.default_rng(task.seed)
    for name, array in last.samples.arrays.items():
        if is_float(array) and any(input_uses(proto, name).missing for proto in protos):
            gone = random.integers(0, _MISSING, array.shape) == 0
            arrays[name] = np.where(gone, np.array(np.nan, array.dtype), array)
    if all(arrays[name] is array for name, array in last.samples.arrays.items()):
        return last
    again = measure(task, replace(last.samples, arrays=arrays))
    if again.verdict is Verdict.DIFFERENT or again.found.failed_model == "B":
        words = f"with NaN for missing values: {again.found.reason}"
        return again.saying(words, Verdict.DIFFERENT)
    return last


def _first_that_runs(task: Task, guesses: Sequence[Guess]) -> tuple[Round | None, Guess]:
    """The round at the first of these sizes at which A runs."""
    for guess in guesses:
        samples = _made(task, guess)
        again = None if samples is None else measure(task, samples)
        if again is not None and again.found.failed_model != "A":
            return again, guess
    return None, OTHER


def _made(task: Task, guess: Guess) -> Samples | None:
    stricter = stricter_of(task.a.skeleton, task.b.skeleton)
    try:
        return random_samples(stricter, task.count, task.seed, guess=guess)
    except SamplesError:
        return None  # too large
