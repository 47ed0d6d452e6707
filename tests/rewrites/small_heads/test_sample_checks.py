"""Warnings about samples: real images raise none, what is made up or wrongly scaled does."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.errors import SamplesError
from onnxshare.samples.input_specs import input_specs
from onnxshare.samples.samples import Samples, random_samples
from rewrites.small_heads.sample_checks import examine
from tests.rewrites.checking import run

Array = np.ndarray[Any, np.dtype[Any]]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def fitted(
    model: Path | onnx.ModelProto,
    name: str,
    images: Array,
    labels: Array | None = None,
    **more: Any,
) -> RewriteResult:
    samples = Samples({name: images.astype(np.float32)}, labels, "some.npz", False)
    options: dict[str, Any] = {"method": "gap", **more}
    return onnxshare.rewrite(model, ["fc-to-gap"], samples=samples, provider="cpu", **options)


@pytest.fixture(scope="module")
def images() -> Array:
    with np.load(Path(__file__).parents[3] / "models" / "calibration.npz") as file:
        return np.asarray(file["image"])


def gaussian(like: Array) -> Array:
    return np.asarray(np.random.default_rng(0).standard_normal(like.shape))


def uniform(like: Array) -> Array:
    return np.asarray(np.random.default_rng(0).random(like.shape))


def shuffled(like: Array) -> Array:
    flat = np.random.default_rng(0).permuted(like.reshape(len(like), -1), axis=1)
    return flat.reshape(like.shape)


def matched(like: Array) -> Array:
    return np.asarray(gaussian(like) * float(like.std()) + float(like.mean()))


#: What is made of real images, and what the warning must say.
UNLIKE: dict[str, tuple[Callable[[Array], Array], str]] = {
    "gaussian": (gaussian, "looks like noise"),
    "gaussian of the same mean and spread": (matched, "looks like noise"),
    "uniform": (uniform, "looks like noise"),
    "shuffled pixels": (shuffled, "looks like noise"),
    "copies": (lambda x: np.concatenate([x[:100], x[:100]]), "100 of 200 samples are copies"),
    "divided once too often": (lambda x: x / 255, "scaled"),
}


@pytest.mark.parametrize("count", [64, 250, 1000])
@pytest.mark.parametrize("net", ["lenet5.onnx", "vgg_small.onnx"])
def test_real_images_raise_no_warning(bundled: Path, images: Array, net: str, count: int) -> None:
    assert fitted(bundled / net, "image", images[:count]).warnings == ()


@pytest.mark.parametrize("net", ["lenet5.onnx", "vgg_small.onnx"])
@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_real_images(bundled: Path, images: Array, net: str, kind: str) -> None:
    make, said = UNLIKE[kind]
    result = fitted(bundled / net, "image", make(images[:400]))
    assert any(said in warning for warning in result.warnings), result.warnings


ZOO = {
    "mnist8_cntk.onnx": lambda x: x,
    "marabou_mnist_maxpool2.onnx": lambda x: x,
    "zkml_lenet_small.onnx": lambda x: (x / 255 - 0.1307) / 0.3081,
}


@pytest.mark.parametrize("net", ZOO)
def test_networks_and_digits_of_other_people(zoo: Path, net: str) -> None:
    with gzip.open(zoo / "data" / "mnist_5k.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", max_rows=5000, usecols=range(785))
    rows = rows[np.random.default_rng(1).permutation(5000)[:400]]
    path = zoo / "models" / net
    (given,) = input_specs(onnx.load(path))
    assert given.shape is not None
    digits = ZOO[net](rows[:, :784].reshape(-1, *(size or 1 for size in given.shape[1:])))
    assert fitted(path, given.name, digits).warnings == ()
    noise = fitted(path, given.name, matched(digits)).warnings
    assert any("looks like noise" in warning for warning in noise), noise


def test_made_up_inputs_are_refused(bundled: Path) -> None:
    proto = onnx.load(bundled / "lenet5.onnx")
    with pytest.raises(SamplesError, match="random inputs say nothing"):
        onnxshare.rewrite(proto, ["fc-to-gap"], approximate=True, samples=random_samples(proto, 64))


def test_copies_are_left_out_and_so_never_certify(images: Array) -> None:
    several = np.concatenate([images[:5], images[3:8], images[:2]])
    labels = np.arange(12)
    said: list[str] = []
    found = examine(Samples({"image": several}, labels, "some.npz"), said.append)
    np.testing.assert_array_equal(found.arrays["image"], images[:8])
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert len(said) == 1
    with pytest.raises(SamplesError, match="all 9 samples are the same"):
        examine(Samples({"image": np.zeros((9, 1, 32, 32))}, None, "some.npz"), said.append)


@pytest.mark.parametrize(
    ("shape", "noisy"),
    [
        ((3, 16, 16), True),
        ((16, 16, 3), True),
        ((16, 16), True),
        ((19, 16, 16), False),  # planes of a board or features, not an image
        ((4, 4), False),
        ((64,), False),
    ],
    ids=str,
)
def test_only_images_are_held_to_look_like_images(shape: tuple[int, ...], noisy: bool) -> None:
    said: list[str] = []
    values = np.random.default_rng(0).standard_normal((20, *shape))
    examine(Samples({"x": values}, None, "some.npz"), said.append)
    assert bool(said) == noisy


def net(weight: Array, *tail: onnx.NodeProto, output: str = "y", batchnorm: float = 0.0) -> Any:
    """A convolution, ReLU and an FC over 3×4×4 features, for images of 1×8×8."""
    random = np.random.default_rng(3)
    stored = {
        "k": random.standard_normal((3, 1, 3, 3)),
        "w": weight,
        "one": np.ones(3),
        "zero": np.zeros(3),
        "var": np.full(3, batchnorm or 1.0),
    }
    names = ["c", "n"] if batchnorm else ["n", "n"]
    nodes = [
        helper.make_node("Conv", ["x", "k"], [names[0]], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="fc", transB=1),
        *tail,
    ]
    if batchnorm:
        node = helper.make_node("BatchNormalization", ["c", "one", "zero", "zero", "var"], ["n"])
        node.name = "norm"
        nodes.insert(1, node)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", len(weight)])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def smooth(count: int) -> Array:
    """Images whose neighbouring pixels are alike."""
    rough = np.random.default_rng(4).standard_normal((count, 1, 4, 4))
    return np.asarray(rough.repeat(2, axis=2).repeat(2, axis=3))


def weights(outputs: int) -> Array:
    return np.random.default_rng(7).standard_normal((outputs, 48))


def test_few_classes_and_one_that_dominates() -> None:
    weight = weights(40)
    weight[0] += 1.2  # features are positive: class 0 wins nearly always
    result = fitted(net(weight), "x", smooth(300), keep=0.5)
    said = " ".join(result.warnings)
    assert "of 40 classes" in said
    assert "gives class 0 on" in said


def test_one_class_alone_makes_no_promise() -> None:
    weight = weights(5)
    weight[2] += 50
    result = fitted(net(weight), "x", smooth(200), keep=0.9)
    assert not result.changes
    assert "gives the same class" in str(result.sites[0].refused)


def test_an_embedding_is_no_class() -> None:
    node = helper.make_node("LpNormalization", ["y"], ["z"], axis=1, p=2)
    result = fitted(net(weights(6), node, output="z"), "x", smooth(200), keep=0.9)
    assert not result.changes
    assert "promise max_error instead" in str(result.sites[0].refused)
    node = helper.make_node("Identity", ["y"], ["embedding"])
    result = fitted(net(weights(6), node, output="embedding"), "x", smooth(200), keep=0.1)
    assert any("'embedding' sounds like" in warning for warning in result.warnings)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (255.0, True), (1 / 255, True)])
def test_statistics_of_normalization_tell_the_scale(factor: float, warned: bool) -> None:
    samples = smooth(200)
    kernel = np.random.default_rng(3).standard_normal((3, 1, 3, 3))
    variance = float((kernel**2).sum(axis=(1, 2, 3)).mean())  # about that of the convolution
    result = fitted(net(weights(6), batchnorm=variance), "x", samples * factor)
    assert any("'norm' was trained on" in item for item in result.warnings) == warned


def test_right_on_every_sample_may_mean_trained_on() -> None:
    model, images = net(weights(6)), smooth(400)
    labels = run(model, {"x": images.astype(np.float32)})[0].argmax(axis=1)
    said = fitted(model, "x", images, labels).warnings
    assert any("trained on" in item for item in said)
    labels = np.where(np.arange(400) % 50 == 0, (labels + 1) % 6, labels)  # wrong on 2 %
    assert not any("trained on" in item for item in fitted(model, "x", images, labels).warnings)


def test_warnings_go_to_stderr_and_into_the_json(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "noise.npz", image=gaussian(np.zeros((64, 1, 32, 32))))
    words = ["rewrite", bundled / "lenet5.onnx", "--fc-to-gap", "--approximate", "--dry-run"]
    ran = cli(*words, "--samples", tmp_path / "noise.npz", "--format", "json")
    assert ran.returncode == 0
    assert "warning: noise.npz: 'image' looks like noise" in ran.stderr
    assert any("looks like noise" in item for item in json.loads(ran.stdout)["warnings"])
