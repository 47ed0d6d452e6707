"""Both graphs in float32, where their own type cannot show that they are the same function.

In half precision the rounding is as large as a wrong weight would show; and ONNX Runtime has no
convolution in float64 or bfloat16 on a CPU. A rewrite moves weights, so what holds of two graphs in
float32 holds of them in any type. Weights of half precision that had to be computed anew are
rounded by more than float32 forgives. There the rewrite is made once more, of the float32 graph:
that one is compared, and the half one must be the same, number by number, within one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxshare.comparison.results import Comparison
from onnxshare.comparison.wider_graph import HALF, NOT_SINGLE, computes_in, in_single, widen
from onnxshare.io.load import Model, load, with_data
from onnxshare.runtime.ort_engine import NO_KERNEL
from onnxshare.samples.samples import Samples
from rewrites.base import Change

#: Makes the same rewrites of another model.
Again = Callable[[Model], tuple[Model, tuple[Change, ...]]]

#: Compares a model, a rewritten one, by its changes, on samples.
Judge = Callable[[Model, Model, tuple[Change, ...], Samples | None], Comparison]

#: One rounding, relatively, and the smallest number of each type.
_ROUNDING: dict[int, tuple[float, float]] = {
    TensorProto.FLOAT16: (2.0**-10, 2.0**-24),
    TensorProto.BFLOAT16: (2.0**-7, 2.0**-133),
}


def would_help(original: onnx.ModelProto, found: Comparison) -> bool:
    """Whether a verdict is left open by the float type, and not by the model."""
    if found.verdict == "inconclusive":
        return computes_in(original, HALF)
    # That only the rewritten model cannot be run is a fault of the rewrite.
    fails = found.verdict == "not run" and found.reason.startswith("model A")
    return fails and NO_KERNEL in found.reason and computes_in(original, NOT_SINGLE)


def compare_in_single(
    original: Model,
    result: Model,
    changes: tuple[Change, ...],
    samples: Samples | None,
    found: Comparison,
    *,
    computed: bool,
    judge: Judge,
    again: Again,
) -> Comparison:
    """Settle a verdict that the float type leaves open.

    Args:
        original: the model before.
        result: the model after.
        changes: what was done.
        samples: inputs to measure on; None for random ones.
        found: what was found in the models' own type.
        computed: whether new weights were computed from old ones.
        judge: compares two models.
        again: makes the same rewrites of another model.

    Returns:
        `equivalent`, or `different` where the graphs differ in float32 though nothing was
        computed; else `found`.
    """
    old, new = (widen(with_data(model), NOT_SINGLE) for model in (original, result))
    if old is None or new is None:
        return found
    first, second, what = load(old), load(new), ""
    if computed and computes_in(original.skeleton, HALF):
        second, changes = again(first)
        if not changes or not _rounded(result, with_data(second)):
            return found
        what = ", and every number of the result is one rounding or none from the one there"
    single = judge(first, second, changes, None if samples is None else in_single(samples))
    if not single.passed:
        plainly = single.verdict == "different" and not computed
        return replace(single, reason=f"in float32, {single.reason}") if plainly else found
    verdict = "equivalent" if single.verdict == "identical" else single.verdict
    reason = f"{single.reason}; compared in float32{what}, because {_why(original, found)}"
    return replace(single, verdict=verdict, reason=reason)


def _why(original: Model, found: Comparison) -> str:
    if found.verdict == "inconclusive":
        return "the rounding of half precision would hide a wrong weight"
    missing = found.reason[found.reason.index(NO_KERNEL) + len(NO_KERNEL) :].split("(")[0].strip()
    names = ((TensorProto.DOUBLE, "float64"), (TensorProto.BFLOAT16, "bfloat16"))
    own = [name for kind, name in names if computes_in(original.skeleton, frozenset((kind,)))]
    return f"ONNX Runtime has no {missing} in {' or '.join(own) or 'the model’s type'} here"


def _rounded(result: Model, single: onnx.ModelProto) -> bool:
    """Whether a rewritten model is the float32 one, each number of half precision rounded."""
    half = with_data(result)
    wide = widen(half, NOT_SINGLE)
    if wide is None or _graph(wide) != _graph(single):
        return False
    theirs = {tensor.name: tensor for tensor in single.graph.initializer}
    ours = list(half.graph.initializer)
    if [tensor.name for tensor in ours] != list(theirs):
        return False
    return all(_one_rounding(tensor, theirs[tensor.name]) for tensor in ours)


def _graph(proto: onnx.ModelProto) -> list[bytes]:
    """Every node of a model: nothing but the values of its initializers is left out."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    return [node.SerializeToString(deterministic=True) for node in nodes]


def _one_rounding(half: onnx.TensorProto, single: onnx.TensorProto) -> bool:
    a, b = numpy_helper.to_array(half), numpy_helper.to_array(single)
    if a.shape != b.shape:
        return False
    if half.data_type not in _ROUNDING:
        return np.array_equal(a.astype(b.dtype), b, equal_nan=b.dtype.kind == "f")
    relative, least = _ROUNDING[half.data_type]
    ours, theirs = a.astype(np.float64), b.astype(np.float64)
    return bool((np.abs(ours - theirs) <= relative * np.abs(theirs) + least).all())
