"""Operators, attributes and nodes that differ alone: those that no sample shows, and right ones.

Every wrong pair is judged by ONNX Runtime on an input on which the models differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.comparison.graph_parts import same_graphs, sides
from onnxshare.runtime.limits import RunLimits
from tests.comparison.test_made_up_inputs import agree, model

RANDOM = np.random.default_rng(5)
W = (RANDOM.standard_normal((8, 6)) * 0.1).astype(np.float32)
V = RANDOM.standard_normal((6, 4)).astype(np.float32)
K = (RANDOM.standard_normal((4, 3, 3, 3)) * 0.1).astype(np.float32)
X = np.float32(0)

IDS = "int64[N,8] x"

#: What stands between two products whose values are about 50 on every sample that is made up.
HIGH = {"b": np.full(6, 5e4, np.float32), "low": X, "top": np.float32(1e6), "one": np.float32(1)}


def between(text: str, **more: Any) -> onnx.ModelProto:
    """`s`, which is far above 0 on samples of usual sizes, and what makes `t` of it."""
    given = {name: value for name, value in {**HIGH, **more}.items() if name in text + " b "}
    body = f"m = MatMul(x, w) s = Add(m, b) {text} y = MatMul(t, v)"
    return model(f"(float[N,8] x) => (float[N,4] y) {{{body}}}", w=W, v=V, **given)


def two_outputs(text: str, **more: Any) -> onnx.ModelProto:
    """`p` is an output, and what makes `t` of it or of what it is made of."""
    body = f"{text} y = MatMul(t, v)"
    kind = "(float[N,8] x) => (float[N,6] p, float[N,4] y)"
    return model(f"{kind} {{{body}}}", v=V, **({"w": W} if "w)" in text else {}), **more)


def direct(text: str, kind: str = "float[N,8] x", **more: Any) -> onnx.ModelProto:
    """What makes `t` of the input itself."""
    return model(f"({kind}) => (float[N,6] y) {{{text} y = MatMul(t, w)}}", w=W, **more)


def maps(text: str, **more: Any) -> onnx.ModelProto:
    """What makes `t` of maps whose borders are 0."""
    body = f"p = Pad(x, sizes) {text} y = GlobalAveragePool(t)"
    sizes = np.array([0, 0, 2, 2, 0, 0, 2, 2])
    return model(f"(float[N,3,12,12] x) => (float[N,C,1,1] y) {{{body}}}", sizes=sizes, **more)


def looked_up(table: Any) -> onnx.ModelProto:
    """Rows of a table, by ids that a number is added to."""
    text = "i = Add(x, o) g = Gather(e, i) t = ReduceMean<axes=[2], keepdims=0>(g)"
    return direct(text, IDS, o=np.array([3000]), e=table.astype(np.float32))


def branched(seldom: str) -> onnx.ModelProto:
    """A branch for sums below -1e6."""
    branches = (
        f"If<then_branch = a() => (p) {{p = {seldom}(x)}}, "
        "else_branch = b() => (q) {q = Identity(x)}>"
    )
    text = f"s = ReduceSum<keepdims=0>(x) c = Less(s, k) t = {branches}(c)"
    return direct(text, k=np.float32(-1e6))


FAR = {"x": (np.sign(W[:, :1].T) * -1e6).astype(np.float32)}
HALVES = {"x": np.full((1, 8), 2.5, np.float32)}
T = np.float32(0.7319)
AT = {"x": np.full((1, 8), T, np.float32)}
CLIPPED = between("t = Clip(s, low, top)")
FIVE = {"a": np.array([2]), "k": np.float32(5)}

Pair = tuple[onnx.ModelProto, onnx.ModelProto, dict[str, Any]]

#: A, B, and an input on which they differ.
WRONG: dict[str, Pair] = {
    "a clip's lower bound": (CLIPPED, between("t = Clip(s, one, top)"), FAR),
    "a clip's upper bound": (
        CLIPPED,
        between("t = Clip(s, low, top)", top=np.float32(2e6)),
        {"x": -FAR["x"] * 10},
    ),
    "a clip left out": (CLIPPED, between("t = Identity(s)"), FAR),
    "a ReLU left out": (between("t = Relu(s)"), between("t = Identity(s)"), FAR),
    "a ReLU added": (between("t = Identity(s)"), between("t = Relu(s)"), FAR),
    "ReLU and LeakyReLU": (between("t = Relu(s)"), between("t = LeakyRelu<alpha=0.2>(s)"), FAR),
    "a slope": (between("t = LeakyRelu<alpha=0.1>(s)"), between("t = LeakyRelu(s)"), FAR),
    "ELU and SELU": (between("t = Elu<alpha=2.0>(s)"), between("t = Selu(s)"), FAR),
    "Abs": (between("t = Abs(s)"), between("t = Identity(s)"), FAR),
    "Max and Add": (
        between("t = Max(s, low)"),
        between("r = Relu(s) n = Neg(s) q = Relu(n) t = Add(r, q)"),
        FAR,
    ),
    "less or equal": (
        direct("c = Less(x, k) d = Cast<to=1>(c) t = Mul(x, d)", k=T),
        direct("c = LessOrEqual(x, k) d = Cast<to=1>(c) t = Mul(x, d)", k=T),
        AT,
    ),
    "equal": (
        direct("c = Equal(x, k) t = Where(c, z, x)", k=T, z=X),
        direct("t = Identity(x)"),
        AT,
    ),
    "rounding of halves": (
        direct("t = Round(x)"),
        direct("h = Add(x, k) t = Floor(h)", k=np.float32(0.5)),
        HALVES,
    ),
    "integers cut off or rounded down": (
        direct("a = Abs(x) c = Cast<to=7>(a) t = Cast<to=1>(c)"),
        direct("a = Abs(x) c = Cast<to=2>(a) t = Cast<to=1>(c)"),
        {"x": np.full((1, 8), 300.5, np.float32)},
    ),
    "the row of a table of ids that are offset": (
        looked_up(np.ones((4000, 2))),
        looked_up(np.concatenate([np.ones((3990, 2)), np.zeros((10, 2))])),
        {"x": np.full((1, 8), 995)},
    ),
    "a comparison of ids": (
        direct("c = Greater(x, k) t = Cast<to=1>(c)", IDS, k=np.array(100)),
        direct("c = GreaterOrEqual(x, k) t = Cast<to=1>(c)", IDS, k=np.array(100)),
        {"x": np.full((1, 8), 100)},
    ),
    "padding that counts": (
        maps("t = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(p)"),
        maps("t = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=0>(p)"),
        {},
    ),
    "a branch that is seldom taken": (
        branched("Relu"),
        branched("Abs"),
        {"x": np.full((1, 8), -1e6, np.float32)},
    ),
    "epsilon": (
        direct("t = LpNormalization<axis=1>(x)"),
        direct("q = ReduceL2<axes=[1]>(x) r = Max(q, k) t = Div(x, r)", k=np.float32(1e-3)),
        {"x": np.full((1, 8), 1e-5, np.float32)},
    ),
}

#: A and B.
RIGHT: dict[str, tuple[onnx.ModelProto, onnx.ModelProto]] = {
    "a ReLU behind a sigmoid": (
        between("p = Sigmoid(m) t = Relu(p)"),
        between("t = Sigmoid(m)"),
    ),
    "a clip behind a softmax": (
        direct("p = Softmax<axis=1>(x) t = Clip(p, low, one)", low=X, one=np.float32(1)),
        direct("t = Softmax<axis=1>(x)"),
    ),
    "Abs of a square": (direct("p = Mul(x, x) t = Abs(p)"), direct("t = Mul(x, x)")),
    "a ReLU of bytes": (
        direct("c = Cast<to=1>(x) t = Relu(c)", "uint8[N,8] x"),
        direct("t = Cast<to=1>(x)", "uint8[N,8] x"),
    ),
    "ReLU as a clip": (between("t = Relu(s)"), between("t = Max(s, low)")),
    "a ReLU twice": (between("p = Relu(s) t = Relu(p)"), between("t = Relu(s)")),
    "Not of Less": (
        direct("c = Less(x, k) n = Not(c) t = Cast<to=1>(n)", k=T),
        direct("c = GreaterOrEqual(x, k) t = Cast<to=1>(c)", k=T),
    ),
    "ReLU6": (
        between("t = Clip(s, low, top)"),
        between("p = Max(s, low) t = Min(p, top)"),
    ),
    "the axis of a softmax": (direct("t = Softmax<axis=1>(x)"), direct("t = Softmax<axis=-1>(x)")),
    "hard swish": (
        between("t = HardSwish(s)"),
        between("p = HardSigmoid<alpha=0.16666667, beta=0.5>(s) t = Mul(s, p)"),
    ),
    "a mean": (
        direct("t = ReduceMean<axes=[2], keepdims=0>(x)", "float[N,8,5] x"),
        direct("s = ReduceSum<keepdims=0>(x, a) t = Div(s, k)", "float[N,8,5] x", **FIVE),
    ),
    "a cast there and back": (
        direct("c = Cast<to=11>(x) t = Cast<to=1>(c)"),
        direct("t = Identity(x)"),
    ),
    "an output that one model goes past": (
        two_outputs("p = MatMul(x, w) t = Tanh(p)"),
        two_outputs(
            "u = Unsqueeze(x, last) c = Conv(u, kernel) p = Squeeze(c, last) "
            "s = Tanh(c) t = Squeeze(s, last)",
            last=np.array([2]),
            kernel=np.ascontiguousarray(W.T)[..., None],
        ),
    ),
    "a pad in the convolution": (
        maps("t = Conv(p, k)", k=K),
        maps("t = Conv<pads=[2,2,2,2]>(x, k)", k=K),
    ),
}

HERE: dict[str, Any] = {"provider": "cpu", "run_limits": RunLimits(in_process=True), "count": 8}


@pytest.mark.parametrize("name", WRONG)
def test_what_differs_alone_does_not_pass(name: str) -> None:
    a, b, feed = WRONG[name]
    assert not feed or not agree(a, b, feed)
    found = onnxshare.compare(a, b, **HERE)
    assert not found.passed, found.reason


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_written_otherwise_passes(name: str) -> None:
    found = onnxshare.compare(*RIGHT[name], **HERE)
    assert found.passed, found.reason


def test_what_differs_is_named() -> None:
    def reason(a: str, b: str) -> str:
        return onnxshare.compare(between(a), between(b), **HERE).reason

    assert "'Relu' became 'Abs', in what makes '" in reason("t = Relu(s)", "t = Abs(s)")
    slopes = reason("t = LeakyRelu<alpha=0.5>(s)", "t = LeakyRelu(s)")
    assert "attribute alpha of 'LeakyRelu' is 0.5 in A and left to its default in B" in slopes
    assert "'Relu' is left out in B" in reason("t = Relu(s)", "t = Identity(s)")


def test_weights_of_the_table_are_read_behind_other_operators() -> None:
    table = RANDOM.standard_normal((500, 8)).astype(np.float32)
    other = table.copy()
    other[317] = 0
    ids = "int64[N,4] x"
    a = direct("g = Gather(e, x) n = Relu(g) t = ReduceMean<axes=[1], keepdims=0>(n)", ids, e=table)
    text = "h = Gather(u, x) n = Max(h, z) t = ReduceMean<axes=[1], keepdims=0>(n)"
    found = onnxshare.compare(a, direct(text, ids, u=other, z=X), **HERE)
    assert found.verdict == "inconclusive"
    assert "'e' ('u' in B) differs in 1 of 500 rows" in found.reason
    assert "(the samples look up " in found.reason
    assert onnxshare.compare(a, direct(text, ids, u=table, z=X), **HERE).passed


@pytest.mark.parametrize(
    ("written", "bare", "same"),
    [
        ('Conv<auto_pad="NOTSET", group=1>(x, k)', "Conv(x, k)", True),
        ('Conv<auto_pad="VALID">(x, k)', "Conv(x, k)", False),
        ("MaxPool<kernel_shape=[2,2], ceil_mode=0, storage_order=0>(x)", "", True),
        ("MaxPool<kernel_shape=[2,2], ceil_mode=1>(x)", "", False),
        ("LeakyRelu<alpha=0.01>(x)", "LeakyRelu(x)", True),
        ("LeakyRelu<alpha=0.02>(x)", "LeakyRelu(x)", False),
        ("Softmax<axis=-1>(x)", "Softmax(x)", True),
        ("Softmax<axis=3>(x)", "Softmax(x)", False),
    ],
)
def test_attributes_that_are_written_at_their_defaults(written: str, bare: str, same: bool) -> None:
    texts = written, bare or "MaxPool<kernel_shape=[2,2]>(x)"
    stored = {"k": K} if "k)" in written else {}
    kind = "(float[N,3,H,W] x) => (float[N,C,P,Q] y)"
    a, b = (model(f"{kind} {{y = {text}}}", **stored) for text in texts)
    assert same_graphs(*sides(onnxshare.load(a), onnxshare.load(b))) == same
