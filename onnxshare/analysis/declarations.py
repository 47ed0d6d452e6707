"""What a file says of the types and shapes of its inner tensors and outputs, against what follows.

ONNX Runtime loads a model whose declared shapes are wrong, and warns; so does the analysis, which
does not use them.
"""

from __future__ import annotations

from onnxshare.analysis.misfits import in_words
from onnxshare.graph.index import Graph
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import TensorType, TypeTable


def contradicted(graph: Graph, shapes: Shapes) -> list[str]:
    """A warning about the shapes that the main graph declares wrongly, if there are any."""
    known, table = shapes.types_in(""), TypeTable()
    agreed: set[tuple[TensorType, TensorType]] = set()
    # A symbolic batch is set to one sample: what is declared of it may be for another number.
    first_axis = 1 if shapes.batch_symbols else 0
    wrong = []
    for values in (graph.proto.graph.value_info, graph.proto.graph.output):
        for value in values:
            found, declared = known.get(value.name), table.of(value.type.SerializeToString())
            if found is None or declared is None or (found, declared) in agreed:
                continue
            if _agree(found, declared, first_axis):
                agreed.add((found, declared))
            else:
                wrong.append(
                    f"'{value.name}' ({in_words(declared.shape)}, and it is "
                    f"{in_words(found.shape)})"
                )
    if not wrong:
        return []
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return [
        f"the file declares a wrong shape for {wrong[0]}{more}: shapes are taken from the inputs "
        "and weights instead"
    ]


def _agree(found: TensorType, declared: TensorType, first_axis: int) -> bool:
    if found.shape is None or declared.shape is None:
        return True
    if len(found.shape) != len(declared.shape):
        return False
    pairs = list(zip(found.shape, declared.shape, strict=True))[first_axis:]
    return all(not (isinstance(a, int) and isinstance(b, int)) or a == b for a, b in pairs)
