"""Proves a rewritten model: both run on the same inputs, and inner tensors are compared too."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import onnx

from onnxshare.comparison import Comparison
from onnxshare.edit import set_property
from onnxshare.inputs import Samples
from onnxshare.io.load import Model
from onnxshare.promise import PROMISE_KEY
from onnxshare.promise import make as make_promise
from onnxshare.validate import compare
from rewrites.base import Change, Options
from rewrites.fully_convolutional import as_vectors


def prove(
    original: Model,
    result: Model,
    changes: tuple[Change, ...],
    samples: Samples | None,
    options: Options,
    *,
    provider: str,
    seed: int,
) -> tuple[Model, Comparison]:
    """Run a rewritten model and the original on the same inputs.

    Args:
        original: the model before.
        result: the model after.
        changes: what was done, with the inner tensors that say more than the outputs.
        samples: inputs to measure on; None for random ones.
        options: what was asked for.
        provider: where to run.
        seed: of random inputs.

    Returns:
        The rewritten model, an approximation with its promise written into it, and the comparison.
    """
    candidate = result.skeleton
    if options.fully_convolutional:
        candidate = as_vectors(candidate, original.skeleton)
    candidate, names = _with_evidence(candidate, original.skeleton, changes)
    comparison = compare(
        original,
        replace(result, skeleton=candidate),
        samples=samples,
        provider=provider,
        seed=seed,
        tensors=names,
    )
    fits = [change.fit for change in changes if change.fit is not None]
    if not fits or comparison.verdict in ("not run", "inconclusive") or _broken(comparison):
        return result, comparison
    return _promise(result, comparison, fits[0])


def _with_evidence(
    candidate: onnx.ModelProto, original: onnx.ModelProto, changes: tuple[Change, ...]
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy in which the tensors that stand for old ones have their names, and those names."""
    old = {name for node in original.graph.node for name in node.output}
    new = {name for node in candidate.graph.node for name in node.output}
    outputs = {value.name for value in original.graph.output}
    names: dict[str, str] = {}
    for change in changes:
        if change.fit is None:  # an approximation differs, and that is no news
            names.update(change.tensors)
    names = {a: a if a in new else b for a, b in names.items() if a in old - outputs}
    names = {a: b for a, b in names.items() if b in new - outputs}
    renamed = onnx.ModelProto()
    renamed.CopyFrom(candidate)
    back = {b: a for a, b in names.items() if a != b}
    for node in renamed.graph.node:
        for field_ in (node.input, node.output):
            for place, name in enumerate(field_):
                if name in back:
                    field_[place] = back[name]
    return renamed, list(names)


def _broken(comparison: Comparison) -> bool:
    """Whether nothing could be measured: shapes or NaNs differ, which no approximation explains."""
    return all(row.max_abs is None for row in comparison.outputs)


def _promise(
    result: Model, comparison: Comparison, fit: dict[str, Any]
) -> tuple[Model, Comparison]:
    """Write what was measured on held-out samples into the model, as its promise."""
    promise, words = make_promise(comparison, "fc-to-gap", fit)
    promised = onnx.ModelProto()
    promised.CopyFrom(result.skeleton)
    set_property(promised.metadata_props, PROMISE_KEY, json.dumps(promise))
    return replace(result, skeleton=promised), replace(
        comparison, verdict="approximate", reason=words
    )
