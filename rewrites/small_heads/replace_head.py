"""Replaces one head by a small one: search, fit, emit, certify, or fall back to what is exact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from math import inf
from time import monotonic
from typing import cast

import numpy as np
import onnx

from onnxshare.analysis.heads.head import Head, Subject
from onnxshare.comparison.promise import Fit
from onnxshare.io.tensors import Array
from onnxshare.runtime.latency import Latency
from onnxshare.support.option_text import option
from rewrites.base import Change, Fitting, Options, Site
from rewrites.fc_to_conv import FcToConv
from rewrites.refusal import Refusal
from rewrites.small_heads import blas_threads
from rewrites.small_heads.certificate import Estimate, Target, estimate, fixed_sequence
from rewrites.small_heads.descriptions import (
    best_words,
    class_leaves,
    latency_words,
    measured,
    task_words,
    values_words,
)
from rewrites.small_heads.emit_head import Emitted, emit_head
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.methods import EXACT, Method, describe, parse
from rewrites.small_heads.sample_checks import check_head, check_scale
from rewrites.small_heads.search import ladder, search, settle
from rewrites.small_heads.search_result import Search
from rewrites.small_heads.training_data import HeadData, collect, kinds, measured_outputs

_NOT_COMPRESSIBLE = "not compressible within the promise"


@dataclass(frozen=True)
class _Task:
    """One head to replace, and everything that is requested."""

    site: Site
    options: Options
    fitting: Fitting
    data: HeadData
    target: Target
    deadline: float

    @cached_property
    def original(self) -> dict[int, Array]:
        """What the head gives for the samples that certify."""
        assert self.fitting.held_out is not None
        proto = self.data.chain.subject.graph.proto
        return measured_outputs(self.data.chain, self.data.classes, self.fitting.held_out, proto)


@dataclass(frozen=True)
class _Made:
    """A head that was fitted and written, without the weights that it was fitted with.

    Attributes:
        method: how it was fitted.
        params, bytes: what its weights and biases take.
        errors: the leave-one-out error of each layer; none where it has none.
        refined: whether a layer was refined for classes.
        emitted: the whole model with it.
    """

    method: Method
    params: int
    bytes: int
    errors: tuple[float, ...]
    refined: bool
    emitted: Emitted = field(repr=False)


def shrink(subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
    """Replace a head, as `fc-to-gap` found it, by a small one.

    Raises:
        Refusal: there are no samples, the method does not suit the head, or a given method does
            not keep the target. A search falls back to the exact form instead.
    """
    head: Head = site.target
    if fitting.features is None or fitting.samples is None:
        raise Refusal("it is not exact, and there are no samples to fit it to")
    chain = chain_of(subject, head)
    target = options.target
    labelled = fitting.samples.labels is not None and options.max_error is None
    classes = class_leaves(chain, asked=bool(target.criteria) or labelled)
    _check(chain, target, classes)
    check_scale(subject, fitting.features, fitting.warn)
    data = collect(chain, fitting.features, fitting.samples.count, classes)
    labels = fitting.samples.labels
    data = replace(data, labels=labels)
    check_head(data, labels, fitting.warn, promised=bool(target.criteria))
    deadline = inf if options.time_limit is None else monotonic() + options.time_limit
    task = _Task(site, options, fitting, data, target, deadline)
    if options.method != "auto":
        return _given(task)
    found = _search(task)
    if found.chosen == EXACT.name:
        return exact_form(subject, site, options, fitting, best_words(found), found)
    return _certified(task, found)


def _check(chain: Chain, target: Target, classes: frozenset[int]) -> None:
    """Make sure that what is to be kept can be measured."""
    values = [chain.layers[leaf].result for leaf in chain.leaves if leaf not in classes]
    asked = bool(target.criteria)
    if asked and not classes:
        raise Refusal(
            f"its outputs are not classes: promise {option('--max-error')} instead of "
            + option("--keep")
        )
    for criterion in target.criteria:
        fewest = min(chain.layers[leaf].fc.out_features for leaf in classes)
        if criterion.count >= fewest - (criterion.kind == "within"):
            raise Refusal(f"it has {fewest} classes: {criterion.what} says nothing")
        if criterion.paired and len(classes) > 1:
            raise Refusal("it has several outputs of classes, and the labels are of one")
    if asked and values and target.max_error is None:
        raise Refusal(f"'{values[0]}' gives values too: promise {option('--max-error')} too")
    if target.max_error is not None and not asked and classes:
        raise Refusal(
            f"its outputs are classes: promise {option('--keep')} instead of "
            + option("--max-error")
        )


def _make(task: _Task, method: Method) -> _Made:
    with blas_threads.one():
        small = fit_head(task.data, np.arange(task.data.count), method)
    closed = small.hidden is None and method.form not in ("original", "prune")  # others have none
    errors = tuple(layer.error for layer in small.layers) if closed else ()
    refined = any(layer.refined for layer in small.layers)
    return _Made(method, small.params, small.bytes, errors, refined, emit_head(small))


def _search(task: _Task) -> Search:
    objective, seed = task.options.objective, task.options.seed
    latency = partial(_timed, task) if objective == "latency" else None
    found = search(
        task.data,
        task.target,
        objective=objective,
        latency=latency,
        run_head=partial(_outputs, task),
        activations=task.options.int8_activations,
        seed=seed,
        deadline=task.deadline,
    )
    return replace(found, timed_on=task.fitting.timed_on)


def _outputs(task: _Task, small: SmallHead) -> dict[int, Array]:
    """Per leaf what a head gives on the samples to fit to, where the model is run with it."""
    assert task.fitting.features is not None
    data = task.data
    model = emit_head(small)[0]
    found = measured_outputs(data.chain, data.classes, task.fitting.features, model)
    return {leaf: found[leaf] for leaf in data.chain.leaves}


def _timed(task: _Task, method: Method) -> Latency:
    """A method's whole model (B) against the original (A)."""
    assert task.fitting.race is not None
    return task.fitting.race(_make(task, method).emitted[0])


