"""Two models and inputs → a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from onnxshare.comparison import Comparison
from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.inputs import Array, ImageOptions, Samples, random_samples, read_samples
from onnxshare.io.load import Model, ModelSource, load
from onnxshare.io.stream import digest, pieces, size
from onnxshare.noise import NoiseMeter
from onnxshare.promise import promise_of
from onnxshare.runtime.providers import choose
from onnxshare.runtime.run_limits import RunLimits
from onnxshare.runtime.session import Session
from onnxshare.runtime.sessions import Sessions
from onnxshare.signature import batching, input_specs, structural_difference
from onnxshare.statistics import Tally
from onnxshare.verdict import Judged, decide, judge

#: Noise is measured on this many samples; later ones count only if they seem to differ.
NOISE_SAMPLES = 32

_BATCH_BYTES = 8 * 2**20
_MOST_PER_BATCH = 32

#: Bytes of samples that are run at once where sessions run in turn.
_STEP_BYTES = 2**28


def compare(
    a: ModelSource,
    b: ModelSource,
    *,
    samples: Samples | str | Path | None = None,
    provider: str = "auto",
    seed: int = 0,
    count: int = 32,
    tensors: Sequence[str] = (),
    images: ImageOptions | None = None,
    run_limits: RunLimits | None = None,
) -> Comparison:
    """Run two models on the same inputs and judge whether they are the same function.

    The tolerance is not a number but model A's own rounding noise; outputs that hardly move
    with the inputs are no evidence, and give `inconclusive`. See `verdict.py`.

    Args:
        a: the model that is right.
        b: the model to be judged by it.
        samples: inputs, or where to read them (`inputs.read_samples`); None makes random ones.
        provider: where to run (`runtime.providers.choose`).
        seed: of the random samples and of the noise measurement.
        count: how many random samples.
        tensors: internal tensors of both models, compared beside the outputs: evidence for
            outputs that a later operator, such as a saturated softmax, keeps from moving.
        images: how image files become inputs.
        run_limits: what each model may take, and whether it runs in a process of its own.

    Raises:
        ModelFileError, ModelError: a model cannot be read, or has inputs that are not tensors.
        SamplesError: the samples cannot be read or made, or do not fit.
        UsageError, RuntimeFailure: there is no such provider, or it does not work; or a name
            in `tensors` is not a tensor of both models.
    """
    left, right = load(a), load(b)
    chosen = choose(provider)
    if _same_bytes(left, right):
        return Comparison("identical", "the models are equal byte for byte", chosen.label)
    reason = structural_difference(left.skeleton, right.skeleton)
    if reason:
        return Comparison("different", reason, chosen.label)
    internal = _internal_names(left.skeleton, right.skeleton, tensors)
    with Sessions({"A": left, "B": right}, chosen, run_limits) as sessions:
        inputs = _samples_for(left.skeleton, right.skeleton, samples, count, seed, images)
        try:
            judged = _Run(left, inputs, sessions, seed, internal).judge()
        except RuntimeFailure as error:
            return Comparison(
                "not run", str(error), chosen.label, (), inputs.count, inputs.origin, seed
            )
    covers = {
        value.name: _upstream(left.skeleton, value.name, internal)
        for value in left.skeleton.graph.output
    }
    promise = promise_of(left.skeleton, right.skeleton)
    verdict, reason = decide(judged, covers, promise, inputs.random)
    return Comparison(
        verdict,
        reason,
        chosen.label,
        tuple(item.row for item in judged),
        inputs.count,
        inputs.origin,
        seed,
        _accuracy(judged, inputs),
    )


class _Run:
    """Both models and the noise of the first, over all samples."""

    def __init__(
        self,
        a: Model,
        samples: Samples,
        sessions: Sessions,
        seed: int,
        internal: Sequence[str],
    ) -> None:
        self._samples = samples
        outputs = [value.name for value in a.skeleton.graph.output]
        names = list(dict.fromkeys([*outputs, *internal]))
        self._a = _open(sessions, "A", names)
        self._b = _open(sessions, "B", names)
        self._noise = NoiseMeter(a, self._a, seed=seed)
        self._tallies = {name: Tally(name) for name in names}
        self._internal = set(internal) - set(outputs)
        self._batch = _batch_size(a.skeleton, samples)
        self._step = self._batch
        if sessions.in_turn:  # the sessions change places after each step
            self._step = _most_at_once(samples)
        # Shuffled, so that those the noise is measured on, the first, stand for all.
        self._order = np.arange(samples.count)
        if samples.count > NOISE_SAMPLES:
            self._order = np.random.default_rng([seed, 2]).permutation(samples.count)

    def judge(self) -> list[Judged]:
        """Run everything; look a second time at samples that seem to differ."""
        for start in range(0, self._samples.count, self._step):
            self._add(start, min(start + self._step, self._samples.count))
        judged = self._judged()
        if any(item.excess for item in judged):
            self._look_again(judged)
            judged = self._judged()
        return judged

    def _judged(self) -> list[Judged]:
        return [
            judge(tally, internal=name in self._internal) for name, tally in self._tallies.items()
        ]

    def _add(self, start: int, stop: int) -> None:
        part = self._part(self._order[start:stop])
        ours = _run("A", self._a, part, self._batch)
        measure = start < NOISE_SAMPLES
        moved = self._noise.response(part.arrays, self._batch) if measure else None
        own = self._noise.runs(part.arrays, self._batch) if measure else []
        theirs = _run("B", self._b, part, self._batch)
        for name, tally in self._tallies.items():
            tally.add(ours[name], theirs[name], [run[name] for run in own], part.labels)
            if moved is not None:
                tally.add_response(ours[name], moved[name])

    def _part(self, rows: Array) -> Samples:
        """These samples, read once for all the runs on them."""
        part = self._samples.take(rows)
        return replace(part, arrays=dict(part.arrays))

    def _look_again(self, judged: Sequence[Judged]) -> None:
        """Measure the noise at the very samples whose errors seem too large."""
        rows: list[int] = []
        for item in judged:
            if item.excess and not item.tally.problem:
                worst_first = np.argsort(-item.ratio)
                rows.extend(int(row) for row in item.tally.worst_row[worst_first])
        # Outputs without a batch axis have rows that are runs, not samples.
        known = [row for row in dict.fromkeys(rows) if row < self._samples.count]
        part = self._part(self._order[known[:NOISE_SAMPLES] or slice(NOISE_SAMPLES)])
        ours = self._a.run(part.arrays, self._batch)
        own = self._noise.deeper(part.arrays, self._batch)
        moved = self._noise.response(part.arrays, self._batch)
        if any(row >= NOISE_SAMPLES for row in known):
            own += self._noise.runs(part.arrays, self._batch)
        for name, tally in self._tallies.items():
            tally.discrete = self._noise.quantised
            tally.add_noise(ours[name], [run[name] for run in own])
            if moved is not None:
                tally.add_response(ours[name], moved[name])


def _open(sessions: Sessions, letter: str, outputs: Sequence[str]) -> Session:
    try:
        return sessions.open(letter, outputs)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"model {letter}: {error.cause}", error.remedy) from error


def _run(letter: str, session: Session, samples: Samples, batch: int) -> dict[str, Array]:
    try:
        return session.run(samples.arrays, batch)
    except RuntimeFailure as error:
        raise RuntimeFailure(f"model {letter}: {error.cause}", error.remedy) from error


def _samples_for(
    a: onnx.ModelProto,
    b: onnx.ModelProto,
    samples: Samples | str | Path | None,
    count: int,
    seed: int,
    images: ImageOptions | None,
) -> Samples:
    # The model that fixes more sizes says what both can take.
    stricter = min((a, b), key=_dynamic)
    if samples is None:
        return random_samples(stricter, count, seed)
    return (
        samples if isinstance(samples, Samples) else read_samples(samples, stricter, images=images)
    )


def _dynamic(proto: onnx.ModelProto) -> int:
    """How many input sizes a model leaves open; an unknown rank leaves more open than any."""
    shapes = [spec.shape for spec in input_specs(proto)]
    return sum(100 if shape is None else shape.count(None) for shape in shapes)


def _batch_size(a: onnx.ModelProto, samples: Samples) -> int:
    """Samples per run: few of large inputs, and whole batches of a model that fixes its batch."""
    size = int(_BATCH_BYTES // max(1, samples.nbytes // max(1, samples.count)))
    size = max(1, min(size, _MOST_PER_BATCH))
    fixed = batching(input_specs(a)).size or 1
    return max(1, size // fixed) * fixed


def _most_at_once(samples: Samples) -> int:
    """Samples that are run by one session after the other, whose outputs are kept meanwhile."""
    return max(NOISE_SAMPLES, int(_STEP_BYTES // max(1, samples.nbytes // max(1, samples.count))))


def _same_bytes(a: Model, b: Model) -> bool:
    """Whether the models are one: the same bytes, and no external data that may differ."""
    if a.external_files() and a.folder != b.folder:
        return False
    ours, theirs = pieces(a), pieces(b)
    return size(ours) == size(theirs) and digest(ours) == digest(theirs)


def _internal_names(a: onnx.ModelProto, b: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    for proto, letter in ((a, "A"), (b, "B")):
        known = {name for node in proto.graph.node for name in node.output}
        for name in names:
            if name not in known:
                raise UsageError(f"model {letter} computes no tensor called '{name}'")
    return list(names)


def _upstream(proto: onnx.ModelProto, output: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that `output` is computed from."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    seen: set[str] = set()
    stack = [output]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            if name in makers:
                stack.extend(makers[name].input)
    return tuple(name for name in names if name in seen)


def _accuracy(judged: Sequence[Judged], samples: Samples) -> dict[str, float] | None:
    """Share of samples that each model labels right, by the first output that has classes."""
    if samples.labels is None:
        return None
    for item in judged:
        if item.tally.classes and not item.row.internal:
            right = item.tally.right
            return {"a": right[0] / samples.count, "b": right[1] / samples.count}
    return None
