"""Two models run over all samples: the figures of every compared tensor, and A's own noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxshare.comparison.inner_tensors import first_divergence
from onnxshare.comparison.results import Divergence
from onnxshare.comparison.rounding_noise import EPSILON, NoiseMeter
from onnxshare.comparison.target import Criterion
from onnxshare.comparison.tensor_statistics import Tally, is_float
from onnxshare.comparison.verdict import Judged, judge, upstream
from onnxshare.errors import RuntimeFailure
from onnxshare.graph.operator_traits import traits_of
from onnxshare.graph.random_operators import random_tensors
from onnxshare.io.load import Model
from onnxshare.io.node_reader import reads
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.lazy_arrays import LazyArrays
from onnxshare.samples.samples import Array, Samples
from onnxshare.support.progress import report

#: Noise is measured on this many samples; later ones count only if they seem to differ.
NOISE_SAMPLES = 32

#: On these, one of each kind of random samples, where all outputs are floats: integers may turn
#: over on any sample.
_FEW = slice(8)

_BATCH_BYTES = 8 * 2**20
_MOST_PER_BATCH = 32

#: Samples so many times smaller than the largest are looked at alone.
_SCALES_APART = 16.0

#: Runs, at least, where an output has no axis of samples.
_ROWS = 8

#: Bytes of samples that are run at once where sessions run in turn.
_STEP_BYTES = 2**28


class Measurement:
    """Both models and the noise of the first, over all samples.

    Attributes:
        a: the model that is right.
        b: the model to be judged by it.
        samples: the inputs.
        batch: samples per run.
        left_out: outputs that a random operator makes differ from run to run, and the operator.
    """

    def __init__(
        self,
        a: Model,
        b: Model,
        samples: Samples,
        sessions: Sessions,
        seed: int,
        internal: Sequence[str] = (),
        pairs: Mapping[str, str] | None = None,
        batch: int | None = None,
        criteria: Sequence[Criterion] = (),
    ) -> None:
        """Open both models.

        Args:
            a, b, samples: as of the attributes.
            sessions: where the models run, as "A" and "B".
            seed: of the noise measurement.
            internal: tensors inside both models that are compared too.
            pairs: tensors inside A that those of B may stand for, under other names: they speak
                for the models if they agree, and not against them if they do not.
            batch: samples per run; None for as many as suit their size.
            criteria: what is counted of classes.

        Raises:
            RuntimeFailure: one of them cannot be loaded.
        """
        self.a, self.b, self.samples = a, b, samples
        self._sessions, self._seed = sessions, seed
        drawn = {**random_tensors(a.skeleton), **random_tensors(b.skeleton)}
        self.left_out = {v.name: drawn[v.name] for v in a.skeleton.graph.output if v.name in drawn}
        outputs = [v.name for v in a.skeleton.graph.output if v.name not in drawn]
        self._pairs = {
            ours: theirs for ours, theirs in (pairs or {}).items() if ours not in outputs
        }
        names = [n for n in dict.fromkeys([*outputs, *internal, *self._pairs]) if n not in drawn]
        self._names_b = {name: self._pairs.get(name, name) for name in names}
        self._a = _open(sessions, "A", names)
        self._b = _open(sessions, "B", list(dict.fromkeys(self._names_b.values())))
        self._noise = NoiseMeter(a, self._a, seed=seed)
        self._tallies = {name: Tally(name, criteria) for name in names}
        specs = input_specs(a.skeleton)
        fed = [spec.name for spec in specs]
        floats = [spec.name for spec in specs if spec.dtype.kind in "fV"]
        for name, tally in self._tallies.items():
            other = upstream(b.skeleton, self._names_b[name], fed)
            tally.fixed = bool(fed) and not (other or upstream(a.skeleton, name, fed))
        answering = _answering(a.skeleton, floats)
        self._answering = {name for name in names if name in answering}
        self._internal = {*internal, *self._pairs} - set(outputs)
        self.batch = _batch_size(a.skeleton, samples) if batch is None else batch
        self._step = self.batch
        if sessions.in_turn:  # the sessions change places after each step
            self._step = _most_at_once(samples)
        self._small = small_samples(samples)
        self._small_tallies = {name: Tally(name) for name in names if self._small is not None}
        # Shuffled, so that those the noise is measured on, the first, stand for all.
        self._order = np.arange(samples.count)
        if samples.count > NOISE_SAMPLES:
            self._order = np.random.default_rng([seed, 2]).permutation(samples.count)

    def first(self) -> dict[str, Array]:
        """The outputs of A on all samples."""
        return _run("A", self._a, self.samples, self.batch)

    def judge(self, *, again: bool = True) -> list[Judged]:
        """Run everything; look `again` at samples that seem to differ."""
        for start in range(0, self.samples.count, self._step):
            report("comparing", start, self.samples.count)
            self._add(start, min(start + self._step, self.samples.count))
        report("comparing", self.samples.count, self.samples.count)
        judged = self._judged()
        if again and any(item.excess for item in judged):
            self._look_again(judged)
            judged = self._judged()
        return judged

    @property
    def small_differ(self) -> bool:
        """Whether small samples alone may differ, next to whose outputs the errors are larger."""
        return any(judge(t, internal=False).excess for t in self._small_tallies.values())

    @property
    def few_rows(self) -> bool:
        """Whether an output has a row for each run, of which there were few, and more are
        possible."""
        if self.batch == 1 or batching(input_specs(self.a.skeleton)).size is not None:
            return False
        most = min(_ROWS, self.samples.count)
        return any(tally.samples < most and not tally.problem for tally in self._tallies.values())

    def parting(self, judged: Sequence[Judged]) -> Divergence | None:
        """Find where the models part, on the samples that differ most."""
        return first_divergence(
            self.a,
            self.b,
            self.samples,
            self.worst(judged),
            opener=lambda letter, names: _open(self._sessions, letter, names),
            seed=self._seed,
        )

    def worst(self, judged: Sequence[Judged]) -> tuple[int, ...]:
        """Per channel with more than rounding the sample that differs most, the worst first."""
        found: dict[int, None] = {}
        for item in judged:
            if item.excess and item.ratio.size:
                over = np.flatnonzero(item.ratio > 1)
                rows = item.tally.worst_row[over[np.argsort(-item.ratio[over])]]
                found.update(
                    (int(self._order[int(row)]), None) for row in rows if row < self.samples.count
                )
        return tuple(found)

    def _judged(self) -> list[Judged]:
        judged = [
            judge(tally, internal=name in self._internal) for name, tally in self._tallies.items()
        ]
        return [item for item in judged if not (item.excess and item.row.name in self._pairs)]

    def _add(self, start: int, stop: int) -> None:
        part = self._part(self._order[start:stop])
        ours = _run("A", self._a, part, self.batch)
        base, moved, own = ours, None, []
        if start < NOISE_SAMPLES:
            few = part
            if all(is_float(v) and len(v) == part.count for v in ours.values()):
                few = part.take(_FEW)  # run on their own: some models mix the samples of a batch
                base = _run("A", self._a, few, self.batch)
            moved = self._noise.response(few.arrays, self.batch)
            own = self._noise.runs(few.arrays, self.batch)
        found = _run("B", self._b, part, self.batch)
        theirs = {name: found[other] for name, other in self._names_b.items()}
        for name, tally in self._tallies.items():
            runs = [run[name] for run in own]
            tally.add(ours[name], theirs[name], runs if base is ours else (), part.labels)
            if base is not ours:
                tally.add_noise(base[name], runs)
            if moved is not None and name in self._answering:
                tally.add_response(base[name], moved[name])
        if self._small is not None:
            small = np.flatnonzero(self._small[self._order[start:stop]])
            for name, tally in self._small_tallies.items():
                if small.size and len(ours[name]) == len(theirs[name]) == stop - start:
                    tally.add(ours[name][small], theirs[name][small])
                    first = base[name]
                    rows = small[small < len(first)]
                    same = [run[name] for run in own if run[name].shape == first.shape]
                    tally.add_noise(first[rows], [run[rows] for run in same])

    def _part(self, rows: Array) -> Samples:
        """These samples, read once for all the runs on them."""
        part = self.samples.take(rows)
        return replace(part, arrays=dict(part.arrays))

    def _look_again(self, judged: Sequence[Judged]) -> None:
        """Measure the noise at the very samples whose errors seem too large."""
        rows: list[int] = []
        for item in judged:
            if item.excess and not item.tally.problem:
                worst_first = np.argsort(-item.ratio)
                rows.extend(int(row) for row in item.tally.worst_row[worst_first])
        # Outputs without a batch axis have rows that are runs, not samples.
        known = [row for row in dict.fromkeys(rows) if row < self.samples.count]
        part = self._part(self._order[known[:NOISE_SAMPLES] or slice(NOISE_SAMPLES)])
        ours = self._a.run(part.arrays, self.batch)
        own = self._noise.deeper(part.arrays, self.batch)
        moved = self._noise.response(part.arrays, self.batch)
        if any(row >= NOISE_SAMPLES for row in known):
            own += self._noise.runs(part.arrays, self.batch)
        for name, tally in self._tallies.items():
            tally.discrete = self._noise.quantized
            tally.add_noise(ours[name], [run[name] for run in own])
            if moved is not None and name in self._answering:
                tally.add_response(ours[name], moved[name])


def small_samples(samples: Samples) -> Array | None:
    """Which samples are `_SCALES_APART` times smaller than the largest; None if too few are."""
    if isinstance(samples.arrays, LazyArrays):
        return None
    scale = np.zeros(samples.count)
    for array in samples.arrays.values():
        if is_float(array) and array.size:
            rows = np.abs(array.reshape(len(array), -1).astype(np.float64)).max(axis=1)
            scale = np.maximum(scale, rows)
    small = scale <= scale.max(initial=0.0) / _SCALES_APART
    return small if small.sum() > 1 and scale[small].any() else None


def _answering(proto: onnx.ModelProto, inputs: Sequence[str]) -> set[str]:
    """What answers to floats that are moved a little: not what is made of them step by step, as by
    trees or comparisons."""
    found = set(inputs)
    for node in proto.graph.node:
        steps = traits_of(node).steps
        steps |= node.op_type == "Cast" and any(a.i not in EPSILON for a in node.attribute)
        if not steps and not found.isdisjoint(reads(node)):
            found.update(node.output)
    return found


def _open(sessions: Sessions, letter: str, outputs: Sequence[str]) -> Session:
    try:
        return sessions.open(letter, outputs)
    except RuntimeFailure as error:
        raise error.of_model(letter) from error


def _run(letter: str, session: Session, samples: Samples, batch: int) -> dict[str, Array]:
    try:
        return session.run(samples.arrays, batch)
    except RuntimeFailure as error:
        raise error.of_model(letter) from error


def _batch_size(a: onnx.ModelProto, samples: Samples) -> int:
    """Samples per run: few of large inputs, and whole batches of a model that fixes its batch."""
    size = int(_BATCH_BYTES // max(1, samples.nbytes // max(1, samples.count)))
    size = max(1, min(size, _MOST_PER_BATCH))
    fixed = batching(input_specs(a)).size or 1
    if not all(_leads(value) for value in a.graph.output):
        # A run is a row: there must be many, and all of one size.
        most = min(size, max(1, samples.count // _ROWS))
        size = next(n for n in range(most, 0, -1) if samples.count % n == 0)
    return max(1, size // fixed) * fixed


def _leads(output: onnx.ValueInfoProto) -> bool:
    """Whether the first axis of an output may be that of the samples: no fixed size but 1."""
    dims = output.type.tensor_type.shape.dim
    return not dims or dims[0].dim_value in (0, 1)


def _most_at_once(samples: Samples) -> int:
    """Samples that are run by one session after the other, whose outputs are kept meanwhile."""
    return max(NOISE_SAMPLES, int(_STEP_BYTES // max(1, samples.nbytes // max(1, samples.count))))
