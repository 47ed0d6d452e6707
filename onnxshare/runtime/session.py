"""Runs a model over many samples, whatever its batch, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnxshare.errors import OutOfMemory, RuntimeFailure, SamplesError
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array
from onnxshare.runtime.limits import RunLimits, or_default
from onnxshare.runtime.ort_engine import Racer, Settings
from onnxshare.runtime.ort_weights import prepare, with_outputs
from onnxshare.runtime.providers import Provider, choose
from onnxshare.runtime.session_host import Host, LocalHost, Opened, place_for
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.support.option_text import option

#: The outputs of all samples together may be so many times as large as those of one run.
_RUNS_RETURNED = 4


class Session:
    """A model that is loaded and ready to run; each run returns `output_names`, in order."""

    def __init__(
        self,
        model: Model | onnx.ModelProto,
        *,
        provider: Provider | str = "auto",
        outputs: Sequence[str] | None = None,
        optimise: bool = True,
        host: Host | None = None,
        later: bool = False,
        threads: int | None = None,
    ) -> None:
        """Load a model; it is not changed.

        Args:
            model: the model; its weights are read where they are (`ort_weights.py`).
            provider: a provider, or what `providers.choose` takes.
            outputs: names of any tensors of the main graph to return instead of its outputs;
                what they do not need is not computed.
            optimise: with all of ONNX Runtime's graph optimisations, or with none.
            host: where the session lives; None for this process.
            later: load it when it is first run, and what would be raised is raised then.
            threads: as of `engine.Settings`: for measurements.

        Raises:
            RuntimeFailure: ONNX Runtime cannot load the model.
            ModelFileError, ModelError: its weights cannot be read.
        """
        if not isinstance(model, Model):
            model = Model(model)
        proto = model.skeleton
        self.provider = choose(provider) if isinstance(provider, str) else provider
        self._batching = batching(input_specs(proto))
        self._inputs = [spec.name for spec in input_specs(proto)]
        # How outputs follow the samples, found out by the first run: one row each, or not.
        self._rows: dict[str, bool] = {}
        self._limit: int | None = None
        self._model, self._outputs = model, outputs
        self._wanted = proto if outputs is None else with_outputs(proto, outputs)
        self._counted = _counted(self._wanted)
        self.output_names = tuple(value.name for value in self._wanted.graph.output)
        self._host = LocalHost() if host is None else host
        self._later = later
        self.settings = Settings(
            self.provider.name,
            self.provider.label,
            dict(self.provider.options),
            optimise,
            threads,
            self.provider.library,
            bool(self.provider.hardware),
        )
        self._opened: Opened | None = None
        self._failure: RuntimeFailure | None = None
        if not later:
            self.enter()

    def variant(self, model: Model | None = None, *, optimise: bool = True) -> Session:
        """Another session in the same place, with the same provider and outputs, of the same model
        or of a changed copy of it. Raises: as `Session`."""
        return Session(
            self._model if model is None else model,
            provider=self.provider,
            outputs=self._outputs,
            optimise=optimise,
            host=self._host,
            later=self._later,
        )

    @property
    def fixed_batch(self) -> int | None:
        """Samples that each run must get; None for any number."""
        return self._batching.size

    def feed(self, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
        """One run's inputs of so many samples, repeated where there are fewer.

        Raises:
            SamplesError: an input is missing, or the inputs' lengths differ.
        """
        rows = np.arange(size) % self._count(inputs)
        groups = {name: inputs[name][rows] for name in self._inputs}
        return {name: self._one(group) for name, group in groups.items()}

    def _one(self, group: Array) -> Array:
        return np.asarray(group[0]) if self._batching.whole else group

    def run_once(self, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
        """The outputs of one run of so many samples, as the model gives them.

        Raises: as `run`.
        """
        return dict(zip(self.output_names, self._values(self.feed(inputs, size)), strict=True))

    def race(
        self,
        other: Session,
        feeds: tuple[Mapping[str, Array], Mapping[str, Array]],
        orders: Array,
        runs: int,
    ) -> Array:
        """Time this session and another in the same place, each on its feed: seconds of a run,
        `[pairs, 2]`; `orders` and `runs` are as of `Engine.race`.

        Raises:
            RuntimeFailure: one of them cannot be run.
        """
        racers = []
        for session, feed in zip((self, other), feeds, strict=True):
            opened = session.enter()
            racers.append(Racer(opened.number, session.output_names, feed, opened.size))
        return self._host.race(racers, orders, runs)

    def leave(self) -> None:
        """Stop the session's place, and with it every session there, until it is run again."""
        self._host.stop()

    def __del__(self) -> None:
        opened = getattr(self, "_opened", None)
        if opened is not None:
            self._host.close(opened)

    def enter(self) -> Opened:
        """Make sure that the session is in its place: opened, or opened again where the place was
        stopped.

        Raises: as `Session`.
        """
        if self._failure is not None:
            raise self._failure
        if self._opened is None or self._opened.generation != self._host.generation:
            try:
                self._opened = self._host.open(prepare(self._model, self._wanted), self.settings)
            except RuntimeFailure as failure:
                self._failure = failure
                raise
        return self._opened

    def _values(self, feed: Mapping[str, Array]) -> list[Array]:
        opened = self.enter()
        try:
            return self._host.run(opened, self.output_names, feed)
        except RuntimeFailure as failure:
            died = self._host.generation != opened.generation
            if died and not isinstance(failure, OutOfMemory):  # it would only die again
                self._failure = failure
            raise

    def run(self, inputs: Mapping[str, Array], batch: int = 64) -> dict[str, Array]:
        """Run all samples and return every output with the samples on axis 0.

        Args: as of `iter_batches`.

        Returns:
            Per output an array `[samples, …]`; an output whose axis 0 does not follow the
            samples is stacked instead: `[runs, …]`, one entry per run. What a run finds some of,
            as detections, is one list of all runs: `[found, …]`.

        Raises:
            RuntimeFailure: the model cannot be run, or an output's shape changes between runs.
            SamplesError: an input is missing, or the inputs' lengths differ.
        """
        pieces: dict[str, list[Array]] = {name: [] for name in self.output_names}
        size, most = 0, self._host.returned
        for outputs in self.iter_batches(inputs, batch):
            for name, value in outputs.items():
                pieces[name].append(value)
                size += value.nbytes
            if most is not None and size > _RUNS_RETURNED * most:
                raise OutOfMemory(
                    f"its outputs take more than {size / 1e9:.3g} GB together",
                    f"give fewer samples, or raise that with {option('--memory-limit')}",
                )
        try:
            return {name: _joined(parts) for name, parts in pieces.items()}
        except ValueError:
            raise RuntimeFailure(
                "an output's shape differs from run to run", "give fewer samples, or one"
            ) from None

    def iter_batches(
        self, inputs: Mapping[str, Array], batch: int = 64
    ) -> Iterator[dict[str, Array]]:
        """Run the samples group by group and yield the outputs of each group, in order.

        Args:
            inputs: per input an array with the samples on axis 0.
            batch: samples per run; a model with a fixed batch gets as many as it asks for. The
                last group is filled up with repetitions, whose results are dropped.

        Raises: as `run`.
        """
        count = self._count(inputs)
        size = self._batching.size or min(batch, self._limit or batch, count)
        start = 0
        while start < count:
            try:
                results = self._run_group(inputs, start, size, count)
            except RuntimeFailure:
                # A dynamic batch that some Reshape inside fixes at 1 after all, or that is too
                # large for the memory there is.
                if self._batching.size or size == 1 or start:
                    raise
                size = self._limit = 1
                results = self._run_group(inputs, start, size, count)
            yield results
            start += size

    def _count(self, inputs: Mapping[str, Array]) -> int:
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise SamplesError(f"no samples for input '{missing[0]}'")
        counts = {len(inputs[name]) for name in self._inputs}
        if not self._inputs:
            return 1
        if len(counts) != 1:
            raise SamplesError(f"the inputs have different numbers of samples: {sorted(counts)}")
        return counts.pop()

    def _run_group(
        self, inputs: Mapping[str, Array], start: int, size: int, count: int
    ) -> dict[str, Array]:
        rows = [min(row, count - 1) for row in range(start, start + size)]
        real = min(size, count - start)
        whole = self._batching.whole
        feed = {}
        for name in self._inputs:
            group = inputs[name][start : start + size] if real == size else inputs[name][rows]
            feed[name] = self._one(group)
        results = {}
        for name, array in zip(self.output_names, self._values(feed), strict=True):
            if name in self._counted:
                results[name] = np.moveaxis(array, self._counted[name], 0)
                continue
            follows = self._rows.setdefault(
                name, not whole and array.ndim > 0 and array.shape[0] == size
            )
            results[name] = array[:real] if follows else array[np.newaxis]
        return results