def _certified(task: _Task, found: Search) -> Change:
    """The cheapest head of a search that a fixed sequence of tests certifies, or the exact form."""
    made: list[_Made] = []

    def measure(name: str) -> Estimate:
        del made[:-1]  # the one before is what is left if this one fails
        made.append(_make(task, parse(name)))
        return _certify(task, made[-1].emitted[0])

    order = ladder(found, task.options.objective)
    tested = fixed_sequence(order, measure, task.target, task.deadline)
    found = settle(found, tested)
    last, missed = tested[-1]
    words = (
        f"{last} {measured(missed, task.target)} on samples that the search never saw, and not "
        f"the {task.target.words} it seemed to keep"
    )
    if not found.certified:
        why = f"{words}; give more samples, or promise less"
        subject = task.data.chain.subject
        return exact_form(subject, task.site, task.options, task.fitting, why, found)
    [chosen] = [item for item in made if item.method.name == found.chosen]
    change = _change(task, chosen, found.certificate, found)
    if last == found.chosen and len(tested) == len(order):
        return change
    if last == found.chosen:
        words = "the time limit was reached before cheaper heads were certified"
    return replace(change, notes=(*change.notes, words))


def _given(task: _Task) -> Change:
    """The head that was requested, certified where something is to be kept."""
    small = _make(task, parse(task.options.method or "gap"))
    certificate = _certify(task, small.emitted[0]) if task.target.asked else None
    if certificate is not None and not certificate.reaches(task.target):
        words = f"{small.method.name} {measured(certificate, task.target)}"
        raise Refusal(f"{words}: that is not {task.target.words}")
    return _change(task, small, certificate, None)


def _change(
    task: _Task, small: _Made, certificate: Estimate | None, found: Search | None
) -> Change:
    model, removed, added = small.emitted
    chain = task.data.chain
    tensors = {(name := chain.layers[leaf].result): name for leaf in chain.leaves}
    notes = _notes(task, small, found, certificate)
    fit = _figures(task, small, certificate)
    site = _site(task, small)
    return Change(site, model, removed, added, tensors, notes, fit, search=found)


