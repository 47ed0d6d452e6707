"""`--share`: what is equal bit for bit becomes one tensor, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import RewriteError
from onnxshare.support.progress import listening
from onnxshare.weights import index
from onnxshare.weights.content import Content
from rewrites import apply
from rewrites.base import study
from rewrites.edits import merge_tensors
from tests.rewrites.checking import (
    assert_same_results,
    dead,
    feeds,
    floats,
    interface,
    is_new,
    run,
)
from tests.rewrites.forms import BFLOAT16, Array, Net

Patch = pytest.MonkeyPatch


def share(model: Any) -> RewriteResult:
    return onnxshare.rewrite(model, ["share"], provider="cpu")


def held(model: onnx.ModelProto) -> int:
    """Elements of all stored floating-point tensors, those in subgraphs included."""
    graphs, count = [model.graph], 0
    while graphs:
        graph = graphs.pop()
        single = onnx.ModelProto(graph=graph)
        count += sum(int(np.prod(tensor.dims, dtype=int)) for tensor in floats(single))
        graphs.extend(a.g for n in graph.node for a in n.attribute if a.HasField("g"))
    return count


# The cases. Each ends in `[n, 4]`, and multiplies by a 4×4 matrix (or 4×6 and 6×4) more than once.


def square(net: Net, *, second: Callable[[Array], Array] = np.copy, node: bool = False) -> None:
    """Two MatMuls, the second with what `second` makes of the first matrix."""
    matrix = net.random(4, 4)
    store = net.constant if node else net.stored
    first = net.node("Tanh", net.node("MatMul", net.input(4), store(matrix)))
    net.rows(net.node("MatMul", first, store(second(matrix))), 4)


def three_convs(net: Net) -> None:
    kernel, bias = net.random(2, 2, 3, 3), net.random(2)
    x = net.input(2, 5, 5)
    for _ in range(3):
        x = net.node("Conv", x, net.stored(kernel), net.stored(bias), pads=[1, 1, 1, 1])
    net.output(x, "n", 2, 5, 5)


def one_dimension(net: Net) -> None:
    kernel = net.random(2, 2, 3)
    x = net.node("Tanh", net.node("Conv", net.input(2, 7), net.stored(kernel)))
    net.output(net.node("Conv", x, net.stored(kernel)), "n", 2, 3)


def three_dimensions(net: Net) -> None:
    kernel = net.random(2, 2, 1, 2, 1)
    x = net.node("Tanh", net.node("Conv", net.input(2, 2, 4, 2), net.stored(kernel)))
    net.output(net.node("Conv", x, net.stored(kernel)), "n", 2, 2, 2, 2)


def through_identity(net: Net) -> None:
    matrix = net.random(4, 4)
    x = net.node("MatMul", net.input(4), net.node("Identity", net.stored(matrix)))
    net.rows(net.node("MatMul", net.node("Tanh", x), net.stored(matrix)), 4)


def mixed(net: Net) -> None:
    """A Constant node, then an initializer: the initializer stays."""
    matrix = net.random(4, 4)
    x = net.node("Tanh", net.node("MatMul", net.input(4), net.constant(matrix)))
    net.rows(net.node("MatMul", x, net.stored(matrix)), 4)


def nan(net: Net) -> None:
    matrix = net.random(4, 4)
    matrix[0, 2] = np.nan
    x = net.node("Where", net.stored([True]), net.input(4), net.stored(matrix[:1]))
    net.rows(net.node("Where", net.stored([True]), x, net.stored(matrix[:1])), 4)


def gemms(*turns: int, side: int = 1, **given: Any) -> Callable[[Net], None]:
    """Gemm with a 4×6 matrix, then Gemm with its transpose, as transA or transB say."""

    def build(net: Net) -> None:
        matrix = net.random(4, 6)
        x = net.input(4)
        if side == 0:
            one = net.node("Gemm", net.stored(matrix.T.copy()), net.constant(net.random(4, 3)))
            two = net.node("Gemm", net.stored(matrix), net.constant(net.random(4, 3)), transA=1)
            both = net.node("Add", one, two)
            net.output(
                net.node("MatMul", x, net.node("Slice", both, *map(net.ints, (0, 4)))), "n", 3
            )
            return
        for turn, right in zip(turns, (matrix, matrix.T), strict=True):
            stored = right.T.copy() if turn else right.copy()
            x = net.node("Tanh", net.node("Gemm", x, net.stored(stored), transB=turn, **given))
        net.rows(x, 4)

    return build


def turned(*kinds: str) -> Callable[[Net], None]:
    """A 4×6 matrix and its transpose, read by operators of these kinds in turn."""

    def build(net: Net) -> None:
        matrix, x = net.random(4, 6), net.input(4)
        for kind, right in zip(kinds, (matrix, matrix.T), strict=True):
            x = net.node("Tanh", net.node(kind, x, net.stored(right.copy())))
        net.rows(x, 4)

    return build


def embedding(net: Net) -> None:
    """Rows of a table, and the table transposed as the last matrix: the table stays."""
    table = net.random(9, 4)
    rows = net.node("Gather", net.stored(table), net.ints(1, 5, 2))
    x = net.node("Add", net.input(4), net.node("ReduceSum", rows, net.ints(0), keepdims=0))
    net.rows(net.node("MatMul", x, net.stored(table.T.copy())), 9)


def three_ways(net: Net) -> None:
    """Equal and transposed, read by Gemm and by MatMul: 5 copies, one Transpose."""
    matrix, x = net.random(4, 6), net.input(4)
    x = net.node("Tanh", net.node("MatMul", x, net.stored(matrix)))
    back = net.stored(matrix.T.copy())
    x = net.node("Gemm", net.node("MatMul", x, back), net.stored(matrix))
    x = net.node("Gemm", x, back)
    x = net.node("Gemm", x, net.constant(matrix.T.copy()), transB=1)
    net.rows(net.node("MatMul", x, net.stored(matrix.T.copy())), 4)


def also_output(net: Net) -> None:
    matrix = net.random(4, 4)
    first = net.stored(matrix)
    x = net.node("Tanh", net.node("MatMul", net.input(4), net.stored(matrix)))
    net.rows(net.node("MatMul", x, first), 4)
    net.output(first, 4, 4)


def two_outputs(net: Net) -> None:
    matrix = net.random(4, 4)
    x = net.input(4)
    for _ in range(2):
        stored = net.stored(matrix)
        x = net.node("Tanh", net.node("MatMul", x, stored))
        net.output(stored, 4, 4)
    net.rows(x, 4)


def biases(net: Net) -> None:
    """Equal single numbers stay as they are; equal pairs do not."""
    x = net.input(2)
    one, pair = net.random(1), net.random(2)
    for values in (one, pair, one, pair):
        x = net.node("Tanh", net.node("Add", x, net.stored(values)))
    net.rows(x, 2)


def quantized(net: Net, scales: tuple[float, float] = (0.05, 0.03)) -> None:
    """The same 8-bit numbers under two scales: each reader keeps its own."""
    matrix = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    x = net.input(4)
    for scale in scales:
        parts = (net.stored(matrix), net.stored(scale, net.dtype), net.stored(0, np.int8))
        x = net.node("Tanh", net.node("MatMul", x, net.node("DequantizeLinear", *parts)))
    net.rows(x, 4)


def quantized_turned(net: Net) -> None:
    matrix = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    x = net.input(4)
    for values in (matrix, matrix.T.copy()):
        parts = (net.stored(values), net.stored(0.1, net.dtype), net.stored(0, np.int8))
        x = net.node("Tanh", net.node("MatMul", x, net.node("DequantizeLinear", *parts)))
    net.rows(x, 4)


def filled(net: Net) -> None:
    x = net.input(4)
    for _ in range(2):
        fill = numpy_helper.from_array(np.full(1, 0.5, net.dtype))
        matrix = net.node("ConstantOfShape", net.ints(4, 4), value=fill)
        x = net.node("Tanh", net.node("MatMul", x, matrix))
    net.rows(x, 4)


def one_number(net: Net) -> None:
    """Two convolutions to one channel, with equal biases of one number."""
    bias, x = net.random(1), net.input(1, 5)
    for _ in range(2):
        x = net.node("Conv", x, net.weight(1, 1, 3), net.stored(bias), pads=[1, 1])
    net.output(x, "n", 1, 5)


def turned_twice(net: Net) -> None:
    """The transposed copy is read by two MatMuls: one Transpose, before the first."""
    matrix, x = net.random(4, 6), net.input(4)
    stored, back = net.stored(matrix), net.constant(matrix.T.copy())
    for _ in range(2):
        x = net.node("Tanh", net.node("MatMul", net.node("MatMul", x, stored), back))
    net.rows(x, 4)


@dataclass(frozen=True)
class Case:
    """A model, how many floating-point elements it holds before and after, and what is added.

    Attributes:
        build: makes the net.
        before, after: elements of all floating-point tensors, by hand.
        transposes: Transpose nodes that come.
        refused: words of the reason of a refused site.
        options: of the net.
    """

    build: Callable[[Net], None]
    before: int
    after: int
    transposes: int = 0
    refused: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def negative_zero(matrix: Array) -> Array:
    return np.where(matrix == 0, np.asarray(-0.0, matrix.dtype), matrix)


def zeros(net: Net) -> None:
    """Equal as numbers, and not bit for bit."""
    x = net.input(4)
    for zero in (0.0, -0.0):
        matrix = np.eye(4, dtype=net.dtype)
        matrix[0, 3] = zero
        x = net.node("Tanh", net.node("MatMul", x, net.stored(matrix)))
    net.rows(x, 4)


CASES: dict[str, Case] = {
    "two initializers": Case(square, 32, 16),
    "two Constant nodes": Case(lambda net: square(net, node=True), 32, 16),
    "initializer and Constant": Case(mixed, 32, 16),
    "behind Identity": Case(through_identity, 32, 16),
    "three convolutions": Case(three_convs, 3 * 38, 38),
    "1-D": Case(one_dimension, 24, 12),
    "3-D": Case(three_dimensions, 16, 8),
    "half": Case(square, 32, 16, options={"dtype": np.float16}),
    "double": Case(square, 32, 16, options={"dtype": np.float64}),
    "IR 3": Case(square, 32, 16, options={"opset": 8, "ir": 3}),
    "IR 3, transposed": Case(turned("MatMul", "MatMul"), 48, 24, 1, options={"opset": 8, "ir": 3}),
    "NaN": Case(nan, 8, 4),
    "square, transposed": Case(lambda net: square(net, second=lambda m: m.T.copy()), 32, 16, 1),
    "transposed": Case(turned("MatMul", "MatMul"), 48, 24, 1),
    "transposed, half": Case(turned("MatMul", "MatMul"), 48, 24, 1, options={"dtype": np.float16}),
    "Gemm, transB comes": Case(turned("MatMul", "Gemm"), 48, 24),
    "Gemm first, transB comes": Case(turned("Gemm", "MatMul"), 48, 24),
    "two Gemms": Case(gemms(0, 0), 48, 24),
    "two Gemms, transB both": Case(gemms(1, 1), 48, 24),
    "two Gemms, one matrix": Case(gemms(0, 1), 48, 24),
    "two Gemms, alpha": Case(gemms(1, 1, alpha=0.5), 48, 24),
    "transA": Case(gemms(side=0), 48 + 24, 24 + 24),
    "embedding and last matrix": Case(embedding, 72, 36, 1),
    "three ways": Case(three_ways, 5 * 24, 24, 1),
    "one is an output": Case(also_output, 32, 16),
    "both are outputs": Case(two_outputs, 32, 32, refused="is an output"),
    "single numbers": Case(biases, 6, 4),
    "biases of one number": Case(one_number, 8, 8),
    "transposed, read twice": Case(turned_twice, 48, 24, 1),
    "zeros of two signs": Case(zeros, 32, 32),
    "nearly equal": Case(
        lambda net: square(net, second=lambda m: np.nextafter(m, np.inf, dtype=m.dtype)), 32, 32
    ),
    "ConstantOfShape": Case(filled, 2, 2),
    "8 bits, two scales": Case(quantized, 2, 2),
    "8 bits, transposed": Case(quantized_turned, 2, 2, refused="in a type that is not transposed"),
}
EIGHT_BITS = "8 bits, two scales"


def built(name: str) -> onnx.ModelProto:
    net = Net(**CASES[name].options)
    CASES[name].build(net)
    return net.model()


@pytest.mark.parametrize("name", list(CASES))
def test_case(name: str) -> None:
    case, model = CASES[name], built(name)
    given = model.SerializeToString(deterministic=True)
    assert held(model) == case.before
    result = share(model)
    assert model.SerializeToString(deterministic=True) == given
    assert held(result.model) == case.after
    merged = case.after < case.before or name == EIGHT_BITS
    assert bool(result.changes) == merged
    assert result.passed == merged
    refused = [site.refused for site in result.sites if site.refused]
    assert bool(refused) == bool(case.refused)
    assert all(case.refused in reason for reason in refused)
    new = [node.op_type for node in result.model.graph.node if is_new(node)]
    assert new == ["Transpose"] * case.transposes
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert dead(result.model) == set()
    if "8 bits" in name:
        results = [run(m, feeds(model, 3))[0] for m in (model, result.model)]
        np.testing.assert_array_equal(results[0], results[1])
    elif name != "NaN":
        assert_same_results(model, result.model, feeds(model, 3))
    assert_other_nodes_equal(model, result.model)
    turns = [a.i for n in result.model.graph.node for a in n.attribute if a.name[:5] == "trans"]
    assert set(turns) <= {0, 1}


def assert_other_nodes_equal(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Nodes whose inputs are what they were are byte for byte what they were; the others differ in
    their inputs and transA, transB alone."""
    before = {node.output[0]: node for node in old.graph.node}
    for node in new.graph.node:
        if is_new(node):
            continue
        was = before[node.output[0]]
        if list(was.input) == list(node.input):
            assert node.SerializeToString() == was.SerializeToString()
            continue
        pair = []
        for item in (was, node):
            copy = onnx.NodeProto()
            copy.CopyFrom(item)
            kept = [a for a in item.attribute if a.name not in ("transA", "transB")]
            del copy.input[:], copy.attribute[:]
            copy.attribute.extend(kept)
            pair.append(copy.SerializeToString())
        assert pair[0] == pair[1]


