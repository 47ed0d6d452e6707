"""The index of tensor contents: what is read, and what is found to be equal."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnxshare.graph.index import Graph
from onnxshare.io.load import load
from onnxshare.weights.index import TensorIndex, equal_groups, look_alikes
from tests.builders import Array, model, node, random_array

W = random_array(4, 6)
SCALE = np.array(0.5, np.float32)
CODES = np.arange(24, dtype=np.int8).reshape(4, 6)


def index(**weights: Array) -> TensorIndex:
    nodes: list[onnx.NodeProto] = [node("Identity", name, f"{name}.out") for name in weights]
    if "codes" in weights:
        nodes.append(node("DequantizeLinear", "codes scale", "numbers"))
    stored = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in weights.items()]
    outputs = [name for item in nodes for name in item.output]
    graph = Graph(load(model(nodes, {"x": [1]}, outputs, stored, opset=21, ir_version=10)))
    found = [graph.stored(graph.main, name) for name in weights]
    return TensorIndex(graph, [one for one in found if one is not None])


def test_groups_of_equal_and_transposed_tensors() -> None:
    tensors = index(w=W, same=W, other=W + 1, turned=W.T, reshaped=W.reshape(6, 4)).tensors
    groups = equal_groups(tensors.values())
    assert [[(one.stored.name, one.permutation) for one in group] for group in groups] == [
        [("w", None), ("same", None), ("turned", (1, 0))]
    ]


def test_ranks_above_the_highest_are_no_transposes() -> None:
    cube = random_array(2, 3, 4)
    tensors = index(cube=cube, turned=cube.transpose(2, 0, 1)).tensors
    assert len(equal_groups(tensors.values())) == 1
    assert equal_groups(tensors.values(), highest_rank=2) == []


def test_numbers_of_a_quantized_tensor() -> None:
    numbers = (CODES * SCALE).astype(np.float32)  # y = (x - 0) * scale
    found = index(codes=CODES, scale=SCALE, floats=numbers, turned=numbers.T, w=random_array(5, 6))
    names = [one.stored.name for one in found.comparable_numbers()]
    assert names == ["codes", "floats", "turned"]
    codes, floats, turned = found.comparable_numbers()
    assert codes.content == floats.content
    assert codes.permutation_to(turned) == turned.permutation_to(codes) == (1, 0)
    assert codes.permutation_to(floats) is None


def test_only_those_that_look_alike_need_to_be_read() -> None:
    far = W.copy()
    far[-1, -1] += 1  # after the first elements, off the diagonal: it may be equal
    tensors = index(w=W, far=far, turned=W.T, other=W + 1).tensors
    close = look_alikes(tensors.values())
    assert [[one.stored.name for one in group] for group in close] == [["w", "far", "turned"]]


def test_progress_counts_the_bytes_of_what_is_read() -> None:
    told: list[tuple[int, int]] = []
    found = index(w=W, v=W)
    found.tell(lambda done, total: told.append((done, total)), found.tensors.values())
    for tensor in found.tensors.values():
        assert tensor.content == tensor.content  # read once
    assert told == [(96, 192), (192, 192)]
