"""Heads in the forms that exporters write them in, each small and with random weights.

`FORMS` is the table: a name, a function that builds the net, and what `--fc-to-conv` must do with
it. Nothing here is computed by the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]

#: Channels and spatial sizes of the feature map of `Net.trunk`, and what a flatten makes of it.
C, H, W = 3, 3, 4
K = C * H * W

BFLOAT16: Any = ml_dtypes.bfloat16


class Net:
    """Builds a model node by node; every name is made up here, every weight is random."""

    def __init__(
        self,
        *,
        opset: int = 17,
        ir: int = 8,
        dtype: Any = np.float32,
        batch: int | str = "n",
        seed: int = 0,
        unnamed: bool = False,
    ) -> None:
        self.opset, self.ir, self.dtype, self.batch = opset, ir, np.dtype(dtype), batch
        self._random = np.random.default_rng(seed)
        self._unnamed = unnamed
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._count = 0

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    @property
    def elem(self) -> int:
        """The net's float type as ONNX numbers it."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def random(self, *shape: int) -> Array:
        """Values whose products keep about the size of their other factor."""
        scale = np.sqrt(max(1, prod(shape) // max(shape or (1,))))
        return np.asarray(self._random.standard_normal(shape) / scale).astype(self.dtype)

    def stored(self, values: Any, dtype: Any = None) -> str:
        """An initializer."""
        array = np.asarray(values, dtype)
        tensor = numpy_helper.from_array(array, self._name("c"))
        self._stored.append(tensor)
        return tensor.name

    def ints(self, *values: int) -> str:
        """An initializer of 64-bit integers."""
        return self.stored(values, np.int64)

    def weight(self, *shape: int) -> str:
        """An initializer of random values."""
        return self.stored(self.random(*shape))

    def constant(self, values: Any, dtype: Any = None) -> str:
        """A Constant node."""
        return self.node("Constant", value=numpy_helper.from_array(np.asarray(values, dtype)))

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        output = self._name("t")
        name = "" if self._unnamed else self._name(op_type)
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def nodes(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of several outputs, whose names are returned."""
        outputs = [self._name("t") for _ in range(count)]
        name = "" if self._unnamed else self._name(op_type)
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))
        return outputs

    def input(self, *sizes: int | str) -> str:
        """A graph input of the net's type, the batch in front."""
        name = self._name("x")
        info = helper.make_tensor_value_info(name, self.elem, [self.batch, *sizes])
        self._inputs.append(info)
        return name

    def output(self, name: str, *sizes: int | str | None, elem: int | None = None) -> None:
        """Make a tensor a graph output."""
        given = self.elem if elem is None else elem
        self._outputs.append(helper.make_tensor_value_info(name, given, list(sizes)))

    def rows(self, name: str, features: int, elem: int | None = None) -> None:
        """Make a tensor `[batch, features]` a graph output."""
        self.output(name, self.batch, features, elem=elem)

    def reduce(self, op_type: str, x: str, axis: int) -> str:
        """A reduction over one axis, which goes; as this opset writes it."""
        if self.opset >= 18:
            return self.node(op_type, x, self.ints(axis), keepdims=0)
        return self.node(op_type, x, axes=[axis], keepdims=0)

    def trunk(self, *spatial: int, channels: int = C, image: str | None = None) -> str:
        """Conv 3 and Relu, without padding: a feature map `[n, channels, spatial]`."""
        sizes = spatial or (H, W)
        image = image or self.input(2, *(size + 2 for size in sizes))
        kernel = self.weight(channels, 2, *(3 for _ in sizes))
        return self.node("Relu", self.node("Conv", image, kernel, self.weight(channels)))

    def gemm(self, x: str, k: int, f: int, **attributes: Any) -> str:
        """Gemm with a random weight stored as PyTorch does, and a bias."""
        return self.node("Gemm", x, self.weight(f, k), self.weight(f), transB=1, **attributes)

    def matmul(self, x: str, k: int, f: int) -> str:
        """MatMul with a random weight, and an Add."""
        return self.node("Add", self.node("MatMul", x, self.weight(k, f)), self.weight(f))

    def flat(self) -> str:
        """A trunk, flattened."""
        return self.node("Flatten", self.trunk())

    def model(self, **more: Any) -> onnx.ModelProto:
        """The finished model, checked."""
        inputs = list(self._inputs)
        if self.ir < 4:
            inputs += [
                helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
                for t in self._stored
            ]
        graph = helper.make_graph(self._nodes, "net", inputs, self._outputs, self._stored)
        domains = {node.domain: 1 for node in self._nodes} | {"": self.opset}
        opsets = [helper.make_opsetid(*item) for item in sorted(domains.items())]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir, **more)
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclass(frozen=True)
class Form:
    """A row of the table.

    Attributes:
        build: adds nodes and outputs to a net.
        options: of the net.
        refused: None if it must be rewritten; else words that must be in the reason, or "" where
            there is nothing to rewrite and so no site.
        left: how many Gemm and MatMul stay.
        batches: with how many samples it is run.
        split: whether its FC reads several maps and becomes several convolutions.
        unproven: whether the comparison cannot tell, although the rewrite is right: outputs
            without the batch in front, few bits, or results that never move.
    """

    build: Callable[[Net], None]
    options: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    left: int = 0
    batches: tuple[int, ...] = (1, 3)
    unproven: bool = False
    split: bool = False

    def model(self, seed: int = 0) -> onnx.ModelProto:
        """The model, its weights drawn with a seed."""
        net = Net(seed=seed, **self.options)
        self.build(net)
        return net.model()


def gemm_after(op_type: str, *operands: int | Sequence[int], **attributes: Any) -> Any:
    """`op_type` (with a shape as operand, where it has one) between the map and one Gemm."""

    def build(net: Net) -> None:
        shapes = [net.ints(*(o if isinstance(o, Sequence) else [o])) for o in operands]
        net.rows(net.gemm(net.node(op_type, net.trunk(), *shapes, **attributes), K, 5), 5)

    return build


def shape_gather(net: Net) -> None:
    x = net.trunk()
    batch = net.node("Gather", net.node("Shape", x), net.constant(0, np.int64), axis=0)
    sizes = [net.node("Unsqueeze", item, axes=[0]) for item in (batch, net.constant(-1, np.int64))]
    flat = net.node("Reshape", x, net.node("Concat", *sizes, axis=0))
    net.rows(net.gemm(net.node("Relu", net.gemm(flat, K, 6)), 6, 5), 5)


def shape_slice(net: Net) -> None:
    """As the dynamo exporter writes it."""
    x = net.trunk()
    sizes = net.node("Concat", net.node("Shape", x, start=0, end=1), net.ints(K), axis=0)
    net.rows(net.gemm(net.node("Reshape", x, sizes, allowzero=1), K, 5), 5)


def shape_cast(net: Net) -> None:
    """As tf2onnx writes it, channels last."""
    x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    shape = net.node("Cast", net.node("Shape", x), to=TensorProto.INT32)
    first = net.node("Slice", shape, net.ints(0), net.ints(1), net.ints(0))
    sizes = net.node("Concat", first, net.stored([K], np.int32), axis=0)
    flat = net.node("Reshape", x, net.node("Cast", sizes, to=TensorProto.INT64))
    net.rows(net.matmul(flat, K, 5), 5)


def channels_last(*tail: str, reshape: bool = False) -> Callable[[Net], None]:
    """Transpose, flatten, operators without constants, MatMul and Add, twice."""

    def build(net: Net) -> None:
        x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
        x = net.node("Reshape", x, net.ints(-1, K)) if reshape else net.node("Flatten", x)
        for op_type in tail:
            x = net.node(op_type, x)
        net.rows(net.matmul(net.node("Relu", net.matmul(x, K, 6)), 6, 5), 5)

    return build


def relu_identity_two(net: Net) -> None:
    x = net.node("Flatten", net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1]))
    x = net.node("Identity", net.node("Relu", x))
    net.rows(net.node("Concat", net.matmul(x, K, 4), net.matmul(x, K, 3), axis=1), 7)


