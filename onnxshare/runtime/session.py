"""Runs a model over many samples, whatever its batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxshare.errors import RuntimeFailure, SamplesError
from onnxshare.io.external import ExternalData
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array
from onnxshare.runtime.providers import Provider, choose, first_line, quiet
from onnxshare.runtime.weights import Weights, prepare, reads
from onnxshare.signature import batching, input_specs


class Session:
    """A model that is loaded and ready to run.

    Attributes:
        provider: where it runs.
        output_names: what each run returns, in order.
    """

    def __init__(
        self,
        model: Model | onnx.ModelProto,
        *,
        provider: Provider | str = "auto",
        outputs: Sequence[str] | None = None,
        optimise: bool = True,
        folder: Path | None = None,
    ) -> None:
        """Load a model; it is not changed.

        Args:
            model: the model; its weights are read where they are (`weights.py`).
            provider: a provider, or what `providers.choose` takes.
            outputs: names of any tensors of the main graph to return instead of its outputs;
                what they do not need is not computed.
            optimise: with all of ONNX Runtime's graph optimisations, or with none.
            folder: where the external data of a ModelProto lies.

        Raises:
            RuntimeFailure: ONNX Runtime cannot load the model.
            ModelFileError, ModelError: its weights cannot be read.
        """
        if not isinstance(model, Model):
            model = Model(model, external=ExternalData(folder))
        proto = model.skeleton
        self.provider = choose(provider) if isinstance(provider, str) else provider
        self._batching = batching(input_specs(proto))
        self._inputs = [spec.name for spec in input_specs(proto)]
        # How outputs follow the samples, found out by the first run: one row each, or not.
        self._rows: dict[str, bool] = {}
        self._limit: int | None = None
        wanted = proto if outputs is None else _with_outputs(proto, outputs)
        self.output_names = tuple(value.name for value in wanted.graph.output)
        weights = prepare(model, wanted)
        self._session = _open(weights, self.provider, optimise)
        self._arrays = weights.handed_over  # whose memory the session uses

    def run(self, inputs: Mapping[str, Array], batch: int = 64) -> dict[str, Array]:
        """Run all samples and return every output with the samples on axis 0.

        Args: as of `iter_batches`.

        Returns:
            Per output an array `[samples, …]`; an output whose axis 0 does not follow the
            samples is stacked instead: `[runs, …]`, one entry per run.

        Raises:
            RuntimeFailure: the model cannot be run, or an output's shape changes between runs.
            SamplesError: an input is missing, or the inputs' lengths differ.
        """
        pieces: dict[str, list[Array]] = {name: [] for name in self.output_names}
        for outputs in self.iter_batches(inputs, batch):
            for name, value in outputs.items():
                pieces[name].append(value)
        try:
            return {name: np.concatenate(parts) for name, parts in pieces.items()}
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
                # A dynamic batch that some Reshape inside fixes at 1 after all.
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
            feed[name] = group[0] if whole else group
        try:
            values = self._session.run(list(self.output_names), feed)
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run it: {first_line(error)}") from error
        results = {}
        for name, value in zip(self.output_names, values, strict=True):
            array = np.asarray(value)
            follows = self._rows.setdefault(
                name, not whole and array.ndim > 0 and array.shape[0] == size
            )
            results[name] = array[:real] if follows else array[np.newaxis]
        return results


def run_model(
    model: Model | onnx.ModelProto,
    samples: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    provider: Provider | str = "auto",
    folder: Path | None = None,
    batch: int = 64,
) -> dict[str, Array]:
    """Run a model once over all samples; see `Session` and `Session.run`."""
    session = Session(model, provider=provider, outputs=outputs, folder=folder)
    return session.run(samples, batch)


def iter_batches(
    model: Model | onnx.ModelProto,
    samples: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    provider: Provider | str = "auto",
    folder: Path | None = None,
    batch: int = 64,
) -> Iterator[dict[str, Array]]:
    """Run a model over all samples, yielding group by group; see `Session.iter_batches`."""
    session = Session(model, provider=provider, outputs=outputs, folder=folder)
    yield from session.iter_batches(samples, batch)


def _with_outputs(proto: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    known = {value.name: value for value in proto.graph.output}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    del changed.graph.output[:]
    for name in dict.fromkeys(outputs):
        # A name alone will do: ONNX Runtime infers the type.
        changed.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    if not set(known) <= set(outputs):
        _drop_unneeded(changed.graph)
    return changed


def _drop_unneeded(graph: onnx.GraphProto) -> None:
    """Remove nodes that no output needs: ONNX Runtime would run them all the same."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(reads(node))
    kept.reverse()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)


def _open(weights: Weights, provider: Provider, optimise: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    best = levels.ORT_ENABLE_EXTENDED if weights.large else levels.ORT_ENABLE_ALL
    options.graph_optimization_level = best if optimise else levels.ORT_DISABLE_ALL
    try:
        weights.give(options)
        # CUDA's libraries print past every log setting when they are loaded.
        with quiet():
            session = onnxruntime.InferenceSession(
                weights.model, options, providers=provider.session_argument, enable_fallback=0
            )
    except Exception as error:
        raise RuntimeFailure(f"ONNX Runtime cannot load it: {first_line(error)}") from error
    if provider.name not in session.get_providers():
        raise RuntimeFailure(f"ONNX Runtime left {provider.label} and took the CPU instead")
    return session
