"""Both graphs in float32, where their own type leaves a verdict open.

In half precision the rounding is as large as a wrong weight would show; and ONNX Runtime has no
convolution in float64 or bfloat16 on a CPU. A rewrite moves weights, so what holds of two graphs in
float32 holds of them in any type. Weights of half precision that had to be computed anew are
rounded by more than float32 forgives. There the rewrite is made once more, of the float32 graph:
that one is compared, and the half one must be the same, number by number, within one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounding_noise import EPSILON
from onnxshare.comparison.wider_graph import (
    HALF,
    float_types,
    wider_graph,
    wider_samples,
)
from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, opset_version
from onnxshare.graph.onnx_sandbox import convert_opset
from onnxshare.io.load import Model, load, with_data
from onnxshare.runtime.ort_engine import OLDEST_RUN
from onnxshare.samples.samples import Samples
from onnxshare.shapes.inference import infer
from rewrites.base import Change

#: Makes the same rewrites of another model.
Again = Callable[[Model], tuple[Model, tuple[Change, ...]]]

#: Compares a model, a rewritten one, by its changes, on samples.
Judge = Callable[[Model, Model, tuple[Change, ...], Samples | None], Comparison]

#: The smallest number of each type.
_LEAST: dict[int, float] = {TensorProto.FLOAT16: 2.0**-24, TensorProto.BFLOAT16: 2.0**-133}

#: What float32 stands for.
_NAMES: dict[int, str] = {
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True)
class Pair:
    """A model and its rewritten copy, to be compared in another form.

    Attributes:
        original: the model before.
        result: the model after.
        changes: what was done.
        samples: inputs to measure on; None for random ones.
        computed: whether new weights were computed from old ones.
        judge: compares two models.
        again: makes the same rewrites of another model.
    """

    original: Model
    result: Model
    changes: tuple[Change, ...]
    samples: Samples | None
    computed: bool
    judge: Judge
    again: Again


def settle(pair: Pair, found: Comparison) -> Comparison:
    """Settle a verdict that the float type leaves open: `equivalent`, or
    `different` where the graphs differ in float32 though nothing was computed; else what was
    found."""
    if found.failed_model == "A":
        found = _in_newer_opset(pair, found)
    why = _open_by_type(pair.original.skeleton, found)
    return _in_float32(pair, found, why) if why else found


def _open_by_type(original: onnx.ModelProto, found: Comparison) -> str:
    """Why it is the float type, and not the model, that leaves a verdict open; "" if it is not."""
    types = float_types(original)
    if found.verdict is Verdict.INCONCLUSIVE and types & HALF:
        return "the rounding of half precision would hide a wrong weight"
    # That only the rewritten model cannot be run is a fault of the rewrite.
    own = [name for kind, name in _NAMES.items() if kind in types]
    if found.failed_model != "A" or not found.missing_kernel or not own:
        return ""
    return f"ONNX Runtime has no {found.missing_kernel} in {' or '.join(own)} here"


def _in_newer_opset(pair: Pair, found: Comparison) -> Comparison:
    """The same rewrite of a model whose opset is so old that ONNX Runtime lacks its operators."""
    opset = opset_version(pair.original.skeleton)
    if opset >= OLDEST_RUN:
        return found
    try:
        old, new = _newer(pair.original), _newer(pair.result)
        newer = pair.judge(old, new, pair.changes, pair.samples)
    except ModelError as error:
        return replace(found, reason=f"{found.reason}; {error.cause}")
    if newer.verdict is Verdict.NOT_RUN:
        return found
    why = f"ONNX Runtime has no {found.missing_kernel or 'operators'} of opset {opset}"
    words = f"compared after onnx's version converter brought both to opset {OLDEST_RUN}"
    return replace(newer, reason=f"{newer.reason}; {words}, because {why}")


def _newer(model: Model) -> Model:
    """A model in the oldest opset that ONNX Runtime runs. The converter is told all shapes: it
    does not infer those of old operators.

    Raises:
        ModelError: it cannot be converted.
    """
    graph, proto = Graph(model), onnx.ModelProto()
    proto.CopyFrom(with_data(model))
    shapes = infer(graph)
    del proto.graph.value_info[:]
    for name in (name for node in graph.main.nodes for name in node.outputs if name):
        sizes, dtype = shapes.sizes(graph.main, name), shapes.dtype(graph.main, name)
        if sizes is not None and dtype and name not in graph.main.outputs:
            proto.graph.value_info.append(helper.make_tensor_value_info(name, dtype, sizes))
    return load(convert_opset(proto, OLDEST_RUN, model.name))


def _in_float32(pair: Pair, found: Comparison, why: str) -> Comparison:
    wide = [wider_graph(with_data(model)) for model in (pair.original, pair.result)]
    if wide[0] is None or wide[1] is None:
        return found
    first, second, changes, what = load(wide[0]), load(wide[1]), pair.changes, ""
    if pair.computed and float_types(pair.original.skeleton) & HALF:
        second, changes = pair.again(first)
        if not changes or not _rounded(pair.result, with_data(second)):
            return found
        what = ", and every number of the result is one rounding or none from the one there"
    single = pair.judge(first, second, changes, pair.samples and wider_samples(pair.samples))
    if not single.passed:
        plainly = single.verdict is Verdict.DIFFERENT and not pair.computed
        return replace(single, reason=f"in float32, {single.reason}") if plainly else found
    verdict = Verdict.EQUIVALENT if single.verdict is Verdict.IDENTICAL else single.verdict
    reason = f"{single.reason}; compared in float32{what}, because {why}"
    return replace(single, verdict=verdict, reason=reason)


def _rounded(result: Model, single: onnx.ModelProto) -> bool:
    """Whether a rewritten model is the float32 one, each number of half precision rounded."""
    half = with_data(result)
    wide = wider_graph(half)
    if wide is None or _nodes(wide) != _nodes(single):
        return False
    ours, theirs = half.graph.initializer, single.graph.initializer
    return len(ours) == len(theirs) and all(map(_one_rounding, ours, theirs))


def _nodes(proto: onnx.ModelProto) -> list[bytes]:
    """Every node of a model: nothing but the values of its initializers is left out."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    return [node.SerializeToString(deterministic=True) for node in nodes]


def _one_rounding(half: onnx.TensorProto, single: onnx.TensorProto) -> bool:
    a, b = numpy_helper.to_array(half), numpy_helper.to_array(single)
    if half.name != single.name or a.shape != b.shape:
        return False
    if half.data_type not in _LEAST:
        return np.array_equal(a.astype(b.dtype), b, equal_nan=b.dtype.kind == "f")
    relative, least = EPSILON[half.data_type], _LEAST[half.data_type]
    ours, theirs = a.astype(np.float64), b.astype(np.float64)
    return bool((np.abs(ours - theirs) <= relative * np.abs(theirs) + least).all())
