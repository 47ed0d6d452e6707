"""Wrong pairs that only some inputs show, and right ones that only some outputs show.

Every pair is judged by ONNX Runtime, on an input on which the models differ, or by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

import onnxshare
from onnxshare.runtime.limits import RunLimits
from tests.builders import forest, forest_row

RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((8, 6)).astype(np.float32)
K = RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
TABLE = RANDOM.standard_normal((64, 6)).astype(np.float32)
ONE = np.array([1])


def model(text: str, **weights: Any) -> onnx.ModelProto:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g' + text)
    for value in proto.graph.input:
        value.type.tensor_type.shape.SetInParent()  # no shape is a scalar
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return proto


def dense(before: str, kind: str = "float[N,8]", **weights: Any) -> onnx.ModelProto:
    return model(f"({kind} x) => (float[N,6] y) {{{before} y = MatMul(h, w)}}", w=W, **weights)


def conv(attributes: str) -> onnx.ModelProto:
    text = (
        f"(float[N,3,H,W] x) => (float[N,4,P,Q] y) {{y = Conv<strides=[2,2], {attributes}>(x, k)}}"
    )
    return model(text, k=K)


def placed(table: Any) -> onnx.ModelProto:
    return model(
        "(float[N,L,6] x) => (float[N,L,6] y) {l = Shape<start=1, end=2>(x) "
        "p = Slice(t, z, l, z) y = Add(x, p)}",
        t=table,
        z=np.array([0]),
    )


def reshaped(batch: int) -> onnx.ModelProto:
    return dense("h = Reshape(x, s)", "float[N,2,4]", s=np.array([batch, 8]))


def trips(text: str) -> onnx.ModelProto:
    body = "(int64 i, bool c, float[N,8] p) => (bool d, float[N,8] q) {d = Identity(c) q = Tanh(p)}"
    return model(
        f"(int64 n, float[N,8] x) => (float[N,8] y) {{{text} y = Loop<body = b{body}>(t, , x)}}",
        one=np.array(1),
    )


def found(text: str, **weights: Any) -> onnx.ModelProto:
    """The numbers above 0, however many there are."""
    return model(
        f"(float[1,8] x) => (float[M] y) {{{text} c = Greater(h, z) f = Reshape(h, o) "
        "g = Reshape(c, o) y = Compress(f, g)}",
        z=np.float32(0),
        o=np.array([-1]),
        **weights,
    )


def as_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with Constant nodes for initializers."""
    for tensor in list(proto.graph.initializer):
        proto.graph.node.insert(
            0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        )
    del proto.graph.initializer[:]
    return proto


def looked_up(before: str, after: str = "y = Gather(t, h)", **weights: Any) -> onnx.ModelProto:
    text = f"(int64[N,5] x) => (float[N,5,6] y) {{{before} {after}}}"
    return model(text, **({"t": TABLE} | weights))


def counted(text: str, kind: str = "int64", **weights: Any) -> onnx.ModelProto:
    return model(f"({kind}[N,5] x) => (float[N,5] y) {{{text} y = Cast<to=1>(h)}}", **weights)


def at_batch(size: int) -> onnx.ModelProto:
    """Twice as much at one batch."""
    return model(
        "(float[N,8] x) => (float[N,6] y) {s = Shape<end=1>(x) c = Equal(s, n) g = Cast<to=1>(c) "
        "m = MatMul(x, w) k = Add(g, f) y = Mul(m, k)}",
        w=W,
        n=np.array([size]),
        f=np.ones(1, np.float32),
    )


def bucket(width: int) -> onnx.ModelProto:
    return looked_up("h = Div(x, k)", k=np.array(width))


def imputed(last: float) -> onnx.ModelProto:
    """What is missing in eight features is replaced."""
    proto = dense("h = Relu(f)")
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    values: dict[str, Any] = {
        "imputed_value_floats": [*map(float, range(7)), last],
        "replaced_value_float": np.nan,
    }
    proto.graph.node.insert(
        0, helper.make_node("Imputer", ["x"], ["f"], domain="ai.onnx.ml", **values)
    )
    return proto


