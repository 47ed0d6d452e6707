"""What a rewrite is: it finds sites, says why elsewhere it does not fit, and makes the change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import onnx

from onnxshare.analysis.heads.fully_connected import (
    FullyConnected,
    bias_elements,
    bias_node,
)
from onnxshare.analysis.heads.head import Head, Subject, probe
from onnxshare.analysis.heads.search import find_heads
from onnxshare.comparison.target import Target
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Graph, Node
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array
from onnxshare.shapes.inference import InputShapes, infer
from onnxshare.support.dataclass_tools import Result
from rewrites.edits.joint_editor import JointEditor
from rewrites.moved_weights import Moved
from rewrites.refusal import Refusal

if TYPE_CHECKING:
    from onnxshare.comparison.promise import Fit
    from onnxshare.runtime.latency import Latency
    from onnxshare.samples.samples import Samples
    from rewrites.small_heads.search_result import Search

#: Runs a model on the samples and yields, batch by batch, the values of the named tensors.
Features = Callable[[onnx.ModelProto, tuple[str, ...]], Generator[Mapping[str, Array]]]


@dataclass(frozen=True)
class Options:
    """What the user requested beyond the name of the rewrite.

    Attributes:
        approximate: whether changes that are not exact may be made.
        fully_convolutional: whether outputs become maps and spatial input sizes dynamic.
        pool_outputs: whether those maps are averaged to one answer again.
        node: a pattern such as `fc*`; sites of other nodes are left alone.
        method: the small head that `fc-to-gap` should make (`small_heads/methods.py`); `auto`
            searches for one; empty is `gap`.
        keep: the least share of samples on which the class should stay the same.
        max_error: the largest relative RMS error of a head's values.
        keep_top, within, max_loss: what else should be kept of classes (`comparison/target.py`).
        search_share: the share of the samples that a fit or a search sees; None leaves it to the
            promise.
        objective: what a search makes small: params, macs, bytes or latency.
        int8_activations: whether a search that tries heads in 8 bits has activations in 8 bits too.
        seed: of a search's folds.
        time_limit: the most seconds for the search for one small head.
    """

    approximate: bool = False
    fully_convolutional: bool = False
    pool_outputs: bool = False
    node: str = "*"
    method: str = ""
    keep: float | None = None
    max_error: float | None = None
    objective: str = "params"
    seed: int = 0
    time_limit: float | None = None
    keep_top: tuple[int, float] | None = None
    within: tuple[int, float] | None = None
    max_loss: float | None = None
    search_share: float | None = None
    int8_activations: bool = False

    @property
    def target(self) -> Target:
        """What should be kept."""
        return Target(self.keep, self.max_error, self.keep_top, self.within, self.max_loss)

    @property
    def small_head(self) -> bool:
        """Whether a small head is requested: by its method, or by what it should keep."""
        return bool(self.method) or self.target.asked


@dataclass(frozen=True)
class Site(Result):
    """A place where a rewrite fits, or does not.

    Attributes:
        rewrite: the rewrite's name.
        node: the name of the first node that would be replaced.
        exact: equal in real arithmetic; None if refused.
        refused: the reason why nothing is changed there, or None.
        nothing_to_do: whether that is because no rewrite could share more: the feature map has
            one position, or the FC is applied at every position of it.
        params_before: parameters of the nodes in question.
        params_after: parameters afterwards; None if refused.
        detail: one phrase on what would be done.
        target: what `apply` needs to know; belongs to the rewrite.
    """

    SHOWN = (
        *("rewrite", "node", "exact", "refused", "nothing_to_do"),
        *("params_before", "params_after", "detail"),
    )

    rewrite: str
    node: str
    exact: bool | None
    refused: str | None
    params_before: int
    params_after: int | None
    detail: str = ""
    target: Any = field(default=None, repr=False, compare=False)
    nothing_to_do: bool = False


def refuse(site: Site, reason: str) -> Site:
    """The same site, refused."""
    return replace(site, refused=reason, exact=None, params_after=None)


@dataclass(frozen=True)
class Change(Result):
    """What a rewrite did at one site.

    Attributes:
        site: the site.
        model: the rewritten model.
        removed: names of the nodes that are gone.
        added: names of the new nodes.
        tensors: by name of an old tensor the new one that stands for it: evidence in addition to
            the outputs, such as each FC's result before a ReLU or softmax hides part of it.
        notes: what the user should know.
        fit: figures of an approximation on samples it was not fitted to; None if exact.
        search: what was tried to find it; None where the method was given.
        moved: constants that went from one place to another bit for bit; checked before a run.
        body: of a change in the body of an If, Loop or Scan: that body as a model, before and
            after, and its own changes, which are proven on their own.
    """

    SHOWN = ("removed", "added", "notes", "fit", "search")

    site: Site
    model: onnx.ModelProto = field(repr=False)
    removed: tuple[str, ...]
    added: tuple[str, ...]
    tensors: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fit: Fit | None = None
    moved: tuple[Moved, ...] = ()
    search: Search | None = None
    body: tuple[Model, Model, tuple[Change, ...]] | None = field(
        default=None, repr=False, compare=False
    )

    def to_dict(self) -> dict[str, Any]:
        """The site and what was done, as plain types."""
        return {**self.site.to_dict(), **super().to_dict()}


def replaced(
    site: Site, editor: Editor, nodes: Sequence[Node], moved: Sequence[Moved] = ()
) -> Change:
    """The change at a site whose nodes go, and the first output of the last of them is made anew
    under its name."""
    for node in nodes:
        editor.remove(node)
    output, gone = nodes[-1].outputs[0], tuple(node.name for node in nodes)
    model = editor.apply()
    return Change(site, model, gone, editor.added, {output: output}, moved=tuple(moved))


@dataclass(frozen=True)
class Fitting:
    """What a fit may use.

    Attributes:
        samples: the samples to fit to, or None.
        features: shows inner tensors on them.
        held_out: shows inner tensors on samples that no fit and no search may see: for one
            certification.
        held_out_labels: the right classes of these, where they are known.
        warn: is told what makes the samples doubtful.
        race: times a rewritten model (B) against the original (A) on a sample, where they will run.
        timed_on: where that is, as text.
    """

    samples: Samples | None = None
    features: Features | None = None
    held_out: Features | None = None
    warn: Callable[[str], None] = lambda words: None
    race: Callable[[onnx.ModelProto], Latency] | None = None
    timed_on: str = ""
    held_out_labels: Array | None = None


@runtime_checkable
class Rewrite(Protocol):
    """Finds where a change fits, says why elsewhere it does not, makes it.

    A class that is derived from it gives `name`, `sites` and `apply`; the rest has defaults.

    A rewrite works on copies: neither the model nor the subject is changed. What it computes gets
    new names: a stored tensor under its old name must have its old values, which is checked.

    Attributes:
        name: what it is requested by.
        together: whether its exact sites may be made in one go where they take out different
            nodes. A rewrite may say so that edits with nothing but `subject.editor(name)`, leaves
            all other tensors under their names and with their values, and asks the model that
            comes out nothing.
        in_bodies: whether it is also made in the bodies of If, Loop and Scan, each as a model of
            its own.
    """

    name: str
    together: bool = False
    in_bodies: bool = False

    @abstractmethod
    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """All places the rewrite was made for, refused ones included."""

    @abstractmethod
    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change at one site of `subject`.

        Raises:
            Refusal: what `sites` could not foresee without reading the weights or the samples.
        """

    def apply_several(
        self, subject: Subject, sites: list[Site], options: Options, fitting: Fitting
    ) -> tuple[list[Change], list[Site]]:
        """Make the changes at some sites that are not refused: all that go together, or only the
        first.

        Returns:
            The changes, which all lead to the same model, and the sites that turned out refused.
        """
        exact = [site for site in sites if site.exact]
        if not self.together or len(exact) < 2:
            try:
                return [self.apply(subject, sites[0], options, fitting)], []
            except Refusal as refusal:
                return [], [refuse(sites[0], str(refusal))]
        edits = JointEditor(subject, self.name)
        shared = replace(subject, edits=edits)
        made, refused = [], []
        for site in exact:
            edits.begin()
            try:
                change = self.apply(shared, site, options, fitting)
            except Refusal as refusal:
                edits.drop()
                refused.append(refuse(site, str(refusal)))
                continue
            if edits.keep():
                made.append(change)
        edits.finish()
        return made, refused

    def with_own_options(self, options: Options) -> Options:
        """The options of a call, with those put over them that this object has under their names;
        None leaves one as it is."""
        own = {item.name: vars(self).get(item.name) for item in fields(options)}
        return replace(options, **{name: value for name, value in own.items() if value is not None})


