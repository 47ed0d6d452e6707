"""What a user should know of a model before its figures: newer versions, missing files, and types
and shapes of inner tensors and outputs that the file declares and that do not follow.

ONNX Runtime loads a model whose declared shapes are wrong, and warns; so does the analysis, which
does not use them.
"""

from __future__ import annotations

from onnx import IR_VERSION
from onnx.defs import onnx_opset_version

from onnxshare.analysis.shape_rules import in_words
from onnxshare.graph.index import STANDARD_DOMAINS, Graph
from onnxshare.io.load import Model
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import TensorType, TypeTable


def contradicted(graph: Graph, shapes: Shapes) -> list[str]:
    """A warning about the shapes that the graphs declare wrongly, if there are any."""
    table, wrong = TypeTable(), list[str]()
    agreed: set[tuple[TensorType, TensorType]] = set()
    # A symbolic batch is set to one sample: what is declared of it may be for another number.
    first_axis = 1 if shapes.batch_symbols else 0
    for scope in graph.scopes:
        known = shapes.types_in(scope.path)
        for value in (*scope.graph.value_info, *scope.graph.output):
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


def cautions(model: Model) -> list[str]:
    """Warnings about a model as a whole."""
    return [*model.notes, *_versions(model), *_missing(model)]


def _versions(model: Model) -> list[str]:
    """A newer version is read as far as it is known: what it added is not seen."""
    proto, found = model.skeleton, []
    if proto.ir_version > IR_VERSION:
        found.append(
            f"the model has IR version {proto.ir_version}, and this onnx knows up to {IR_VERSION}: "
            "what is new in it is not seen; install a newer onnx"
        )
    known = onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in STANDARD_DOMAINS and opset.version > known:
            found.append(
                f"the model uses opset {opset.version}, and this onnx knows up to {known}: "
                f"its operators are taken for those of opset {known}; install a newer onnx"
            )
    return found


def _missing(model: Model) -> list[str]:
    """Sizes and counts need only the dims, so a missing file is not an error here."""
    if model.folder is None:
        return []
    missing = [name for name in model.external_files() if model.external.file_size(name) is None]
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"external data file '{missing[0]}'{more} cannot be read: put it next to the model"]
