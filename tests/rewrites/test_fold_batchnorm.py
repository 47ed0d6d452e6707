"""`--fold-batchnorm`: the layer alone gives what both gave, and no kernel is un-shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.errors import RewriteError
from onnxshare.graph.index import Node
from rewrites import fold_batchnorm
from rewrites.edits import node_uses
from tests.rewrites.checking import (
    assert_untouched_rest,
    feeds,
    floats,
    interface,
    run,
)
from tests.rewrites.forms import BFLOAT16, Array, Net, batchnorm

Patch = pytest.MonkeyPatch
Build = Callable[[Net], None]

EPSILON = float(np.float32(1e-3))  # of `forms.batchnorm`


def fold(model: Any, **options: Any) -> RewriteResult:
    return onnxshare.rewrite(model, ["fold-batchnorm"], provider="cpu", **options)


# Layers: a convolution or FC, then BatchNormalization, then Relu.


def conv(
    *kernel: int,
    sizes: tuple[int, ...] = (6, 7),
    bias: bool = True,
    op_type: str = "Conv",
    **given: Any,
) -> Build:
    """A convolution with a kernel of these sizes and its BatchNormalization."""

    def build(net: Net) -> None:
        group = given.get("group", 1)
        read, made = kernel[1] * group, kernel[0]
        if op_type == "ConvTranspose":
            read, made = kernel[0], kernel[1] * group
        inputs = [net.input(read, *sizes), net.weight(*kernel)]
        inputs += [net.weight(made)] if bias else []
        x = batchnorm(net, net.node(op_type, *inputs, **given), made)
        net.output(net.node("Relu", x), "n", made, *[None for _ in sizes])

    return build


def gemm(bias: tuple[int, ...] | None = (5,), **given: Any) -> Build:
    """A Gemm on [n, 4] with a bias of that shape."""

    def build(net: Net) -> None:
        shape = (5, 4) if given.get("transB") else (4, 5)
        more = [] if bias is None else [net.weight(*bias)]
        x = net.node("Gemm", net.input(4), net.weight(*shape), *more, **given)
        net.rows(batchnorm(net, x, 5), 5)

    return build


def matmul(*, bias: bool = True, swapped: bool = False) -> Build:
    def build(net: Net) -> None:
        x = net.node("MatMul", net.input(4), net.weight(4, 5))
        if bias:
            x = net.node("Add", *((net.weight(5), x) if swapped else (x, net.weight(5))))
        net.rows(batchnorm(net, x, 5), 5)

    return build


def behind_layout(net: Net) -> None:
    """A weight that reaches its MatMul through Transpose and Identity."""
    weight = net.node("Transpose", net.node("Identity", net.weight(5, 4)), perm=[1, 0])
    net.rows(batchnorm(net, net.node("MatMul", net.input(4), weight), 5), 5)


def constants(net: Net) -> None:
    """Everything in Constant nodes."""
    parts = [net.constant(np.abs(net.random(3)) + np.asarray(0.5, net.dtype)) for _ in range(4)]
    x = net.node("Conv", net.input(2, 4, 4), net.constant(net.random(3, 2, 3, 3)))
    net.output(net.node("BatchNormalization", x, *parts), "n", 3, 2, 2)


def twice(net: Net) -> None:
    """A convolution, its BatchNormalization, and another one after that: both are folded."""
    x = batchnorm(net, net.node("Conv", net.input(2, 4, 4), net.weight(3, 2, 3, 3)), 3)
    net.output(batchnorm(net, x, 3), "n", 3, 2, 2)


def shared_shift(net: Net) -> None:
    """Two convolutions, one scale and shift for both: their kernels are their own."""
    parts = [net.weight(2), net.weight(2), net.weight(2), net.stored(np.full(2, 0.7, net.dtype))]
    x = net.input(2, 5, 5)
    for _ in range(2):
        x = net.node("Conv", x, net.weight(2, 2, 1, 1))
        x = net.node("BatchNormalization", x, *parts)
    net.output(x, "n", 2, 5, 5)


@dataclass(frozen=True)
class Case:
    """A net that is folded, with its parameters by hand.

    Attributes:
        build: makes the net.
        before, after: its parameters.
        norms: how many BatchNormalizations go.
        left: the operators of what is left of the layer and its normalization.
        options: of the net.
    """

    build: Build
    before: int
    after: int
    norms: int = 1
    left: tuple[str, ...] = ("Conv", "Relu")
    options: dict[str, Any] = field(default_factory=dict)


FOLDED: dict[str, Case] = {
    "convolution": Case(conv(3, 2, 3, 3), 54 + 3 + 6, 54 + 3),
    "without bias": Case(conv(3, 2, 3, 3, bias=False), 54 + 6, 54 + 3),
    "1-D": Case(conv(3, 2, 3, sizes=(8,)), 18 + 3 + 6, 18 + 3),
    "3-D": Case(conv(3, 2, 2, 1, 3, sizes=(3, 4, 5)), 36 + 3 + 6, 36 + 3),
    "groups": Case(conv(6, 2, 3, 3, group=3), 108 + 6 + 12, 108 + 6),
    "depthwise": Case(conv(4, 1, 3, 3, group=4, bias=False), 36 + 8, 36 + 4),
    "strides, pads": Case(
        conv(3, 2, 3, 3, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]), 63, 57
    ),
    "auto_pad": Case(conv(3, 2, 3, 3, auto_pad="SAME_LOWER"), 63, 57),
    "transposed": Case(
        conv(2, 3, 3, 3, op_type="ConvTranspose", strides=[2, 2]),
        63,
        57,
        left=("ConvTranspose", "Relu"),
    ),
    "transposed, groups": Case(
        conv(6, 2, 3, 3, op_type="ConvTranspose", group=3, bias=False),
        108 + 12,
        108 + 6,
        left=("ConvTranspose", "Relu"),
    ),
    "transposed, 1-D": Case(
        conv(4, 3, 2, op_type="ConvTranspose", group=2, sizes=(5,)),
        24 + 6 + 12,
        24 + 6,
        left=("ConvTranspose", "Relu"),
    ),
    "Gemm": Case(gemm(), 20 + 5 + 10, 25, left=("Gemm",)),
    "Gemm without bias": Case(gemm(None), 30, 25, left=("Gemm",)),
    "Gemm, transB": Case(gemm(transB=1), 35, 25, left=("Gemm",)),
    "Gemm, alpha and beta": Case(gemm(alpha=0.7, beta=-1.3), 35, 25, left=("Gemm",)),
    "Gemm, beta 0": Case(gemm(beta=0.0), 35, 25, left=("Gemm",)),
    "Gemm, C as a row": Case(gemm((1, 5)), 35, 25, left=("Gemm",)),
    "Gemm, C as one number": Case(gemm((1,)), 20 + 1 + 10, 25, left=("Gemm",)),
    "MatMul": Case(matmul(bias=False), 30, 25, left=("MatMul", "Add")),
    "MatMul and Add": Case(matmul(), 35, 25, left=("MatMul", "Add")),
    "Add and MatMul": Case(matmul(swapped=True), 35, 25, left=("MatMul", "Add")),
    "behind layout": Case(behind_layout, 30, 25, left=("MatMul", "Add")),
    "Constant nodes": Case(constants, 54 + 6, 57, left=("Conv",)),
    "twice": Case(twice, 54 + 12, 57, norms=2, left=("Conv",)),
    "scale used twice": Case(shared_shift, 8 + 4, 8 + 4, norms=2, left=("Conv", "Conv")),
    **{
        f"opset {opset}": Case(conv(3, 2, 3, 3), 63, 57, options={"opset": opset})
        for opset in (7, 9, 13, 14, 15, 22)
    },
    "opset 8, IR 3": Case(conv(3, 2, 3, 3), 63, 57, options={"opset": 8, "ir": 3}),
    "half": Case(conv(3, 2, 3, 3), 63, 57, options={"dtype": np.float16, "opset": 15}),
    "Gemm, double": Case(gemm(), 35, 25, left=("Gemm",), options={"dtype": np.float64}),
}


def built(case: Case, seed: int = 0) -> onnx.ModelProto:
    net = Net(seed=seed, **case.options)
    case.build(net)
    return net.model()


@pytest.mark.parametrize("name", list(FOLDED))
def test_folded(name: str) -> None:
    case = FOLDED[name]
    model = built(case)
    given = model.SerializeToString(deterministic=True)
    result = fold(model)
    assert model.SerializeToString(deterministic=True) == given
    assert (result.before.params, result.after.params) == (case.before, case.after)
    assert len(result.changes) == case.norms
    assert result.passed
    assert tuple(node.op_type for node in result.model.graph.node) == case.left
    onnx.checker.check_model(result.model, full_check=True)
    assert interface(result.model) == interface(model)
    assert_untouched_rest(model, result.model)
    first = result.sites[0]
    growth = sum((s.params_after or 0) - s.params_before for s in result.sites)
    assert first.exact is True
    assert growth == case.after - case.before or name in ("twice", "scale used twice")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", list(FOLDED))
def test_results(name: str, batch: int) -> None:
    """Of at most 54 products each, so off by less than 64 roundings of the largest."""
    model = built(FOLDED[name])
    given = feeds(model, batch)
    old, new = (run(m, given)[0] for m in (model, fold(model).model))
    assert new.dtype == old.dtype
    assert new.shape == old.shape
    bound = 64 * float(np.finfo(old.dtype).eps) * max(1.0, float(np.abs(old).max()))
    np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), rtol=0, atol=bound)


def parts(model: onnx.ModelProto) -> list[Array]:
    """Weight, bias, scale, shift, mean, variance as doubles, in the order they are read."""
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    names = [name for node in model.graph.node for name in node.input if name in stored]
    return [stored[name] for name in names]


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("convolution", lambda w, a: np.stack([w[f] * a[f] for f in range(3)])),
        ("groups", lambda w, a: np.stack([w[f] * a[f] for f in range(6)])),
        ("Gemm", lambda w, a: w @ np.diag(a)),
        ("Gemm, transB", lambda w, a: np.diag(a) @ w),
        ("transposed", lambda w, a: np.einsum("cfhw,f->cfhw", w, a)),
        (
            "transposed, 1-D",  # inputs 0, 1 lead to outputs 0, 1, 2; inputs 2, 3 to 3, 4, 5
            lambda w, a: np.stack([w[c] * a[3 * (c // 2) :][:3, None] for c in range(4)]),
        ),
    ],
)
def test_weights_by_hand(name: str, by_hand: Callable[[Array, Array], Array]) -> None:
    """Correct to the last bit: computed in double precision, rounded once."""
    model = built(FOLDED[name])
    weight, bias, scale, shift, mean, variance = parts(model)
    factor = scale / np.sqrt(variance + EPSILON)
    expected = [by_hand(weight, factor), factor * bias + (shift - factor * mean)]
    for made, right in zip(parts(fold(model).model), expected, strict=True):
        np.testing.assert_allclose(made, right, rtol=2**-24, atol=1e-30)


def test_opset_6_by_hand() -> None:
    """ONNX Runtime does not run BatchNormalization of opset 6."""
    model = normalized(opset=6, is_test=1)
    weight, scale, shift, mean, variance = parts(model)
    result = fold(model, validate=False)
    assert [node.op_type for node in result.model.graph.node] == ["Conv"]
    factor = scale / np.sqrt(variance + EPSILON)
    made = parts(result.model)
    np.testing.assert_allclose(made[0], weight * factor[:, None, None, None], rtol=2**-24)
    np.testing.assert_allclose(made[1], shift - factor * mean, rtol=2**-24)
    onnx.checker.check_model(result.model, full_check=True)


def test_double_convolution_by_the_reference() -> None:
    """ONNX Runtime does not convolve in double on CPUs, nor in bfloat16."""
    from onnx.reference import ReferenceEvaluator

    for dtype, opset, bound in ((np.float64, 17, 1e-12), (BFLOAT16, 22, 0.1)):
        net = Net(dtype=dtype, opset=opset, ir=10)
        conv(3, 2, 3, 3)(net)
        model = net.model()
        result = fold(model, validate=False)
        assert len(result.changes) == 1
        given = feeds(model, 2)
        old, new = (
            np.asarray(next(iter(ReferenceEvaluator(m).run(None, given)))).astype(np.float64)
            for m in (model, result.model)
        )
        np.testing.assert_allclose(new, old, atol=bound, rtol=bound)
        assert {t.data_type for t in floats(result.model)} == {t.data_type for t in floats(model)}


# What must be refused.


def kernel_used_twice(net: Net, uses: int = 2, hidden: bool = False) -> None:
    """One 3×3 kernel for several convolutions, each with a BatchNormalization of its own."""
    kernel, x = net.weight(2, 2, 3, 3), net.input(2, 9, 9)
    for _ in range(uses):
        read = net.node("Identity", kernel) if hidden else kernel
        x = batchnorm(net, net.node("Conv", x, read, pads=[1, 1, 1, 1]), 2)
    net.output(x, "n", 2, 9, 9)


def kernel_is_output(net: Net) -> None:
    kernel = net.weight(3, 2, 1, 1)
    net.output(batchnorm(net, net.node("Conv", net.input(2, 4, 4), kernel), 3), "n", 3, 4, 4)
    net.output(kernel, 3, 2, 1, 1)


def read_by_two_convolutions(net: Net) -> None:
    """Folded forward, it would have to be folded into each."""
    x = batchnorm(net, net.input(2, 5, 5), 2)
    for _ in range(2):
        net.output(net.node("Conv", x, net.weight(3, 2, 3, 3)), "n", 3, 3, 3)


def result_used_twice(net: Net) -> None:
    x = net.node("Conv", net.input(2, 4, 4), net.weight(3, 2, 1, 1))
    net.output(net.node("Add", x, batchnorm(net, x, 3)), "n", 3, 4, 4)


def result_is_output(net: Net) -> None:
    x = net.node("Conv", net.input(2, 4, 4), net.weight(3, 2, 1, 1))
    net.output(batchnorm(net, x, 3), "n", 3, 4, 4)
    net.output(x, "n", 3, 4, 4)


def product_used_twice(net: Net) -> None:
    """The bare product before the Add is an output, so the Add is no bias but a sum."""
    product = net.node("MatMul", net.input(4), net.weight(4, 5))
    net.rows(batchnorm(net, net.node("Add", product, net.weight(5)), 5), 5)
    net.rows(product, 5)


def computed(place: int) -> Build:
    """The part at that place (0 is the weight) depends on an input."""

    def build(net: Net) -> None:
        kernel = net.weight(2, 2, 1, 1)
        stored = [net.weight(2) for _ in range(3)] + [net.stored(np.full(2, 0.5, net.dtype))]
        names = [kernel, *stored]
        names[place] = net.node("Relu", net.input(2, 1, 1) if place == 0 else net.input())
        x = net.node("Conv", net.input(2, 4, 4), names[0])
        net.output(net.node("BatchNormalization", x, *names[1:]), "n", 2, 4, 4)

    return build


def quantized(net: Net) -> None:
    weight = net.stored(np.arange(6, dtype=np.int8).reshape(3, 2, 1, 1))
    scales = (net.stored(0.1, net.dtype), net.stored(0, np.int8))
    x = net.node("Conv", net.input(2, 4, 4), net.node("DequantizeLinear", weight, *scales))
    net.output(batchnorm(net, x, 3), "n", 3, 4, 4)


def other_axis(net: Net) -> None:
    """MatMul on [n, 3, 4]: axis 1 is not what it made."""
    x = net.node("MatMul", net.input(3, 4), net.weight(4, 5))
    net.output(batchnorm(net, x, 3), "n", 3, 5)


def weight_on_the_left(net: Net) -> None:
    """W · x for samples in columns: axis 1 is the samples, as many as there are outputs."""
    x = net.node("MatMul", net.weight(4, 4), net.input(4))
    net.rows(batchnorm(net, x, 4), 4)


def filled(net: Net) -> None:
    fill = numpy_helper.from_array(np.full(1, 0.5, net.dtype))
    weight = net.node("ConstantOfShape", net.ints(3, 2, 1, 1), value=fill)
    net.output(batchnorm(net, net.node("Conv", net.input(2, 4, 4), weight), 3), "n", 3, 4, 4)


def too_large(net: Net) -> None:
    """A scale of 60000 / √0.25 on weights of 2: no half holds that."""
    x = net.node("Conv", net.input(1, 3, 3), net.stored(np.full((1, 1, 1, 1), 2, net.dtype)))
    values = (60_000, 0, 0, 0.25)
    parts = [net.stored(np.full(1, value, net.dtype)) for value in values]
    net.output(net.node("BatchNormalization", x, *parts), "n", 1, 3, 3)


def negative_variance(net: Net) -> None:
    x = net.node("Conv", net.input(2, 3, 3), net.weight(2, 2, 1, 1))
    parts = [net.weight(2) for _ in range(3)]
    variance = net.stored(np.array([0.5, -0.5], net.dtype))
    net.output(net.node("BatchNormalization", x, *parts, variance), "n", 2, 3, 3)


def relu_between(net: Net) -> None:
    x = net.node("Relu", net.node("Conv", net.input(2, 3, 3), net.weight(2, 2, 1, 1)))
    net.output(batchnorm(net, x, 2), "n", 2, 3, 3)


#: Un-sharing the 36 numbers of the kernel, less scale and shift, more a bias: 36 + 2 - 4 = 34.
REFUSED: dict[str, tuple[Build, dict[str, Any], str]] = {
    "kernel used twice": (kernel_used_twice, {}, "also used by 'Conv"),
    "kernel used twice, cost": (kernel_used_twice, {}, "un-share it, +34 parameters"),
    "kernel used thrice": (lambda net: kernel_used_twice(net, 3), {}, "and 1 more"),
    "kernel behind Identity": (lambda net: kernel_used_twice(net, hidden=True), {}, "+34 param"),
    "kernel is an output": (kernel_is_output, {}, "also used by output"),
    "read by two convolutions": (read_by_two_convolutions, {}, "used elsewhere too"),
    "result used twice": (result_used_twice, {}, "used elsewhere too"),
    "result is an output": (result_is_output, {}, "used elsewhere too"),
    "product used twice": (product_used_twice, {}, "used elsewhere too"),
    "computed weight": (computed(0), {"batch": 2}, "no weight to fold"),
    **{
        f"computed part {place}": (computed(place), {"batch": 2}, "no statistics to fold")
        for place in (1, 2, 3, 4)
    },
    "quantized": (quantized, {}, "is quantized"),
    "other axis": (other_axis, {}, "does not normalize the features"),
    "weight on the left": (weight_on_the_left, {"batch": 4}, "does not normalize the features"),
    "ConstantOfShape": (filled, {}, "takes no space; folded, it would be stored: 6 numbers"),
    "too large for half": (too_large, {"dtype": np.float16, "opset": 15}, "do not fit float16"),
    "negative variance": (negative_variance, {}, "variance is not positive"),
    "Relu between": (relu_between, {}, ""),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str, tmp_path: Path) -> None:
    build, options, reason = REFUSED[name]
    net = Net(**options)
    build(net)
    model = net.model()
    result = fold(model)
    assert result.changes == ()
    given = model.SerializeToString(deterministic=True)
    assert result.model.SerializeToString(deterministic=True) == given
    if not reason:
        assert result.sites == ()
        return
    assert result.sites
    assert all(reason in (site.refused or "") for site in result.sites)
    with pytest.raises(RewriteError):
        result.save(tmp_path / "out.onnx")


def normalized(**given: Any) -> onnx.ModelProto:
    """A 1×1 convolution and BatchNormalization with given attributes and outputs."""
    opset, outputs = given.pop("opset", 17), given.pop("outputs", 1)
    net = Net(opset=opset, ir=8 if opset > 8 else 3)
    x = net.node("Conv", net.input(2, 3, 3), net.weight(2, 2, 1, 1))
    y = batchnorm(net, x, 2)
    net.output(y, "n", 2, 3, 3)
    model = net.model()
    norm = model.graph.node[-1]
    norm.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
    norm.output.extend(f"more{place}" for place in range(1, outputs))
    return model


@pytest.mark.parametrize(
    "given",
    [
        {"training_mode": 1, "outputs": 3},
        {"opset": 9, "outputs": 5},
        {"opset": 6},
        {"opset": 6, "is_test": 0},
    ],
)
def test_training_is_refused(given: dict[str, Any]) -> None:
    result = fold(normalized(**given), validate=False)
    assert result.changes == ()
    assert "training mode" in str(result.sites[0].refused)


def test_default_of_an_input_is_refused() -> None:
    model = normalized()
    kernel = model.graph.node[0].input[1]
    model.graph.input.append(helper.make_tensor_value_info(kernel, 1, [2, 2, 1, 1]))
    result = fold(model)
    assert "a caller may give" in str(result.sites[0].refused)


def test_names_of_nodes_need_not_be_unique() -> None:
    """Both convolutions have one name and one kernel."""
    net = Net()
    kernel_used_twice(net)
    model = net.model()
    for node in model.graph.node:
        node.name = "same"
    result = fold(model)
    assert result.changes == ()
    assert "also used by 'same#" in str(result.sites[0].refused)  # named apart by position


def test_sharing_comes_first() -> None:
    """Two equal kernels: `share` merges them, and `fold-batchnorm` leaves them merged. On its own
    it folds both."""
    net = Net()
    kernel, x = net.random(2, 2, 3, 3), net.input(2, 9, 9)
    for _ in range(2):
        x = batchnorm(net, net.node("Conv", x, net.stored(kernel), pads=[1, 1, 1, 1]), 2)
    net.output(x, "n", 2, 9, 9)
    model = net.model()
    both = onnxshare.rewrite(model, ["fold-batchnorm", "share"], provider="cpu")
    assert [change.site.rewrite for change in both.changes] == ["share"]
    assert (both.before.params, both.after.params) == (2 * 40, 36 + 2 * 4)
    alone = fold(model)
    assert alone.after.params == 2 * 38


# Broken on purpose: nothing wrong passes.

MUTANTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "shift dropped": lambda scale, shift: (scale, np.zeros_like(shift)),
    "scale dropped": lambda scale, shift: (np.ones_like(scale), shift),
    "channels swapped": lambda scale, shift: (scale[::-1].copy(), shift),
    "shift of another": lambda scale, shift: (scale, np.roll(shift, 1)),
    "scale by 1.001": lambda scale, shift: (scale * 1.001, shift),
}
BROKEN = ["convolution", "groups", "transposed, groups", "Gemm", "MatMul and Add", "1-D", "3-D"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_mutants(monkeypatch: Patch, mutant: str, name: str, seed: int) -> None:
    right = fold_batchnorm._scale_and_shift
    monkeypatch.setattr(fold_batchnorm, "_scale_and_shift", lambda *a: MUTANTS[mutant](*right(*a)))
    result = fold(built(FOLDED[name], seed))
    assert result.changes
    assert not result.passed


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", BROKEN)
def test_wrong_epsilon(monkeypatch: Patch, name: str, seed: int) -> None:
    """1e-5, the default, where the node says 1e-3."""
    right = Node.attribute

    def wrong(self: Node, attribute: str, default: Any = None) -> Any:
        return 1e-5 if attribute == "epsilon" else right(self, attribute, default)

    monkeypatch.setattr(Node, "attribute", wrong)
    model = built(FOLDED[name], seed)
    result = fold(model)
    assert result.changes
    assert not result.passed


@pytest.mark.parametrize("name", ["convolution", "Gemm", "Gemm, transB", "Gemm, alpha and beta"])
def test_bias_ignored(monkeypatch: Patch, name: str) -> None:
    monkeypatch.setattr(fold_batchnorm, "bias_of", lambda *a: (None, None))
    right = node_uses.values_of
    model = built(FOLDED[name])
    biases = {node.input[2] for node in model.graph.node if len(node.input) == 3}
    monkeypatch.setattr(
        fold_batchnorm,
        "values_of",
        lambda subject, scope, item: right(subject, scope, item) * (item not in biases),
    )
    result = fold(model)
    assert result.changes
    assert not result.passed


def test_groups_of_a_transposed_convolution_ignored(monkeypatch: Patch) -> None:
    """The factors of the first group for all groups."""

    def wrong(layer: Any, scale: Array, shape: tuple[int, ...]) -> Array:
        return scale[: shape[1]].reshape(1, -1, *[1] * (len(shape) - 2))

    monkeypatch.setattr(fold_batchnorm, "_spread", wrong)
    result = fold(built(FOLDED["transposed, groups"]))
    assert result.changes
    assert not result.passed


# Other people's nets.


@pytest.mark.parametrize("name", ["resnet50", "inception_v2", "shufflenet", "densenet121"])
def test_light_models_are_refused(onnx_light: Path, name: str) -> None:
    """Their weights are ConstantOfShape: folded, 100 MB would be stored."""
    path = onnx_light / f"light_{name}.onnx"
    norms = sum(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)
    result = fold(path)
    assert result.changes == ()
    reasons = [str(site.refused) for site in result.sites]
    assert all("takes no space" in reason for reason in reasons)
    assert 0 < len(reasons) <= norms


def filled_in(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The same net with random weights in place of ConstantOfShape."""
    random = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    variances = {n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization"}
    kept, made = [], []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape, name = [int(size) for size in shapes[node.input[0]]], node.output[0]
        values: Array = random.standard_normal(shape) / prod(shape[1:]) ** 0.5
        values = np.abs(values) + 0.5 if name in variances else values
        made.append(numpy_helper.from_array(values.astype(np.float32), name))
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    del filled.graph.node[:]
    filled.graph.node.extend(kept)
    filled.graph.initializer.extend(made)
    filled.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in made
    )
    return filled


