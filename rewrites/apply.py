"""Makes the edits of several sites in one go, so that the model is copied and studied once.

Every site leaves the tensors at its borders under their names and with their values. So sites that
take out different nodes can be made together: what one of them reads is there, whichever of the
others makes it.

Applies rewrites in their order, each to a fixed point.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase

import onnx

from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import ModelError, RewriteError, UsageError
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.io.load import Model
from onnxshare.shapes.inference import InputShapes
from rewrites.base import Change, Fitting, Options, Rewrite, Site, refuse, study
from rewrites.refusal import Refusal
from rewrites.restore_functions import with_functions


def apply_some(
    rewrite: Rewrite, subject: Subject, ready: list[Site], options: Options, fitting: Fitting
) -> tuple[list[Change], list[Site]]:
    """Make the changes at some sites: all that go together, or only the first.

    Args:
        rewrite: the rewrite.
        subject: the model.
        ready: its sites that are not refused.
        options: what was asked for.
        fitting: what a fit may use.

    Returns:
        The changes, which all lead to the same model, and the sites that turned out refused.
    """
    exact = [site for site in ready if site.exact]
    several = getattr(rewrite, "apply_several", None)
    if several is not None and len(exact) > 1:
        made, refused = several(subject, exact)
        return made, refused
    if len(exact) < 2 or options.fully_convolutional or not getattr(rewrite, "together", False):
        try:
            return [rewrite.apply(subject, ready[0], options, fitting)], []
        except Refusal as refusal:
            return [], [refuse(ready[0], str(refusal))]
    edits = Together(subject, rewrite.name)
    shared = replace(subject, edits=edits)
    made, refused = [], []
    for site in exact:
        edits.begin()
        try:
            change = rewrite.apply(shared, site, options, fitting)
        except Refusal as refusal:
            edits.drop()
            refused.append(refuse(site, str(refusal)))
            continue
        if edits.keep():
            made.append(change)
    edits.finish()
    return made, refused


class Together(Editor):
    """An editor for the sites of one rewrite, one after the other: `begin`, edits, `keep`.

    Args:
        subject: the model.
        rewrite: the name that new nodes carry as their origin.
    """

    def __init__(self, subject: Subject, rewrite: str) -> None:
        super().__init__(subject.graph.proto, rewrite, subject.graph.model.payloads)
        self._nodes = subject.graph.main.nodes
        self._model = onnx.ModelProto()
        self._gone: set[str] = set()  # outputs of nodes that were taken out, made by no new one
        self._made: set[str] = set()  # outputs of new nodes
        self._read: set[str] = set()  # inputs of new nodes
        self.begin()

    def begin(self) -> None:
        """Start with the next site."""
        self._new: list[tuple[int, onnx.NodeProto]] = []
        self._out: set[int] = set()
        self._stored = len(self._initializers)

    def _place(self, node: onnx.NodeProto, origin: Node) -> None:
        super()._place(node, origin)
        self._new.append((origin.position, node))

    def remove(self, node: Node) -> None:
        """Take out a node of the original graph."""
        self._out.add(node.position)

    def rename(self, name: str, wanted: str) -> None:
        """Give a tensor made by this site's new nodes another name, everywhere in them."""
        for _, node in self._new:
            for names in (node.input, node.output):
                for place, found in enumerate(names):
                    if found == name:
                        names[place] = wanted

    @property
    def added(self) -> tuple[str, ...]:
        """Names of this site's new nodes, in graph order."""
        return tuple(node.name for _, node in sorted(self._new, key=lambda item: item[0]))

    def apply(self) -> onnx.ModelProto:
        """Return the model that `finish` fills in."""
        return self._model

    def keep(self) -> bool:
        """Take this site's edits over; False, and none of them, if they meet another site's."""
        made = {name for _, node in self._new for name in node.output if name}
        read = {name for _, node in self._new for name in node.input}
        gone = {name for position in self._out for name in self._nodes[position].outputs} - made
        lost = any(name in self._gone and name not in made for name in read)
        taken = any(name in self._read and name not in self._made for name in gone)
        if not self._out.isdisjoint(self._removed) or lost or taken or made & self._made:
            self.drop()
            return False
        self._removed |= self._out
        self._gone |= gone
        self._gone -= made
        self._made |= made
        self._read |= read
        return True

    def drop(self) -> None:
        """Forget this site's edits."""
        for position, node in self._new:
            kept = [item for item in self._emitted[position] if item is not node]
            self._emitted[position] = kept
        del self._initializers[self._stored :]

    def finish(self) -> None:
        """Make all edits that were kept."""
        self._model.CopyFrom(super().apply())


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
    """Apply each rewrite until it fits nowhere any more.

    Returns:
        The model, every site that was found, and what was done.

    Raises:
        UsageError: `options.node` matches no site.
    """
    sites: dict[tuple[str, str], Site] = {}
    changes: list[Change] = []
    names: dict[str, None] = {}
    for rewrite in chosen:
        count, limit = 0, _CHANGES + _CHANGES_PER_NODE * len(model.skeleton.graph.node)
        failed: set[str] = set()  # and small heads, which are no sites for smaller ones
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
            made, refused = apply_some(rewrite, subject, ready, options, fitting)
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
            f"no site matches --node '{options.node}'", f"there are: {', '.join(names)}"
        )
    # A head that one rewrite has dealt with is not refused by the next.
    done = {(change.site.rewrite, change.site.node) for change in changes}
    nodes = {node for _, node in done} | {name for change in changes for name in change.added}
    kept = [s for key, s in sites.items() if key in done or s.node not in nodes]
    return model, tuple(kept), tuple(changes)


def _allow(site: Site, options: Options, fitting: Fitting) -> Site:
    if site.exact is False and not (options.approximate and fitting.features is not None):
        wants = bool(options.method) or options.keep is not None or options.max_error is not None
        missing = wants and fitting.features is None
        return refuse(site, f"{site.detail}; {_NO_SAMPLES if missing else _WAY_OUT}")
    return site
