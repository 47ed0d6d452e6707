"""What only a GPU provider can show, on each that works here; skipped, with the reason, where none
does. A GPU in software does: `.ci/run` brings one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import onnxshare
from benchmarks.gpu_networks import CASES, LARGE, SAMPLES, path_of, spoilt
from onnxshare.errors import OnnxShareError, RuntimeFailure
from onnxshare.io.load import load
from onnxshare.runtime import providers
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.provider_table import CUDA, CUDA_OPTIONS
from onnxshare.runtime.providers import Provider, candidates
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import read_samples

pytestmark = pytest.mark.gpu

ALL = [(place, *case) for place, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module", params=[known.title for known in candidates()])
def gpu(request: pytest.FixtureRequest) -> Provider:
    try:
        return providers.choose(request.param)
    except OnnxShareError as error:
        pytest.skip(f"{request.param} does not work here: {error.cause}")


@pytest.fixture
def cuda(gpu: Provider) -> Provider:
    if gpu.name != CUDA:
        pytest.skip("only CUDA has TensorFloat-32")
    return gpu


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


def test_the_label_names_adapter_and_driver(gpu: Provider) -> None:
    (title,) = (known.title for known in candidates() if known.name == gpu.name)
    assert gpu.label.startswith(f"{title} (")
    assert "driver" in gpu.label or gpu.name == "OpenVINOExecutionProvider"
    assert ("in software" in gpu.label or "CPU" in gpu.label) == (gpu.hardware is False)


def test_software_is_never_taken_for_hardware(gpu: Provider) -> None:
    if gpu.hardware:
        pytest.skip("this is a GPU")
    assert providers.choose("auto").name != gpu.name


@pytest.mark.parametrize(("place", "name", "rewrite"), ALL)
def test_rewrites(
    gpu: Provider, request: pytest.FixtureRequest, place: str, name: str, rewrite: str
) -> None:
    """Exact ones are equivalent, and close to the CPU; spoilt ones are never passed."""
    if name in LARGE and not gpu.hardware:
        pytest.skip("takes minutes in software: benchmarks/gpu.py has it")
    if place == "zoo":
        request.getfixturevalue("zoo")
    path = path_of(place, name)
    changed = onnxshare.rewrite(path, [rewrite], validate=False).model
    found = onnxshare.compare(path, changed, provider=gpu.name, count=SAMPLES)
    assert found.passed, found.reason
    assert found.provider == gpu.described
    assert found.cpu is not None
    assert (found.cpu.a or 0.0) < 1e-4, found.cpu
    wrong = onnxshare.compare(path, spoilt(changed), provider=gpu.name, count=SAMPLES)
    assert wrong.verdict == "different", wrong.reason


@pytest.mark.isolated
def test_a_rewrite_is_proven_as_users_prove_it(gpu: Provider, bundled: Path) -> None:
    result = onnxshare.rewrite(bundled / "lenet5.onnx", ["fc-to-conv"], provider=gpu.name)
    assert result.validation is not None
    assert result.validation.verdict in ("identical", "equivalent"), result.validation.reason
    assert result.validation.provider == gpu.described


def test_the_way_back_and_an_approximation(gpu: Provider, bundled: Path) -> None:
    path = bundled / "lenet5.onnx"
    convolution = onnxshare.rewrite(path, ["fc-to-conv"], validate=False).model
    back = onnxshare.rewrite(convolution, ["conv-to-fc"], validate=False).model
    assert onnxshare.compare(convolution, back, provider=gpu.name, count=SAMPLES).passed
    samples = bundled / "calibration.npz"
    how: dict[str, Any] = {"approximate": True, "samples": samples, "validate": False}
    small = onnxshare.rewrite(path, ["fc-to-gap"], **how).model
    some = read_samples(samples, load(path).skeleton).take(range(32))
    for changed in (small, spoilt(small)):
        here, cpu = (
            onnxshare.compare(path, changed, provider=provider, samples=some)
            for provider in (gpu.name, "cpu")
        )
        assert here.verdict == cpu.verdict, here.reason
        kept = [row.argmax_agreement for row in (*here.outputs, *cpu.outputs)]
        assert kept[0] == kept[-1]


def test_nodes_that_the_provider_lacks_are_listed(gpu: Provider) -> None:
    model = single("Det", ["x"], [8, 4, 4])
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another"
    found = onnxshare.compare(model, other, provider=gpu.name)
    assert found.left_to_cpu is not None
    assert found.left_to_cpu["a"] == ("only",) or gpu.name == "OpenVINOExecutionProvider"


def test_a_provider_that_computes_wrong(
    gpu: Provider, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models are as wrong there: that is no proof, and says why."""
    from onnxshare.comparison import cpu_difference

    def shifted(model: Any, samples: Any, **how: Any) -> Any:
        return {name: value + 1.0 for name, value in run_model(model, samples, **how).items()}

    path = bundled / "lenet5.onnx"
    changed = onnxshare.rewrite(path, ["fc-to-conv"], validate=False).model
    monkeypatch.setattr(cpu_difference, "run_model", shifted)
    found = onnxshare.compare(path, changed, provider=gpu.name, count=SAMPLES)
    assert found.verdict == "inconclusive"
    assert "this provider computes model A wrong" in found.reason