def prelu(*shape: int, late: bool = False) -> Callable[[Net], None]:
    """A PRelu with a slope of that shape on the flattened vector, or between two FCs."""

    def build(net: Net) -> None:
        flat = net.flat()
        if late:
            flat = net.node("PRelu", net.gemm(flat, K, 6), net.weight(*shape))
            net.rows(net.gemm(flat, 6, 5), 5)
        else:
            net.rows(net.gemm(net.node("PRelu", flat, net.weight(*shape)), K, 5), 5)

    return build


def batchnorm(net: Net, x: str, size: int) -> str:
    variance = net.stored(np.abs(net.random(size)) + np.asarray(0.5, net.dtype), net.dtype)
    parts = [net.weight(size) for _ in range(3)]
    return net.node("BatchNormalization", x, *parts, variance, epsilon=1e-3)


def normalized_before(net: Net) -> None:
    net.rows(net.gemm(batchnorm(net, net.flat(), K), K, 5), 5)


def normalized_between(net: Net) -> None:
    x = batchnorm(net, net.gemm(net.flat(), K, 6), 6)
    net.rows(net.gemm(net.node("Relu", x), 6, 5), 5)


def scaled(*shape: int, before: bool = False) -> Callable[[Net], None]:
    """Mul and Add with constants of that shape, between the FCs or before the first."""

    def build(net: Net) -> None:
        x = net.flat() if before else net.gemm(net.flat(), K, 6)
        x = net.node("Add", net.weight(*shape), net.node("Mul", x, net.weight(*shape)))
        net.rows(net.gemm(x, K if before else 6, 5), 5)

    return build


def bias_of_flattened_layout(net: Net) -> None:
    x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    x = net.node("Relu", net.node("Add", x, net.weight(H, W, C)))
    net.rows(net.matmul(net.node("Reshape", x, net.ints(-1, K)), K, 5), 5)


def subtracted(net: Net) -> None:
    """The data on the right of operators that do not commute."""
    x = net.node("Add", net.flat(), net.stored(np.full((1, K), 2, net.dtype)))
    x = net.node("Sub", net.weight(K), net.node("Div", net.weight(1, K), x))
    net.rows(net.gemm(x, K, 5), 5)


def weight_behind(*chain: tuple[str, Any]) -> Callable[[Net], None]:
    """A weight that reaches its MatMul through layout nodes; the first entry is its shape."""

    def build(net: Net) -> None:
        flat, weight = net.flat(), net.weight(*chain[0][1])
        for op_type, operand in chain[1:]:
            if op_type == "Reshape":
                weight = net.node("Reshape", weight, net.ints(*operand))
            elif op_type == "Transpose":
                weight = net.node("Transpose", weight, perm=list(operand))
            else:
                weight = net.node(op_type, weight)
        net.rows(net.node("Add", net.node("MatMul", flat, weight), net.weight(5)), 5)

    return build


def constant_nodes(net: Net) -> None:
    """Weight and bias in Constant nodes, the bias only after the MatMul that it follows."""
    flat, weight = net.flat(), net.constant(net.random(K, 5))
    product = net.node("MatMul", flat, weight)
    net.rows(net.node("Add", product, net.constant(net.random(5))), 5)


def rank_one(net: Net) -> None:
    x = net.node("Reshape", net.trunk(), net.ints(-1))
    weight = net.node("Transpose", net.weight(5, K), perm=[1, 0])
    net.output(net.node("Add", net.node("MatMul", x, weight), net.weight(5)), 5)


def rank_one_left(net: Net) -> None:
    x = net.node("Reshape", net.trunk(), net.ints(-1))
    net.output(net.node("Add", net.node("MatMul", net.weight(5, K), x), net.weight(5)), 5)


def then_reshape(net: Net) -> None:
    net.output(net.node("Reshape", net.gemm(net.flat(), K, 50), net.ints(-1, 5, 10)), "n", 5, 10)


def then_reshape_fixed(net: Net) -> None:
    net.output(net.node("Reshape", net.gemm(net.flat(), K, 50), net.ints(1, 5, 10)), 1, 5, 10)


def then_squeeze(net: Net) -> None:
    net.output(net.node("Squeeze", net.gemm(net.flat(), K, 1), net.ints(1)), "n")


def then_argmax(net: Net) -> None:
    logits = net.gemm(net.flat(), K, 5)
    best = net.node("ArgMax", logits, axis=1, keepdims=0)
    net.rows(net.node("Softmax", logits, axis=1), 5)
    net.output(best, "n", elem=TensorProto.INT64)


