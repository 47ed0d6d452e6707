"""Applies rewrites in their order, each to a fixed point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase

from onnxshare.errors import ModelError, RewriteError, UsageError
from onnxshare.io.load import Model
from onnxshare.shapes.inference import InputShapes
from rewrites.base import Change, Fitting, Options, Rewrite, Site, refuse, study
from rewrites.restore_functions import with_functions

_NO_SAMPLES = "give inputs to fit to with --samples FILE, or use --fc-to-conv, which is exact"
_WAY_OUT = (
    "let a search find the smallest head that keeps a promise with --method auto --keep 99% "
    "--samples FILE, allow pooling fitted to your data with --approximate --samples FILE, or use "
    "--fc-to-conv, which is exact"
)


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
    sites: dict[tuple[str, str], Site] = {}
    changes: list[Change] = []
    names: dict[str, None] = {}
    for rewrite in chosen:
        count, limit = 0, _CHANGES + _CHANGES_PER_NODE * len(model.skeleton.graph.node)
        failed: set[str] = set()  # and small heads, which are not sites for smaller ones
        while True:
            with fault_of_rewrite(model.name) if changes else nullcontext():
                subject = study(model, input_shapes)
            every = [_allow(site, options, fitting) for site in rewrite.sites(subject, options)]
            names.update(dict.fromkeys(site.node for site in every))
            found = [site for site in every if fnmatchcase(site.node, options.node)]
            for site in found:
                sites.setdefault((rewrite.name, site.node), site)
            ready = [site for site in found if site.refused is None and site.node not in failed]
            if not ready:
                break
            made, refused = rewrite.apply_several(subject, ready, options, fitting)
            failed.update(site.node for site in refused)
            sites.update({(rewrite.name, site.node): site for site in refused})
            if made:
                changes += made
                count += len(made)
                if count > limit:
                    raise RewriteError(
                        f"rewrite '{rewrite.name}' comes to no end: after {count} changes it still "
                        "finds sites",
                        "a rewrite must not find again what it made",
                    )
                sites.update({(rewrite.name, change.site.node): change.site for change in made})
                failed.update(name for change in made if change.fit for name in change.added)
                model = replace(model, skeleton=made[-1].model)
    if names and not sites:
        raise UsageError(
            f"no site matches --node '{options.node}'", f"available: {', '.join(names)}"
        )
    # A head that one rewrite has dealt with is not refused by the next.
    done = {(change.site.rewrite, change.site.node) for change in changes}
    nodes = {node for _, node in done} | {name for change in changes for name in change.added}
    kept = [s for key, s in sites.items() if key in done or s.node not in nodes]
    return model, tuple(kept), tuple(changes)


def _allow(site: Site, options: Options, fitting: Fitting) -> Site:
    if site.exact is False and not (options.approximate and fitting.features is not None):
        missing = options.small_head and fitting.features is None
        return refuse(site, f"{site.detail}; {_NO_SAMPLES if missing else _WAY_OUT}")
    return site
