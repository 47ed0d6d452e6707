"""For each rule a model that breaks it and a twin that does not, and the options that select it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxshare.comparison.promise import PROMISE_KEY
from tests.builders import conv, fc, model, node, random_array, tensor

#: Writes a model to a path.
Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Pair:
    """A rule's two models.

    Attributes:
        broken, twin: write them.
        options: select the rule; `{folder}` stands for the folder of the model.
        before: writes the model as it was when the baseline was written.
        fixed: whether the command that the finding gives makes it go away.
    """

    broken: Writer
    head_map: Writer
    options: tuple[str, ...]
    before: Writer | None = None
    fixed: bool = False


def saved(build: Callable[[], onnx.ModelProto]) -> Writer:
    return lambda path: onnx.save(build(), path)


def lenet() -> onnx.ModelProto:
    """Two convolutions and an FC of 61,440 weights: much as LeNet-5, in fewer lines."""
    return model(
        [
            node("Conv", "x c1", "a"),
            node("Relu", "a", "b"),
            node("Flatten", "b", "flat"),
            node("Gemm", "flat w", "y"),
        ],
        {"x": ["N", 1, 12, 12]},
        ["y"],
        [tensor("c1", 6, 1, 5, 5), tensor("w", 384, 160)],
    )


def small() -> onnx.ModelProto:
    """A convolution, 150 weights that are each used 64 times."""
    return conv(["N", 1, 12, 12], (6, 1, 5, 5), bias=False)


def uniform(*, constant: bool) -> Writer:
    """A convolution and an FC whose weights are, or are not, constant over space."""
    weight = random_array(6, 10, seed=3).repeat(64, axis=0)
    if not constant:
        weight += random_array(384, 10, seed=4)
    return saved(
        lambda: model(
            [node("Conv", "x c1", "a"), node("Flatten", "a", "flat"), node("Gemm", "flat w", "y")],
            {"x": ["N", 1, 12, 12]},
            ["y"],
            [tensor("c1", 6, 1, 5, 5), numpy_helper.from_array(weight, "w")],
        )
    )


def twice(*, equal: bool) -> Writer:
    """Two convolutions with weights of 144 KiB each."""
    return saved(
        lambda: model(
            [node("Conv", "x v", "a"), node("Conv", "a w", "y")],
            {"x": ["N", 64, 8, 8]},
            ["y"],
            [tensor("v", 64, 64, 3, 3), tensor("w", 64, 64, 3, 3, seed=20 if equal else 21)],
        )
    )


def turned(*, equal: bool) -> Writer:
    """Two products with matrices of 256 KiB each."""
    second = random_array(256, 256, seed=20).T if equal else random_array(256, 256, seed=21)
    return saved(
        lambda: model(
            [node("MatMul", "x v", "a"), node("MatMul", "a w", "y")],
            {"x": ["N", 256]},
            ["y"],
            [tensor("v", 256, 256), numpy_helper.from_array(np.ascontiguousarray(second), "w")],
        )
    )


def quantized_twin(*, equal: bool) -> Writer:
    """A matrix in 8 bits, and one of 256 KiB in floats."""
    codes = np.random.default_rng(5).integers(-128, 128, (256, 256)).astype(np.int8)
    head_map = codes.astype(np.float32) * np.float32(0.5 if equal else 0.25)
    return saved(
        lambda: model(
            [
                node("DequantizeLinear", "q scale", "v"),
                node("MatMul", "x v", "a"),
                node("MatMul", "a w", "y"),
            ],
            {"x": ["N", 256]},
            ["y"],
            [
                numpy_helper.from_array(codes, "q"),
                numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
                numpy_helper.from_array(head_map, "w"),
            ],
        )
    )


def with_reference(*, equal: bool) -> Writer:
    def write(path: Path) -> None:
        built = fc(["N", 8], 8, 4)
        onnx.save(built, path.parent / "reference.onnx.bin")
        weight = built.graph.initializer[0]
        if not equal:
            weight.CopyFrom(tensor("w", 8, 4, seed=99))
        built.producer_name = "another"  # not the same bytes
        onnx.save(built, path)

    return write


def promising(agreement_low: float | None = None, **more: float) -> Writer:
    def write(path: Path) -> None:
        built = small()
        promise = {"rewrite": "fc-to-gap", "agreement_low": agreement_low, **more}
        helper.set_model_props(built, {PROMISE_KEY: json.dumps(promise)})
        onnx.save(built, path)

    return write


def opset(version: int) -> Writer:
    return saved(lambda: model([node("Relu", "x", "y")], {"x": ["N", 3]}, ["y"], opset=version))


def foreign(domain: str) -> Writer:
    operator = "Gelu" if domain == "com.microsoft" else "Relu" if not domain else "Odd"
    return saved(
        lambda: model(
            [node(operator, "x", "y", domain=domain)],
            {"x": ["N", 3]},
            ["y"],
            domains=[domain] if domain else [],
        )
    )


def dims(name: str | None) -> Writer:
    return saved(lambda: model([node("Relu", "x", "y")], {"x": [name, 3]}, ["y"]))


def external(*, there: bool) -> Writer:
    def write(path: Path) -> None:
        onnx.save(
            fc(["N", 64], 64, 64),
            path,
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        if not there:
            (path.parent / "weights.bin").unlink()

    return write


def licensed(name: str | None) -> Writer:
    def write(path: Path) -> None:
        built = small()
        if name:
            helper.set_model_props(built, {"model_license": name})
        onnx.save(built, path)

    return write


def next_to_another(*, equal: bool) -> Writer:
    """A model and a second one: the same weights, or others; the second one stores them, too."""

    def write(path: Path) -> None:
        onnx.save(lenet(), path)
        other = lenet()
        if not equal:
            for place, item in enumerate(other.graph.initializer):
                other.graph.initializer[place].CopyFrom(tensor(item.name, *item.dims, seed=place))
        onnx.save(other, path.with_name("second.onnx"))

    return write


PAIRS: dict[str, Pair] = {
    "WS101": Pair(saved(lenet), saved(small), ("--max-fc-share", "50%")),
    "WS102": Pair(saved(lenet), saved(small), ("--min-sharing-ratio", "10")),
    "WS103": Pair(saved(lenet), saved(small), ("--select", "WS103")),
    "WS104": Pair(saved(lenet), saved(small), ("--select", "WS104"), fixed=True),
    "WS105": Pair(
        uniform(constant=True), uniform(constant=False), ("--select", "WS105"), fixed=True
    ),
    "WS106": Pair(twice(equal=True), twice(equal=False), ("--select", "WS106"), fixed=True),
    "WS107": Pair(turned(equal=True), turned(equal=False), ("--select", "WS107"), fixed=True),
    "WS108": Pair(saved(lenet), saved(small), ("--select", "WS108"), fixed=True),
    "WS109": Pair(quantized_twin(equal=True), quantized_twin(equal=False), ("--select", "WS109")),
    "WS110": Pair(
        next_to_another(equal=True),
        next_to_another(equal=False),
        ("{folder}/second.onnx", "--select", "WS110"),
    ),
    "BG201": Pair(saved(lenet), saved(small), ("--max-file-size", "100KiB")),
    "BG202": Pair(saved(lenet), saved(small), ("--max-params", "1k")),
    "BG203": Pair(saved(lenet), saved(small), ("--max-macs", "10k")),
    # 12·12 and 6·8·8 floats live at once, and twice the latter around the Relu.
    "BG204": Pair(saved(lenet), saved(small), ("--max-activation-memory", "2200B")),
    # 0.01 % of 2 GiB are 214,748 bytes.
    "BG205": Pair(saved(lenet), saved(small), ("--limit", "max-protobuf-share=0.01%"), fixed=True),
    "EQ301": Pair(
        with_reference(equal=False),
        with_reference(equal=True),
        ("--equivalent-to", "{folder}/reference.onnx.bin", "--provider", "cpu"),
    ),
    "EQ302": Pair(promising(0.97), promising(0.995), ("--min-agreement", "99%")),
    "EQ303": Pair(promising(sqnr_low=19.0), promising(sqnr_low=21.0), ("--limit", "max-error=10%")),
    "DP401": Pair(opset(18), opset(17), ("--target", "opset <= 17"), fixed=True),
    "DP402": Pair(foreign("com.microsoft"), foreign(""), ("--select", "DP402")),
    "DP403": Pair(foreign("no.such.domain"), foreign(""), ("--select", "DP403")),
    "DP404": Pair(dims(None), dims("N"), ("--select", "DP404"), fixed=True),
    "DP405": Pair(external(there=False), external(there=True), ("--select", "DP405")),
    "DP406": Pair(licensed(None), licensed("MIT"), ("--select", "DP406"), fixed=True),
    "RG501": Pair(
        saved(lenet),
        saved(small),
        ("--limit", "max-regression=1%", "--baseline", "{folder}/baseline.json"),
        before=saved(small),
    ),
}