def then_transpose(net: Net) -> None:
    x = net.node("Transpose", net.gemm(net.flat(), K, 5), perm=[1, 0])
    net.output(x, 5, "n")


def several_on_one(net: Net) -> None:
    flat = net.node("Reshape", net.trunk(), net.ints(-1, K))
    for size in (5, 4, 1):
        net.rows(net.gemm(flat, K, size), size)


def flattened_is_output(net: Net) -> None:
    flat = net.node("Flatten", net.trunk())
    net.rows(net.gemm(flat, K, 5), 5)
    net.rows(flat, K)


def flattened_has_other_reader(net: Net) -> None:
    flat = net.node("Flatten", net.trunk())
    net.rows(net.gemm(flat, K, 5), 5)
    net.output(net.node("ReduceMax", flat, axes=[1], keepdims=1), "n", 1)


def inner_is_output(net: Net) -> None:
    hidden = net.node("Relu", net.gemm(net.flat(), K, 6))
    net.rows(net.gemm(hidden, 6, 5), 5)
    net.rows(hidden, 6)


def policy_and_value(net: Net) -> None:
    """Two heads on one trunk, each with its own 1×1 convolution."""
    trunk = net.trunk(channels=4)
    policy = net.node("Relu", net.node("Conv", trunk, net.weight(2, 4, 1, 1)))
    value = net.node("Relu", net.node("Conv", trunk, net.weight(1, 4, 1, 1)))
    net.rows(net.gemm(net.node("Flatten", policy), 2 * H * W, 7), 7)
    hidden = net.node("Relu", net.gemm(net.node("Flatten", value), H * W, 6))
    net.rows(net.node("Tanh", net.gemm(hidden, 6, 1)), 1)


def stops_at_concat(net: Net) -> None:
    """What is concatenated is no feature map: its FC stays."""
    hidden = net.node("LeakyRelu", net.gemm(net.flat(), K, 6), alpha=0.1)
    joined = net.node("Concat", hidden, net.input(2), axis=1)
    net.rows(net.gemm(joined, 8, 5), 5)


def gemm(
    bias: Sequence[int] | None = (5,), *, factors: tuple[float, float] = (1.0, 1.0), **given: int
) -> Callable[[Net], None]:
    """One Gemm with a C of that shape, alpha and beta, transA and transB."""

    def build(net: Net) -> None:
        x = net.flat()
        if given.get("transA"):
            x = net.node("Transpose", x, perm=[1, 0])
        weight = net.weight(*((5, K) if given.get("transB") else (K, 5)))
        c = [] if bias is None else [net.weight(*bias)]
        alpha, beta = factors
        net.rows(net.node("Gemm", x, weight, *c, alpha=alpha, beta=beta, **given), 5)

    return build


def weight_on_the_left(*shape: int) -> Callable[[Net], None]:
    """MatMul(W, xᵀ), with a bias of that shape, or none."""

    def build(net: Net) -> None:
        x = net.node("MatMul", net.weight(5, K), net.node("Transpose", net.flat(), perm=[1, 0]))
        if shape:
            x = net.node("Add", x, net.weight(*shape))
        net.output(x, 5, net.batch)

    return build


def left_and_back(net: Net) -> None:
    """Column vectors throughout, turned back at the end."""
    x = net.node("Transpose", net.flat(), perm=[1, 0])
    x = net.node("Relu", net.node("MatMul", net.weight(6, K), x))
    x = net.node("MatMul", net.weight(5, 6), x)
    net.rows(net.node("Transpose", x, perm=[1, 0]), 5)


def dropout(net: Net) -> None:
    x = net.node("Dropout", net.node("Dropout", net.flat()))
    net.rows(net.gemm(net.node("Dropout", net.node("Relu", net.gemm(x, K, 6))), 6, 5), 5)


def tied(*, transposed: bool = False, first: bool = False) -> Callable[[Net], None]:
    """One square weight used by two FCs; by the second the other way round, or by the first of
    all, which reads the map."""

    def build(net: Net) -> None:
        size = K if first else 6
        weight = net.weight(size, size)
        x = net.flat()
        if not first:
            x = net.node("Relu", net.gemm(x, K, 6))
        x = net.node("Gemm", x, weight, net.weight(size), transB=1)
        x = net.node("Gemm", net.node("Tanh", x), weight, transB=int(not transposed))
        net.rows(x, size)

    return build


def fully(*spatial: int) -> Callable[[Net], None]:
    """Flatten and two Gemms in that many dimensions."""

    def build(net: Net) -> None:
        size = C * prod(spatial)
        x = net.node("Flatten", net.trunk(*spatial))
        net.rows(net.gemm(net.node("Relu", net.gemm(x, size, 6)), 6, 5), 5)

    return build


