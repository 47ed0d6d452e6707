from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.load import Model
from onnxshare.runtime import timing
from onnxshare.runtime.latency import LEAST_PAIRS
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_engine import Engine, Racer, Settings
from onnxshare.runtime.ort_weights import Weights
from onnxshare.runtime.providers import choose
from onnxshare.runtime.session import Session
from onnxshare.runtime.session_host import ChildHost, Host, LocalHost, Opened
from onnxshare.runtime.session_pair import Sessions
from onnxshare.runtime.timing import latencies
from onnxshare.samples.samples import Samples
from onnxshare.support import memory

CPU = choose("cpu")
WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8


def chain(products: int, batch: int | str = "n") -> onnx.ModelProto:
    """So many products in a row."""
    names = ["x", *(f"h{place}" for place in range(1, products)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [info("x", TensorProto.FLOAT, [batch, 64])],
        [info("y", TensorProto.FLOAT, [batch, 64])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = {"x": np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)}


@pytest.fixture(params=["here", "elsewhere"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    place: Host = LocalHost() if request.param == "here" else ChildHost(RunLimits(), CPU)
    yield place
    place.stop()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)


def racers(host: Host, *models: onnx.ModelProto) -> list[Session]:
    return [Session(model, provider=CPU, host=host, later=True, threads=1) for model in models]


@pytest.mark.usefixtures("brief")
def test_ten_times_the_work_is_slower_and_a_tenth_of_it_faster(host: Host) -> None:
    one, ten = racers(host, chain(4), chain(40))
    found = timing.measure(one, ten, X, 64)
    assert (found.result, found.batch, found.threads) == ("slower", 64, 1)
    assert found.pairs >= LEAST_PAIRS
    assert found.a is not None
    assert found.b is not None
    assert found.ratio is not None
    assert found.ratio > 2
    assert found.b > found.a
    assert timing.measure(ten, one, X, 64).result == "faster"


@pytest.mark.usefixtures("brief")
def test_each_is_opened_first_as_often_as_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    host = LocalHost()
    one, other = racers(host, chain(1), chain(2))
    sizes: list[int] = []
    start = host.open

    def enter(weights: Weights, settings: Settings) -> Opened:
        sizes.append(weights.size)
        return start(weights, settings)

    monkeypatch.setattr(host, "open", enter)
    timing.measure(one, other, X, 64)
    firsts = sizes[::2]
    assert len(sizes) == 2 * timing.ROUNDS
    assert firsts.count(min(firsts)) == firsts.count(max(firsts)) == timing.ROUNDS / 2


@pytest.mark.usefixtures("brief")
def test_batches_that_a_model_does_not_take_are_not_run(host: Host) -> None:
    free, fixed = racers(host, chain(1), chain(1, batch=4))
    found = timing.measure(free, fixed, X, 8)
    assert (found.result, found.a, found.ratio, found.ci95) == ("not run", None, None, None)
    assert found.reason == "model B takes 4 samples per run and no other number"
    assert timing.measure(free, fixed, X, 4).result != "not run"


def test_a_batch_that_would_take_all_memory_is_not_run(host: Host) -> None:
    one, other = racers(host, chain(1), chain(2))
    found = timing.measure(one, other, X, 10**9)
    assert found.result == "not run"
    assert found.reason == "a batch of 1000000000 samples takes 238 GiB, and 1 is the most"


def test_the_batch_that_a_model_fixes_is_taken_unless_another_is_asked_for() -> None:
    models = {"A": Model(chain(1)), "B": Model(chain(1, batch=4))}
    with Sessions(models, CPU) as both:
        (found,) = latencies(both, Samples(X), (), 0)
        assert (found.batch, found.result) == (4, "no difference shown")
        one, _ = latencies(both, Samples(X), (1, 4), 0)
        assert (one.batch, one.result) == (1, "not run")


def test_models_that_do_not_fit_into_memory_together_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with Sessions({"A": Model(chain(1)), "B": Model(chain(2))}, CPU) as both:
        (found,) = latencies(both, Samples(X), (), 0)
    assert found.result == "not run"
    assert "need about 4.1e-05 GB of memory" in found.reason  # 2 · 64 · 64 · 4 · 1.25


def test_who_goes_first_is_as_told_and_times_are_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def call(self: Engine, racer: Racer) -> object:
        return lambda: calls.append(racer.number)

    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(Engine, "_call", call)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(now) * 10**9)
    two = [Racer(7, [], {}), Racer(8, [], {})]
    times = Engine().race(two, np.array([[0, 1], [1, 0]]), 2)
    assert calls == [7, 7, 8, 8, 8, 8, 7, 7]
    np.testing.assert_allclose(times, 5.0)  # the clock says 10 s between its two readings


def test_measured_sessions_have_fixed_threads_that_do_not_spin() -> None:
    options = Engine()._options({}, Settings("CPUExecutionProvider", "CPU", {}, threads=3))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
