"""What a user should know of a model before its figures: newer versions, missing files."""

from __future__ import annotations

from onnx import IR_VERSION
from onnx.defs import onnx_opset_version

from onnxshare.graph.index import STANDARD_DOMAINS
from onnxshare.io.load import Model


def cautions(model: Model) -> list[str]:
    """Warnings about a model as a whole."""
    return [*_versions(model), *_missing(model)]


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
    """Sizes and counts need only the dims, so a missing file is no error here."""
    if model.folder is None:
        return []
    missing = [name for name in model.external_files() if model.external.file_size(name) is None]
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"external data file '{missing[0]}'{more} cannot be read: put it beside the model"]
