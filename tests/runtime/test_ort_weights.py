from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import ModelFileError, RuntimeFailure
from onnxshare.io.load import Model, all_tensors, load
from onnxshare.io.tensors import Array
from onnxshare.runtime import ort_engine, ort_weights
from onnxshare.runtime.ort_weights import prepare
from onnxshare.runtime.session import Session, run_model
from tests.builders import save


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every model were large."""
    monkeypatch.setattr(ort_weights, "WHOLE_BELOW", -1)
    monkeypatch.setattr(ort_weights, "SMALL", 64)


def lenet_files(lenet: onnx.ModelProto, folder: Path) -> list[Model]:
    save(lenet, folder / "embedded.onnx")
    save(lenet, folder / "external.onnx", external=True)
    return [load(folder / "embedded.onnx"), load(folder / "external.onnx"), load(lenet)]


def images() -> dict[str, Array]:
    return {"x": np.random.default_rng(3).standard_normal((5, 1, 32, 32)).astype(np.float32)}


def test_onnx_runtime_gets_no_external_data(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    for model in lenet_files(lenet, tmp_path):
        made = prepare(model, model.skeleton)
        proto = onnx.ModelProto.FromString(made.model)
        assert not made.handed_over
        assert all(t.data_location != TensorProto.EXTERNAL for t in all_tensors(proto))
        for mine, other in zip(proto.graph.initializer, lenet.graph.initializer, strict=True):
            assert mine.raw_data == other.raw_data


@pytest.mark.usefixtures("handed_over")
def test_large_weights_are_handed_over(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    large = {t.name for t in lenet.graph.initializer if len(t.raw_data) > 64}
    for model in lenet_files(lenet, tmp_path):
        made = prepare(model, model.skeleton)
        assert set(made.handed_over) == large
        assert len(made.model) < 3000
        assert made.total == sum(
            len(t.raw_data) for t in lenet.graph.initializer if t.name in large
        )
        # What stands for them names a file that no model could have named.
        for tensor in onnx.ModelProto.FromString(made.model).graph.initializer:
            if tensor.name in large:
                assert len(tensor.external_data[0].value) == 24


@pytest.mark.parametrize("limit", [2**30, 0])
@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.usefixtures("handed_over")
def test_the_results_are_the_same(
    lenet: onnx.ModelProto,
    tmp_path: Path,
    limit: int,
    optimise: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ort_engine, "RELAID_BELOW", limit)
    names = ["y", "f5"]
    with monkeypatch.context() as whole:
        whole.setattr(ort_weights, "WHOLE_BELOW", 2**30)
        expected = run_model(lenet, images(), names, "cpu")
    for model in lenet_files(lenet, tmp_path):
        session = Session(model, provider="cpu", outputs=names, optimise=optimise)
        for name, values in session.run(images()).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "dtype",
    "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64 BOOL "
    "FLOAT8E4M3FN INT4 UINT4".split(),
)
@pytest.mark.usefixtures("handed_over")
def test_types(dtype: str, tmp_path: Path) -> None:
    kind = TensorProto.DataType.Value(dtype)
    values = np.arange(400).reshape(20, 20) % 2
    stored = numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [20, 20])
    node = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "g", [], [y], [stored])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    results = run_model(load(tmp_path / "m.onnx"), {}, provider="cpu")
    np.testing.assert_array_equal(results["y"][0], values)


@pytest.mark.usefixtures("handed_over")
def test_weights_that_nothing_reads(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    for model in lenet_files(lenet, tmp_path):
        made = run_model(model, images(), ["c1"], "cpu")
        assert made["c1"].shape == (5, 6, 28, 28)


def test_weights_that_cannot_be_handed_over_and_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constant = numpy_helper.from_array(np.zeros(5000, np.float32), "k")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5000])
    node = helper.make_node("Constant", [], ["y"], value=constant)
    proto = helper.make_model(helper.make_graph([node], "g", [], [y]), ir_version=10)
    monkeypatch.setattr(ort_weights, "PROTOBUF_LIMIT", 10_000)
    with pytest.raises(RuntimeFailure, match="more than 2 GiB of weights in Constant nodes"):
        Session(proto, provider="cpu")


def test_missing_data_is_named(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    save(lenet, tmp_path / "net.onnx", external=True)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ModelFileError, match=r"'net\.onnx\.data' is missing"):
        onnxshare.compare(lenet, tmp_path / "net.onnx", provider="cpu")
