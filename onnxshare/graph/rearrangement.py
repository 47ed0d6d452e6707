"""Where layout operators move the elements of a tensor."""

from __future__ import annotations

import numpy as np

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Node
from onnxshare.graph.numpy_operators import OPERATORS
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.tensors import Array


def rearrange(node: Node, data: Array, values: Values) -> Array | None:
    """Apply a layout node to an array, its shape or axes taken from `values`; an element-wise one
    leaves every element in its place. None if it is not a pure layout operator or its operands are
    unknown.

    Used with arrays of indices, it tells where a layout node moves each element.
    """
    traits = traits_of(node)
    if traits.elementwise:
        return data
    if not traits.carries or node.op_type not in OPERATORS:
        return None
    others = [values.get(node.scope, name) if name else None for name in node.inputs[1:]]
    if any(name and value is None for name, value in zip(node.inputs[1:], others, strict=True)):
        return None
    try:
        return np.asarray(OPERATORS[node.op_type](node, [data, *others]))
    except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, MemoryError):
        return None
