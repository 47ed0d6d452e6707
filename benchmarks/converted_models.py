"""How often `compare` is wrong about what converters make of models, right and with one fault.

    python benchmarks/converted_models.py [--only MODEL …] [--faults N]

Models of many kinds (`small_models.py`), as ONNX Runtime's optimizer (basic, extended and all),
onnx's version converter and, where they are installed, onnxsim and onnxslim write them. Each is
also given faults, one at a time: another operator, another attribute, a node left out, another
constant, a row of weights or of a table changed. Whether a fault has an effect is told by ONNX
Runtime without optimizations, on inputs of many kinds and sizes; faults without any are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, version_converter
from small_models import models

from onnxshare.comparison.compare import compare
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.random_samples import Guess
from onnxshare.samples.samples import random_samples

Array = np.ndarray[Any, np.dtype[Any]]
HERE = RunLimits(in_process=True)

#: Operators of the same inputs, that a converter may take for each other.
OPERATORS = {
    "Relu": "LeakyRelu", "LeakyRelu": "Relu", "Sigmoid": "HardSigmoid", "HardSigmoid": "Sigmoid",
    "Greater": "GreaterOrEqual", "MaxPool": "AveragePool", "GlobalAveragePool": "GlobalMaxPool",
    "GlobalMaxPool": "GlobalAveragePool", "Elu": "Selu", "Selu": "Elu", "Max": "Sum",
    "ReduceMean": "ReduceSum", "ReduceMax": "ReduceMean", "Softmax": "LogSoftmax",
}  # fmt: skip

#: Attributes, and another value of each.
ATTRIBUTES: dict[str, Any] = {
    "alpha": lambda v: v * 1.5, "epsilon": lambda v: v * 100, "pads": lambda v: [0] * len(v),
    "linear_before_reset": lambda v: 1 - v, "gamma": lambda v: v * 1.5,
    "nodes_values": lambda v: [1.2 * x for x in v], "class_weights": lambda v: [-x for x in v],
    "target_weights": lambda v: [-v[0], *v[1:]], "nodes_modes": lambda v: [
        b"BRANCH_LT" if x == b"BRANCH_LEQ" else x for x in v
    ],
    "coordinate_transformation_mode": lambda v: b"asymmetric", "count_include_pad": lambda v: 1 - v,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of models")
    parser.add_argument("--faults", type=int, default=8, help="of each converted model")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for name, model in models().items():
        if options.only and not any(word in name for word in options.only):
            continue
        counts["models"] += 1
        for tool, made in converted(model):
            judge(counts, f"{name}, {tool}", model, made, right=True)
            if tool == "ONNX Runtime, all":
                continue  # operators of its own, which no fault below knows
            found = 0
            for fault, spoilt in faults(made, model):
                if found < options.faults and has_effect(model, made, spoilt):
                    judge(counts, f"{name}, {tool}: {fault}", model, spoilt, right=False)
                    found += 1
    print(dict(counts))


def judge(
    counts: Counter[str], label: str, a: onnx.ModelProto, b: onnx.ModelProto, *, right: bool
) -> None:
    found = compare(a, b, provider="cpu", run_limits=HERE, budget=2)
    counts["right" if right else "wrong"] += 1
    if found.passed != right:
        counts["right refused" if right else "wrong passed"] += 1
    mark = "ok   " if found.passed == right else "WRONG"
    print(f"{mark} {label}: {found.verdict}: {found.reason[:200]}", file=sys.stderr, flush=True)


def converted(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    levels = onnxruntime.GraphOptimizationLevel
    for name in ("basic", "extended", "all"):
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{name.upper()}")
        with tempfile.TemporaryDirectory() as folder:
            settings.optimized_model_filepath = str(Path(folder, "m.onnx"))
            onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
            yield f"ONNX Runtime, {name}", onnx.load(settings.optimized_model_filepath)
    with contextlib.suppress(Exception):
        yield "opset 21", version_converter.convert_version(model, 21)
    with contextlib.suppress(Exception):
        yield "onnxsim", importlib.import_module("onnxsim").simplify(model)[0]
    with contextlib.suppress(Exception):
        yield "onnxslim", importlib.import_module("onnxslim").slim(_copy(model))


def faults(
    model: onnx.ModelProto, original: onnx.ModelProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model with one fault each, in random order."""
    random = np.random.default_rng(len(model.SerializeToString()))
    made = list(_node_faults(model)) + list(_weight_faults(model))
    for place in random.permutation(len(made)):
        yield made[place]


def _node_faults(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    outputs = {value.name for value in model.graph.output}
    for place, node in enumerate(model.graph.node):
        if (other := OPERATORS.get(node.op_type)) is not None and not node.domain:
            changed = _copy(model)
            changed.graph.node[place].op_type = other
            if other not in ("Sum", "AveragePool", "ReduceMean", "ReduceSum", "LogSoftmax"):
                del changed.graph.node[place].attribute[:]
            yield f"{node.op_type} became {other}", changed
        for index, item in enumerate(node.attribute):
            if item.name in ATTRIBUTES:
                changed = _copy(model)
                value = ATTRIBUTES[item.name](onnx.helper.get_attribute_value(item))
                new = onnx.helper.make_attribute(item.name, value)
                changed.graph.node[place].attribute[index].CopyFrom(new)
                yield f"{item.name} of {node.op_type}", changed
        unary = node.op_type in ("Relu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Neg", "Not",
                                 "Softplus", "LeakyRelu", "Max", "PRelu")  # fmt: skip
        if unary and not outputs.intersection(node.output):
            changed = _copy(model)
            for reader in changed.graph.node:
                for slot, name in enumerate(reader.input):
                    if name == node.output[0]:
                        reader.input[slot] = node.input[0]
            del changed.graph.node[place]
            yield f"{node.op_type} left out", changed


def _weight_faults(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    for place, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or not values.size:
            continue
        new = values.copy()
        if values.size == 1:
            new = (values * 1.5 + (values == 0) * 0.25).astype(values.dtype)
        elif values.ndim > 1:
            new[-1] *= np.asarray(0.5, values.dtype)
        else:
            new[0] = new[0] * 1.02 + np.asarray(0.01, values.dtype)
        changed = _copy(model)
        changed.graph.initializer[place].CopyFrom(numpy_helper.from_array(new, tensor.name))
        yield f"values of {tensor.name}", changed


def has_effect(original: onnx.ModelProto, right: onnx.ModelProto, wrong: onnx.ModelProto) -> bool:
    """Whether some output differs by over 0.1 % of the largest, and the right one's does not."""
    with contextlib.suppress(Exception):
        sessions = [_session(model) for model in (original, right, wrong)]
        for guess in (Guess(), Guess(length=13, integers=(-9, 30)), Guess(length=40)):
            given = random_samples(original, 24, 5, guess=guess).arrays
            for row in range(24):
                for scale in (1.0, -5.0, 0.02):
                    feed = {
                        name: (array[row : row + 1] * scale).astype(array.dtype)
                        if array.dtype.kind == "f"
                        else array[row : row + 1]
                        for name, array in given.items()
                    }
                    one, other, bad = (session.run(None, feed) for session in sessions)
                    if _apart(one, bad) > max(1e-3, 10 * _apart(one, other)):
                        return True
    return False


def _apart(ours: list[Array], theirs: list[Array]) -> float:
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return np.inf
        if a.dtype.kind == "f" and a.size and np.isfinite(a).all():
            gap = np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-12)
            worst = max(worst, np.inf if np.isnan(gap) else float(gap))
    return worst


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed


if __name__ == "__main__":
    main()