def pooled_without_effect(net: Net) -> None:
    """A Pad of nothing and an AveragePool before the flatten."""
    x = net.node("Pad", net.trunk(), net.ints(*[0] * 8))
    x = net.node("AveragePool", x, kernel_shape=[1, 2], strides=[1, 2])
    net.rows(net.gemm(net.node("Flatten", x), C * H * W // 2, 5), 5)


def time_as_batch(net: Net) -> None:
    """`[22, C, L]` flattened as one row: the first axis is time."""
    x = net.node("Reshape", net.trunk(4), net.ints(1, -1))
    net.output(net.gemm(x, 22 * C * 4, 5), 1, 5)


def window_rows(net: Net) -> None:
    """Two rows of each sample's map."""
    x = net.node("Reshape", net.trunk(), net.ints(-1, K // 2))
    net.output(net.gemm(x, K // 2, 5), "m", 5)


def sliced(net: Net) -> None:
    x = net.node("Slice", net.flat(), net.ints(0), net.ints(20), net.ints(1))
    net.rows(net.gemm(x, 20, 5), 5)


def scales(net: Net, *, last: bool = False) -> list[str]:
    """A trunk's map and a pooled one of half its size, each flattened, perhaps channels last."""
    first = net.trunk(image=net.input(2, 5, 6))
    second = net.node("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    flats = []
    for item in (first, second):
        if last:
            item = net.node("Transpose", item, perm=[0, 2, 3, 1])
        flats.append(net.node("Flatten", item))
    return flats


#: What both maps of `scales` hold: 3 × 3 × 4 and 3 × 1 × 2.
BOTH = K + C * 2


def joined(
    *tail: str, last: bool = False, alpha: float = 1.0, beta: float = 1.0, by_output: bool = False
) -> Callable[[Net], None]:
    """Several scales side by side, steps with a constant per element, an FC, and one after it."""

    def build(net: Net) -> None:
        x = net.node("Concat", *scales(net, last=last), axis=-1 if last else 1)
        for op_type in tail:
            if op_type == "BatchNormalization":
                x = batchnorm(net, x, BOTH)
            elif op_type in ("Mul", "PRelu", "Add"):
                x = net.node(op_type, x, net.weight(BOTH))
            else:
                x = net.node(op_type, x)
        weight = net.weight(*((6, BOTH) if by_output else (BOTH, 6)))
        x = net.node(
            "Gemm", x, weight, net.weight(6), transB=int(by_output), alpha=alpha, beta=beta
        )
        net.rows(net.matmul(net.node("Relu", x), 6, 5), 5)

    return build


def pyramid(net: Net) -> None:
    """Spatial pyramid pooling: 4, 2 and 1 positions of one map, as SPP-net joins them."""
    x = net.trunk(4, 4, image=net.input(2, 6, 6))
    flats = []
    for size in (1, 2, 4):
        pooled = net.node("MaxPool", x, kernel_shape=[size, size], strides=[size, size])
        flats.append(net.node("Reshape", pooled, net.ints(0, -1)))
    net.rows(net.gemm(net.node("Concat", *flats, axis=1), C * (16 + 4 + 1), 5), 5)


def map_and_vector(net: Net) -> None:
    """A flattened map beside a vector that the model is given: speed, age, a goal."""
    x = net.node("Concat", net.flat(), net.input(4), axis=1)
    net.rows(net.gemm(net.node("Relu", net.gemm(x, K + 4, 6)), 6, 5), 5)


def map_and_embedding(net: Net) -> None:
    """A vector first, which has gone through an FC of its own."""
    vector = net.node("Tanh", net.gemm(net.input(4), 4, 3))
    x = net.node("Concat", vector, net.flat(), axis=1)
    net.rows(net.matmul(x, K + 3, 5), 5)


def map_and_its_own_features(net: Net) -> None:
    """A flattened map beside what an FC made of it: two heads, one after the other."""
    flat = net.flat()
    features = net.node("Relu", net.gemm(flat, K, 4))
    net.rows(net.gemm(net.node("Concat", flat, features, axis=1), K + 4, 5), 5)


def nested_concats(net: Net) -> None:
    first, second = scales(net)
    inner = net.node("Relu", net.node("Concat", first, second, axis=1))
    x = net.node("Concat", inner, net.input(2), axis=1)
    net.rows(net.gemm(x, BOTH + 2, 5), 5)


def two_readers_of_one_concat(net: Net) -> None:
    x = net.node("Concat", *scales(net), axis=1)
    net.rows(net.gemm(x, BOTH, 5), 5)
    net.rows(net.matmul(net.node("Tanh", x), BOTH, 2), 2)


def kernels_of_several_widths(net: Net) -> None:
    """1-D convolutions of several widths over one text, joined: TextCNN before its pooling."""
    text = net.input(2, 8)
    maps = [net.node("Conv", text, net.weight(3, 2, width)) for width in (2, 3, 4)]
    x = net.node("Concat", *(net.node("Flatten", item) for item in maps), axis=1)
    net.rows(net.gemm(x, 3 * (7 + 6 + 5), 5), 5)


def detection(net: Net) -> None:
    """As SSD joins its scales: channels last, one row of boxes per sample."""
    maps = [net.node("Reshape", item, net.ints(0, -1)) for item in scales(net, last=True)]
    turned = net.node("Transpose", net.node("Concat", *maps, axis=1), perm=[1, 0])
    net.rows(net.node("Gemm", turned, net.weight(5, BOTH), net.weight(5), transA=1, transB=1), 5)


def joined_quantized(net: Net) -> None:
    """Several scales, and a weight of 8 bits with a scale per output."""
    rng = np.random.default_rng(1)
    values = rng.integers(-128, 128, (5, BOTH)).astype(np.int8)
    scale = net.stored(rng.uniform(0.01, 0.03, 5).astype(np.float32))
    zero = net.stored(rng.integers(-9, 10, 5).astype(np.int8))
    weight = net.node("DequantizeLinear", net.stored(values), scale, zero, axis=0)
    net.rows(net.node("Gemm", net.node("Concat", *scales(net), axis=1), weight, transB=1), 5)


def joined_with_a_constant(net: Net) -> None:
    x = net.node("Concat", net.flat(), net.weight(1, 2), axis=1)
    net.rows(net.gemm(x, K + 2, 5), 5)


def joined_of_other_ranks(net: Net) -> None:
    line = net.node("Conv", net.input(2, 6), net.weight(3, 2, 3))
    x = net.node("Concat", net.flat(), net.node("Flatten", line), axis=1)
    net.rows(net.gemm(x, K + 12, 5), 5)


def joined_with_itself(net: Net) -> None:
    flat = net.flat()
    net.rows(net.gemm(net.node("Concat", flat, flat, axis=1), 2 * K, 5), 5)


def sum_of_two_maps(net: Net) -> None:
    """Two flattened maps added: what the FC reads is in neither of them."""
    image = net.input(2, H + 2, W + 2)
    flats = [net.node("Flatten", net.trunk(image=image)) for _ in range(2)]
    net.rows(net.gemm(net.node("Add", *flats), K, 5), 5)


def silu(net: Net, x: str) -> str:
    """x · Sigmoid(x), as exporters write it before opset 24."""
    return net.node("Mul", x, net.node("Sigmoid", x))


def gelu(net: Net, x: str) -> str:
    """x · (1 + erf(x / √2)) / 2, as exporters write it before opset 20."""
    inner = net.node("Erf", net.node("Div", x, net.stored(np.asarray(1.4142135, net.dtype))))
    one, half = (net.stored(np.asarray(value, net.dtype)) for value in (1, 0.5))
    return net.node("Mul", net.node("Mul", x, net.node("Add", inner, one)), half)


def mish(net: Net, x: str) -> str:
    """x · Tanh(Softplus(x))."""
    return net.node("Mul", x, net.node("Tanh", net.node("Softplus", x)))


def in_parts(function: Callable[[Net, str], str], *, early: bool = False) -> Any:
    """A function that is written out in parts, between two FCs or on the flattened map."""

    def build(net: Net) -> None:
        x = function(net, net.flat()) if early else net.flat()
        x = function(net, net.gemm(x, K, 6))
        net.rows(net.gemm(x, 6, 5), 5)

    return build


def an_einsum(net: Net) -> None:
    weight = net.weight(C, H, W, 5)
    net.rows(net.node("Einsum", net.trunk(), weight, equation="nchw,chwo->no"), 5)


def normalized_by_parts(net: Net) -> None:
    """LayerNormalization of the flattened map, as exporters wrote it before opset 17."""
    flat = net.flat()
    centred = net.node("Sub", flat, net.node("ReduceMean", flat, axes=[1]))
    spread = net.node("Sqrt", net.node("ReduceMean", net.node("Mul", centred, centred), axes=[1]))
    net.rows(net.gemm(net.node("Div", centred, spread), K, 5), 5)


def quantized_fc(
    *, turned: bool = False, axis: int | None = None, by_output: bool = False
) -> Callable[[Net], None]:
    """A weight of 8 bits behind DequantizeLinear, with one scale or one per index of an axis,
    and perhaps a Transpose."""

    def build(net: Net) -> None:
        rng = np.random.default_rng(1)
        shape = (5, K) if turned or by_output else (K, 5)
        values = rng.integers(-128, 128, shape).astype(np.int8)
        size = () if axis is None else (shape[axis],)
        scale = net.stored(rng.uniform(0.01, 0.03, size).astype(np.float32))
        zero = net.stored(rng.integers(-9, 10, size).astype(np.int8))
        extra = {} if axis is None else {"axis": axis}
        weight = net.node("DequantizeLinear", net.stored(values), scale, zero, **extra)
        if turned:
            weight = net.node("Transpose", weight, perm=[1, 0])
        if by_output:
            net.rows(net.node("Gemm", net.flat(), weight, transB=1), 5)
        else:
            net.rows(net.node("MatMul", net.flat(), weight), 5)

    return build


def fake_quantized_data(net: Net) -> None:
    """The data goes through 8 bits before and after the FC; the weight stays float."""

    def pinch(x: str) -> str:
        scale, zero = net.stored(np.float32(0.05)), net.stored(np.uint8(128))
        return net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, zero), scale, zero)

    net.rows(pinch(net.gemm(pinch(net.flat()), K, 5)), 5)


def one_position(net: Net) -> None:
    x = net.node("GlobalAveragePool", net.trunk())
    net.rows(net.gemm(net.node("Flatten", x), C, 5), 5)


def no_convolution(net: Net) -> None:
    net.rows(net.gemm(net.node("Relu", net.gemm(net.input(8), 8, 6)), 6, 5), 5)


def per_position(net: Net) -> None:
    """An FC at every position: a 1×1 convolution in other words."""
    x = net.node("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    net.output(net.node("MatMul", x, net.weight(C, 5)), "n", H, W, 5)


def computed_weight(net: Net) -> None:
    weight = net.node("Reshape", net.node("Relu", net.input(K, 5)), net.ints(K, 5))
    net.rows(net.node("MatMul", net.flat(), weight), 5)


def computed_bias(net: Net) -> None:
    bias = net.node("Relu", net.input(5))
    net.output(net.node("Gemm", net.flat(), net.weight(K, 5), bias), 1, 5)


def cast_to(elem: int) -> Callable[[Net], None]:
    """The trunk in float, the head in another type."""

    def build(net: Net) -> None:
        flat = net.node("Cast", net.flat(), to=elem)
        net.dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elem))
        net.rows(net.gemm(net.node("Relu", net.gemm(flat, K, 6)), 6, 5), 5)

    return build


def added_axis(*shape: int) -> Callable[[Net], None]:
    """A bias whose leading ones give the result an axis more than the FC alone does."""

    def build(net: Net) -> None:
        x = net.node("Add", net.node("MatMul", net.flat(), net.weight(K, 5)), net.weight(*shape))
        net.output(x, 1, net.batch, 5)

    return build


def scalar_axis(net: Net) -> None:
    """A single factor whose leading ones give the result an axis more."""
    x = net.node("Mul", net.gemm(net.flat(), K, 5), net.weight(1, 1, 1))
    net.output(x, 1, net.batch, 5)


def read_in_a_subgraph(*, flat: bool = False) -> Callable[[Net], None]:
    """An If reads the head's result, or the flattened map, from outside."""

    def build(net: Net) -> None:
        x = net.flat()
        y = net.gemm(x, K, 5)
        read, size = (x, K) if flat else (y, 5)
        inner = helper.make_tensor_value_info("inner", net.elem, [net.batch, size])
        body = helper.make_graph([helper.make_node("Relu", [read], ["inner"])], "g", [], [inner])
        condition = net.stored(np.array(True))
        net.rows(net.node("If", condition, then_branch=body, else_branch=body), size)
        net.rows(y, 5)

    return build


def two_outputs_alike(net: Net) -> None:
    logits = net.gemm(net.flat(), K, 5)
    net.rows(logits, 5)
    net.rows(net.node("Identity", logits), 5)


def normalized_per_activation(net: Net) -> None:
    """BatchNormalization as opset 8 knew it beside the usual one: a constant per activation."""
    x = net.gemm(net.flat(), K, 6)
    variance = net.stored(np.full(6, 2, net.dtype))
    parts = [net.weight(6) for _ in range(3)]
    x = net.node("BatchNormalization", x, *parts, variance, spatial=0)
    net.rows(net.gemm(x, 6, 5), 5)


def left_norm(net: Net) -> None:
    """BatchNormalization over the columns of a transposed result: not over features."""
    x = net.node("MatMul", net.weight(4, K), net.node("Transpose", net.flat(), perm=[1, 0]))
    x = batchnorm(net, x, 4)
    net.output(net.node("MatMul", net.weight(5, 4), x), 5, 4)


def flatten_between(net: Net) -> None:
    """Layout between FCs that changes nothing, as Keras writes it."""
    x = net.node("Unsqueeze", net.gemm(net.flat(), K, 6), net.ints(1))
    x = net.node("Flatten", net.node("Relu", x))
    net.rows(net.gemm(x, 6, 5), 5)


def frames(net: Net) -> str:
    """A net on each of five frames, which are folded into the batch."""
    x = net.node("Reshape", net.input(5, 2, H + 2, W + 2), net.ints(-1, 2, H + 2, W + 2))
    return net.trunk(image=x)


def frames_first(tail: str = "ReduceMean") -> Callable[[Net], None]:
    """Five frames along axis 0, and the batch, which is open, along axis 1."""

    def build(net: Net) -> None:
        net.batch = 5
        images = net.input("n", 2, H + 2, W + 2)
        x = net.trunk(image=net.node("Reshape", images, net.ints(-1, 2, H + 2, W + 2)))
        x = net.node("Relu", net.gemm(net.node("Flatten", x), K, 4))
        x = net.node("Reshape", x, net.ints(5, -1, 4))
        if tail == "ReduceMean":
            net.output(net.reduce(tail, x, 0), "n", 4)
        elif tail == "LSTM":
            _, x, _ = net.nodes(
                tail, 3, x, net.weight(1, 12, 4), net.weight(1, 12, 3), hidden_size=3
            )
            net.output(net.node("Squeeze", x, net.ints(0)), "n", 3)
        else:
            net.output(net.node(tail, x, axis=2), 5, "n", 4)

    return build


def mean_of_frames(net: Net) -> None:
    x = net.gemm(net.node("Flatten", frames(net)), K, 4)
    x = net.node("Reshape", x, net.ints(-1, 5, 4))
    net.rows(net.reduce("ReduceMean", x, 1), 4)


def frame_by_frame(net: Net) -> None:
    x = net.node("Relu", net.gemm(net.node("Flatten", frames(net)), K, 4))
    x = net.matmul(net.node("Reshape", x, net.ints(-1, 5, 4)), 4, 3)
    net.output(net.node("Softmax", x, axis=2), net.batch, 5, 3)


def unfolded_first(net: Net) -> None:
    """As Keras' TimeDistributed leaves it: the FC reads `[N, 5, K]`."""
    x = net.node("Reshape", frames(net), net.ints(-1, 5, K))
    net.output(net.matmul(x, K, 4), net.batch, 5, 4)


def all_frames(net: Net) -> None:
    x = net.node("Relu", net.gemm(net.node("Flatten", frames(net)), K, 4))
    net.rows(net.gemm(net.node("Reshape", x, net.ints(-1, 20)), 20, 3), 3)


def recurrent_frames(net: Net) -> None:
    x = net.gemm(net.node("Flatten", frames(net)), K, 4)
    x = net.node("Transpose", net.node("Reshape", x, net.ints(-1, 5, 4)), perm=[1, 0, 2])
    _, last, _ = net.nodes("LSTM", 3, x, net.weight(1, 12, 4), net.weight(1, 12, 3), hidden_size=3)
    net.rows(net.node("Squeeze", last, net.ints(0)), 3)


def frames_are_the_batch(*sizes: int, tail: str = "") -> Callable[[Net], None]:
    """The caller folds five frames into the batch; the head's result is unfolded to `sizes`."""

    def build(net: Net) -> None:
        x = net.gemm(net.flat(), K, 4)
        x = net.node("Reshape", net.node("Relu", x) if tail else x, net.ints(*sizes))
        if tail == "LSTM":
            weights = (net.weight(1, 12, 4), net.weight(1, 12, 3))
            _, last, _ = net.nodes("LSTM", 3, x, *weights, hidden_size=3)
            net.output(net.node("Squeeze", last, net.ints(0)), None, 3)
        elif tail:
            net.output(net.reduce(tail, x, sizes.index(5)), None, 4)
        else:
            net.output(x, *(None if size == -1 else size for size in sizes))

    return build


def mixed_rows(net: Net) -> None:
    """The second FC reads pieces of the first one's output."""
    x = net.node("Reshape", net.gemm(net.flat(), K, 6), net.ints(-1, 3))
    net.output(net.gemm(x, 3, 5), None, 5)


def unflattened_later(net: Net) -> None:
    """A decoder: the FC's output becomes a map again, which a convolution reads."""
    x = net.node("Relu", net.gemm(net.flat(), K, 24))
    x = net.node("Reshape", x, net.ints(-1, 2, 3, 4))
    net.output(net.node("Conv", x, net.weight(2, 2, 3, 3)), "n", 2, 1, 2)


def residual(net: Net) -> None:
    """An FC's output is added to a later one's."""
    first = net.node("Relu", net.gemm(net.flat(), K, 6))
    net.rows(net.gemm(net.node("Add", first, net.gemm(first, 6, 6)), 6, 5), 5)


def shuffled(net: Net) -> None:
    """A channel shuffle right before the flatten: another order of the columns."""
    x = net.node("Reshape", net.trunk(channels=4), net.ints(-1, 2, 2, H, W))
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.node("Flatten", net.node("Reshape", x, net.ints(-1, 4, H, W)))
    net.rows(net.gemm(x, 4 * H * W, 5), 5)


def width_first(net: Net) -> None:
    x = net.node("Flatten", net.node("Transpose", net.trunk(), perm=[0, 3, 1, 2]))
    net.rows(net.gemm(x, K, 5), 5)


def one_output_gemm(*bias: int) -> Callable[[Net], None]:
    """An FC of one output with a bias of that shape."""

    def build(net: Net) -> None:
        net.rows(net.node("Gemm", net.flat(), net.weight(K, 1), net.weight(*bias)), 1)

    return build


def clipped(*, inputs: bool) -> Callable[[Net], None]:
    """Relu6 between the FCs, its bounds as inputs or as attributes."""

    def build(net: Net) -> None:
        x = net.gemm(net.flat(), K, 6)
        if inputs:
            x = net.node("Clip", x, net.stored(np.float32(0)), net.stored(np.float32(0.5)))
        else:
            x = net.node("Clip", x, min=0.0, max=0.5)
        net.rows(net.gemm(x, 6, 5), 5)

    return build


ONE: dict[str, Any] = {"batch": 1}
_ONE = (1,)

FORMS: dict[str, Form] = {
    # How the map is flattened.
    "flatten": Form(gemm_after("Flatten")),
    "flatten axis -3": Form(gemm_after("Flatten", axis=-3)),
    "reshape [0, -1]": Form(gemm_after("Reshape", [0, -1])),
    "reshape [-1, K]": Form(gemm_after("Reshape", [-1, K])),
    "reshape [1, K]": Form(gemm_after("Reshape", [1, K]), ONE, batches=_ONE),
    "reshape allowzero": Form(gemm_after("Reshape", [-1, K], allowzero=1)),
    "batch of 3": Form(gemm_after("Reshape", [3, -1]), {"batch": 3}, batches=(3,)),
    "shape, gather": Form(shape_gather, {"opset": 9, "ir": 4}),
    "shape, concat": Form(shape_slice, {"opset": 18}),
    "shape, cast, slice": Form(shape_cast, {"opset": 12, "ir": 7}),
    "channels last": Form(channels_last()),
    "channels last, reshape": Form(channels_last(reshape=True)),
    "channels last, relu": Form(channels_last("Relu")),
    "width first": Form(width_first),
    "channel shuffle": Form(shuffled),
    "no-op pad and pooling": Form(pooled_without_effect),
    "1-D": Form(fully(7)),
    "3-D": Form(fully(2, 3, 2)),
    # What stands on the flattened vector, and between the FCs.
    "two FCs on relu and identity": Form(relu_identity_two),
    "PRelu per element": Form(prelu(K)),
    "PRelu per element, [1, K]": Form(prelu(1, K)),
    "PRelu of one slope": Form(prelu(1)),
    "PRelu between": Form(prelu(6, late=True)),
    "BatchNormalization before": Form(normalized_before),
    "BatchNormalization between": Form(normalized_between),
    "Mul and Add between": Form(scaled(6)),
    "Mul and Add between, [1, 6]": Form(scaled(1, 6)),
    "Mul and Add before": Form(scaled(K, before=True)),
    "Sub and Div of the data": Form(subtracted),
    "bias of the flattened layout": Form(bias_of_flattened_layout),
    "Dropout": Form(dropout),
    "Clip, attributes": Form(clipped(inputs=False), {"opset": 9, "ir": 4}),
    "Clip, inputs": Form(clipped(inputs=True), {"opset": 12}),
    "Unsqueeze and Flatten between": Form(flatten_between),
    "SiLU in parts": Form(in_parts(silu)),
    "GELU in parts": Form(in_parts(gelu)),
    "Mish in parts": Form(in_parts(mish)),
    "SiLU in parts, on the flattened map": Form(in_parts(silu, early=True)),
    "several FCs on one flatten": Form(several_on_one),
    "data through 8 bits": Form(fake_quantized_data),
    # How weights and biases are written.
    "weight reshaped": Form(weight_behind(("", (C, H, W, 5)), ("Reshape", (K, 5)))),
    "weight transposed": Form(weight_behind(("", (5, K)), ("Transpose", (1, 0)))),
    "weight behind Identity": Form(weight_behind(("", (K, 5)), ("Identity", ()))),
    "weight reshaped and transposed": Form(
        weight_behind(("", (5, C, H * W)), ("Reshape", (5, K)), ("Transpose", (1, 0)))
    ),
    "Constant nodes": Form(constant_nodes),
    "weight on the left": Form(weight_on_the_left()),
    "weight on the left, one sample": Form(weight_on_the_left(), ONE, batches=_ONE),
    "weight on the left, bias [5, 1]": Form(weight_on_the_left(5, 1)),
    "weights on the left, turned back": Form(left_and_back),
    "tied": Form(tied()),
    "tied, transposed": Form(tied(transposed=True)),
    "tied with the first FC": Form(tied(first=True)),
    "Gemm without C": Form(gemm(None)),
    "Gemm, C []": Form(gemm(())),
    "Gemm, C [1]": Form(gemm((1,))),
    "Gemm, C [1, 1]": Form(gemm((1, 1))),
    "Gemm, C [1, 5]": Form(gemm((1, 5))),
    "Gemm, C [3, 5]": Form(
        gemm((3, 5)), {"batch": 3}, refused="is not one number per output", batches=(3,)
    ),
    "Gemm, C [3, 1]": Form(
        gemm((3, 1)), {"batch": 3}, refused="is not one number per output", batches=(3,)
    ),
    "Gemm, C [5, 1]": Form(
        gemm((5, 1)), {"batch": 5}, refused="is not one number per output", batches=(5,)
    ),
    "Gemm of one output, C []": Form(one_output_gemm()),
    "Gemm of one output, C [1, 1]": Form(one_output_gemm(1, 1)),
    "Gemm of one output, C [3, 1]": Form(
        one_output_gemm(3, 1), {"batch": 3}, refused="is not one number per output", batches=(3,)
    ),
    "Gemm, alpha and beta": Form(gemm(factors=(0.7, -1.3))),
    "Gemm, beta 0": Form(gemm(factors=(1.0, 0.0))),
    "Gemm, alpha 0": Form(gemm(factors=(0.0, 1.0)), refused="its alpha is 0", left=1),
    "Gemm, transA": Form(gemm(transA=1)),
    "Gemm, transB, alpha": Form(gemm(transB=1, factors=(0.7, 1.0))),
    "Gemm, transA and transB": Form(gemm(transA=1, transB=1)),
    # What follows the head.
    "then Reshape [-1, 5, 10]": Form(then_reshape),
    "then Reshape [1, 5, 10]": Form(then_reshape_fixed, ONE, batches=_ONE),
    "then Squeeze": Form(then_squeeze),
    "then ArgMax": Form(then_argmax, {"opset": 13}),
    "then Transpose": Form(then_transpose),
    "then a decoder": Form(unflattened_later),
    "stops at Concat": Form(stops_at_concat, left=1),
    "the flattened map is an output": Form(flattened_is_output),
    "the flattened map has another reader": Form(flattened_has_other_reader),
    "an inner FC is an output": Form(inner_is_output),
    "read in a subgraph": Form(read_in_a_subgraph()),
    "the flattened map is read in a subgraph": Form(read_in_a_subgraph(flat=True)),
    "two outputs alike": Form(two_outputs_alike),
    "rank 1": Form(rank_one, ONE, batches=_ONE),
    "rank 1, weight on the left": Form(rank_one_left, ONE, batches=_ONE),
    "policy and value": Form(policy_and_value),
    "policy and value, unnamed nodes": Form(policy_and_value, {"unnamed": True}),
    "residual": Form(residual, left=1),
    # Versions and types.
    **{
        f"opset {opset}": Form(channels_last("Relu"), {"opset": opset, "ir": 3 if opset < 9 else 8})
        for opset in range(7, 23)
    },
    "IR 3": Form(shape_gather, {"opset": 9, "ir": 3}),
    "half": Form(gemm_after("Flatten"), {"dtype": np.float16}),
    "half, alpha and beta": Form(gemm(factors=(0.7, -1.3)), {"dtype": np.float16}),
    "half head": Form(cast_to(TensorProto.FLOAT16)),
    # Several maps in one vector.
    "several scales": Form(joined(), split=True),
    "several scales, channels last": Form(joined(last=True), split=True),
    "several scales, transB, alpha": Form(joined(by_output=True, alpha=0.7, beta=2.0), split=True),
    "several scales, Relu and Dropout": Form(joined("Relu", "Dropout"), split=True),
    "several scales, a factor per element": Form(joined("Mul", "Add", last=True), split=True),
    "several scales, PRelu per element": Form(joined("PRelu", last=True), split=True),
    "several scales, BatchNormalization before": Form(joined("BatchNormalization"), split=True),
    "several scales, half": Form(joined(last=True), {"dtype": np.float16}, split=True),
    "several scales, opset 7": Form(joined(), {"opset": 7, "ir": 3}, split=True),
    "several scales, batch of 3": Form(joined(), {"batch": 3}, batches=(3,), split=True),
    "pyramid pooling": Form(pyramid, split=True),
    "detection": Form(detection, split=True),
    "kernels of several widths": Form(kernels_of_several_widths, split=True),
    "map and vector": Form(map_and_vector, split=True),
    "map and vector, one sample": Form(map_and_vector, ONE, batches=_ONE, split=True),
    "vector and map": Form(map_and_embedding, left=1, split=True),
    "map and its own features": Form(map_and_its_own_features, split=True),
    "nested Concats": Form(nested_concats, split=True),
    "a map joined with itself": Form(joined_with_itself, split=True),
    "two readers of one Concat": Form(two_readers_of_one_concat, split=True),
    # What must be left alone.
    "joined with a constant": Form(
        joined_with_a_constant, ONE, refused="which is not a feature map", batches=_ONE, left=1
    ),
    "joined maps of other ranks": Form(
        joined_of_other_ranks, refused="different numbers of axes", left=1
    ),
    "sum of two maps": Form(sum_of_two_maps, refused="more than a rearranged", left=1),
    "an Einsum": Form(an_einsum, refused="it is an Einsum"),
    "normalized by parts": Form(normalized_by_parts, refused="more than a rearranged", left=1),
    "time as batch": Form(time_as_batch, {"batch": 22}, refused="axis 0 is not a batch", left=1),
    "a row is a window": Form(window_rows, refused="2 rows of each sample", left=1),
    "sliced": Form(sliced, refused="a part of a flattened map", left=1),
    "quantized weight, input scales": Form(quantized_fc(axis=0), refused="are per input", left=1),
    "quantized weight, transposed": Form(quantized_fc(turned=True), refused="is quantized", left=1),
    "one position": Form(one_position, refused="one position", left=1),
    "no convolution": Form(no_convolution, refused="", left=2),
    "an FC per position": Form(per_position, refused="12 rows of each sample", left=1),
    "computed weight": Form(computed_weight, {"batch": 1}, refused="is computed", left=1),
    "computed bias": Form(computed_bias, {"batch": 1}, refused="is computed", left=1),
    "rows mixed between FCs": Form(mixed_rows, left=1),
    "a mean over frames": Form(mean_of_frames),
    "an answer for each frame": Form(frame_by_frame),
    "frames unfolded before the FC": Form(unfolded_first),
    "an FC over all frames": Form(all_frames, left=1),
    "an LSTM over frames": Form(recurrent_frames),
    "frames first": Form(frames_first()),
    "frames first, an answer for each": Form(frames_first("Softmax")),
    "frames first, an LSTM": Form(frames_first("LSTM")),
    "frames first, in the batch": Form(frames_are_the_batch(5, -1, 4), batches=(5, 15)),
    "frames last, in the batch": Form(frames_are_the_batch(-1, 5, 4), batches=(5, 15)),
    "an LSTM, frames in the batch": Form(
        frames_are_the_batch(5, -1, 4, tail="LSTM"), batches=(5, 15)
    ),
    "a maximum, frames in the batch": Form(
        frames_are_the_batch(5, -1, 4, tail="ReduceMax"), batches=(5, 15)
    ),
    "bias adds an axis": Form(added_axis(1, 1, 5)),
    "factor adds an axis": Form(scalar_axis),
    "BatchNormalization over samples": Form(
        left_norm, {"batch": 4}, refused="differs between samples", batches=(4,), left=2
    ),
    "BatchNormalization per activation": Form(
        normalized_per_activation, {"opset": 8, "ir": 3}, refused="not over features", left=2
    ),
    "bias along the samples": Form(weight_on_the_left(5), {"batch": 5}, batches=(5,)),
}

#: Types that ONNX Runtime does not convolve in on a CPU: run by onnx's own reference evaluator.
REFERENCE_FORMS: dict[str, Form] = {
    "double": Form(gemm_after("Flatten"), {"dtype": np.float64}),
    "double head": Form(cast_to(TensorProto.DOUBLE)),
    "bfloat16": Form(gemm_after("Flatten"), {"dtype": BFLOAT16, "opset": 22, "ir": 10}),
    "bfloat16 before opset 22": Form(
        cast_to(TensorProto.BFLOAT16),
        {"opset": 21, "ir": 10},
        refused="Conv does not compute in bfloat16",
    ),
}
