"""Both models over all samples: which rows are looked at, and which tensors speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison import measure, rounding_noise, strategy
from onnxshare.comparison.measure import Measurement
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounds import Round
from onnxshare.comparison.verdict import Judged
from onnxshare.io.load import load
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.providers import choose
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Samples
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]

HERE = RunLimits(in_process=True)
WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def built(nodes: list[onnx.NodeProto], outputs: list[str], **stored: Array) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items()]
    return model(nodes, {"x": ["n", 4]}, outputs, tensors)


def judged(
    a: onnx.ModelProto, b: onnx.ModelProto, x: Array, pairs: Mapping[str, str] | None = None
) -> tuple[Measurement, dict[str, Judged]]:
    samples = Samples({"x": x.astype(np.float32)})
    models = {"A": load(a), "B": load(b)}
    with Sessions(models, choose("cpu"), HERE) as sessions:
        run = Measurement(models["A"], models["B"], samples, sessions, 0, pairs=pairs)
        found = {item.row.name: item for item in run.judge()}
    return run, found


def x_of(count: int) -> Array:
    return np.random.default_rng(1).standard_normal((count, 4))


@pytest.mark.parametrize(
    ("batch", "side", "count", "rows", "expected"),
    [
        pytest.param("n", 4, 100, "n", 32, id="32 at most"),
        pytest.param("n", 4, 5, "n", 32, id="fewer samples than a batch"),
        pytest.param("n", 2**20, 4, "n", 2, id="8 MiB at most, of 4 MiB each"),
        pytest.param("n", 2**22, 2, "n", 1, id="one at least"),
        pytest.param(8, 4, 100, 8, 8, id="whole batches, as every run is a row"),
        pytest.param(5, 4, 100, 1, 30, id="whole batches"),
        pytest.param(64, 4, 100, 1, 64, id="a batch at least"),
        pytest.param("n", 4, 32, 3, 4, id="8 rows where a run is one"),
        pytest.param("n", 4, 30, 3, 3, id="runs of one size"),
        pytest.param("n", 4, 7, 3, 1, id="few samples, a run each"),
        pytest.param("n", 4, 100, 0, 32, id="an unknown size"),
    ],
)
def test_samples_per_run(
    batch: int | str, side: int, count: int, rows: int | str, expected: int
) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Identity", "x", "y")],
        "sizes",
        [info("x", TensorProto.FLOAT, [batch, side])],
        [info("y", TensorProto.FLOAT, [rows, side])],
    )
    samples = Samples({"x": np.zeros((count, side), np.float32)})
    assert measure._batch_size(helper.make_model(graph), samples) == expected


def test_an_output_is_never_judged_by_a_tensor_that_stands_for_it() -> None:
    nodes = [node("MatMul", "x w", "logits"), node("Softmax", "logits", "y")]
    a = built(nodes, ["logits", "y"], w=WEIGHT)
    others = [
        node("MatMul", "x w", "inner"),
        node("Add", "inner one", "logits"),
        node("Softmax", "inner", "y"),
    ]
    b = built(others, ["logits", "y"], w=WEIGHT, one=np.ones(1))
    _, found = judged(a, b, x_of(16), {"logits": "inner"})
    assert {name: item.excess for name, item in found.items()} == {"logits": True, "y": False}


def test_a_tensor_inside_speaks_for_the_models_and_not_against_them() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Softmax", "h", "y")]
    a = built(nodes, ["y"], w=WEIGHT)
    shifted = [node("MatMul", "x w", "m"), node("Add", "m one", "g"), node("Softmax", "g", "y")]
    b = built(shifted, ["y"], w=WEIGHT, one=np.ones(1))
    _, wrong = judged(a, b, x_of(16), {"h": "g"})
    assert set(wrong) == {"y"}
    _, right = judged(a, b, x_of(16), {"h": "m"})
    assert right["h"].row.internal
    assert not right["h"].excess


def test_an_output_that_jumps_and_answers_to_nothing_is_no_evidence() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Mul", "h far", "s"), node("Sigmoid", "s", "y")]
    model_of = {far: built(nodes, ["y"], w=WEIGHT, far=np.array(far)) for far in (1.0, 1e7)}
    for far, live in ((1.0, 1.0), (1e7, 0.0)):
        _, found = judged(model_of[far], model_of[far], x_of(16))
        assert found["y"].tally.movement.min() > 0.2  # it moves over the samples
        assert found["y"].row.live == live


@pytest.mark.parametrize("rank", [0, 31, 32, 60, 99])
def test_rounding_that_only_one_sample_shows_is_no_difference(rank: int) -> None:
    """Its large terms cancel, so that another order of the sum leaves another small rest."""
    random = np.random.default_rng(3)
    weight = np.repeat(random.standard_normal((256, 3)), 2, axis=0).astype(np.float32)
    x = random.standard_normal((100, 512))
    order = np.random.default_rng([0, 2]).permutation(100)  # in which samples are run
    x[order[rank]] = 1e5 * np.tile([1.0, -1.0], 256)
    places = random.permutation(512)
    given: dict[str, list[int | str | None]] = {"x": ["n", 512]}
    a = model([node("MatMul", "x w", "y")], given, ["y"], [numpy_helper.from_array(weight, "w")])
    stored = [
        numpy_helper.from_array(weight[places], "w"),
        numpy_helper.from_array(places, "places"),
    ]
    nodes = [node("Gather", "x places", "turned", axis=1), node("MatMul", "turned w", "y")]
    _, found = judged(a, model(nodes, given, ["y"], stored), x)
    assert found["y"].tally.error.max() > 100 * np.finfo(np.float32).eps * 20
    assert not found["y"].excess
    wrong = weight[places].copy()
    wrong[:, 1] *= np.float32(1.01)
    stored[0] = numpy_helper.from_array(wrong, "w")
    _, found = judged(a, model(nodes, given, ["y"], stored), np.delete(x, order[rank], axis=0))
    assert found["y"].excess


def test_tensors_that_cannot_be_subtracted_are_looked_at_once() -> None:
    """A shape that differs leaves nothing to look at again."""
    nodes = [node("MatMul", "x w", "y")]
    _, found = judged(built(nodes, ["y"], w=WEIGHT), built(nodes, ["y"], w=WEIGHT[:, :2]), x_of(16))
    assert found["y"].excess
    assert found["y"].tally.problem == "has shape 16×3 in A and 16×2 in B"


@pytest.mark.parametrize("place", [0, 31, 32, 77])
def test_the_sample_that_differs_is_found_wherever_it_is(place: int) -> None:
    """Only it feeds the row of the weight that differs."""
    x = x_of(100)
    x[:, 0] = 0
    x[place, 0] = 1
    other = WEIGHT.copy()
    other[0, 1] += 1
    nodes = [node("MatMul", "x w", "y")]
    run, found = judged(built(nodes, ["y"], w=WEIGHT), built(nodes, ["y"], w=other), x)
    assert run.worst(list(found.values())) == (place,)


@pytest.mark.parametrize(
    ("passed", "expected"), [("equivalent", "again"), ("different", "first"), ("not run", "first")]
)
def test_what_goes_into_the_end_counts_only_if_it_agrees(
    passed: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Round(Comparison(Verdict(passed), "again", ""), Samples({}))
    first = Round(Comparison(Verdict.INCONCLUSIVE, "first", ""), Samples({}))
    monkeypatch.setattr(strategy, "_pairs", lambda task: {"h": "g"})
    monkeypatch.setattr(strategy, "measure", lambda *given: again)
    assert strategy._behind_the_end(None, first).found.reason == expected  # type: ignore[arg-type]


def test_the_noise_is_measured_at_the_samples_that_seem_to_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Array] = []
    real = rounding_noise.NoiseMeter.deeper

    def deeper(self: Any, inputs: Mapping[str, Array], batch: int) -> Any:
        seen.append(inputs["x"])
        return real(self, inputs, batch)

    monkeypatch.setattr(rounding_noise.NoiseMeter, "deeper", deeper)
    nodes = [node("MatMul", "x w", "y")]
    x = x_of(100)
    first, _ = judged(built(nodes, ["y"], w=WEIGHT), built(nodes, ["y"], w=WEIGHT), x)
    place = int(first._order[60])  # none of those the noise was measured on at first
    x[:, 0] = 0
    x[place, 0] = 1
    other = WEIGHT.copy()
    other[0, 1] += 1
    _, found = judged(built(nodes, ["y"], w=WEIGHT), built(nodes, ["y"], w=other), x)
    assert found["y"].excess
    assert len(seen) == 1
    assert x[place].astype(np.float32) in seen[0]
    assert len(seen[0]) <= measure.NOISE_SAMPLES