def _certify(task: _Task, model: onnx.ModelProto) -> Estimate:
    """Measure a finished model, as it will be deployed, on samples that nothing has seen yet."""
    features = task.fitting.held_out
    if features is None:
        raise Refusal("there are no samples left to certify it on")
    given = measured_outputs(task.data.chain, task.data.classes, features, model)
    labels = task.fitting.held_out_labels
    return estimate(task.original, given, task.data.classes, task.target, labels)


def _site(task: _Task, small: _Made) -> Site:
    """The site with the figures of what was done; a pooled first layer leaves the others alone."""
    site, chain = task.site, task.data.chain
    spared = chain.params - site.params_before if small.method.form == "first" else 0
    return replace(
        site,
        exact=False,
        params_before=chain.params - spared,
        params_after=small.params - spared,
        detail=site.detail if not task.options.method else describe(small.method),
    )


def _notes(
    task: _Task, small: _Made, found: Search | None, certificate: Estimate | None
) -> tuple[str, ...]:
    notes = []
    if small.method.int8:
        before = task.data.chain.bytes
        words = "weights and activations" if small.method.int8_activations else "weights"
        notes.append(
            f"{words} in 8 bits: {before:,} → {small.bytes:,} bytes, ÷{before / small.bytes:.3g}"
        )
    if task.options.method:
        notes.append(task_words(task.data.chain, task.data.classes))
        notes += [] if task.target.asked else values_words(task.data.chain, task.data.classes)
    if found is not None:
        tried = sum(item.estimate is not None for item in found.candidates)
        kept = sum(item.reaches for item in found.candidates)
        notes.append(
            f"the cheapest in {task.options.objective} of {kept} that keep the promise in "
            f"cross-validation, of {tried} tried on {found.samples} samples"
        )
        if found.too_late:
            notes.append(f"the time limit left {found.too_late} heads untried")
        chosen = next(item for item in found.candidates if item.chosen)
        notes += [] if chosen.latency is None else [latency_words(chosen.latency)]
    if certificate is not None:
        assert task.fitting.samples is not None
        notes.append(
            f"fitted to {task.data.count:,} samples of {task.fitting.samples.origin}, drawn with "
            f"seed {task.options.seed}; certified on {certificate.samples:,} others of them"
        )
        notes.append(
            f"certified {task.target.words} with 95 % confidence, {certificate.samples} samples: "
            f"it {measured(certificate, task.target)}"
        )
    return tuple(notes)


def _figures(task: _Task, small: _Made, certificate: Estimate | None) -> Fit:
    """What is written into the model in addition to the promise."""
    figures: Fit = {"method": small.method.name, "fitted_on": task.data.count}
    if small.errors:
        figures["left_out_error"] = max(small.errors)
        figures["refined"] = small.refined
    if certificate is not None:
        figures["certified_on"] = certificate.samples
        figures |= cast("Fit", {k: v for k, v in asdict(task.target).items() if v is not None})
        figures |= kinds(task.data.chain, task.data.classes)
    return figures


def exact_form(
    subject: Subject,
    site: Site,
    options: Options,
    fitting: Fitting,
    why: str,
    found: Search | None = None,
) -> Change:
    """The convolution over the whole map: nothing smaller, but exact.

    `why` nothing smaller is made is empty where that was requested; `found` is the search that
    ended here.

    Raises:
        Refusal: the head cannot be a convolution either.
    """
    rewrite = FcToConv()
    exact = next(item for item in rewrite.sites(subject, options) if item.node == site.node)
    start = f"{_NOT_COMPRESSIBLE} ({why}); " if why else ""
    if exact.refused is not None:
        raise Refusal(f"{start}and no exact form fits: {exact.refused}")
    made = rewrite.apply(subject, exact, options, fitting)
    kept = replace(exact, rewrite=site.rewrite, detail=f"{start}{exact.detail}")
    return replace(made, site=kept, search=found)
