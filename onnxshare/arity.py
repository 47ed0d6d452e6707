"""Whether nodes have the inputs and outputs that their operators cannot do without."""

from __future__ import annotations

import functools

import onnx
from onnx import defs

from onnxshare.errors import ModelError
from onnxshare.protos import STANDARD_DOMAINS


@functools.cache
def least(op_type: str, opset: int) -> tuple[int, int]:
    """The fewest inputs and outputs of an operator of the standard; none of an unknown one."""
    try:
        schema = defs.get_schema(op_type, min(opset, 10**6))
    except defs.SchemaError:
        return 0, 0
    return schema.min_input, schema.min_output


def check_arity(node: onnx.NodeProto, opset: int, model: str) -> None:
    """Refuse a node of the standard that has too few inputs or outputs.

    Args:
        node: the node.
        opset: the version of the standard.
        model: what the message calls the model.

    Raises:
        ModelError: it has.
    """
    if node.domain not in STANDARD_DOMAINS:
        return
    inputs, outputs = least(node.op_type, opset)
    for what, found, wanted in (
        ("inputs", len(node.input), inputs),
        ("outputs", len(node.output), outputs),
    ):
        if found < wanted:
            raise ModelError(
                f"{model}: node '{node.name or node.op_type}' has {found} {what}, and "
                f"{node.op_type} needs {wanted}",
                "the file is damaged: export or download it again",
            )
