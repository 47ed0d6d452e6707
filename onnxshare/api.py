"""`onnxshare.inspect`: the analysis, with what the rewrites could do with each head."""

from __future__ import annotations

from onnxshare.analysis.inspection import inspect as _inspect
from onnxshare.analysis.results import Inspection
from onnxshare.io.load import ModelSource
from onnxshare.shapes import InputShapes
from rewrites.judge import judge_heads

__all__ = ["inspect"]


def inspect(source: ModelSource, *, input_shapes: InputShapes | None = None) -> Inspection:
    """Report where the weights of a model sit and how often each is used, per sample.

    Args:
        source: the model: a path, bytes, a binary file, a ModelProto, an `onnx_ir.Model` …; it
            is not changed.
        input_shapes: sizes for inputs whose sizes are symbolic: `{"image": (1, 3, 224, 224)}`.

    Raises:
        ModelFileError: the source is no readable model.
        ModelError: its graph contradicts itself.
        UsageError: `input_shapes` does not fit the model.
    """
    return _inspect(source, input_shapes=input_shapes, judge=judge_heads)
