"""Double precision takes nothing back that it did not look at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison import double_precision
from onnxshare.comparison.compare import compare
from onnxshare.comparison.results import Comparison, OutputComparison, Verdict
from onnxshare.errors import RuntimeFailure
from onnxshare.io.load import load
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.samples import Samples
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]


def against(a: onnx.ModelProto, b: onnx.ModelProto, samples: Samples | None) -> Comparison:
    return compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True), samples=samples)


def product(factor: float) -> onnx.ModelProto:
    """x · w, with the first row of w times a factor."""
    weight = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    weight[0] *= np.float32(factor)
    nodes = [node("MatMul", "x w", "y")]
    return model(nodes, {"x": ["n", 16]}, ["y"], [numpy_helper.from_array(weight, "w")])


@pytest.mark.parametrize("place", [3, 5, 20, 30])
def test_the_samples_that_differ_are_among_those_it_looks_at(place: int) -> None:
    """Only one sample feeds the row that differs, and it is none of six in equal steps."""
    values = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    values[:, 0] = 0
    values[place, 0] = 1
    found = against(product(1), product(1 + 5e-5), Samples({"x": values}))
    assert found.verdict == "different", found.reason
    assert found.outputs[0].worst is not None
    assert 1 < found.outputs[0].worst < 100  # so little that double precision is asked


def by_height(step: float) -> onnx.ModelProto:
    """The mean of each channel, and `step` for each row of the image beyond 64."""
    stored: dict[str, Array] = {
        "two": np.array(2, np.int64),
        "usual": np.array(64, np.float32),
        "step": np.array(step, np.float32),
    }
    nodes = [
        node("ReduceMean", "x", "mean", axes=[2, 3], keepdims=0),
        node("Shape", "x", "sizes"),
        node("Gather", "sizes two", "height"),
        node("Cast", "height", "real", to=TensorProto.FLOAT),
        node("Sub", "real usual", "beyond"),
        node("Mul", "beyond step", "more"),
        node("Add", "mean more", "y"),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    return model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], tensors)


def test_what_differs_at_other_sizes_is_looked_at_there() -> None:
    found = against(by_height(0), by_height(1e-4), None)
    assert found.verdict == "different", found.reason
    assert found.reason.startswith("at other sizes")
    assert found.outputs[0].worst is not None
    assert 1 < found.outputs[0].worst < 100


def saturated(
    before: list[onnx.NodeProto], stored: dict[str, Array], scale: float
) -> onnx.ModelProto:
    """What some nodes make of x as "end", behind a sigmoid that sees nothing but 1."""
    tensors = {"scale": np.array(scale, np.float32), "far": np.array(1e6, np.float32), **stored}
    nodes = [
        *before,
        node("Mul", "end scale", "scaled"),
        node("Add", "scaled far", "shifted"),
        node("Sigmoid", "shifted", "y"),
    ]
    kept = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return model(nodes, {"x": ["n", 3]}, ["y"], kept)


def patient(scale: float) -> onnx.ModelProto:
    """Many steps: a moment for ONNX Runtime, many seconds for the evaluator."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "more", "again"), node("Neg", "v", "next")],
        "body",
        [
            info("step", TensorProto.INT64, []),
            info("more", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, None),
        ],
        [info("again", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["steps", "yes", "x"], ["end"], body=body)
    return saturated([loop], {"steps": np.array(200_000), "yes": np.array(True)}, scale)


def wide(scale: float) -> onnx.ModelProto:
    """A tensor that fits in float32 and not in float64."""
    nodes = [
        node("ReduceSum", "x axis", "sum"),
        node("Expand", "sum sizes", "long"),
        node("ReduceMax", "long", "most", axes=[1]),
        node("Add", "x most", "end"),
    ]
    return saturated(nodes, {"axis": np.array([1]), "sizes": np.array([1, 25_000_000])}, scale)


@pytest.mark.isolated
@pytest.mark.parametrize(
    ("make", "limits", "budget", "words"),
    [
        (patient, RunLimits(), 1.0, "takes longer than"),
        (wide, RunLimits(memory=4 * 10**8), 60.0, "needs more memory"),
    ],
)
def test_what_the_evaluator_takes_too_long_or_too_much_for_stays_undecided(
    make: Any, limits: RunLimits, budget: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    start = double_precision._judge

    def judge(*given: Any) -> Any:
        try:
            return start(*given)
        except RuntimeFailure as failure:
            failures.append(failure.cause)
            raise

    monkeypatch.setattr(double_precision, "_suits", lambda *_: True)
    monkeypatch.setattr(double_precision, "_judge", judge)
    samples = Samples({"x": np.random.default_rng(2).standard_normal((2, 3)).astype(np.float32)})
    found = compare(
        make(1), make(1 + 1e-6), provider="cpu", run_limits=limits, samples=samples, budget=budget
    )
    assert found.verdict == "inconclusive", found.reason
    assert len(failures) == 1
    assert words in failures[0]


def test_random_outputs_are_left_out_there_too() -> None:
    nodes = [node("Sigmoid", "x", "end"), node("RandomNormalLike", "x", "noise")]

    def pair(name: str) -> onnx.ModelProto:
        found = saturated(nodes, {}, 1.0)
        found.graph.node[0].name = name
        found.graph.output.append(helper.make_tensor_value_info("noise", 1, ["n", 3]))
        return found

    found = against(pair("one"), pair("another"), None)
    assert found.verdict == "equivalent", found.reason
    assert "the same nodes and weights" in found.reason
    assert "'noise' (RandomNormalLike)" in found.reason


def test_an_operator_that_the_evaluator_computes_otherwise_decides_nothing() -> None:
    """onnx's evaluator normalizes by the batch's statistics where the opset is 9 to 13."""
    random = np.random.default_rng(5)
    scale, shift = random.standard_normal((2, 2)).astype(np.float32)
    mean, variance = np.array([-0.2, -1.2], np.float32), np.array([1.4, 1.2], np.float32)
    factor = scale / np.sqrt(variance + np.float32(1e-5))

    stored = {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
    stored |= {"factor": factor, "offset": shift - mean * factor}
    end = [node("Sub", "n n", "y"), node("Identity", "n", "s")]  # y leaves the question open
    ways = (
        [node("BatchNormalization", "x scale shift mean variance", "n")],
        [node("Mul", "x factor", "m"), node("Add", "m offset", "n")],
    )
    a, b = (
        model(
            [*way, *end],
            {"x": ["n", 2]},
            ["y", "s"],
            [numpy_helper.from_array(v, k) for k, v in stored.items()],
            opset=12,
        )
        for way in ways
    )
    assert against(a, b, None).verdict in ("equivalent", "inconclusive")


@pytest.mark.parametrize(
    ("verdict", "worst", "asked"),
    [
        ("inconclusive", [None], True),
        ("inconclusive", [], False),
        ("different", [99.0], True),
        ("different", [99.0, 101.0], False),
        ("different", [2.0, None], False),
    ],
)
def test_only_small_differences_are_looked_at_again(
    verdict: str, worst: list[float | None], asked: bool
) -> None:
    rows = tuple(OutputComparison(f"y{i}", worst=value) for i, value in enumerate(worst))
    assert double_precision._worth_it(Comparison(Verdict(verdict), "", "CPU", rows)) is asked


@pytest.mark.parametrize(
    ("change", "budget", "suits"),
    [
        pytest.param("", 10.0, True, id="float32"),
        pytest.param("", 1e-9, False, id="more work than fits"),
        pytest.param("weight", 10.0, False, id="a weight in half precision"),
        pytest.param("input", 10.0, False, id="an input in half precision"),
        pytest.param("large", 10.0, False, id="large weights"),
    ],
)
def test_what_double_precision_is_asked_of(
    change: str, budget: float, suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = product(1), product(1)
    if change == "weight":
        half = np.ones((2, 2), np.float16)
        b.graph.initializer.append(numpy_helper.from_array(half, "more"))
    elif change == "input":
        b.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    elif change == "large":
        monkeypatch.setattr(double_precision, "_MOST_WEIGHTS", 4 * 16 * 8 - 1)
    assert double_precision._suits(load(a), load(b), budget, 6) is suits


@pytest.mark.parametrize(
    ("error", "movement", "largest", "plain"),
    [
        pytest.param(2.2e-16, 0.0, 0.033, False, id="nothing moves, units of rounding"),
        pytest.param(1e-9, 0.0, 0.033, True, id="nothing moves, far beyond rounding"),
        pytest.param(1e-4, 1.0, 1.0, False, id="a small share of the movement"),
        pytest.param(1e-2, 1.0, 1.0, True, id="a large share of the movement"),
        pytest.param(1e-4, 1e-3, 1e6, True, id="beside a bias of a million"),
    ],
)
def test_what_is_plainly_no_rounding(
    error: float, movement: float, largest: float, plain: bool
) -> None:
    """Units in the last place by hand: 2⁻⁵² of 0.033 is 7e-18, and 30 of them are rounding."""
    figures = {"error": error, "movement": movement, "largest": largest}
    tally: Any = SimpleNamespace(**{name: np.array([value]) for name, value in figures.items()})
    judged: Any = SimpleNamespace(excess=True, ratio=np.array([1.92]), tally=tally)
    assert double_precision._plainly([judged]) is plain
