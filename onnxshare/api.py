"""`onnxshare.inspect`: the analysis, with what the rewrites could do with each head.

`onnxshare.check`: the checks, with the rewrites to name those that help.
"""

from __future__ import annotations

import functools
from typing import Any

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.inspection import inspect as _inspect
from onnxshare.analysis.results import Inspection
from onnxshare.checks.results import CheckReport
from onnxshare.checks.run import check as _check
from onnxshare.io.load import ModelSource, load
from onnxshare.shapes.inference import InputShapes
from onnxshare.shapes.input_sizes import Dims, with_dims
from onnxshare.support.garbage_collection import paused
from onnxshare.weights.equal_tensors import Progress
from rewrites.head_offers import judge_heads

__all__ = ["inspect"]


@paused()
def inspect(
    source: ModelSource,
    *,
    input_shapes: InputShapes | None = None,
    dims: Dims | None = None,
    hashes: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Report where the weights of a model sit and how often each is used, per sample.

    Args:
        source: the model: a path, bytes, a binary file, a ModelProto, an `onnx_ir.Model` …; it
            is not changed.
        input_shapes: sizes for inputs whose sizes are symbolic: `{"image": (1, 3, 224, 224)}`.
        dims: sizes by symbol, in all inputs that have it: `{"batch": 1}`.
        hashes: read all weights too, hash them, and find those that hold the same.
        progress: told now and then how many bytes of how many have been read for that.

    Raises:
        ModelFileError: the source is no readable model.
        ModelError: its graph contradicts itself.
        UsageError: `input_shapes` or `dims` do not fit the model.
    """
    model = load(source)
    shapes = with_dims(model, input_shapes, dims)
    return _inspect(model, input_shapes=shapes, judge=_judge, hashes=hashes, progress=progress)


def _judge(subject: Subject) -> list[dict[str, dict[str, Any]]]:
    from rewrites.head_offers import judge_heads  # most models have no head to judge

    return judge_heads(subject)


__all__ = ["CheckReport", "check"]

#: `onnxshare.checks.run.check` with `judge` filled in.
check = functools.partial(_check, judge=judge_heads)
functools.update_wrapper(check, _check)
