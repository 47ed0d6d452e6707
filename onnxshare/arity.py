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


def check_arity(node: Node, opset: int) -> None:
    """Refuse a node of the standard that has too few inputs or outputs.

    Args:
        node: the node.
        opset: the version of the standard.

    Raises:
        ModelError: it has.
    """
    inputs, outputs = least(node.op_type, opset)
    for what, found, wanted in (
        ("inputs", len(node.inputs), inputs),
        ("outputs", len(node.outputs), outputs),
    ):
        if found < wanted:
            raise ModelError(
                f"{node.scope.model}: node '{node.proto.name or node.op_type}' has {found} {what}, "
                f"and {node.op_type} needs {wanted}",
                "the file is damaged: export or download it again",
            )
