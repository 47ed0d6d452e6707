"""Sharing across models: what a family of models holds once, and how many times over.

The models of a neural architecture search share one set of weights (Pham et al., "Efficient Neural
Architecture Search via Parameter Sharing", 2018), as do the checkpoints of fine-tuned heads. Each
file stores its own copy, so that no single file shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import Inspection, WeightFacts
from onnxshare.errors import UsageError
from onnxshare.io.load import ModelSource, load
from onnxshare.support.dataclass_tools import Result

#: Told a model's name, how many of its bytes have been read, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Member:
    """One model of a family.

    Attributes:
        name: what it is called.
        params: its parameters, each of its tensors once.
        shared: those of them that at least one other model holds too.
        own: those that no other model holds.
        macs: multiply-accumulates per sample; None if unknown.
    """

    name: str
    params: int
    shared: int
    own: int
    macs: int | None


@dataclass(frozen=True)
class FamilyWeight:
    """A tensor that the family holds, by content.

    Attributes:
        name: what the first model that holds it calls it.
        shape: its dims there.
        params: its elements.
        models: names of the models that hold it.
        times: how many copies of it the files hold together.
        connections: its uses per sample, in all models together; None if unknown.
    """

    name: str
    shape: tuple[int, ...]
    params: int
    models: tuple[str, ...]
    times: int
    connections: int | None


@dataclass(frozen=True)
class Family(Result):
    """The models of a family, and what they share.

    Attributes:
        members: the models, as given.
        params_once: parameters of the family, equal tensors counted once.
        params_together: parameters that the files hold together.
        shared_by_all: parameters that every model holds.
        sharing_ratio: how many times over the family holds its average parameter:
            params_together / params_once; None without parameters.
        weights: the tensors, most copied parameters first.
    """

    members: tuple[Member, ...]
    params_once: int
    params_together: int
    shared_by_all: int
    sharing_ratio: float | None
    weights: tuple[FamilyWeight, ...]


def family(sources: Sequence[ModelSource], *, progress: Progress | None = None) -> Family:
    """Report which weights several models share: equal in element type, dims and bytes.

    Args:
        sources: the models, at least two; they are not changed.
        progress: told now and then how much has been read.

    Raises:
        UsageError: fewer than two models are given.
        ModelFileError: a source is not a readable model, or its weights cannot be read.
        ModelError: the graph of one contradicts itself.

    Example:
        >>> found = onnxshare.family(["models/lenet5.onnx", "models/lenet5-torchscript.onnx"])
        >>> print(found.params_together, found.params_once)
        123412 61706
    """
    if len(sources) < 2:
        raise UsageError("a family is of two models or more", "name at least two")
    reports: dict[str, Inspection] = {}
    for source in sources:
        model = load(source)
        name = _free(model.name, reports)
        reports[name] = inspect(model, hashes=True, progress=progress and partial(progress, name))
    return shared(reports)


def _free(name: str, taken: dict[str, Inspection]) -> str:
    """A name that tells a model from the others, where two are called the same."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def shared(reports: dict[str, Inspection]) -> Family:
    """What models share, by name; a tensor without a hash is like no other."""
    copies: dict[str, list[tuple[str, WeightFacts]]] = {}
    for name, report in reports.items():
        for position, weight in enumerate(report.weights):
            key = weight.hash or f"{name} {position}"
            copies.setdefault(key, []).append((name, weight))
    weights = [_one(found) for found in copies.values()]
    once = sum(weight.params for weight in weights)
    together = sum(weight.params * weight.times for weight in weights)
    return Family(
        members=tuple(_member(name, report, weights) for name, report in reports.items()),
        params_once=once,
        params_together=together,
        shared_by_all=sum(w.params for w in weights if len(w.models) == len(reports)),
        sharing_ratio=together / once if once else None,
        weights=tuple(sorted(weights, key=lambda weight: -weight.params * (weight.times - 1))),
    )


def _one(found: list[tuple[str, WeightFacts]]) -> FamilyWeight:
    _, first = found[0]
    uses = [weight.connections for _, weight in found]
    return FamilyWeight(
        name=first.name,
        shape=first.shape,
        params=first.params,
        models=tuple(dict.fromkeys(name for name, _ in found)),
        times=len(found),
        connections=None if None in uses else sum(count or 0 for count in uses),
    )


def _member(name: str, report: Inspection, weights: list[FamilyWeight]) -> Member:
    own = sum(weight.params * weight.times for weight in weights if weight.models == (name,))
    params = report.totals.params
    return Member(name, params, params - own, own, report.totals.macs)
