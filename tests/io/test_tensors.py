"""Every element type that onnx knows is read as onnx reads it, small and left in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.load import load
from onnxshare.io.save import save_model

TYPES = [name for name, _ in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")]


@pytest.mark.parametrize("count", [5, 300_001], ids=["small", "left in the file"])
@pytest.mark.parametrize("name", TYPES)
def test_values_and_the_file_are_as_onnx_has_them(name: str, count: int, tmp_path: Path) -> None:
    dtype = TensorProto.DataType.Value(name)
    values = (np.arange(count) % 2).astype(helper.tensor_dtype_to_np_dtype(dtype))
    stored = numpy_helper.from_array(values, "w")
    assert stored.data_type == dtype
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "types",
        [],
        [helper.make_tensor_value_info("y", dtype, [count])],
        [stored],
    )
    opset = helper.make_opsetid("", onnx.defs.onnx_opset_version())
    path, copy = tmp_path / "types.onnx", tmp_path / "copy.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[opset]).SerializeToString())
    model = load(path)
    assert len(model.payloads or ()) == (count > 5)
    read = model.read(model.skeleton.graph.initializer[0])
    assert read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()
    save_model(model, copy)
    assert copy.read_bytes() == path.read_bytes()