@pytest.mark.isolated
def test_limits_hold(gpu: Provider, bundled: Path) -> None:
    """A time-out is one line that names the model, and the process is gone."""
    model = load(bundled / "vgg_small.onnx")
    short = RunLimits(timeout=0.01)
    with pytest.raises(RuntimeFailure, match=r"takes longer than 0\.01 s") as caught:
        run_model(model, images(bundled, 8), provider=gpu, run_limits=short)
    assert "timeout" in caught.value.remedy


@pytest.mark.isolated
def test_more_memory_than_there_is(gpu: Provider) -> None:
    """A product of 64 GB is refused in one line, whatever the provider says about it."""
    if gpu.hardware:
        pytest.skip("a large GPU may have as much")
    outer = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> '
        "outer (float[n,1] x, float[1,m] z) => (float[n,m] y) { y = MatMul(x, z) }"
    )
    feed = {"x": np.ones((1, 2**17, 1), np.float32), "z": np.ones((1, 1, 2**17), np.float32)}
    with pytest.raises(RuntimeFailure) as caught:
        run_model(outer, feed, provider=gpu)
    assert "\n" not in str(caught.value)


def test_without_tf32_the_gpu_is_as_close_to_the_cpu_as_rounding_allows(
    cuda: Provider, bundled: Path
) -> None:
    model, x = load(bundled / "vgg_small.onnx"), images(bundled, 64)
    (expected,) = run_model(model, x, provider="cpu").values()
    with_tf32 = dataclasses.replace(cuda, options={**CUDA_OPTIONS, "use_tf32": "1"})
    errors = []
    for provider in (cuda, with_tf32):
        (found,) = run_model(model, x, provider=provider).values()
        errors.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    # Sums of at most 4,000 terms: √4000 roundings of 2⁻²⁴ each, and a margin of 10.
    assert errors[0] < 10 * 4000**0.5 * 2**-24
    assert errors[1] < 2e-2  # TensorFloat-32 has 10 bits of mantissa


def test_a_product_in_full_precision(gpu: Provider) -> None:
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = run_model(single("MatMul", ["x", "x"], [64, 64]), {"x": x}, provider=gpu)["y"]
    # TensorFloat-32 and half precision would be wrong by about 1e-2 here.
    np.testing.assert_allclose(y, x.astype(np.float64) @ x, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_latency_of_a_rewritten_model(gpu: Provider, bundled: Path, batch: int) -> None:
    if not gpu.hardware:
        pytest.skip("latency is measured on hardware only")
    path = bundled / "vgg_small.onnx"
    changed = onnxshare.rewrite(path, ["fc-to-conv"], validate=False).model
    found = onnxshare.compare(path, changed, provider=gpu.name, latency=[batch])
    assert found.latency is not None
    (latency,) = found.latency
    assert latency.pairs >= 100, latency.reason
    assert latency.ratio is not None
    assert latency.ratio > 0
