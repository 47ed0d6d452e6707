"""Whether nodes have the inputs and outputs that their operators cannot do without."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from onnx import defs

from onnxshare.errors import ModelError

if TYPE_CHECKING:
    from onnxshare.graph import Node


@functools.cache
def least(op_type: str, opset: int) -> tuple[int, int]:
    """The fewest inputs and outputs of an operator of the standard; none of an unknown one."""
    try:
        schema = defs.get_schema(op_type, min(opset, 10**6))
    except defs.SchemaError:
        return 0, 0
    return schema.min_input, schema.min_output


def too_few(node: Node, inputs: int, outputs: int) -> ModelError:
    """What is wrong with a node that has fewer inputs or outputs than these."""
    what, found, wanted = "inputs", len(node.inputs), inputs
    if found >= wanted:
        what, found, wanted = "outputs", len(node.outputs), outputs
    return ModelError(
        f"{node.scope.model}: node '{node.proto.name or node.op_type}' has {found} {what}, "
        f"and {node.op_type} needs {wanted}",
        "the file is damaged: export or download it again",
    )
