"""Questions that a ModelProto answers without an index."""

from __future__ import annotations

import onnx

STANDARD_DOMAINS = frozenset(("", "ai.onnx"))


def opset_version(proto: onnx.ModelProto) -> int:
    """The version of the default operator set; 1 where the model does not name it."""
    versions = [o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS]
    return max(versions, default=1)


def model_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a user must feed: those that are not initializers (IR version 3 lists both)."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]
