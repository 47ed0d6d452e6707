"""Puts the facts together: `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxshare.analysis.cautions import cautions, contradicted
from onnxshare.analysis.heads.fully_connected import bias_elements
from onnxshare.analysis.heads.head import Head, Probe, Subject, probe, uniformity
from onnxshare.analysis.heads.search import find_heads
from onnxshare.analysis.memory_traffic import Memory, memory_over_run
from onnxshare.analysis.receptive_field.fields import ReceptiveFields
from onnxshare.analysis.results import (
    HeadFacts,
    HeadLayer,
    HeadOffer,
    Inspection,
    ModelInfo,
    NodeFacts,
    WeightFacts,
)
from onnxshare.analysis.rows import declared, node_facts, shared_facts, weight_facts
from onnxshare.analysis.shape_check import Survey, survey
from onnxshare.analysis.totals import add_up
from onnxshare.analysis.weight_hashes import hashed
from onnxshare.analysis.weight_usage import WeightUsage
from onnxshare.errors import ModelFileError
from onnxshare.graph.index import Graph, Node
from onnxshare.io.load import Model, ModelSource, load
from onnxshare.shapes.inference import InputShapes, Shapes
from onnxshare.support.garbage_collection import paused
from onnxshare.support.option_text import option
from onnxshare.weights.index import Progress

#: What the rewrites say of each head: per rewrite what it would give, or why it is refused.
HeadJudge = Callable[[Subject], list[dict[str, HeadOffer]]]


@paused()
def inspect(
    source: ModelSource,
    *,
    input_shapes: InputShapes | None = None,
    judge: HeadJudge | None = None,
    hashes: bool = False,
    heads_read: bool = True,
    progress: Progress | None = None,
) -> Inspection:
    """As of `onnxshare.inspect`.

    `judge` asks the rewrites what they could do with a head; None leaves that out. Without
    `heads_read` no weights of heads are read, and their uniformity is unknown.
    """
    model = load(source)
    graph = Graph(model)
    found = survey(graph, input_shapes)
    shapes, usage = found.shapes, found.usage
    probed: list[Probe] = []

    def make_probe() -> Probe:
        probed.append(probe(graph, shapes, input_shapes))
        return probed[0]

    heads = find_heads(graph, make_probe)
    subject = Subject(graph, probed[0], tuple(heads)) if heads else None
    shared = shared_facts(usage)
    head_facts, unread = _head_facts(subject, judge, read=heads_read)
    memory = memory_over_run(graph, shapes, usage.computed)
    rows = _Rows(found, shared, graph, memory, hashes=hashes, progress=progress)
    totals = add_up(graph, shapes, usage, shared, heads, memory)
    said = [
        *cautions(model),
        *contradicted(graph, shapes),
        *shapes.warnings,
        *usage.warnings,
        *_computed(usage),
        *_unknown(usage, shared, shapes, memory),
        *unread,
    ]
    report = Inspection.with_rows_later(
        model=_model_info(graph),
        totals=totals,
        heads=head_facts,
        warnings=tuple(dict.fromkeys(said)),
        later={"nodes": rows.nodes, "weights": rows.weights},
    )
    if hashes:
        _ = report.weights  # reads files, which may not be there later
    if model.payloads is None or model.external_files():
        _ = report.nodes, report.weights  # the caller may change what they are made from
    return report


class _Rows:
    """Makes the rows of a report, when they are needed.

    Args:
        found: what is known of the graph.
        shared: what `shared_facts` says of its nodes.
        graph: the graph, which nothing else needs any more.
        memory: its activations in memory over a run.
        hashes, progress: as of `inspect`.
    """

    def __init__(
        self,
        found: Survey,
        shared: list[NodeFacts],
        graph: Graph,
        memory: Memory,
        *,
        hashes: bool,
        progress: Progress | None,
    ) -> None:
        self._found, self._shared, self._graph = found, shared, graph
        self._memory = memory
        self._hashes, self._progress = hashes, progress

    def __del__(self) -> None:
        self._graph.release()

    @paused()
    def nodes(self) -> tuple[NodeFacts, ...]:
        """A row for every node."""
        shapes, usage = self._found.shapes, self._found.usage
        fields = ReceptiveFields(self._graph, shapes, self._found.values)
        return node_facts(usage, self._shared, shapes, fields.of, self._memory)

    @paused()
    def weights(self) -> tuple[WeightFacts, ...]:
        """A row for every stored tensor."""
        usage = self._found.usage
        rows = weight_facts(usage, self._shared)
        if not self._hashes:
            return rows
        return hashed(self._graph, usage, rows, self._progress)


def _model_info(graph: Graph) -> ModelInfo:
    model = graph.model
    facts = model.to_dict()
    facts["bytes"] = _bytes_on_disk(model)
    return ModelInfo(
        **facts,
        inputs=tuple(declared(value) for value in graph.inputs),
        outputs=tuple(declared(value) for value in model.skeleton.graph.output),
    )


def _bytes_on_disk(model: Model) -> int | None:
    """The model file with its external data files; None for a model from memory."""
    if model.size is None or model.folder is None:
        return model.size
    return model.size + sum(model.external.file_size(name) or 0 for name in model.external_files())


def _computed(usage: WeightUsage) -> list[str]:
    """One line for the layers whose weights are not stored tensors."""
    names = [
        use.node.name
        for use in usage.nodes
        if use.operator.kind in ("conv", "recurrent")
        and not any(len(sizes) > 1 for sizes in use.pattern.read_as)
    ]
    if not names:
        return []
    return [
        f"the weights of {_some(names)} are computed by the model, not stored: "
        "they are not parameters"
    ]


def _unknown(
    usage: WeightUsage, shared: list[NodeFacts], shapes: Shapes, memory: Memory
) -> list[str]:
    """One line for the nodes whose work stayed unknown, not one each, with the sizes of inputs that
    are open; else one for those of which it is only what they do in addition to
    multiply-accumulates."""
    work, flops = [], []
    for use, facts in zip(usage.nodes, shared, strict=True):
        if facts.macs is None or facts.connections is None:
            work.append(use.node)
        elif facts.flops is None:
            flops.append(use.node.name)
    remedy = _to_set(shapes.open)
    lines = []
    if work:
        lines.append(
            f"the work of {_some([node.name for node in work])} is unknown, and so are the totals "
            f"that need it{_blocked(work[0], shapes)}{remedy}"
        )
    if flops and not (work and remedy):
        why = remedy or ": they depend on data, or on sizes that are not known"
        lines.append(f"the FLOPs of {_some(flops)} are unknown{why}")
    if memory.unknown and not work:
        lines.append(
            f"the peak of activations is unknown: the size of '{memory.unknown}' is not known"
            f"{remedy or ' before a run'}"
        )
    return lines


def _blocked(node: Node, shapes: Shapes) -> str:
    """Which node makes the first tensor of unknown size that a node depends on, as text; "" where
    it is an input of the model, or the node itself."""
    maker: Node | None = node
    while maker is not None:
        at, maker = maker, None
        for name in at.inputs:
            if name and shapes.sizes(at.scope, name) is None:
                maker = at.scope.producer(name)
                if maker is None:
                    return ""
                break
    if at is node:
        return ""
    return f"; the sizes of what '{at.name}' ({at.op_type}) makes are not known before a run"


def _to_set(open_sizes: Mapping[str, str]) -> str:
    """Which sizes of inputs are open, and the options that set all of them; "" if none are."""
    if not open_sizes:
        return ""
    options = option(" ".join(dict.fromkeys(open_sizes.values())))
    return f"; sizes that are open: {_some(list(open_sizes))}; set them all, as in {options}"


def _some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _head_facts(
    subject: Subject | None, judge: HeadJudge | None, *, read: bool
) -> tuple[tuple[HeadFacts, ...], list[str]]:
    """The facts of all heads; weights that cannot be read only leave out what needs them."""
    if subject is None:
        return (), []
    shares: list[float | None] = [None] * len(subject.heads)
    rewrites: list[dict[str, HeadOffer]] = [{} for _ in subject.heads]
    unread = []
    try:
        values = subject.probe.values
        shares = [
            None if head.refused or head.shared or not read else uniformity(head, values)
            for head in subject.heads
        ]
        rewrites = judge(subject) if judge else rewrites
    except ModelFileError as error:
        unread = [f"what rewrites could do with the head is unknown: {error}"]
    facts = (
        _one_head(subject.graph, *each)
        for each in zip(subject.heads, shares, rewrites, strict=True)
    )
    return tuple(facts), unread


def _one_head(
    graph: Graph, head: Head, share: float | None, rewrites: dict[str, HeadOffer]
) -> HeadFacts:
    return HeadFacts(
        nodes=tuple(node.name for node in head.nodes),
        feature_map=head.feature_map,
        channels=head.channels,
        spatial=head.spatial,
        fcs=tuple(
            HeadLayer(
                layer.node.name,
                layer.in_features,
                layer.out_features,
                layer.in_features * layer.out_features + bias_elements(graph, layer),
            )
            for layer in head.layers
        ),
        layout=head.layout,
        uniformity=share,
        rewrites=rewrites,
    )
