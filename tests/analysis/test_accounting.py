"""Every stored floating-point element is in one class of the totals, on every model there is.

The stored elements are counted here from the protobuf messages alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

import onnxshare
from tests.analysis.test_node_models import cases

FLOATING = {
    getattr(TensorProto, name)
    for name in "FLOAT FLOAT16 DOUBLE BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 "
    "FLOAT8E5M2FNUZ FLOAT4E2M1 COMPLEX64 COMPLEX128".split()
    if hasattr(TensorProto, name)
}

FLOATING_NAMES = ("float", "bfloat", "complex")

#: Attributes of classical models that hold numbers.
LEARNED = set(
    "coefficients intercepts support_vectors rho prob_a prob_b class_weights target_weights "
    "base_values nodes_values offset scale leaf_weights nodes_splits".split()
)

CLASSES = ("params", "statistics", "constants", "quantization", "unused", "other")


def tensors(nodes: list[NodeProto], known: dict[str, TensorProto]) -> Iterator[tuple[int, int]]:
    """Type and elements of what the nodes of a graph store, its subgraphs included."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from of_graph(attribute.g, known)
            elif node.op_type == "Constant" and attribute.name == "value":
                known = known | {node.output[0]: attribute.t}
                yield attribute.t.data_type, prod(attribute.t.dims)
            elif node.op_type == "Constant" and attribute.name == "sparse_value":
                sparse = attribute.sparse_tensor
                yield sparse.values.data_type, prod(sparse.dims)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                yield TensorProto.FLOAT, len(attribute.floats) if attribute.floats else 1
            elif node.op_type == "Constant" and attribute.name in ("value_int", "value_ints"):
                yield TensorProto.INT64, len(attribute.ints) if attribute.ints else 1
            elif (
                node.domain == "ai.onnx.ml" and attribute.name.removesuffix("_as_tensor") in LEARNED
            ):
                count = len(attribute.floats) or prod(attribute.t.dims)
                yield TensorProto.FLOAT, count
        if node.op_type == "ConstantOfShape" and node.input[0] in known:
            dims = numpy_helper.to_array(known[node.input[0]]).astype(np.int64)
            fill = [a.t.data_type for a in node.attribute]
            yield fill[0] if fill else TensorProto.FLOAT, prod(dims.tolist())


def of_graph(graph: GraphProto, around: dict[str, TensorProto]) -> Iterator[tuple[int, int]]:
    known = around | {tensor.name: tensor for tensor in graph.initializer}
    for tensor in graph.initializer:
        yield tensor.data_type, prod(tensor.dims)
    for sparse in graph.sparse_initializer:
        yield sparse.values.data_type, prod(sparse.dims)
    yield from tensors(list(graph.node), known)


def whole_numbers(model: onnx.ModelProto) -> int:
    """Stored whole numbers that are told in a class of the totals: what nothing reads, and zero
    points, as onnx's schemas name them. Quantized parameters are told apart."""
    stored: dict[str, tuple[int, int]] = {}
    outputs = {value.name for value in model.graph.output}
    read, zero_points = set(outputs), set()

    def look(nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            if node.op_type == "Constant":
                ((dtype, count),) = tensors([node], {})
                stored[node.output[0]] = dtype, count
            read.update(node.input)
            named = [parameter.name for parameter in inputs_of(node.op_type, node.domain)]
            for name, parameter in zip(node.input, named, strict=False):
                if "zero_point" in parameter:
                    zero_points.add(name)
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    look_into(attribute.g)

    def look_into(graph: GraphProto) -> None:
        for tensor in graph.initializer:
            stored[tensor.name] = tensor.data_type, prod(tensor.dims)
        read.update(value.name for value in graph.output)
        look(graph.node)

    look_into(model.graph)
    for function in model.functions:
        read.update(function.output)
        look(function.node)
    return sum(
        count
        for name, (dtype, count) in stored.items()
        if dtype not in FLOATING and (name not in read or name in zero_points)
    )


def inputs_of(op_type: str, domain: str) -> Sequence[Any]:
    """What onnx's schemas say of the inputs of an operator; nothing of those it does not know."""
    known = onnx.defs.has(op_type, domain=domain)
    return onnx.defs.get_schema(op_type, domain=domain).inputs if known else ()


def gap(model: onnx.ModelProto, report: onnxshare.Inspection) -> str | None:
    """What is wrong with the account of a model. Parameters that are whole numbers, as those that
    are quantized or cast, are told apart."""
    stored = list(of_graph(model.graph, {}))
    for function in model.functions:
        stored += tensors(list(function.node), {})
    floating = sum(count for dtype, count in stored if dtype in FLOATING)
    whole = whole_numbers(model)
    totals = report.totals
    told = sum(getattr(totals, name) for name in CLASSES)
    told -= sum(w.params for w in report.weights if not w.dtype.startswith(FLOATING_NAMES))
    right = told == floating + whole and totals.other == 0
    return None if right else f"{floating} + {whole}, told {told}"


@pytest.mark.parametrize("part", range(4))
def test_node_models(part: int) -> None:
    wrong, some = {}, cases()[part::4]
    for case in some:
        assert case.model is not None
        found = gap(case.model, onnxshare.inspect(case.model))
        if found:
            wrong[case.name] = found
    assert not wrong
    assert len(some) > 400


def files() -> list[Path]:
    here = Path(__file__).parents[2] / "models"
    wheel = Path(onnx.__file__).parent / "backend" / "test" / "data"
    zoo = os.environ.get("ONNXSHARE_ZOO")
    folders = [here, wheel, *([Path(zoo)] if zoo else [])]
    return [path for folder in folders for path in sorted(folder.rglob("*.onnx"))]


def test_model_files() -> None:
    wrong, read = {}, 0
    for path in files():
        try:
            report = onnxshare.inspect(path)
        except onnxshare.OnnxShareError:
            continue
        read += 1
        found = gap(onnx.load(path, load_external_data=False), report)
        if found:
            wrong[path.name] = found
    assert not wrong
    assert read > 100
