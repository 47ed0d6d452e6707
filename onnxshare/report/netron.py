"""A copy of a model's structure whose nodes carry what `inspect` found, for viewers of graphs.

Netron shows `NodeProto.metadata_props` among the properties of a node. The weights are left out:
the copy is to look at, not to run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.graph.index import Graph
from onnxshare.io.atomic_write import replace_file
from onnxshare.io.load import Model, all_tensors
from onnxshare.report import text_tools

#: What stands before each key.
_PREFIX = "onnxshare."


def write_structure(report: Inspection, model: Model, path: Path) -> None:
    """Write the copy.

    Args:
        report: what `inspect` says of the model.
        model: the model; it is not changed.
        path: where.

    Raises:
        OutputError: it cannot be written.
    """
    replace_file(path, structure(report, model).SerializeToString())


def structure(report: Inspection, model: Model) -> onnx.ModelProto:
    """The model with our figures; tensors that are stored apart say that they are left out. Calls
    of local functions are shown as what they expand to, as in the report."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.skeleton)
    graph = Graph(replace(model, skeleton=copy))
    for node, facts in zip(graph.nodes(), report.nodes, strict=True):
        for key, value in _figures(facts).items():
            node.proto.metadata_props.add(key=_PREFIX + key, value=value)
    for tensor in all_tensors(graph.proto):
        if tensor.external_data:
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="left out by onnxshare")
    return graph.proto


def _figures(facts: NodeFacts) -> dict[str, str]:
    figures = {"kind": facts.kind, "macs": text_tools.exact(facts.macs)}
    if facts.params:
        figures |= {
            "params": text_tools.exact(facts.params),
            "weight_bytes": text_tools.exact(facts.param_bytes),
            "uses_per_weight": text_tools.times(facts.sharing_ratio),
        }
    if facts.memory_bytes is not None:
        figures["activation_memory_bytes"] = text_tools.exact(facts.memory_bytes)
    return figures
