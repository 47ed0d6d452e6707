from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import RuntimeFailure, SamplesError
from onnxshare.io.external_data import ExternalData
from onnxshare.io.load import Model
from onnxshare.runtime.session import Session, opened, run_model

Size = int | str | None
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[Size]],
    outputs: Sequence[str],
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def product(batch: Size) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    return model(nodes, {"x": [batch, 3]}, ["y"], {"w": WEIGHT})


def rows(count: int) -> np.ndarray[Any, np.dtype[Any]]:
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


@pytest.mark.parametrize("batch", ["n", None, 1, 4])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_any_number_of_samples_through_any_batch(batch: Size, count: int) -> None:
    x = rows(count)
    y = run_model(product(batch), {"x": x}, provider="cpu", batch=3)["y"]
    np.testing.assert_allclose(y, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


def test_internal_tensors_can_be_asked_for_and_the_model_stays_as_it_was() -> None:
    proto, x = product("n"), rows(5)
    before = proto.SerializeToString()
    results = run_model(proto, {"x": x}, outputs=["h", "y"], provider="cpu")
    assert list(results) == ["h", "y"]
    np.testing.assert_allclose(results["h"], x @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert proto.SerializeToString() == before


def test_what_is_not_needed_is_not_computed() -> None:
    # The reshape fails at run time.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    weights = {"w": WEIGHT, "shape": np.array([7, 7, 7])}
    proto, x = model(nodes, {"x": ["n", 3]}, ["y"], weights), rows(5)
    with pytest.raises(RuntimeFailure):
        run_model(proto, {"x": x}, provider="cpu")
    assert run_model(proto, {"x": x}, outputs=["h"], provider="cpu")["h"].shape == (5, 4)


def test_batches_come_one_by_one_in_order() -> None:
    x = rows(10)
    with opened(product("n"), "cpu") as session:
        parts = list(session.iter_batches({"x": x}, batch=4))
    assert [len(part["y"]) for part in parts] == [4, 4, 2]
    joined = np.concatenate([part["y"] for part in parts])
    np.testing.assert_allclose(joined, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


def test_an_output_without_a_batch_axis_is_stacked_per_run() -> None:
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    y = run_model(model([total], {"x": [2, 3]}, ["y"]), {"x": rows(6)}, provider="cpu")["y"]
    np.testing.assert_allclose(y, rows(6).reshape(3, 6).sum(axis=1), rtol=1e-5)


def test_inputs_without_a_common_batch_are_fed_whole() -> None:
    add = helper.make_node("MatMul", ["a", "b"], ["y"])
    proto = model([add], {"a": [2, 3], "b": [3, 2]}, ["y"])
    random = np.random.default_rng(1)
    a = random.standard_normal((5, 2, 3)).astype(np.float32)
    b = random.standard_normal((5, 3, 2)).astype(np.float32)
    y = run_model(proto, {"a": a, "b": b}, provider="cpu")["y"]
    np.testing.assert_allclose(y, a @ b, rtol=1e-5, atol=1e-6)


def test_a_dynamic_batch_that_a_reshape_fixes_at_one() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"shape": np.array([1, 3]), "w": WEIGHT}
    x = rows(4)
    y = run_model(model(nodes, {"x": ["n", 3]}, ["y"], weights), {"x": x}, provider="cpu")["y"]
    np.testing.assert_allclose(y, x @ WEIGHT, rtol=1e-5, atol=1e-5)


def test_initializers_among_the_inputs_need_no_feeding() -> None:
    proto = product("n")
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert run_model(proto, {"x": rows(2)}, provider="cpu")["y"].shape == (2, 4)


def test_external_data_is_found_in_the_given_folder(tmp_path: Path) -> None:
    proto = product("n")
    onnx.save(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    slim = Model(
        onnx.load(tmp_path / "m.onnx", load_external_data=False), external=ExternalData(tmp_path)
    )
    x = rows(3)
    for outputs in (None, ["h", "y"]):
        y = run_model(slim, {"x": x}, outputs, "cpu")["y"]
        np.testing.assert_allclose(y, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimise", [True, False])
def test_with_and_without_optimisation(optimise: bool) -> None:
    x = rows(3)
    y = Session(product("n"), provider="cpu", optimise=optimise).run({"x": x})["y"]
    np.testing.assert_allclose(y, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-5)


def test_failures_are_one_line() -> None:
    unknown = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": ["n", 3]}, ["y"])
    with pytest.raises(RuntimeFailure, match=r"cannot load it.*NoSuchOperator") as caught:
        Session(unknown, provider="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeFailure, match="cannot run it") as caught:
        run_model(product("n"), {"x": np.zeros((2, 5), np.float32)}, provider="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runs", [0, 1, 3, 5])
def test_a_device_that_is_lost_while_models_run(
    runs: int, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is lost, nothing is proven, and one line says why."""
    left, run = iter(range(runs)), onnxruntime.InferenceSession.run

    def once_more(self: Any, *given: Any) -> Any:
        if next(left, None) is None:
            raise RuntimeError("Device was lost\nand much more")
        return run(self, *given)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", once_more)
    path = bundled / "lenet5.onnx"
    changed = onnxshare.rewrite(path, ["fc-to-conv"], validate=False).model
    limits = onnxshare.RunLimits(in_process=True)
    found = onnxshare.compare(path, changed, provider="cpu", run_limits=limits)
    assert found.verdict == "not run"
    assert found.reason.endswith("ONNX Runtime cannot run it: Device was lost")


def test_samples_that_are_missing_or_uneven() -> None:
    proto = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": ["n"], "b": ["n"]}, ["y"])
    ones = np.ones(3, np.float32)
    with pytest.raises(SamplesError, match="no samples for input 'b'"):
        run_model(proto, {"a": ones}, provider="cpu")
    with pytest.raises(SamplesError, match="different numbers of samples"):
        run_model(proto, {"a": ones, "b": ones[:2]}, provider="cpu")
