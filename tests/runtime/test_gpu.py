"""What only a GPU can show; skipped, with the reason, where CUDA does not work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.io.load import load
from onnxshare.runtime import providers
from onnxshare.runtime.providers import CUDA_OPTIONS, Provider
from onnxshare.runtime.session import run_model

pytestmark = [pytest.mark.gpu, pytest.mark.isolated]

NETWORKS = ("lenet5", "vgg_small")


@pytest.fixture(scope="module")
def cuda() -> Provider:
    _, problem = providers.probe_cuda()
    if problem:
        pytest.skip(f"CUDA does not work here: {problem}")
    return providers.choose("cuda")


def images(bundled: Path, count: int) -> dict[str, Any]:
    return {"image": np.load(bundled / "test.npz")["image"][:count]}


def single(operator: str, inputs: Sequence[str], shape: Sequence[int]) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], name="only")],
        "single",
        [info(name, TensorProto.FLOAT, shape) for name in dict.fromkeys(inputs)],
        [info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_the_label_names_the_device_and_the_driver(cuda: Provider) -> None:
    assert cuda.label.startswith("CUDA (")
    assert "driver" in cuda.label


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rewrite", ["fc-to-conv"])
def test_exact_rewrites_are_equivalent(
    cuda: Provider, bundled: Path, name: str, rewrite: str
) -> None:
    samples = bundled / "test.npz"
    result = onnxshare.rewrite(
        bundled / f"{name}.onnx", [rewrite], samples=samples, provider="cuda"
    )
    assert result.validation is not None
    assert result.validation.provider == cuda.label
    assert result.validation.verdict in ("identical", "equivalent"), result.validation.reason


@pytest.mark.parametrize("name", NETWORKS)
def test_without_tf32_the_gpu_is_as_close_to_the_cpu_as_rounding_allows(
    cuda: Provider, bundled: Path, name: str
) -> None:
    model, x = load(bundled / f"{name}.onnx"), images(bundled, 64)
    (expected,) = run_model(model, x, provider="cpu").values()
    with_tf32 = dataclasses.replace(cuda, options={**CUDA_OPTIONS, "use_tf32": "1"})
    errors = []
    for provider in (cuda, with_tf32):
        (found,) = run_model(model, x, provider=provider).values()
        errors.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    # Sums of at most 4,000 terms: √4000 roundings of 2⁻²⁴ each, and a margin of 10.
    assert errors[0] < 10 * 4000**0.5 * 2**-24
    assert errors[1] < 2e-2  # TensorFloat-32 has 10 bits of mantissa


def test_a_product_without_tf32(cuda: Provider) -> None:
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = run_model(single("MatMul", ["x", "x"], [64, 64]), {"x": x}, provider=cuda)["y"]
    # TensorFloat-32 would be wrong by about 1e-2 here.
    np.testing.assert_allclose(y, x.astype(np.float64) @ x, atol=1e-4)


def test_nodes_that_cuda_lacks_are_listed(cuda: Provider) -> None:
    model = single("Det", ["x"], [8, 4, 4])
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another"
    found = onnxshare.compare(model, other, provider="cuda")
    assert found.left_to_cpu is not None
    assert "only" in found.left_to_cpu["a"]


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_latency_of_a_rewritten_model(cuda: Provider, bundled: Path, batch: int) -> None:
    path = bundled / "vgg_small.onnx"
    result = onnxshare.rewrite(path, ["fc-to-conv"], provider="cuda")
    found = onnxshare.compare(path, result.rewritten, provider="cuda", latency=[batch])
    assert found.latency is not None
    (latency,) = found.latency
    assert latency.pairs >= 100, latency.reason
    assert latency.ratio is not None
    assert latency.ratio > 0