def _counted(proto: onnx.ModelProto) -> dict[str, int]:
    """The axis of each output whose size depends on what is found in the inputs: it is open,
    though all sizes of the inputs are known."""
    specs = input_specs(proto)
    if not specs or any(spec.shape is None or None in spec.shape for spec in specs):
        return {}
    found = {}
    for value in proto.graph.output:
        known = [dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim]
        if not all(known):
            found[value.name] = known.index(False)
    return found


def _joined(parts: list[Array]) -> Array:
    """The results of all runs; along the axis in which they differ, if they differ in one."""
    shapes = {part.shape for part in parts}
    axes = [axis for axis, sizes in enumerate(zip(*shapes, strict=False)) if len(set(sizes)) > 1]
    if len(axes) == 1 and axes[0]:
        return np.concatenate([np.moveaxis(part, axes[0], 0) for part in parts])
    return np.concatenate(parts)


def run_model(
    model: Model | onnx.ModelProto,
    samples: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    provider: Provider | str = "auto",
    batch: int = 64,
    run_limits: RunLimits | None = None,
) -> dict[str, Array]:
    """Run a model once over all samples; see `Session` and `Session.run`."""
    with opened(model, provider, outputs, run_limits) as session:
        return session.run(samples, batch)


@contextlib.contextmanager
def opened(
    model: Model | onnx.ModelProto,
    provider: Provider | str = "auto",
    outputs: Sequence[str] | None = None,
    run_limits: RunLimits | None = None,
) -> Iterator[Session]:
    """A session in a place of its own, a process unless the limits say otherwise, which is stopped
    in the end; see `Session`."""
    limits = or_default(run_limits)
    chosen = choose(provider) if isinstance(provider, str) else provider
    host = place_for(limits, chosen)
    try:
        yield Session(model, provider=chosen, outputs=outputs, host=host)
    finally:
        host.stop()