def study(
    model: Model,
    input_shapes: InputShapes | None = None,
    maps: Mapping[str, str | None] = MappingProxyType({}),
) -> Subject:
    """Index a model and find its heads; `maps` are inputs that come from a convolution, as
    `find_heads` takes them.

    Raises:
        ModelError: its graph contradicts itself.
    """
    graph = Graph(model)
    found = probe(graph, infer(graph, input_shapes), input_shapes)
    return Subject(graph, found, tuple(find_heads(graph, lambda: found, maps)))


def head_params(graph: Graph, head: Head) -> int:
    """Parameters of all FCs of a head, their biases included."""
    return fc_params(graph, [layer for layer in head.layers if layer.stored])


def fc_params(graph: Graph, layers: Iterable[FullyConnected]) -> int:
    """Parameters of some FCs, their biases included; a tensor that several read counts once."""
    found: dict[object, int] = {}
    for layer in layers:
        weight = graph.source(layer.node.scope, layer.weight)
        key = layer.node if weight is None else weight.key
        found[key] = layer.in_features * layer.out_features
        found[_bias(graph, layer)] = bias_elements(graph, layer)
    return sum(found.values())


def _bias(graph: Graph, layer: FullyConnected) -> object:
    """What tells the bias of an FC from others: the stored tensor, or the node that adds it."""
    added = bias_node(graph, layer)
    names = [layer.bias] if layer.bias is not None else added.inputs if added is not None else []
    keys = [stored.key for name in names if (stored := graph.source(layer.node.scope, name))]
    return ("bias", *keys) if keys else ("bias", layer.node)