def test_totals_by_hand() -> None:
    """Three convolutions of 2·2·9 weights and 2 biases, each stored three times."""
    result = share(built("three convolutions"))
    assert (result.before.params, result.after.params) == (3 * 38, 38)
    figures = {(site.params_before, site.params_after) for site in result.sites}
    assert figures == {(3 * 36, 36), (3 * 2, 2)}
    assert result.before.macs == result.after.macs == 3 * 2 * 2 * 9 * 25


def test_nan_is_kept() -> None:
    model = built("NaN")
    result = share(model)
    assert any(np.isnan(numpy_helper.to_array(t)).any() for t in floats(result.model))
    given = feeds(model, 3)
    np.testing.assert_array_equal(run(model, given)[0], run(result.model, given)[0])


def test_eight_bits_are_stored_once_and_scaled_twice() -> None:
    model = built(EIGHT_BITS)
    result = share(model)
    kinds = [t.data_type for t in result.model.graph.initializer if len(t.dims) == 2]
    assert kinds == [TensorProto.INT8]


def test_bfloat16_is_compared_by_bits() -> None:
    """ONNX Runtime does not multiply in bfloat16 on CPUs: only what is stored is looked at."""
    net = Net(dtype=BFLOAT16, opset=22, ir=10)
    square(net, second=lambda matrix: matrix.T.copy())
    result = onnxshare.rewrite(net.model(), ["share"], validate=False)
    assert held(result.model) == 16
    assert [n.op_type for n in result.model.graph.node if is_new(n)] == ["Transpose"]


