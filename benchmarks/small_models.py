"""Small models of many kinds, written as exporters write them: for the benchmarks of `compare`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

Array = np.ndarray[Any, np.dtype[Any]]

_NORM = (
    "{o}m = ReduceMean<axes=[-1]>({i}) {o}d = Sub({i}, {o}m) {o}s = Pow({o}d, two) "
    "{o}v = ReduceMean<axes=[-1]>({o}s) {o}e = Add({o}v, eps) {o}r = Sqrt({o}e) "
    "{o}n = Div({o}d, {o}r) {o}g = Mul({o}n, G) {o} = Add({o}g, B) "
)
_GELU = (
    "{o}a = Div({i}, root2) {o}b = Erf({o}a) {o}c = Add({o}b, one) {o}e = Mul({i}, {o}c) "
    "{o} = Mul({o}e, half) "
)
_ATTEND = (
    "q0 = MatMul({i}, Wq) q1 = Reshape(q0, heads) q = Transpose<perm=[0,2,1,3]>(q1) "
    "k0 = MatMul({i}, Wk) k1 = Reshape(k0, heads) k = Transpose<perm=[0,2,3,1]>(k1) "
    "v0 = MatMul({i}, Wv) v1 = Reshape(v0, heads) v = Transpose<perm=[0,2,1,3]>(v1) "
    "qk = MatMul(q, k) sc = Div(qk, four) {mask} p = Softmax<axis=-1>({masked}) "
    "pv = MatMul(p, v) t = Transpose<perm=[0,2,1,3]>(pv) u = Reshape(t, joined) o = MatMul(u, Wo) "
)
_SWISH = (
    "{o}a = Add({i}, three) {o}c = Clip({o}a, zero, six) {o}b = Div({o}c, six) "
    "{o} = Mul({i}, {o}b) "
)

#: Per model its body in ONNX's text form; weights are made for the names that it reads.
TEXTS = {
    "relu6 mlp": "(float[N,16] x) => (float[N,8] y) {a = Gemm(x, W16x32, b32) r = Clip(a, "
    "zero, six) "
    "y = Gemm(r, W32x8, b8)}",
    "mobile block": "(float[N,3,16,16] x) => (float[N,8] y) {a = Conv<pads=[1,1,1,1]>(x, K8x3x3x3) "
    "n = BatchNormalization(a, s8, b8, m8, v8) "
    + _SWISH.format(i="n", o="h")
    + "d = Conv<group=8, pads=[1,1,1,1]>(h, K8x1x3x3, b8) p = GlobalAveragePool(d) "
    "e = Conv(p, K8x8x1x1) f = HardSigmoid<alpha=0.16666667>(e) g = Mul(d, f) "
    "z = ReduceMean<axes=[2,3], keepdims=0>(g) y = Gemm(z, W8x8, b8)}",
    "residual net": "(float[N,3,16,16] x) => (float[N,8] y) {a = Conv<pads=[1,1,1,1]>(x, K8x3x3x3) "
    "n = BatchNormalization(a, s8, b8, m8, v8) r = Relu(n) "
    "c = Conv<pads=[1,1,1,1]>(r, K8x8x3x3) w = BatchNormalization(c, s8, b8, m8, v8) "
    "j = Add(w, r) k = Relu(j) p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(k) "
    "g = GlobalAveragePool(p) f = Flatten(g) y = Gemm(f, W8x8, b8)}",
    "text encoder": "(int64[N,L] ids) => (float[N,L,16] y) {h0 = Gather(E, ids) "
    "l = Shape<start=1, end=2>(ids) pos = Slice(T, first, l, first) h = Add(h0, pos) "
    + _NORM.format(i="h", o="x")
    + _ATTEND.format(i="x", mask="", masked="sc")
    + "j = Add(o, x) "
    + _NORM.format(i="j", o="w")
    + "f1 = MatMul(w, W16x32) f2 = Add(f1, b32) "
    + _GELU.format(i="f2", o="g")
    + "f3 = MatMul(g, W32x16) y = Add(f3, w)}",
    "masked encoder": "(int64[N,6] ids, int64[N,6] attention_mask) => (float[N,8] y) "
    "{x = Gather(E, ids) um = Unsqueeze(attention_mask, ax12) fm = Cast<to=1>(um) "
    "nm = Sub(one, fm) am = Mul(nm, low) "
    + _ATTEND.format(i="x", mask="ms = Add(sc, am)", masked="ms")
    + "j = Add(o, x) c = Gather<axis=1>(j, at0) d = Tanh(c) y = Gemm(d, W16x8, b8)}",
    "rotary block": "(float[N,6,16] x) => (float[N,6,16] y) {s = Mul(x, x) "
    "m = ReduceMean<axes=[-1]>(s) e = Add(m, eps) r = Sqrt(e) i = Div(one, r) n = Mul(x, i) "
    "h = Mul(n, G) a, b = Split<axis=-1>(h, split8) nb = Neg(b) t = Concat<axis=-1>(nb, a) "
    "c = Mul(h, cos) d = Mul(t, sin) q = Add(c, d) u = MatMul(q, W16x32) z = Sigmoid(u) "
    "w = Mul(u, z) v = MatMul(w, W32x16) y = Add(v, x)}",
    "lstm": "(float[N,9,8] x) => (float[N,8] y) {t = Transpose<perm=[1,0,2]>(x) "
    "h, l, c = LSTM<hidden_size=16>(t, Lw, Lr, Lb) q = Squeeze(l, first) y = Gemm(q, W16x8, b8)}",
    "gru": "(float[N,9,8] x) => (float[N,8] y) {t = Transpose<perm=[1,0,2]>(x) "
    "h, l = GRU<hidden_size=16, linear_before_reset=1>(t, Gw, Gr, Gb) q = Squeeze(l, first) "
    "y = Gemm(q, W16x8, b8)}",
    "detector": "(float[1,24] x) => (float[1,10,4] boxes, float[1,3,10] scores, int64[M] label) "
    "{p = Gemm(x, W24x40, b40) boxes = Reshape(p, s4) c = Gemm(x, W24x30, b30) d = Reshape(c, s3) "
    "scores = Sigmoid(d) sel = NonMaxSuppression(boxes, scores, five, iou, thr) "
    "label = Gather<axis=1>(sel, at1)}",
    "two towers": "(int64[N,5] ids, float[N,16] pixels) => (float[N,8] text, float[N,8] image) "
    "{e = Gather(E, ids) a = ReduceMean<axes=[1], keepdims=0>(e) b = Gemm(a, W16x8, b8) "
    "bn = ReduceL2<axes=[-1]>(b) text = Div(b, bn) c = Gemm(pixels, W16x8, b8) "
    "cn = ReduceL2<axes=[-1]>(c) image = Div(c, cn)}",
    "encoder decoder": "(float[N,3,16,16] x) => (float[N,3,16,16] y) "
    "{a = Conv<pads=[1,1,1,1]>(x, K8x3x3x3, b8) r = Relu(a) "
    "d = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r) "
    'u = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(d, , up) '
    "j = Concat<axis=1>(u, r) c = Conv<pads=[1,1,1,1]>(j, K3x16x3x3) y = Sigmoid(c)}",
    "transposed": "(float[N,8,6,6] x) => (float[N,3,13,13] y) {n = InstanceNormalization(x, "
    "s8, b8) "
    "l = LeakyRelu<alpha=0.2>(n) c = ConvTranspose<strides=[2,2]>(l, K8x3x3x3) y = Tanh(c)}",
    "activations": "(float[N,16] x) => (float[N,8] y) {a = Gemm(x, W16x32, b32) e = "
    "Elu<alpha=0.7>(a) "
    "b = Gemm(e, W32x32, b32) p = PRelu(b, slope) c = Gemm(p, W32x32, b32) s = Selu(c) "
    "t = Softplus(s) y = Gemm(t, W32x8, b8)}",
    "log mel": "(float[N,1,16,20] x) => (float[N,8] y) {p = Mul(x, x) f = MatMul(p, M20x12) "
    "k = Max(f, tiny) l = Log(k) m = ReduceMax<axes=[1,2,3]>(l) b = Sub(m, three) h = Max(l, b) "
    "c = Conv<pads=[1,1,1,1]>(h, K8x1x3x3, b8) r = Relu(c) g = GlobalAveragePool(r) "
    "q = Flatten(g) y = Gemm(q, W8x8, b8)}",
    "top k": "(float[N,16] x) => (float[N,3] v, int64[N,3] i) {a = Gemm(x, W16x32, b32) "
    "s = Softmax<axis=1>(a) v, i = TopK(s, k3)}",
    "threshold": "(float[N,16] x) => (float[N,8] y) {b = Greater(x, half) n = Not(b) c = "
    "Cast<to=1>(n) "
    "d = Mul(c, x) w = Where(b, x, d) y = Gemm(w, W16x8, b8)}",
    "two branches": "(float[N,16] x) => (float[N,8] y) {a = Gemm(x, W16x8, b8) s = "
    "ReduceSum<keepdims=0>(x) "
    "c = Greater(s, zero) y = If<then_branch = t() => (o1) {o1 = Relu(a)}, "
    "else_branch = e() => (o2) {o2 = Tanh(a)}>(c)}",
    "loop": "(float[N,16] x) => (float[N,16] y) {y = Loop<body = b(int64 i, bool c, "
    "float[N,16] p) => "
    "(bool co, float[N,16] q) {co = Identity(c) m = MatMul(p, W16x16) q = Tanh(m)}>(trips, , x)}",
    "einsum": '(float[N,6,16] x) => (float[N,6,8] y) {a = Einsum<equation="bij,jk->bik">(x, W16x8) '
    "m = ReduceMax<axes=[-1]>(a) d = Sub(a, m) e = Exp(d) s = ReduceSum(e, ax_last) y = Div(e, s)}",
    "quantized": "(float[N,3,8,8] x) => (float[N,8] y) {xq = QuantizeLinear(x, xs, xz) "
    "xd = DequantizeLinear(xq, xs, xz) kd = DequantizeLinear(Q8x3x3x3, ws, wz) c = Conv(xd, kd) "
    "r = Relu(c) rq = QuantizeLinear(r, rs, xz) rd = DequantizeLinear(rq, rs, xz) "
    "g = GlobalAveragePool(rd) f = Flatten(g) y = Gemm(f, W8x8, b8)}",
    "half": "(float[N,16] x) => (float[N,8] y) {h = Cast<to=10>(x) a = MatMul(h, H16x32) r = "
    "Relu(a) "
    "z = MatMul(r, H32x8) y = Cast<to=1>(z)}",
    "linear classifier": "(float[N,16] x) => (float[N,3] y) {s = ai.onnx.ml.Scaler<offset=[0.5], "
    "scale=[2.0]>(x) m = MatMul(s, W16x3) y = Softmax<axis=1>(m)}",
    "one hot": "(int64[N] c, float[N,16] x) => (float[N,8] y) {o = OneHot(c, ten, onoff) "
    "a = MatMul(o, W10x8) b = MatMul(x, W16x8) y = Add(a, b)}",
    "byte image": "(uint8[N,8,8,3] x) => (float[N,8] y) {f = Cast<to=1>(x) d = Div(f, full) "
    "t = Transpose<perm=[0,3,1,2]>(d) n = Sub(t, mean) c = Conv(n, K8x3x3x3, b8) r = Relu(c) "
    "g = GlobalMaxPool(r) q = Flatten(g) y = Gemm(q, W8x8, b8)}",
}


def models() -> dict[str, onnx.ModelProto]:
    """All of them, and two tree ensembles."""
    made = {name: model(text, seed) for seed, (name, text) in enumerate(TEXTS.items())}
    return {**made, "trees": trees(12, 1), "tree classifier": trees(6, 3)}


def model(text: str, seed: int = 0) -> onnx.ModelProto:
    """A model of the text form, with weights for the names that nothing makes."""
    head = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> g'
    proto = parser.parse_model(head + text)
    for value in proto.graph.input:
        value.type.tensor_type.shape.SetInParent()  # no shape is a scalar
    random = np.random.default_rng(seed)
    known = {value.name for value in proto.graph.input}
    bodies = [item.g for node in proto.graph.node for item in node.attribute if item.HasField("g")]
    for graph in (proto.graph, *bodies):
        known |= {value.name for value in graph.input}
        known |= {name for node in graph.node for name in node.output}
    read = [name for graph in (proto.graph, *bodies) for node in graph.node for name in node.input]
    for name in dict.fromkeys(read):
        if name and name not in known:
            proto.graph.initializer.append(numpy_helper.from_array(_weight(name, random), name))
    onnx.checker.check_model(proto)
    return proto


_FIXED: dict[str, Any] = {
    "zero": 0.0,
    "one": 1.0,
    "two": 2.0,
    "half": 0.5,
    "three": 3.0,
    "six": 6.0,
    "four": 2.8284271,
    "full": 255.0,
    "root2": 1.4142135,
    "eps": 1e-5,
    "tiny": 1e-10,
    "low": -10000.0,
    "xs": 0.05,
    "ws": 0.01,
    "rs": 0.1,
    "up": [1.0, 1.0, 2.0, 2.0],
    "onoff": [0.0, 1.0],
    "iou": [0.5],
    "thr": [0.55],
    "heads": [0, 0, 2, 8],
    "joined": [0, 0, 16],
    "first": [0],
    "ax12": [1, 2],
    "split8": [8, 8],
    "s4": [1, 10, 4],
    "s3": [1, 3, 10],
    "five": [5],
    "k3": [3],
    "ax_last": [-1],
    "at0": 0,
    "at1": 1,
    "ten": 10,
    "trips": 4,
    "xz": np.uint8(128),
    "wz": np.int8(0),
}
_SHAPES = {
    "E": (50, 16),
    "T": (64, 16),
    "Wq": (16, 16),
    "Wk": (16, 16),
    "Wv": (16, 16),
    "Wo": (16, 16),
    "Lw": (1, 64, 8),
    "Lr": (1, 64, 16),
    "Lb": (1, 128),
    "Gw": (1, 48, 8),
    "Gr": (1, 48, 16),
    "Gb": (1, 96),
    "slope": (32,),
    "cos": (6, 16),
    "sin": (6, 16),
    "mean": (3, 1, 1),
}


def _weight(name: str, random: np.random.Generator) -> Array:
    if name in _FIXED:
        value = np.asarray(_FIXED[name])
        return value.astype(np.float32) if value.dtype == np.float64 else value
    if name in ("G", "B"):
        return (random.standard_normal(16) * 0.2 + (name == "G")).astype(np.float32)
    shape = _SHAPES.get(name) or tuple(map(int, name[1:].split("x")))
    values = random.standard_normal(shape)
    if name[0] in "svM":  # factors, variances and filters are positive
        return (np.abs(values) + 0.5).astype(np.float32)
    if name[0] == "Q":
        return (values * 40).clip(-127, 127).astype(np.int8)
    fan = max(1, values.size // (shape[-1] if name[0] in "WH" else shape[0]))
    scale = 0.3 if len(shape) == 1 else 1.0 if name in ("E", "T") else 1.2 / fan**0.5
    return (values * scale).astype(np.float16 if name[0] == "H" else np.float32)


def trees(count: int, classes: int) -> onnx.ModelProto:
    """An ensemble of trees of three questions each: a regressor, or a classifier."""
    random = np.random.default_rng(3)
    keys = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {key: [] for key in keys}
    leaves: list[tuple[int, int, int, float]] = []
    for tree in range(count):
        for place in range(7):
            leaf = place > 2
            row = (tree, place, 0 if leaf else int(random.integers(0, 5)))
            row += (0.0 if leaf else float(random.normal()), "LEAF" if leaf else "BRANCH_LEQ")
            row += (0, 0) if leaf else (2 * place + 1, 2 * place + 2)
            for key, value in zip(keys, row, strict=True):
                nodes[key].append(value)
            if leaf:
                leaves.append((tree, place, int(random.integers(0, classes)), random.normal()))
    word, more = (
        ("class", {"classlabels_int64s": [*range(classes)]})
        if classes > 1
        else ("target", {"n_targets": 1})
    )
    columns = list(zip(*leaves, strict=True))
    names = ("treeids", "nodeids", "ids", "weights")
    given = {f"{word}_{key}": list(column) for key, column in zip(names, columns, strict=True)}
    node = helper.make_node(
        "TreeEnsembleClassifier" if classes > 1 else "TreeEnsembleRegressor",
        ["h"],
        ["label", "y"] if classes > 1 else ["y"],
        domain="ai.onnx.ml",
        **more,
        **given,
        **{f"nodes_{key}": value for key, value in nodes.items()},
    )
    info = helper.make_tensor_value_info
    outputs = [info("label", 7, ["N"])] * (classes > 1) + [info("y", 1, ["N", classes])]
    inputs = [info("x", 1, ["N", 5])]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["h"]), node], "g", inputs, outputs
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8)
