"""Weights that differ alone are found; those that something makes up for are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxshare.comparison.compare import compare
from onnxshare.comparison.weight_difference import weight_difference
from onnxshare.io.load import load
from onnxshare.runtime.limits import RunLimits
from tests.builders import model, node, random_array

Array = np.ndarray[Any, np.dtype[Any]]
Weights = dict[str, Array]

UNITS, PIXELS = 6, 4 * 3 * 3

#: Conv, a normalization, an FC behind a flatten, another one as MatMul and Add.
NODES = (
    "Conv x k kb > c",
    "BatchNormalization c scale shift mean var > n",
    "Relu n > r",
    "Flatten r > flat",
    "Gemm flat w1 b1 > h transB=1",
    "Relu h > hr",
    "MatMul hr w2 > p",
    "Add p b2 > y",
)


def weights() -> Weights:
    shapes = {
        "k": (4, 2, 3, 3),
        "kb": (4,),
        "scale": (4,),
        "shift": (4,),
        "mean": (4,),
        "var": (4,),
        "w1": (UNITS, PIXELS),
        "b1": (UNITS,),
        "w2": (UNITS, 5),
        "b2": (5,),
    }
    made = {name: random_array(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return {**made, "var": np.abs(made["var"]) + 1}


def net(lines: tuple[str, ...] = NODES, values: Weights | None = None) -> onnx.ModelProto:
    """Nodes written as `Operator inputs > outputs attribute=number`."""
    nodes = []
    for line in lines:
        left, right = line.split(" > ")
        operator, inputs = left.split(" ", 1)
        outputs = [word for word in right.split() if "=" not in word]
        given = dict(word.split("=") for word in right.split() if "=" in word)
        attributes = {k: _number(k, v) for k, v in given.items()}
        nodes.append(node(operator, inputs, " ".join(outputs), **attributes))
    stored = [numpy_helper.from_array(v, k) for k, v in (values or weights()).items()]
    return model(nodes, {"x": ["n", 2, 5, 5]}, ["y"], stored)


def _number(name: str, digits: str) -> Any:
    if name == "perm":
        return [int(digit) for digit in digits]
    return float(digits) if "." in digits else int(digits)


def other(old: str, new: str, lines: tuple[str, ...] = NODES) -> tuple[str, ...]:
    assert old in lines
    return tuple(part for line in lines for part in (new.split("; ") if line == old else [line]))


def but(**changed: Array) -> Weights:
    return {**weights(), **changed}


def less(*names: str, **changed: Array) -> Weights:
    return {name: value for name, value in but(**changed).items() if name not in names}


W = weights()
SLOPE = random_array(4, 3, 3, seed=51)
TERM = random_array(UNITS, seed=50)
FACTOR = np.array([2, 0.5, 3, 1, 1.5, 0.25], np.float32)
ORDER = np.array([3, 1, 0, 5, 4, 2])
FOLD = (W["scale"] / np.sqrt(W["var"] + 1e-5)).astype(np.float32)
KERNEL = "Conv r w1 b1 > hc; Flatten hc > h"
AS_KERNEL = W["w1"].reshape(UNITS, 4, 3, 3)
NHWC = W["w1"].reshape(UNITS, 4, 3, 3).transpose(0, 2, 3, 1).reshape(UNITS, PIXELS)
GEMM, FLAT = "Gemm flat w1 b1 > h transB=1", "Flatten r > flat"


def scaled(name: str) -> Array:
    found = W[name].copy()
    found[np.abs(found.reshape(len(found), -1)).max(axis=1).argmax()] *= np.float32(1.01)
    return found


def swapped(name: str) -> Array:
    return W[name][[1, 0, *range(2, len(W[name]))]]


INTEGERS = np.array([5, -7, 100, -128, 3, 0], np.int8)
STEP = np.array(0.03, np.float32)
LINEAR = tuple(n.replace("hr", "h") for n in NODES if n != "Relu h > hr")

QUANTIZED = other(GEMM, f"DequantizeLinear q step > b1; {GEMM}")

Make = Callable[[], onnx.ModelProto]

MADE_UP_FOR: dict[str, Make] = {
    "nothing changed": net,
    "another name": lambda: net(other(GEMM, GEMM.replace("w1", "w")), less("w1", w=W["w1"])),
    "turned": lambda: net(other(GEMM, "Gemm flat w1 b1 > h"), but(w1=W["w1"].T.copy())),
    "turned at run time": lambda: net(
        other(GEMM, f"Transpose w1 > w; {GEMM.replace('w1', 'w')}"), but(w1=W["w1"].T.copy())
    ),
    "as a kernel": lambda: net(
        other(GEMM, KERNEL, tuple(n for n in NODES if n != FLAT)), but(w1=AS_KERNEL)
    ),
    "another layout of the map": lambda: net(
        other(FLAT, "Transpose r > t perm=0231; Flatten t > flat"), but(w1=NHWC)
    ),
    "normalization folded": lambda: net(
        other(NODES[1], "Identity c > n"),
        less(
            *("scale", "shift", "mean", "var"),
            k=W["k"] * FOLD[:, None, None, None],
            kb=(W["kb"] - W["mean"]) * FOLD + W["shift"],
        ),
    ),
    "alpha folded": lambda: net(other(GEMM, f"{GEMM} alpha=0.5"), but(w1=W["w1"] * 2)),
    "a factor folded": lambda: net(
        other("Relu h > hr", "Relu h > hs; Mul hs half > hr"),
        but(half=np.array(0.5, np.float32), w2=W["w2"] * 2),
    ),
    "a sign folded": lambda: net(
        other("Relu h > hr", "Relu h > hs; Neg hs > hr"), but(w2=-W["w2"])
    ),
    "channels equalised": lambda: net(
        values=but(w1=W["w1"] * FACTOR[:, None], b1=W["b1"] * FACTOR, w2=W["w2"] / FACTOR[:, None])
    ),
    "units in another order": lambda: net(
        values=but(w1=W["w1"][ORDER], b1=W["b1"][ORDER], w2=W["w2"][ORDER])
    ),
    "variance for scale": lambda: net(
        values=but(var=W["var"] * 4 + np.float32(3e-5), scale=W["scale"] * 2)
    ),
    "a shift that a softmax takes off": lambda: net(
        (*NODES[:-1], "Add p b2 > z", "Softmax z > y"), but(b2=W["b2"] + 1)
    ),
    "a shift that a normalization takes off": lambda: net(
        (*NODES[:-1], "Add p b2 > z", "LayerNormalization z ones > y"),
        but(b2=W["b2"] + 1, ones=np.ones(5, np.float32)),
    ),
    "layers with nothing between them": lambda: net(
        LINEAR, but(w1=W["w1"] * 2, b1=W["b1"] * 2, w2=W["w2"] / 2)
    ),
    "a matrix for a matrix": lambda: net(LINEAR, but(w1=W["w1"] * 2, w2=W["w2"] / 2)),
    "a term folded": lambda: net(values=but(b1=W["b1"] + TERM)),
    "a bias dequantized beforehand": lambda: net(values=but(b1=INTEGERS * STEP)),
    "rounding, turned": lambda: net(
        other(GEMM, "Gemm flat w1 b1 > h"), but(w1=W["w1"].T * np.float32(1 + 2**-22))
    ),
    "of what no output needs": lambda: net((*NODES, "Mul h b3 > nobody"), but(b3=TERM + 1)),
    "a slope for each element of a flattened map": lambda: net(
        other("Relu n > r", "PRelu n slope > r"), but(slope=SLOPE)
    ),
    "rounding": lambda: net(values=but(w1=W["w1"] * np.float32(1 + 2**-22))),
    "rounding, as a kernel": lambda: net(
        other(GEMM, KERNEL, tuple(n for n in NODES if n != FLAT)),
        but(w1=AS_KERNEL * np.float32(1 + 2**-22)),
    ),
    "a weight of its own for each use": lambda: net(
        other("Add p b2 > y", "Add p b3 > y"), less("b2", b3=W["b2"])
    ),
    "not needed": lambda: net((*NODES, "Mul h b1 > nobody"), but()),
    "stored and unused": lambda: net(values=but(more=random_array(3, 3))),
}

ALONE: dict[str, tuple[Make, str]] = {
    "a scale of quantized weights": (
        lambda: net(QUANTIZED, less("b1", q=INTEGERS, step=STEP * np.float32(1.01))),
        "'q' differs by up to 1%",
    ),
    "a bias dequantized beforehand, and wrong": (
        lambda: net(values=but(b1=INTEGERS[::-1] * STEP)),
        "'q' ('b1' in B) holds its values in another order",
    ),
    "biases before a softmax": (
        lambda: net((*NODES[:-1], "Add p b2 > z", "Softmax z > y"), but(b2=scaled("b2"))),
        "'b2' differs",
    ),
    "with a map in another layout, as a kernel": (
        lambda: net(
            other(GEMM, KERNEL, tuple(n for n in NODES if n != FLAT)),
            but(w1=AS_KERNEL, kb=swapped("kb")),
        ),
        "'kb' holds its values in another order",
    ),
    "beside an alpha of 1": (
        lambda: net(other(GEMM, f"{GEMM} alpha=1.0"), but(b1=scaled("b1"))),
        "'b1' differs",
    ),
    "turned at run time": (
        lambda: net(
            other(GEMM, f"Transpose w1 > w; {GEMM.replace('w1', 'w')}"),
            but(w1=scaled("w1").T.copy()),
        ),
        "'w1' differs",
    ),
    "biases swapped": (lambda: net(values=but(b1=swapped("b1"))), "'b1' holds its values in"),
    "a bias": (lambda: net(values=but(b1=scaled("b1"))), "'b1' differs by up to 1%"),
    "no bias": (lambda: net(values=but(b1=W["b1"] * 0)), "'b1' differs by up to 100% of"),
    "a bias of no use before": (
        lambda: net(values=but(b1=W["b1"] * 50)),
        "'b1' differs by up to 49 times its largest value",
    ),
    "the bias of a convolution": (lambda: net(values=but(kb=swapped("kb"))), "'kb' holds"),
    "the bias of a product": (lambda: net(values=but(b2=scaled("b2"))), "'b2' differs"),
    "a row": (lambda: net(values=but(w1=scaled("w1"))), "'w1' differs by up to 1%"),
    "rows swapped": (lambda: net(values=but(w1=swapped("w1"))), "'w1' holds its values in another"),
    "rows of a product swapped": (
        lambda: net(values=but(w2=W["w2"][:, [1, 0, 2, 3, 4]])),
        "'w2' holds its values in another order",
    ),
    "kernels swapped": (lambda: net(values=but(k=swapped("k"))), "'k' holds its values"),
    "a unit": (
        lambda: net(values=but(w1=scaled("w1"), b1=scaled("b1"))),
        "'w1' differs by up to 1%",
    ),
    "a unit of a product": (
        lambda: net(values=but(w2=scaled("w2"), b2=scaled("b2"))),
        "'b2' differs",
    ),
    "as a kernel, and a bias": (
        lambda: net(
            other(GEMM, KERNEL, tuple(n for n in NODES if n != FLAT)),
            but(w1=AS_KERNEL, b1=swapped("b1")),
        ),
        "'b1' holds its values in another order",
    ),
    "a row of a kernel": (
        lambda: net(
            other(GEMM, KERNEL, tuple(n for n in NODES if n != FLAT)),
            but(w1=scaled("w1").reshape(UNITS, 4, 3, 3)),
        ),
        "'w1' differs by up to 1%",
    ),
    "a running variance": (lambda: net(values=but(var=scaled("var"))), "'var' differs"),
    "under another name": (
        lambda: net(other(GEMM, GEMM.replace("b1", "b")), less("b1", b=scaled("b1"))),
        "'b1' ('b' in B) differs by up to 1%",
    ),
}


#: Where something else than `net()` comes before.
BEFORE: dict[str, Make] = {
    "layers with nothing between them": lambda: net(LINEAR),
    "a matrix for a matrix": lambda: net(LINEAR),
    "a bias dequantized beforehand": lambda: net(QUANTIZED, less("b1", q=INTEGERS, step=STEP)),
    "a scale of quantized weights": lambda: net(QUANTIZED, less("b1", q=INTEGERS, step=STEP)),
    "a bias dequantized beforehand, and wrong": lambda: net(
        QUANTIZED, less("b1", q=INTEGERS, step=STEP)
    ),
    "a term folded": lambda: net(
        other(GEMM, f"{GEMM.replace('> h', '> g')}; Add g term > h"), but(term=TERM)
    ),
    "of what no output needs": lambda: net((*NODES, "Mul h b3 > nobody"), but(b3=TERM)),
    "a slope for each element of a flattened map": lambda: net(
        other("Relu n > r", "Transpose n > nt perm=0231; Flatten nt > nf; PRelu nf slope > r"),
        but(slope=SLOPE.transpose(1, 2, 0).reshape(-1)),
    ),
    "biases before a softmax": lambda: net((*NODES[:-1], "Add p b2 > z", "Softmax z > y")),
    "with a map in another layout, as a kernel": lambda: net(
        other(FLAT, "Transpose r > t perm=0231; Flatten t > flat"), but(w1=NHWC)
    ),
    "a shift that a softmax takes off": lambda: net((*NODES[:-1], "Add p b2 > z", "Softmax z > y")),
    "a shift that a normalization takes off": lambda: net(
        (*NODES[:-1], "Add p b2 > z", "LayerNormalization z ones > y"),
        but(ones=np.ones(5, np.float32)),
    ),
}


@pytest.mark.parametrize("name", MADE_UP_FOR)
def test_what_something_makes_up_for_is_not_told(name: str) -> None:
    before, after = BEFORE.get(name, net)(), MADE_UP_FOR[name]()
    assert weight_difference(load(before), load(after)) == ""
    assert weight_difference(load(after), load(before)) == ""


@pytest.mark.parametrize("name", ALONE)
def test_a_weight_that_differs_alone_is_told(name: str) -> None:
    before, (after, words) = BEFORE.get(name, net)(), ALONE[name]
    assert words in weight_difference(load(before), load(after()))
    assert weight_difference(load(after()), load(before))


def asleep(bias: float, reach: float) -> onnx.ModelProto:
    """A unit with a bias of its own, which reaches the outputs by so much."""
    b1, w2 = W["b1"].copy(), W["w2"].copy()
    b1[2], w2[2] = bias, w2[2] * np.float32(reach)
    return net(values=but(b1=b1, w2=w2))


@pytest.mark.parametrize(
    ("a", "b", "verdict", "words"),
    [
        pytest.param(
            asleep(-1e4, 1), asleep(-2e4, 1), "inconclusive", "no output shows it (all outputs are",
            id="a unit that no sample wakes",
        ),
        pytest.param(
            asleep(50, 1e-7), asleep(51, 1e-7), "different", "in double precision, on 6 samples",
            id="a unit that reaches the outputs by less than rounding",
        ),
        pytest.param(
            asleep(50, 1e-7), asleep(np.nextafter(np.float32(50), 51), 1e-7), "identical", "",
            id="rounding",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reverse", [False, True], ids=["", "the other way round"])
def test_outputs_that_agree_are_no_pass_where_a_weight_differs_alone(
    a: onnx.ModelProto, b: onnx.ModelProto, verdict: str, words: str, reverse: bool
) -> None:
    pair = (b, a) if reverse else (a, b)
    found = compare(*pair, provider="cpu", run_limits=RunLimits(in_process=True))
    assert (found.verdict, found.passed) == (verdict, verdict == "identical"), found.reason
    assert words in found.reason
    assert ("weight 'b1' differs by up to" in found.reason) == (verdict != "identical")