def test_a_default_of_an_input_is_left_alone() -> None:
    """From IR 4 on a caller may give another value for an initializer that is also an input."""
    model = built("two initializers")
    name = model.graph.initializer[1].name
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]))
    result = share(model)
    assert result.changes == ()


@pytest.mark.parametrize(
    ("scales", "merged"), [(("s", "s"), True), (("s", "z"), False), (("s", None), False)]
)
def test_quantization_annotations(scales: tuple[str, str | None], merged: bool) -> None:
    """Tensors that are annotated with different scales are no copies of one another."""
    model = built("two initializers")
    stored = [tensor.name for tensor in model.graph.initializer]
    for name in ("s", "z"):
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), name))
    for name, scale in zip(stored, scales, strict=True):
        if scale is not None:
            note = model.graph.quantization_annotation.add(tensor_name=name)
            note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    result = share(model)
    assert bool(result.changes) == merged
    notes = [note.tensor_name for note in result.model.graph.quantization_annotation]
    assert notes == (
        stored[:1] if merged else [n for n, s in zip(stored, scales, strict=True) if s]
    )
    if not merged:
        assert "annotated" in str(result.sites[0].refused)


# Subgraphs.


def branches(inside: tuple[str, str], outside: str = "") -> onnx.ModelProto:
    """An If whose branches multiply by a matrix, each its own; `inside` says how it is stored.

    Args:
        inside: for each branch "initializer", "constant", or "outer" for the matrix around it.
        outside: whether the matrix is also multiplied by outside, and how it is stored there.
    """
    matrix = np.random.default_rng(4).standard_normal((4, 4)).astype(np.float32)
    graphs = []
    for place, kind in enumerate(inside):
        name = "w" if kind == "outer" else f"w{place}"
        tensor = numpy_helper.from_array(matrix, name)
        nodes = [helper.make_node("MatMul", ["h", name], [f"y{place}"], name=f"inner{place}")]
        if kind == "constant":
            nodes.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        result = helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT, ["n", 4])
        stored = [tensor] if kind == "initializer" else []
        graphs.append(helper.make_graph(nodes, f"branch{place}", [], [result], stored))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="before")
        if outside
        else helper.make_node("Identity", ["x"], ["t"], name="before"),
        helper.make_node("Tanh", ["t"], ["h"], name="tanh"),
        helper.make_node("ReduceSum", ["h"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["more"], name="more"),
        helper.make_node(
            "If", ["more"], ["y"], name="if", then_branch=graphs[0], else_branch=graphs[1]
        ),
    ]
    weight = numpy_helper.from_array(matrix, "w")
    stored = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    if outside == "initializer":
        stored.append(weight)
    elif outside == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight, name="made"))
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("outside", ["initializer", "constant"])
@pytest.mark.parametrize(
    "inside",
    [("initializer", "initializer"), ("constant", "initializer"), ("outer", "constant")],
)
def test_a_subgraph_reads_the_tensor_around_it(inside: tuple[str, str], outside: str) -> None:
    model = branches(inside, outside)
    copies = 1 + sum(kind != "outer" for kind in inside)
    assert held(model) == copies * 16 + 1
    result = share(model)
    assert result.passed
    assert held(result.model) == 16 + 1
    onnx.checker.check_model(result.model, full_check=True)
    for seed in range(6):  # both branches are taken
        given = feeds(model, 3, seed)
        np.testing.assert_array_equal(run(model, given)[0], run(result.model, given)[0])


