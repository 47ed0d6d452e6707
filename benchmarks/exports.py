"""Quantized and half-precision exports of the bundled networks, right and corrupted.

    python benchmarks/exports.py

Each network as ONNX Runtime's quantizer writes it (weights alone, and QDQ calibrated on the
calibration images) and in float16, and each of these with one fault, compared with the original on
the 2,000 labelled images: `compare --keep 99%`. Beside the verdict stands what NumPy counts.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from onnxshare.comparison.compare import compare
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import Samples

Array = np.ndarray[Any, np.dtype[Any]]
MODELS = Path(__file__).resolve().parents[1] / "models"
HERE = RunLimits(in_process=True)

CLASSES = 10

#: Networks of Fashion-MNIST.
NETWORKS = ("lenet5", "vgg_small", "gap_net")


def main() -> None:
    images = np.load(MODELS / "test.npz")["image"]
    print("| network | export | same class | verdict | fault | same class | verdict |")
    print("|---|---|---:|---|---|---:|---|")
    for name in NETWORKS:
        original = onnx.load(MODELS / f"{name}.onnx")
        for kind, make in EXPORTS.items():
            export = make(original)
            cells = [name, kind, *judged(original, export, images)]
            for fault, spoilt in faults(export):
                print(f"| {' | '.join([*cells, fault, *judged(original, spoilt, images)])} |")
                cells = ["", "", "", ""]
                sys.stdout.flush()


def judged(a: onnx.ModelProto, b: onnx.ModelProto, images: Array) -> list[str]:
    """The share of images whose class stays, and the verdict."""
    found = compare(a, b, samples=samples(images), keep=0.99, provider="cpu", run_limits=HERE)
    return [f"{agreement(a, b, images):.2%}", str(found.verdict)]


def samples(images: Array) -> Samples:
    return Samples({"image": images}, None, "the labelled images")


def agreement(a: onnx.ModelProto, b: onnx.ModelProto, images: Array) -> float:
    """The share of images whose class stays."""
    classes = []
    for model in (a, b):
        kind = model.graph.input[0].type.tensor_type.elem_type
        given = {"image": images.astype(helper.tensor_dtype_to_np_dtype(kind))}
        found = run_model(model, given, provider="cpu", run_limits=HERE)
        classes.append(next(iter(found.values())).argmax(axis=1))
    return float((classes[0] == classes[1]).mean())


def dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in 8 bits, and data quantized as it comes."""
    return _written(model, partial(quantization.quantize_dynamic, per_channel=True))


def static(model: onnx.ModelProto) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear around the layers between the first and the last, one
    scale per channel of weights, calibrated on 300 images."""
    reader = _Reader(np.load(MODELS / "calibration.npz")["image"][:300])
    kind = quantization.QuantType.QUInt8

    def write(source: Path, target: Path) -> None:
        given: dict[str, Any] = {"per_channel": True, "activation_type": kind}
        given["nodes_to_exclude"] = _ends(model)
        quantization.quantize_static(source, target, reader, **given)

    return _written(model, write)


def _ends(model: onnx.ModelProto) -> list[str]:
    """The first and the last layer, which lose most in 8 bits."""
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    return [layers[0], layers[-1]]


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands images over one by one."""

    def __init__(self, images: Array) -> None:
        self._rows = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {"image": row[None]}


def _written(model: onnx.ModelProto, write: Callable[[Path, Path], None]) -> onnx.ModelProto:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        del plain.graph.value_info[:]  # which the quantizer's own changes contradict
        onnx.save(plain, source)
        write(source, target)
        return onnx.load(target)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything in float16, the inputs and outputs too."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del made.graph.value_info[:]
    return made


EXPORTS = {"int8, dynamic": dynamic, "int8, QDQ": static, "float16": half}


def faults(export: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """An export with one fault each: weights of few steps, classes exchanged, a layer too weak."""
    tensors = list(enumerate(export.graph.initializer))
    places = [place for place, tensor in tensors if len(tensor.dims) > 1]
    last = [place for place in places if CLASSES in tensors[place][1].dims][-1]
    for words, which, change in (
        ("all weights of the first layer +1 or -1", places[0], _signs),
        ("two classes exchanged", last, _exchanged),
        ("half of the last layer's inputs lost", last, _lost),
    ):
        made = onnx.ModelProto()
        made.CopyFrom(export)
        tensor = made.graph.initializer[which]
        values = change(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        yield words, made


def _middle(values: Array) -> Array:
    """The number that stands for 0: of unsigned integers, the middle."""
    return np.asarray(128 if values.dtype == np.uint8 else 0).astype(values.dtype)


def _signs(values: Array) -> Array:
    wide = values.astype(np.float32) - float(_middle(values))
    size = np.abs(wide).mean()
    return (np.sign(wide) * size + float(_middle(values))).astype(values.dtype)


def _exchanged(values: Array) -> Array:
    axis = values.shape.index(CLASSES)
    order = np.arange(CLASSES)
    order[[0, 6]] = order[[6, 0]]
    return np.ascontiguousarray(np.take(values, order, axis))


def _lost(values: Array) -> Array:
    axis = 1 - values.shape.index(CLASSES) if values.ndim == 2 else 1
    changed = np.moveaxis(values.copy(), axis, 0)
    changed[::2] = _middle(values)
    return np.ascontiguousarray(np.moveaxis(changed, 0, axis))


if __name__ == "__main__":
    main()
