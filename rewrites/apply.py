"""Applies rewrites in their order, each to a fixed point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial

from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import ModelError, RewriteError, UsageError
from onnxshare.io.load import Model
from onnxshare.shapes.inference import InputShapes
from onnxshare.support.option_text import option
from rewrites.base import Change, Fitting, Options, Rewrite, Site, refuse, study
from rewrites.restore_functions import with_functions
from rewrites.subgraph_bodies import Body, bodies, judged, put_back

#: Changes after which a rewrite that still finds sites is taken for one that never ends.
_CHANGES, _CHANGES_PER_NODE = 100, 2


@contextmanager
def fault_of_rewrite(name: str) -> Iterator[None]:
    """Blame the rewrite, and not the model, for a rewritten model that contradicts itself.

    Raises:
        RewriteError: instead of `ModelError`.
    """
    try:
        yield
    except ModelError as error:
        raise RewriteError(
            f"{name}: what the rewrite made is not sound: {error.cause}",
            "this is a fault of the rewrite: report it to who wrote it",
        ) from error


def again(
    model: Model, chosen: list[Rewrite], options: Options, input_shapes: InputShapes | None
) -> tuple[Model, tuple[Change, ...]]:
    """The same rewrites of another model, as far as they need no samples."""
    result, _, changes = apply_all(model, chosen, options, Fitting(), input_shapes)
    return with_functions(model, result, changes) if changes else (model, ())


def apply_all(
    model: Model,
    chosen: list[Rewrite],
    options: Options,
    fitting: Fitting,
    input_shapes: InputShapes | None,
) -> tuple[Model, tuple[Site, ...], tuple[Change, ...]]:
    """Apply each rewrite until it fits nowhere any more; returns the model, every site that was
    found, and what was done.

    Raises:
        UsageError: `options.node` matches no site.
    """
    found = _Found({}, {})
    changes: list[Change] = []
    whole = _Place(partial(_allow, options=options, fitting=fitting), input_shapes)
    for rewrite in chosen:
        with fault_of_rewrite(model.name) if changes else nullcontext():
            model, made = _fixpoint(model, rewrite, options, fitting, whole, found)
        changes += made
    sites = found.sites
    if found.names and not sites:
        raise UsageError(
            f"no site matches {option('--node', options.node)}",
            f"available: {', '.join(found.names)}",
        )
    # A head that one rewrite has dealt with is not refused by the next.
    done = {(change.site.rewrite, change.site.node) for change in changes}
    nodes = {node for _, node in done} | {name for change in changes for name in change.added}
    kept = [s for key, s in sites.items() if key in done or s.node not in nodes]
    return model, tuple(kept), tuple(changes)


@dataclass(frozen=True)
class _Found:
    """Sites by rewrite and node, and the names of all nodes that have one."""

    sites: dict[tuple[str, str], Site]
    names: dict[str, None]


@dataclass(frozen=True)
class _Place:
    """A model, or the body of one of its nodes.

    Attributes:
        judge: refuses what cannot be done there.
        input_shapes: sizes of its inputs.
        maps: inputs that come from a convolution (`study`).
        rename: what the whole model calls a node.
        sliding: whether the whole model should slide.
    """

    judge: Callable[[Site], Site]
    input_shapes: InputShapes | None = None
    maps: Mapping[str, str | None] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    sliding: bool = False


def _fixpoint(
    model: Model,
    rewrite: Rewrite,
    options: Options,
    fitting: Fitting,
    place: _Place,
    found: _Found,
) -> tuple[Model, list[Change]]:
    """Apply a rewrite until it fits nowhere any more, in the bodies of nodes too."""
    changes: list[Change] = []
    limit = _CHANGES + _CHANGES_PER_NODE * len(model.skeleton.graph.node)
    failed: set[str] = set()  # and small heads, which are not sites for smaller ones

    def note(site: Site) -> None:
        shown = replace(site, node=place.rename(site.node))
        found.sites[rewrite.name, shown.node] = shown

    while True:
        with fault_of_rewrite(model.name) if changes else nullcontext():
            subject = study(model, place.input_shapes, place.maps)
        every = [place.judge(site) for site in rewrite.sites(subject, options)]
        found.names.update(dict.fromkeys(place.rename(site.node) for site in every))
        matching = [s for s in every if fnmatchcase(place.rename(s.node), options.node)]
        for site in matching:
            if (rewrite.name, place.rename(site.node)) not in found.sites:
                note(site)
        ready = [site for site in matching if site.refused is None and site.node not in failed]
        if not ready:
            break
        made, refused = rewrite.apply_several(subject, ready, options, fitting)
        failed.update(site.node for site in refused)
        for site in (*refused, *(change.site for change in made)):
            note(site)
        if made:
            changes += made
            if len(changes) > limit:
                raise RewriteError(
                    f"rewrite '{rewrite.name}' comes to no end: after {len(changes)} changes it "
                    "still finds sites",
                    "a rewrite must not find again what it made",
                )
            failed.update(name for change in made if change.fit for name in change.added)
            model = replace(model, skeleton=made[-1].model)
    if rewrite.in_bodies:
        inside = bodies(subject, place.input_shapes, place.maps)
        for number in range(len(inside)):
            inner = _in_body(subject, inside[number], rewrite, options, place, found)
            if inner:
                changes += inner
                model = replace(model, skeleton=inner[-1].model)
                subject = study(model, place.input_shapes, place.maps)
                inside = bodies(subject, place.input_shapes, place.maps)
    return model, changes


def _in_body(
    subject: Subject,
    body: Body,
    rewrite: Rewrite,
    options: Options,
    place: _Place,
    found: _Found,
) -> tuple[Change, ...]:
    """Apply a rewrite in a body, and put what comes out in its place."""
    sliding = options.fully_convolutional or place.sliding
    inside = _Place(
        partial(judged, body, sliding=sliding),
        None,
        body.maps,
        lambda name: place.rename(body.named(name)),
        sliding,
    )
    own = replace(options, fully_convolutional=False, pool_outputs=False)
    result, made = _fixpoint(body.model, rewrite, own, Fitting(), inside, found)
    return put_back(subject, body, result, tuple(made), rewrite.name) if made else ()


def _allow(site: Site, options: Options, fitting: Fitting) -> Site:
    if site.exact is False and not (options.approximate and fitting.features is not None):
        missing = options.small_head and fitting.features is None
        return refuse(site, f"{site.detail}; {_no_samples() if missing else _way_out()}")
    return site


def _no_samples() -> str:
    exact = option("--fc-to-conv")
    return f"give inputs to fit to with {option('--samples FILE')}, or use {exact}, which is exact"


def _way_out() -> str:
    search = option("--method auto --keep 99% --samples FILE")
    return (
        f"let a search find the smallest head that keeps a promise with {search}, allow pooling "
        f"fitted to your data with {option('--approximate --samples FILE')}, or use "
        f"{option('--fc-to-conv')}, which is exact"
    )