def test_copies_inside_and_outside() -> None:
    """Two copies in the main graph and one in each branch: all but one go at once."""
    model = branches(("initializer", "constant"), "initializer")
    again = onnx.TensorProto()
    again.CopyFrom(next(t for t in model.graph.initializer if t.name == "w"))
    again.name = "again"
    model.graph.initializer.append(again)
    model.graph.node.append(helper.make_node("MatMul", ["y", "again"], ["z"], name="last"))
    model.graph.output[0].name = "z"
    result = share(model)
    assert result.passed
    assert [set(change.removed) for change in result.changes] == [{"w0", "w1", "again"}]
    assert held(model) == 4 * 16 + 1
    assert held(result.model) == 16 + 1
    given = feeds(model, 3)
    np.testing.assert_array_equal(run(model, given)[0], run(result.model, given)[0])


def test_a_tensor_that_is_made_later_is_not_read() -> None:
    """The only copy in the main graph comes from a Constant node behind the If."""
    model = branches(("initializer", "outer"), "initializer")
    inner = next(a.g for n in model.graph.node for a in n.attribute if a.name == "else_branch")
    inner.node[0].op_type = "Identity"
    del inner.node[0].input[1:]
    model.graph.node[0].op_type = "Identity"
    del model.graph.node[0].input[1:]
    weight = model.graph.initializer.pop()
    assert weight.name == "w"
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=weight, name="made"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="last"))
    model.graph.output[0].name = "z"
    onnx.checker.check_model(model, full_check=True)
    result = share(model)
    assert result.changes == ()
    assert [s.refused for s in result.sites] == [
        "it equals 'w', which is made only after it is read"
    ]