def tracking(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Trees that send what is missing down their first branches."""
    tracks = helper.make_attribute("nodes_missing_value_tracks_true", [1] * 28)
    proto.graph.node[1].attribute.append(tracks)
    return proto


MISSING = {"x": np.full((1, 8), np.nan, np.float32)}


def no_padding(text: str, index: int) -> onnx.ModelProto:
    after = "e = Gather(t, x) c = Equal(x, i) n = Not(c) g = Cast<to=1>(n) u = Unsqueeze(g, a) "
    return looked_up(after, text, i=np.array(index), a=np.array([2]))


Pair = tuple[onnx.ModelProto, onnx.ModelProto, dict[str, NDArray[Any]]]

#: A, B, and an input on which they differ, or B cannot run.
WRONG: dict[str, Pair] = {
    "a batch baked in": (reshaped(0), reshaped(1), {"x": np.ones((2, 2, 4), np.float32)}),
    "an axis squeezed at batch 1": (
        dense("h = Squeeze(x, a)", "float[N,8,1]", a=np.array([2])),
        dense("h = Squeeze(x)", "float[N,8,1]"),
        {"x": np.ones((1, 8, 1), np.float32)},
    ),
    "padding of odd sizes": (
        conv('auto_pad="SAME_UPPER"'),
        conv("pads=[0,0,1,1]"),
        {"x": np.ones((1, 3, 65, 65), np.float32)},
    ),
    "the tail of a table of positions": (
        placed(TABLE),
        placed(np.concatenate([TABLE[:40], TABLE[:24]])),
        {"x": np.zeros((1, 64, 6), np.float32)},
    ),
    "int8 read as uint8": (
        dense("h = Cast<to=1>(x)", "int8[N,8]"),
        dense("u = Cast<to=2>(x) h = Cast<to=1>(u)", "int8[N,8]"),
        {"x": np.full((1, 8), -3, np.int8)},
    ),
    "a category beyond 0 and 1": (
        dense("h = OneHot(x, d, v)", "int64[N]", d=np.array(8), v=np.array([0, 1], np.float32)),
        dense(
            "c = Min(x, m) h = OneHot(c, d, v)",
            "int64[N]",
            m=np.array(4),
            d=np.array(8),
            v=np.array([0, 1], np.float32),
        ),
        {"x": np.array([7])},
    ),
    "large negative values": (
        dense("h = Identity(x)"),
        dense("h = Max(x, m)", m=np.float32(-8)),
        {"x": np.full((1, 8), -40, np.float32)},
    ),
    "trips of a loop": (
        trips("t = Identity(n)"),
        trips("t = Min(n, one)"),
        {"n": np.array(4), "x": np.ones((2, 8), np.float32)},
    ),
    "a sequence cut off at 128": (
        model("(float[N,L,6] x) => (float[N,6] y) {y = ReduceMean<axes=[1], keepdims=0>(x)}"),
        model(
            "(float[N,L,6] x) => (float[N,6] y) "
            "{h = Slice(x, a, b, c) y = ReduceMean<axes=[1], keepdims=0>(h)}",
            a=np.array([0]),
            b=np.array([128]),
            c=ONE,
        ),
        {"x": np.arange(1200, dtype=np.float32).reshape(1, 200, 6)},
    ),
    "a negative index": (
        model("(int64[N] x) => (float[N,6] y) {y = Gather(t, x)}", t=TABLE),
        model("(int64[N] x) => (float[N,6] y) {a = Abs(x) y = Gather(t, a)}", t=TABLE),
        {"x": np.array([-3])},
    ),
    "a cap beyond all samples": (
        dense("h = Identity(x)"),
        dense("h = Min(x, m)", m=np.float32(1e5)),
        {"x": np.full((1, 8), 2e5, np.float32)},
    ),
    "the last of equal indices": (
        model("(float[N,8] x) => (int64[N,1] y) {h = Relu(x) y = ArgMax<axis=1>(h)}"),
        model(
            "(float[N,8] x) => (int64[N,1] y) "
            "{h = Relu(x) y = ArgMax<axis=1, select_last_index=1>(h)}"
        ),
        {"x": np.full((1, 8), -1, np.float32)},
    ),
    "what is found above 0": (
        found("h = MatMul(x, w)", w=W),
        found("a = MatMul(x, w) h = Mul(a, k)", w=W, k=np.float32(1.01)),
        {"x": np.ones((1, 8), np.float32)},
    ),
    "another number at batch 1": (at_batch(0), at_batch(1), {"x": np.ones((1, 8), np.float32)}),
    "another number at batch 3": (at_batch(0), at_batch(3), {"x": np.ones((3, 8), np.float32)}),
    "a table of positions in a Constant": (
        as_constants(placed(TABLE)),
        as_constants(placed(np.concatenate([TABLE[:40], TABLE[:24]]))),
        {"x": np.zeros((1, 64, 6), np.float32)},
    ),
    "positions that are longer than is run": (
        placed(np.tile(TABLE, (50, 1))),
        placed(np.concatenate([np.tile(TABLE, (40, 1)), np.zeros((640, 6), np.float32)])),
        {"x": np.zeros((1, 3000, 6), np.float32)},
    ),
    "a sequence cut off at the lesser of two": (
        model("(float[N,L,6] x) => (float[N,6] y) {y = ReduceMean<axes=[1], keepdims=0>(x)}"),
        model(
            "(float[N,L,6] x) => (float[N,6] y) {l = Shape<start=1, end=2>(x) m = Min(l, b) "
            "h = Slice(x, a, m, c) y = ReduceMean<axes=[1], keepdims=0>(h)}",
            a=np.array([0]),
            b=np.array([500]),
            c=ONE,
        ),
        {"x": np.arange(3600, dtype=np.float32).reshape(1, 600, 6)},
    ),
    "int64 read as int16": (
        counted("h = Identity(x)"),
        counted("h = Cast<to=5>(x)"),
        {"x": np.full((1, 5), 70_000)},
    ),
    "int64 that goes through half precision": (
        counted("h = Identity(x)"),
        counted("h = Cast<to=10>(x)"),
        {"x": np.full((1, 5), 70_000)},
    ),
    "uint16 read as int16": (
        counted("h = Identity(x)", "uint16"),
        counted("h = Cast<to=5>(x)", "uint16"),
        {"x": np.full((1, 5), 60_000, np.uint16)},
    ),
    "padding that is 0": (
        no_padding("y = Mul(e, u)", 0),
        no_padding("y = Identity(e)", 0),
        {"x": np.zeros((1, 5), np.int64)},
    ),
    "padding that is 7": (
        no_padding("y = Mul(e, u)", 7),
        no_padding("y = Identity(e)", 7),
        {"x": np.full((1, 5), 7)},
    ),
    "an index of data": (
        model("(float[N,20] x, int64[1] n) => (float[N,M] y) {y = Gather<axis=1>(x, n)}"),
        model(
            "(float[N,20] x, int64[1] n) => (float[N,M] y) "
            "{m = Min(n, k) y = Gather<axis=1>(x, m)}",
            k=np.array([15]),
        ),
        {"x": np.arange(20, dtype=np.float32)[None], "n": np.array([19])},
    ),
    "a clip far from zero": (
        dense("h = Elu<alpha=0.5>(x)"),
        dense("h = Celu<alpha=0.5>(x)"),
        {"x": np.full((1, 8), -0.5, np.float32)},
    ),
    "a row of a table in two halves": (
        looked_up("h = Identity(x)", t=np.tile(TABLE, (21, 1))),
        model(
            "(int64[N,5] x) => (float[N,5,6] y) {t = Concat<axis=0>(p, q) y = Gather(t, x)}",
            p=np.concatenate([np.tile(TABLE, (10, 1)), TABLE[:40], TABLE[:24]]),
            q=np.tile(TABLE, (10, 1)),
        ),
        {"x": np.full((1, 5), 690)},
    ),
    "a leaf of a tree": (
        forest("p"),
        forest("q", ("target_weights", 5, 9.0), ("target_weights", 4, 9.0)),
        forest_row(forest("p"), 1),
    ),
    "a tree that asks for less, not for less or equal": (
        forest("p"),
        forest("q", *(("nodes_modes", place, "BRANCH_LT") for place in (14, 15, 16))),
        forest_row(forest("p"), 2),
    ),
    "a negative integer": (
        model("(int64[N,6] x) => (int64[N,6] y) {y = Mul(x, two)}", two=np.array([2])),
        model("(int64[N,6] x) => (int64[N,6] y) {a = Abs(x) y = Mul(a, two)}", two=np.array([2])),
        {"x": np.full((1, 6), -2)},
    ),
    "uint32 read as int32": (
        counted("h = Identity(x)", "uint32"),
        counted("h = Cast<to=6>(x)", "uint32"),
        {"x": np.full((1, 5), 4_000_000_000, np.uint32)},
    ),
    "a row for each of ten integers": (bucket(10), bucket(11), {"x": np.full((1, 5), 10)}),
    "a hundredth of an integer": (
        counted("h = Div(x, k)", k=np.array(100)),
        counted("h = Div(x, k)", k=np.array(99)),
        {"x": np.full((1, 5), 99)},
    ),
    "a missing value": (
        dense("c = IsNaN(x) h = Where(c, k, x)", k=np.float32(0)),
        dense("h = Identity(x)"),
        MISSING,
    ),
    "another number for a missing value": (imputed(7.0), imputed(8.0), MISSING),
    "trees that know of no missing values": (
        tracking(forest("p")),
        forest("q"),
        {"x": MISSING["x"][:, :6]},
    ),
    "a branch that large sums take": (
        model(
            "(float[N,8] x) => (float[N,8] y) {s = ReduceSum<keepdims=0>(x) c = Greater(s, k) "
            "y = If<then_branch = t () => (float[N,8] p) {p = Neg(x)}, "
            "else_branch = e () => (float[N,8] q) {q = Identity(x)}>(c)}",
            k=np.float32(1e7),
        ),
        model("(float[N,8] x) => (float[N,8] y) {y = Identity(x)}"),
        {"x": np.full((1, 8), 1e7, np.float32)},
    ),
}

#: Those that only the weights, or a part that runs alone, show.
HIDDEN = (
    "positions that are longer than is run",
    "a tree that asks for less, not for less or equal",
)

IDS = "e = Gather(t, ids) text = ReduceMean<axes=[1], keepdims=0>(e)"

#: A, B, and inputs on which they agree.
RIGHT: dict[str, Pair] = {
    "an output of integers alone": (
        model(
            "(int64[N,5] ids, float[N,8] x) => (float[N,6] text, float[N,6] y) {"
            + IDS
            + " y = MatMul(x, w)}",
            t=TABLE,
            w=W,
        ),
        model(
            "(int64[N,5] ids, float[N,8] x) => (float[N,6] text, float[N,6] y) {"
            + IDS
            + " v = Transpose(u) y = MatMul(x, v)}",
            t=TABLE,
            u=W.T.copy(),
        ),
        {"ids": RANDOM.integers(0, 64, (9, 5)), "x": np.ones((9, 8), np.float32)},
    ),
    "a mask": (
        model(
            "(float[N,8] x) => (bool[N,6] y) {z = MatMul(x, w) s = Sigmoid(z) y = Greater(s, k)}",
            w=W,
            k=np.float32(0.5),
        ),
        model(
            "(float[N,8] x) => (bool[N,6] y) {z = MatMul(x, w) y = Greater(z, k)}",
            w=W,
            k=np.float32(0),
        ),
        {"x": RANDOM.standard_normal((50, 8)).astype(np.float32)},
    ),
    "what is found above 0": (
        found("h = MatMul(x, w)", w=W),
        found("v = Transpose(u) h = MatMul(x, v)", u=W.T.copy()),
        {"x": np.ones((1, 8), np.float32)},
    ),
    "places of what is found": (
        model(
            "(float[1,8] x) => (int64[2,M] y) {h = MatMul(x, w) r = Relu(h) y = NonZero(r)}", w=W
        ),
        model(
            "(float[1,8] x) => (int64[2,M] y) "
            "{v = Transpose(u) h = MatMul(x, v) r = Max(h, z) y = NonZero(r)}",
            u=W.T.copy(),
            z=np.float32(0),
        ),
        {"x": np.ones((1, 8), np.float32)},
    ),
    "an output that is stored": (
        model(
            "(float[N,8] x) => (float[N,6] y, float[2] c) {y = MatMul(x, w) c = Identity(k)}",
            w=W,
            k=np.ones(2, np.float32),
        ),
        model(
            "(float[N,8] x) => (float[N,6] y, float[2] c) {y = Gemm(x, w) c = Identity(k)}",
            w=W,
            k=np.ones(2, np.float32),
        ),
        {"x": np.ones((2, 8), np.float32)},
    ),
    "steps alone": (
        dense("a = Less(x, k) b = Not(a) h = Cast<to=1>(b)", k=np.float32(0.7)),
        dense("a = GreaterOrEqual(x, k) h = Cast<to=1>(a)", k=np.float32(0.7)),
        {"x": RANDOM.standard_normal((9, 8)).astype(np.float32)},
    ),
    "trees in another order": (
        forest("p", scale=1e7),
        forest("q", scale=1e7),
        forest_row(forest("p"), 0),
    ),
    "a table of half precision that is cast": (
        looked_up("g = Gather(t, x)", "y = Cast<to=1>(g)", t=TABLE.astype(np.float16)),
        looked_up("h = Identity(x)", t=TABLE.astype(np.float16).astype(np.float32)),
        {"x": RANDOM.integers(0, 64, (9, 5))},
    ),
    "a table in two halves": (
        looked_up("h = Identity(x)"),
        model(
            "(int64[N,5] x) => (float[N,5,6] y) {t = Concat<axis=0>(p, q) y = Gather(t, x)}",
            p=TABLE[:40],
            q=TABLE[40:],
        ),
        {"x": RANDOM.integers(0, 64, (9, 5))},
    ),
    "the largest, and the largest share": (
        model("(float[N,8] x) => (int64[N,1] y) {h = MatMul(x, w) y = ArgMax<axis=1>(h)}", w=W),
        model(
            "(float[N,8] x) => (int64[N,1] y) "
            "{h = MatMul(x, w) s = Softmax(h) y = ArgMax<axis=1>(s)}",
            w=W,
        ),
        {"x": RANDOM.standard_normal((50, 8)).astype(np.float32)},
    ),
    "scalars": (
        model("(float x, int64 n) => (float y) {k = Cast<to=1>(n) m = Mul(x, k) y = Add(m, x)}"),
        model("(float x, int64 n) => (float y) {k = Cast<to=1>(n) m = Mul(k, x) y = Add(x, m)}"),
        {"x": np.array(2, np.float32), "n": np.array(3)},
    ),
    "integer arithmetic": (
        model("(int64[N,6] x) => (int64[N,6] y) {y = Add(x, two)}", two=np.array([2])),
        model("(int64[N,6] x) => (int64[N,6] y) {z = Add(x, one) y = Add(z, one)}", one=ONE),
        {"x": RANDOM.integers(-99, 99, (9, 6))},
    ),
    "a size that follows an integer": (
        model(
            "(float[N,8] x, int64[1] k) => (float[N,M] v) {z = MatMul(x, w) v, i = TopK(z, k)}", w=W
        ),
        model(
            "(float[N,8] x, int64[1] k) => (float[N,M] v) "
            "{u = Transpose(t) z = MatMul(x, u) v, i = TopK(z, k)}",
            t=W.T.copy(),
        ),
        {"x": np.ones((2, 8), np.float32), "k": np.array([5])},
    ),
    "integers that 0 and 1 do not move": (
        counted("h = Div(x, k)", k=np.array(100)),
        counted("a = Div(x, k) h = Div(a, k)", k=np.array(10)),
        {"x": RANDOM.integers(-999, 999, (9, 5))},
    ),
    "bits and a quotient": (
        counted('h = BitShift<direction="RIGHT">(x, k)', "uint32", k=np.array(3, np.uint32)),
        counted("h = Div(x, k)", "uint32", k=np.array(8, np.uint32)),
        {"x": RANDOM.integers(0, 2**32, (9, 5)).astype(np.uint32)},
    ),
    "an Imputer as Where": (
        imputed(7.0),
        dense("c = IsNaN(x) f = Where(c, k, x) h = Relu(f)", k=np.arange(8, dtype=np.float32)),
        MISSING,
    ),
}


def run(proto: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, feed)]


def agree(a: onnx.ModelProto, b: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> bool:
    expected = run(a, feed)
    try:
        found = run(b, feed)
    except Exception:  # of ONNX Runtime, which has a class for each
        return False
    pairs = list(zip(expected, found, strict=True))
    return all(
        p.shape == q.shape and np.allclose(p, q, atol=1e-5, equal_nan=True) for p, q in pairs
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_difference_that_only_some_inputs_show(name: str) -> None:
    a, b, feed = WRONG[name]
    assert not agree(a, b, feed)
    result = onnxshare.compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True))
    assert result.verdict == ("inconclusive" if name in HIDDEN else "different"), result.reason


@pytest.mark.parametrize("name", RIGHT)
def test_outputs_that_only_integers_move_or_that_are_integers(name: str) -> None:
    a, b, feed = RIGHT[name]
    assert agree(a, b, feed)
    result = onnxshare.compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True))
    assert result.passed, result.reason


@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_a_model_is_itself_whatever_the_inputs(name: str) -> None:
    a = {**WRONG, **RIGHT}[name][0]
    copy = onnx.ModelProto.FromString(a.SerializeToString())
    copy.producer_name = "another"
    result = onnxshare.compare(a, copy, provider="cpu", run_limits=RunLimits(in_process=True))
    assert result.verdict == "identical", result.reason


def linear_in_steps(order: NDArray[Any], changed: float = 1.0) -> onnx.ModelProto:
    """Many dot products, summed in some order, between steps of eight bits."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((1024, 2000)).astype(np.float32) / 32
    weights[0] *= np.float32(changed)
    return model(
        "(float[N,1024] x) => (float[N,2000] y) {q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z) g = Gather<axis=1>(d, o) h = MatMul(g, w) "
        "p = QuantizeLinear(h, t, z) y = DequantizeLinear(p, t, z)}",
        w=weights[order],
        o=order,
        s=np.float32(2),
        t=np.float32(1),
        z=np.int8(0),
    )


def test_a_step_that_rounding_turns_over_is_no_difference() -> None:
    order = RANDOM.permutation(1024)
    a, samples = linear_in_steps(np.arange(1024)), RANDOM.standard_normal((40, 1024)) * 20
    how: dict[str, Any] = {"provider": "cpu", "run_limits": RunLimits(in_process=True)}
    how["samples"] = {"x": samples.astype(np.float32)}
    right = onnxshare.compare(a, linear_in_steps(order), **how)
    assert right.passed, right.reason
    wrong = onnxshare.compare(a, linear_in_steps(order, 1.05), **how)
    assert not wrong.passed, wrong.reason


def test_outputs_that_are_no_numbers_are_called_that() -> None:
    text = "s = Sqrt(n) h = Mul(x, s)"
    a = dense(text, n=np.float32(-1))
    b = dense("s = Sqrt(n) t = Mul(s, x) h = Relu(t)", n=np.float32(-1))
    result = onnxshare.compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True))
    assert result.verdict == "inconclusive"
    assert "output 'y' is NaN or infinite throughout" in result.reason