def test_shufflenet_with_random_weights(onnx_light: Path) -> None:
    """Every BatchNormalization follows a convolution: the scale goes, and the shift becomes the
    bias, or goes too where there was one."""
    model = filled_in(onnx.load(onnx_light / "light_shufflenet.onnx"))
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    before = [made[node.input[0]] for node in norms]
    biases = sum(stored[node.input[2]].dims[0] for node in before if len(node.input) > 2)
    channels = sum(stored[node.input[1]].dims[0] for node in norms)
    result = fold(model, validate=False)
    assert len(result.changes) == len(norms)
    assert result.before.params - result.after.params == channels + biases
    assert not any(node.op_type == "BatchNormalization" for node in result.model.graph.node)
    given = feeds(model, 1)
    old, new = (run(m, given)[0].astype(np.float64) for m in (model, result.model))
    assert old.max() > 0.002  # not the same answer for every class
    np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-6)


def before_conv(maps: int, inputs: int, group: int = 1, **given: Any) -> onnx.ModelProto:
    """BatchNormalization of the input, then a convolution."""
    net = Net()
    side = given.pop("side", 6)
    more = [net.weight(maps)] if given.pop("bias", True) else []
    normal = batchnorm(net, net.input(inputs, side, side), inputs)
    weight = net.weight(maps, inputs // group, 3, 3)
    net.output(net.node("Conv", normal, weight, *more, group=group, **given), "n", maps, None, None)
    return net.model()


@pytest.mark.parametrize(
    "model",
    [
        before_conv(4, 3),
        before_conv(4, 3, bias=False),
        before_conv(6, 4, group=2),
        before_conv(8, 4, group=4, strides=[2, 2]),
        before_conv(4, 3, auto_pad="VALID", dilations=[2, 2]),
    ],
)
def test_folded_forward(model: onnx.ModelProto) -> None:
    result = fold(model)
    assert result.passed, result.sites
    assert [node.op_type for node in result.model.graph.node] == ["Conv"]
    onnx.checker.check_model(result.model, full_check=True)
    given = feeds(model, 3)
    for old, new in zip(run(model, given), run(result.model, given), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}])
def test_padding_is_not_folded_forward(given: dict[str, Any]) -> None:
    result = fold(before_conv(4, 3, **given))
    assert result.changes == ()
    assert "pads with zeros" in str(result.sites[0].refused)