@pytest.mark.parametrize("turns", [True, False])
def test_what_is_known_of_a_transposed_copy_is_kept(turns: bool) -> None:
    """Its name goes on, so its declared type does too; that of an equal copy goes with it."""
    net = Net()
    square(net, second=lambda m: m.T.copy() if turns else m.copy(), node=True)
    model = net.model()
    name = [n.output[0] for n in model.graph.node if n.op_type == "Constant"][1]
    info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4])
    model.graph.value_info.append(info)
    result = share(model)
    assert result.changes
    assert list(result.model.graph.value_info) == ([info] if turns else [])


def test_branches_do_not_see_each_other() -> None:
    model = branches(("initializer", "constant"))
    result = share(model)
    assert result.changes == ()
    assert [site.refused for site in result.sites] == [
        "it equals 'w0', which cannot be seen from its own subgraph"
    ]


# Bundled models, files, plugs.


@pytest.mark.parametrize("name", ["gap_net", "lenet5", "vgg_small-torchscript"])
def test_trained_models_hold_nothing_twice(bundled: Path, name: str) -> None:
    """By an independent count of equal payloads."""
    path = bundled / f"{name}.onnx"
    stored = [t for t in floats(onnx.load(path)) if np.prod(t.dims) > 1]
    assert len({numpy_helper.to_array(t).tobytes() for t in stored}) == len(stored)
    result = share(path)
    assert result.sites == ()


