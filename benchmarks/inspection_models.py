"""The models that `inspection.py` measures: weights are holes in sparse files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from onnxshare.io.protobuf_wire import BYTES, varint

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
LAYERS = 100


def write_sparse(path: Path, model: onnx.ModelProto, sizes: dict[str, list[int]]) -> None:
    """Write a model with initializers of zeros, which take no room on disk."""
    heads = []
    for name, dims in sizes.items():
        count = 4
        for size in dims:
            count *= size
        head = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT).SerializeToString()
        head += varint(9 << 3 | BYTES) + varint(count)
        heads.append((varint(5 << 3 | BYTES) + varint(len(head) + count) + head, count))
    graph = model.graph.SerializeToString()
    length = len(graph) + sum(len(head) + count for head, count in heads)
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    with path.open("wb") as file:
        file.write(rest.SerializeToString() + varint(7 << 3 | BYTES) + varint(length) + graph)
        for head, count in heads:
            file.write(head)
            file.seek(count, os.SEEK_CUR)
        file.truncate(file.tell())


def resnet() -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    """ResNet-50, and the weights that the onnx wheel's copy makes by ConstantOfShape."""
    model = onnx.load(LIGHT)
    shapes = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    made = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "ConstantOfShape"}
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    kept = [t for t in model.graph.initializer if t.name not in made.values()]
    for field, items in (("node", nodes), ("initializer", kept)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(items)
    return model, {name: shapes[shape] for name, shape in made.items()}


def layers(width: int) -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    """A chain of MatMul and Relu."""
    nodes = []
    for i in range(LAYERS):
        nodes += [
            helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"m{i}"], name=f"m{i}"),
            helper.make_node("Relu", [f"m{i}"], [f"t{i + 1}"], name=f"r{i}"),
        ]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(f"t{LAYERS}", TensorProto.FLOAT, ["n", width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {f"w{i}": [width, width] for i in range(LAYERS)}


def external(path: Path, width: int) -> None:
    model, sizes = layers(width)
    offset, data = 0, path.with_suffix(".data")
    for name, dims in sizes.items():
        tensor = model.graph.initializer.add(name=name, dims=dims, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        length = 4 * dims[0] * dims[1]
        for key, value in (("location", data.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        offset += length
    path.write_bytes(model.SerializeToString())
    with data.open("wb") as file:
        file.truncate(offset)


def long_chain(path: Path, count: int) -> None:
    """So many nodes: fully connected layers of four features, as exporters write them."""
    nodes, parts = [], []
    for i in range(count // 4):
        names = [f"t{i}", f"m{i}", f"a{i}", f"r{i}", f"t{i + 1}"]
        nodes += [
            helper.make_node("MatMul", [names[0], f"w{i}"], [names[1]], name=f"matmul{i}"),
            helper.make_node("Add", [names[1], f"b{i}"], [names[2]], name=f"add{i}"),
            helper.make_node("Relu", [names[2]], [names[3]], name=f"relu{i}"),
            helper.make_node("Identity", [names[3]], [names[4]], name=f"identity{i}"),
        ]
        parts += [
            helper.make_tensor(f"w{i}", TensorProto.FLOAT, [4, 4], bytes(64), raw=True),
            helper.make_tensor(f"b{i}", TensorProto.FLOAT, [4], bytes(16), raw=True),
        ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(f"t{count // 4}", TensorProto.FLOAT, ["n", 4])],
        parts,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def main() -> None:
    """Write all models into a folder, and the lengths of chains that are requested."""
    folder = Path(sys.argv[1])
    write_sparse(folder / "resnet.onnx", *resnet())
    for size, width in (("5", 112), ("500", 1118)):
        write_sparse(folder / f"{size}.onnx", *layers(width))
    external(folder / "external500.onnx", 1118)
    external(folder / "external4.onnx", 3200)
    for count in map(int, sys.argv[2:]):
        long_chain(folder / f"{count}.onnx", count)


if __name__ == "__main__":
    main()
