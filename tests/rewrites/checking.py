"""What the tests of the rewrites measure with: ONNX Runtime run directly, bounds on rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxshare

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = dict[str, Array]
Evaluate = Callable[[onnx.ModelProto, Feeds], list[Array]]

FC = ("Gemm", "MatMul")

#: The newest IR version that the installed ONNX Runtime reads (1.23 and up: 13).
NEWEST_IR = 13

#: Replaced by Identity in the model of magnitudes: none of them makes a value or an error larger,
#: but for the few that add up to 1.
_NO_LARGER = frozenset(
    "Relu LeakyRelu PRelu Tanh Sigmoid Clip Softmax LogSoftmax Elu Dropout "
    "QuantizeLinear DequantizeLinear".split()
)


def session_of(model: onnx.ModelProto) -> Callable[[Feeds], list[Array]]:
    """What gives all outputs, from ONNX Runtime on the CPU without optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: [np.asarray(value) for value in session.run(None, feeds)]


def run(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """All outputs for one batch; see `session_of`."""
    return session_of(model)(feeds)


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def feeds(model: onnx.ModelProto, batch: int, seed: int = 3) -> Feeds:
    """Random values for each input; every symbolic size is `batch`."""
    random = np.random.default_rng(seed)
    made = {}
    for value in inputs(model):
        sizes = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        made[value.name] = random.standard_normal(sizes).astype(dtype_of(value))
    return made


def magnitudes(model: onnx.ModelProto, given: Feeds) -> list[Array]:
    """Each output with all signs turned to plus, in double precision: Σ|w|·|x| and so on.

    Rounding errors of any order of summation are at most a multiple of this (Higham, "Accuracy
    and Stability of Numerical Algorithms", 2002, section 3).
    """
    positive = onnx.ModelProto()
    positive.CopyFrom(model)
    graph = positive.graph
    for tensor in [*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.t.dims)]:
        _make_positive(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("alpha", "beta"):
                attribute.f = abs(attribute.f)
            elif attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
        if node.op_type in _NO_LARGER:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        elif node.op_type == "Sub":
            node.op_type = "Add"
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    evaluator = ReferenceEvaluator(positive)
    wide = {name: np.abs(value.astype(np.float64)) for name, value in given.items()}
    return [np.asarray(value) for value in evaluator.run(None, wide)]


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _make_positive(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        values = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def operations(model: onnx.ModelProto) -> int:
    """An upper bound of the roundings on the way to any output: each weight's fan-in, and each
    node once."""
    fan_in = sum(int(np.prod(t.dims, dtype=int)) // max(1, *t.dims[:1], 1) for t in _weights(model))
    return fan_in + len(model.graph.node)


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = [a.t for n in model.graph.node for a in n.attribute if a.name == "value"]
    found = [t for t in [*model.graph.initializer, *constants] if t.data_type in _FLOATS]
    # [in, out] and [out, in] alike: the longer way counts.
    turned = []
    for tensor in found:
        item = onnx.TensorProto()
        item.dims.extend(sorted(tensor.dims))
        turned.append(item)
    return turned


class Expected:
    """What a model gives on some inputs, and how far rounding may take another form of it.

    Args:
        model: the model.
        given: the inputs.
        evaluate: runs a model; ONNX Runtime without optimisations if left out.
    """

    def __init__(self, model: onnx.ModelProto, given: Feeds, evaluate: Evaluate = run) -> None:
        self._given, self._evaluate = given, evaluate
        self._values, self._sizes = evaluate(model, given), magnitudes(model, given)
        self._operations = operations(model)

    def assert_of(self, new: onnx.ModelProto, spread: float = 1.0, step: float = 0.0) -> None:
        """No output of another model differs by more than both may be off by rounding.

        Args:
            new: the other model, which is run directly.
            spread: a factor on the bound, for functions that enlarge errors (a known slope).
            step: the step of quantized results: the least error may take them to the next one.
        """
        found = self._evaluate(new, self._given)
        for before, after, size in zip(self._values, found, self._sizes, strict=True):
            assert before.shape == after.shape
            assert before.dtype == after.dtype
            if before.dtype.kind in "iub" and before.dtype != ml_dtypes.bfloat16:
                np.testing.assert_array_equal(before, after)
                continue
            unit = float(ml_dtypes.finfo(before.dtype).eps) / 2  # type: ignore[no-untyped-call]
            rounding = self._operations * unit
            bound = spread * 2 * rounding / (1 - rounding) * (size + 1) + step
            error = np.abs(before.astype(np.float64) - after.astype(np.float64))
            assert (error <= bound).all(), f"error {error.max()} against {bound.min()}"
            assert np.isfinite(after.astype(np.float64)).all()


def assert_same_results(
    old: onnx.ModelProto,
    new: onnx.ModelProto,
    given: Feeds,
    spread: float = 1.0,
    step: float = 0.0,
    evaluate: Evaluate = run,
) -> None:
    """Both models run directly: see `Expected`."""
    Expected(old, given, evaluate).assert_of(new, spread, step)


def interface(model: onnx.ModelProto) -> list[bytes]:
    """Names, types and order of what is fed and returned, and the versions."""
    values = [*inputs(model), *model.graph.output]
    opsets = [opset.SerializeToString() for opset in model.opset_import]
    return [value.SerializeToString() for value in values] + opsets + [bytes([model.ir_version])]


def reads(model: onnx.ModelProto) -> set[str]:
    """Every name that something reads, subgraphs included."""
    names: set[str] = set()
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        names.update(value.name for value in graph.output)
        for node in graph.node:
            names.update(node.input)
            graphs.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return names


def dead(model: onnx.ModelProto) -> set[str]:
    """Tensors, made or stored, that nothing reads."""
    made = {name for node in model.graph.node for name in node.output if name}
    made.update(tensor.name for tensor in model.graph.initializer)
    made.update(value.name for value in model.graph.value_info)
    return made - reads(model)


def is_new(node: onnx.NodeProto) -> bool:
    """Whether a rewrite made this node."""
    return any(entry.key == "onnxshare.rewrite" for entry in node.metadata_props)


def assert_untouched_rest(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """All nodes that no rewrite made are old ones, byte for byte and in the old order, and
    nothing is left over."""
    before = [node.SerializeToString() for node in old.graph.node]
    after = [node.SerializeToString() for node in new.graph.node if not is_new(node)]
    places = [before.index(data) for data in after]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert dead(new) <= dead(old)
    stored = {t.name: t.SerializeToString() for t in old.graph.initializer}
    for tensor in new.graph.initializer:
        if tensor.name in stored:
            assert tensor.SerializeToString() == stored[tensor.name]


def values_of(tensors: list[onnx.TensorProto]) -> Counter[float]:
    """How often each value occurs in tensors."""
    flat = [numpy_helper.to_array(t).astype(np.float64).reshape(-1) for t in tensors]
    return Counter(np.concatenate(flat).tolist() if flat else [])


def floats(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """All stored floating-point tensors: initializers and Constant nodes."""
    constants = [a.t for n in model.graph.node for a in n.attribute if a.name == "value"]
    return [t for t in [*model.graph.initializer, *constants] if t.data_type in _FLOATS]


def audit(old: onnx.ModelProto, result: onnxshare.RewriteResult, *, loads: bool = True) -> None:
    """What holds of everything that any rewrite writes, whatever the model.

    The full checker passes, ONNX Runtime loads it, inputs and outputs are what they were, the IR
    version is no newer than ONNX Runtime reads, no node, stored tensor or constant is left over,
    and what the rewrite has nothing to do with is what it was, byte for byte.
    """
    new = result.model
    if sound(old):  # some exporters leave what the checker does not like
        onnx.checker.check_model(new, full_check=True)
    if loads:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        onnxruntime.InferenceSession(
            new.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    assert interface(new) == interface(old)
    assert new.ir_version <= max(NEWEST_IR, old.ir_version)
    assert dead(new) <= dead(old)
    assert unread_inside(new) <= unread_inside(old)
    assert_rest_as_it_was(old, new, {name for c in result.changes for name in c.removed})


def sound(model: onnx.ModelProto) -> bool:
    """Whether a model passes the checker."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError:
        return False
    return True


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all subgraphs in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from graphs(body)


def unread_inside(model: onnx.ModelProto) -> set[str]:
    """Tensors of subgraphs that nothing in the model reads."""
    every = list(graphs(model.graph))
    read = {name for graph in every for node in graph.node for name in node.input}
    read |= {value.name for graph in every for value in graph.output}
    made = {name for graph in every[1:] for node in graph.node for name in node.output if name}
    made |= {tensor.name for graph in every[1:] for tensor in graph.initializer}
    return made - read


def assert_rest_as_it_was(old: onnx.ModelProto, new: onnx.ModelProto, removed: set[str]) -> None:
    """Old nodes are there byte for byte and in order, but for those that were removed, and for
    readers of a tensor that was merged, which read another name and may turn it."""
    before = {tuple(node.output): node for node in old.graph.node}
    places = {tuple(node.output): place for place, node in enumerate(old.graph.node)}
    kept = [node for node in new.graph.node if not is_new(node)]
    order = [places[tuple(node.output)] for node in kept]
    assert order == sorted(order)
    for node in kept:
        origin = before[tuple(node.output)]
        if node == origin:
            continue
        was = onnx.NodeProto()
        was.CopyFrom(origin)
        now = onnx.NodeProto()
        now.CopyFrom(node)
        assert any(name in removed for name in was.input) or any(
            attribute.HasField("g") for attribute in was.attribute
        ), f"'{node.name}' was changed"
        for item in (was, now):
            del item.input[:]
            left = [
                a for a in item.attribute if a.name not in ("transA", "transB") and not a.g.node
            ]
            del item.attribute[:]
            item.attribute.extend(left)
        assert was == now
    stored = {tensor.name: tensor for tensor in old.graph.initializer}
    assert all(stored.get(t.name, t) == t for t in new.graph.initializer)
    for field in ("opset_import", "functions", "training_info"):
        assert list(getattr(new, field)) == list(getattr(old, field))
    own = [[p for p in m.metadata_props if "onnxshare." not in p.key] for m in (old, new)]
    assert own[0] == own[1]
    assert (new.graph.name, new.producer_name) == (old.graph.name, old.producer_name)


def loads(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime loads a model as it is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # no kernel for its types
        return False
    return True