def test_a_file_with_a_large_copy(tmp_path: Path) -> None:
    """Payloads that are left in the file, one pair equal, another transposed."""
    net = Net()
    matrix, other, x = net.random(300, 300), net.random(300, 200), net.input(300)
    for values in (matrix, matrix, other):
        x = net.node("Tanh", net.node("MatMul", x, net.stored(values)))
    x = net.node("Gemm", x, net.stored(other.T.copy()))
    net.rows(x, 300)
    model = net.model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    result = share(path)
    assert result.passed
    assert (result.before.params, result.after.params) == (2 * 90_000 + 2 * 60_000, 150_000)
    out = tmp_path / "out.onnx"
    result.save(out)
    written = onnx.load(out)
    assert held(written) == 150_000
    assert out.stat().st_size < path.stat().st_size * 0.51
    assert_same_results(model, written, feeds(model, 2))


def test_hashing_tells_how_far_it_is() -> None:
    """Three equal matrices of 1.44 MB, in steps of a MiB; what looks like no other is not read."""
    net = Net()
    matrix, x = net.random(600, 600), net.input(600)
    for values in (matrix, matrix, matrix, net.random(600, 9)):
        x = net.node("MatMul", x, net.stored(values))
    net.rows(x, 9)
    seen: list[tuple[str, int, int]] = []
    with listening(lambda what, done, total: seen.append((what, done, total))):
        onnxshare.rewrite(net.model(), ["share"], validate=False)
    total = 3 * 4 * 360_000
    hashing = [(done, all_) for what, done, all_ in seen if what == "hashing weights"]
    assert hashing[:6] == [
        (number * 1_440_000 + part, total) for number in range(3) for part in (2**20, 1_440_000)
    ]


