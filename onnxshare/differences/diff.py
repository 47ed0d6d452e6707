"""`onnxshare.diff`: what changed between two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import onnx

from onnxshare.analysis.results import Totals
from onnxshare.analysis.rows import declared
from onnxshare.differences.model_side import Side, study
from onnxshare.differences.node_matching import Layers
from onnxshare.differences.results import Change, Difference, PortChange, TotalChange, field_changes
from onnxshare.differences.tensor_matching import by_importance, match
from onnxshare.graph.index import model_inputs
from onnxshare.io.load import ModelSource, load
from onnxshare.io.serialize import digest, pieces
from onnxshare.shapes.input_sizes import Dims, InputShapes, for_each

#: Told which model is read, and how many bytes of how many have been.
Progress = Callable[[str, int, int], None]


def diff(
    a: ModelSource,
    b: ModelSource,
    *,
    input_shapes: InputShapes | None = None,
    dims: Dims | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Say what changed from one model to another; neither is run, and neither is changed.

    All tensors of both are read once, a piece at a time, and compared by their bytes; those that
    changed are read again. Nodes and tensors are matched as `node_matching.py` and
    `tensor_matching.py` say. Local functions are expanded first.

    Args:
        a: the model before: a path, bytes, a file, a ModelProto …
        b: the model after.
        input_shapes: sizes for inputs whose sizes are symbolic, in whichever model has them.
        dims: sizes by symbol, in whichever model has them.
        progress: told now and then how far the reading is.

    Raises:
        ModelFileError: a model or its external data cannot be read.
        ModelError: a graph contradicts itself.
        UsageError: `input_shapes` or `dims` do not fit the models.

    Example:
        >>> found = onnxshare.diff("models/vgg_small.onnx", "models/gap_net.onnx")
        >>> found.totals[0].delta
        -322048
    """
    models = [load(source) for source in (a, b)]
    sizes = for_each(models, input_shapes, dims)
    one, other = (
        study(model, shapes, progress and partial(progress, model.name))
        for model, shapes in zip(models, sizes, strict=True)
    )
    weights = match(one, other)
    layers = Layers(one, other, weights)
    changed, same = layers.changes()
    ports = tuple(_ports(one, other, layers))
    about = tuple(field_changes(_facts(one.model.skeleton), _facts(other.model.skeleton)))
    notes: tuple[str, ...] = ()
    differs = bool(weights.changes or changed or ports or about)
    if not differs and digest(pieces(one.model)) != digest(pieces(other.model)):
        differs, notes = True, (_ELSEWHERE,)
    return Difference(
        a=one.model.name,
        b=other.model.name,
        differs=differs,
        totals=_totals(one.report.totals, other.report.totals),
        layers=changed,
        weights=by_importance(weights.changes),
        ports=ports,
        model=about,
        same_layers=same,
        same_weights=weights.same,
        notes=notes,
        dims={**one.report.totals.dims, **other.report.totals.dims},
    )


_ELSEWHERE = (
    "the files differ only in what is not compared one by one: names of inner tensors, declared "
    "inner shapes, annotations and texts of nodes, the order of initializers, where data is stored"
)


def _totals(before: Totals, after: Totals) -> tuple[TotalChange, ...]:
    found = []
    for item in fields(Totals):
        old, new = getattr(before, item.name), getattr(after, item.name)
        if not all(value is None or isinstance(value, (int, float)) for value in (old, new)):
            continue
        known = old is not None and new is not None
        delta, ratio = new - old if known else None, new / old if known and old else None
        found.append(TotalChange(item.name, old, new, delta, ratio))
    return tuple(found)


def _ports(a: Side, b: Side, layers: Layers) -> Iterator[PortChange]:
    graphs = [side.model.skeleton.graph for side in (a, b)]
    inputs, outputs = [model_inputs(graph) for graph in graphs], [list(g.output) for g in graphs]
    for side, (old, new) in (("input", inputs), ("output", outputs)):
        before, after = ({value.name: _port(value) for value in values} for values in (old, new))
        for name in dict.fromkeys([*before, *after]):
            if name not in before or name not in after:
                yield PortChange(side, name, "removed" if name in before else "added")
                continue
            changes = field_changes(before[name], after[name])
            if side == "output":
                changes += _made(a, b, layers, name)
            if changes:
                yield PortChange(side, name, "changed", tuple(changes))
        kept = [name for name in before if name in after]
        order = [name for name in after if name in before]
        if kept != order:
            yield PortChange(side, "(all)", "changed", (Change("order", kept, order),))


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    known = declared(value)
    return {"dtype": known.dtype, "shape": known.shape}


def _made(a: Side, b: Side, layers: Layers, name: str) -> list[Change]:
    """Whether an output is made by another node than before."""
    old, new = (layers.origin(side, side.graph.main, name) for side in (a, b))
    if layers.origins_match(old, new):
        return []
    makers = [side.graph.main.producer(name) for side in (a, b)]
    return [Change("made by", *(None if maker is None else maker.name for maker in makers))]


def _facts(model: onnx.ModelProto) -> dict[str, Any]:
    """What is compared of the model itself."""
    facts: dict[str, Any] = {
        "ir_version": model.ir_version,
        **{f"opset {opset.domain or 'ai.onnx'}": opset.version for opset in model.opset_import},
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "domain": model.domain,
        "model_version": model.model_version,
        "doc_string": model.doc_string,
        "graph name": model.graph.name,
        "functions": [f"{item.domain}.{item.name}" for item in model.functions],
        "training": len(model.training_info),
    }
    facts.update({f"metadata {item.key}": item.value for item in model.metadata_props})
    return facts
