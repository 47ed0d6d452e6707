"""Small ONNX models built by hand, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.io.load import Model
from onnxshare.io.save import save_model

Array = np.ndarray[Any, np.dtype[Any]]
Dims = Sequence[int | str | None]

_SEED = 20


def save(proto: onnx.ModelProto, path: Path, *, external: bool = False, force: bool = False) -> int:
    """Write a model whose tensors are all in memory; see `save_model`."""
    return save_model(Model(proto), path, external=external, force=force)


def random_array(*shape: int, seed: int = _SEED) -> Array:
    """Generic values: none is zero, no two are equal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(name: str, *shape: int, seed: int = _SEED) -> onnx.TensorProto:
    """An initializer of random float32 values."""
    return numpy_helper.from_array(random_array(*shape, seed=seed), name)


def constant(name: str, values: object, dtype: Any = np.int64) -> onnx.TensorProto:
    """An initializer of given values."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def info(name: str, dims: Dims | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A declared input or output; `None` for no shape at all."""
    return helper.make_tensor_value_info(name, dtype, None if dims is None else list(dims))


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are written with spaces between; `_` leaves one out."""
    return helper.make_node(
        op_type,
        [name.replace("_", "") if name == "_" else name for name in inputs.split()],
        outputs.split(),
        **{"name": f"{op_type}:{outputs.split()[0]}", **attributes},
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims] | Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model whose outputs declare no shape, so that nothing but inference can know them."""
    given = (
        [info(name, dims) for name, dims in inputs.items()]
        if isinstance(inputs, Mapping)
        else list(inputs)
    )
    results = [info(name, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "built", given, results, list(weights))
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(domain, 1) for domain in domains),
        ],
        ir_version=ir_version,
        functions=list(functions),
    )


def conv(
    data: Dims, weight: Sequence[int], *, bias: bool = True, **attributes: Any
) -> onnx.ModelProto:
    """One Conv from x to y, with weight w and bias b."""
    weights = [tensor("w", *weight)]
    if bias:
        weights.append(tensor("b", weight[0], seed=21))
    return model(
        [node("Conv", "x w b" if bias else "x w", "y", **attributes)], {"x": data}, ["y"], weights
    )


def fc(data: Dims, inputs: int, outputs: int, *, bias: bool = True) -> onnx.ModelProto:
    """Flatten and one Gemm from x to y."""
    weights = [tensor("w", inputs, outputs)]
    if bias:
        weights.append(tensor("b", outputs, seed=21))
    return model(
        [node("Flatten", "x", "flat"), node("Gemm", "flat w b" if bias else "flat w", "y")],
        {"x": data},
        ["y"],
        weights,
    )


def run(built: onnx.ModelProto, **inputs: Array) -> list[Array]:
    """What ONNX Runtime makes of a model."""
    import onnxruntime as ort

    untyped = onnx.ModelProto()
    untyped.CopyFrom(built)
    for output in untyped.graph.output:
        output.ClearField("type")  # ONNX Runtime knows better than the builder
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        untyped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(result) for result in session.run(None, inputs)]


def only(report: Inspection, op_type: str) -> NodeFacts:
    """The one node of this operator."""
    found = [facts for facts in report.nodes if facts.op_type == op_type]
    assert len(found) == 1, [facts.op_type for facts in report.nodes]
    return found[0]


def shape_of(facts: NodeFacts) -> tuple[int | str | None, ...] | None:
    """The reported shape of a node's first output."""
    return facts.outputs[0].shape


def forest(name: str, *changes: tuple[str, int, Any], scale: float = 80.0) -> onnx.ModelProto:
    """Four trees of three questions each, with (list, place, value) changed."""
    random = np.random.default_rng(3)
    places = [(tree, place) for tree in range(4) for place in range(7)]
    leaf = [place > 2 for _, place in places]
    given: dict[str, list[Any]] = {
        "nodes_treeids": [tree for tree, _ in places],
        "nodes_nodeids": [place for _, place in places],
        "nodes_featureids": [place + tree if place < 3 else 0 for tree, place in places],
        "nodes_values": [float(np.float32(v)) for v in random.uniform(-scale, scale, len(places))],
        "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf],
        "nodes_truenodeids": [2 * place + 1 if place < 3 else 0 for _, place in places],
        "nodes_falsenodeids": [2 * place + 2 if place < 3 else 0 for _, place in places],
        "target_treeids": [tree for tree, place in places if place > 2],
        "target_nodeids": [place for _, place in places if place > 2],
        "target_ids": [0 for _, place in places if place > 2],
        "target_weights": random.standard_normal(16).tolist(),
    }
    for attribute, at, value in changes:
        given[attribute][at] = value
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> '
        f"g(float[N,6] x) => (float[N,1] y) {{{name} = Identity(x)}}"
    )
    trees = node("TreeEnsembleRegressor", name, "y", domain="ai.onnx.ml", n_targets=1)
    trees.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
    proto.graph.node.append(trees)
    return proto


def forest_row(proto: onnx.ModelProto, tree: int) -> dict[str, Any]:
    """A row at the threshold of a tree's first question."""
    given = {item.name: helper.get_attribute_value(item) for item in proto.graph.node[1].attribute}
    row = np.zeros((1, 6), np.float32)
    row[0, given["nodes_featureids"][7 * tree]] = given["nodes_values"][7 * tree]
    return {"x": row}