def test_command_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(built("transposed"), path)
    done = cli("rewrite", path, "--share")
    assert done.returncode == 0, done.stderr
    assert "one 4×6 tensor stays" in done.stdout
    assert "when it loads the model" in done.stdout
    assert held(onnx.load(tmp_path / "m.share.onnx")) == 24


@pytest.mark.parametrize("light", ["light_resnet50", "light_squeezenet"])
def test_filled_tensors_take_no_space_and_are_left_alone(onnx_light: Path, light: str) -> None:
    result = onnxshare.rewrite(onnx_light / f"{light}.onnx", ["share"], validate=False)
    assert result.sites == ()


def pairs(count: int) -> onnx.ModelProto:
    """A chain of products of matrices and their copies, every other one turned."""
    net = Net()
    x = net.input(4)
    for place in range(count):
        matrix = net.random(4, 4)
        x = net.node("Tanh", net.node("MatMul", x, net.stored(matrix)))
        copy = matrix.T.copy() if place % 2 else matrix
        x = net.node("Tanh", net.node("MatMul", x, net.stored(copy)))
    net.rows(x, 4)
    return net.model()


def test_all_groups_are_merged_in_one_go(monkeypatch: Patch) -> None:
    looks: list[object] = []

    def look(*arguments: Any) -> Subject:
        looks.append(arguments)
        return study(*arguments)

    monkeypatch.setattr(apply, "study", look)
    model = pairs(40)
    result = share(model)
    assert len(looks) == 2  # once to find them, once to see that nothing is left
    assert len(result.changes) == 40
    assert result.passed
    assert len(result.model.graph.initializer) == 40
    assert [len(change.added) for change in result.changes] == [0, 1] * 20
    assert_same_results(model, result.model, feeds(model, 2))


# What must not slip through.


def test_equal_hashes_are_not_trusted(monkeypatch: Patch) -> None:
    """Tensors of one type and shape, all of the same hash: the bytes decide."""
    monkeypatch.setattr(
        index, "content", lambda values, dtype, step: Content("", "", (0, 0), False)
    )
    monkeypatch.setattr(index, "_first_look", lambda values: ())
    net = Net()
    square(net, second=lambda matrix: matrix + np.float32(1))
    result = share(net.model())
    assert result.changes == ()
    assert "not equal to it after all" in str(result.sites[0].refused)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["Gemm, transB comes", "two Gemms", "square, transposed"])
def test_merged_without_transposing(monkeypatch: Patch, name: str, seed: int) -> None:
    """A transposed copy taken for an equal one never passes."""
    right = merge_tensors.Merge.drop
    monkeypatch.setattr(
        merge_tensors.Merge,
        "drop",
        lambda self, stored, keep, *, transposed: right(self, stored, keep, transposed=False),
    )
    net = Net(seed=seed)
    CASES[name].build(net)
    try:
        result = share(net.model())
    except RewriteError as error:
        if "do not fit" in str(error):  # what came out could not even run
            return
        raise
    assert result.changes
    assert not result.passed


@pytest.mark.parametrize("seed", range(3))
def test_merged_with_another(monkeypatch: Patch, seed: int) -> None:
    """Tensors of one shape taken for equal never pass."""
    monkeypatch.setattr(index, "_first_look", lambda values: ())
    monkeypatch.setattr(
        index, "content", lambda values, dtype, step: Content("", "", (0, 0), False)
    )
    monkeypatch.setattr("rewrites.share.same_bits", lambda *a, **k: True)
    net = Net(seed=seed)
    square(net, second=lambda matrix: matrix * np.float32(1.001))
    result = share(net.model())
    assert result.changes
    assert not result.passed
