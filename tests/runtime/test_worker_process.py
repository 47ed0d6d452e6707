from __future__ import annotations

import errno
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.io.load import load
from onnxshare.io.tensors import Array
from onnxshare.runtime import ort_weights, session_host, session_pair, worker_process
from onnxshare.runtime.limits import RunLimits, parse_memory
from onnxshare.runtime.providers import choose
from onnxshare.runtime.session import Session, opened, run_model
from onnxshare.runtime.session_host import ChildHost
from onnxshare.support import memory
from tests.builders import save
from tests.runtime import hostile

pytestmark = pytest.mark.isolated

CPU = choose("cpu")
LIMITED = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux holds a process to a memory limit"
)
TRAPS = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps on this division"
)
X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
Make = Callable[[], onnx.ModelProto]


@dataclass(frozen=True)
class Hasty(RunLimits):
    """A second for a run, but for loading as long as a busy machine needs."""

    timeout: float | None = 1.0

    def to_load(self, weights: int) -> float:
        return 120


CASES = [
    pytest.param(hostile.crash, RunLimits(), "crashes on it (SIGFPE)", id="crash", marks=TRAPS),
    pytest.param(hostile.hang, Hasty(), "takes longer than 1 s to run it", id="hang"),
    pytest.param(hostile.gorge, RunLimits(), "needs more memory", id="at once", marks=LIMITED),
    pytest.param(
        hostile.swell, RunLimits(memory=2**29), "(0.537 GB)", id="little by little", marks=LIMITED
    ),
]


@pytest.mark.parametrize(("make", "limits", "words"), CASES)
@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_model_that_turns_on_onnx_runtime_is_not_run(
    make: Make, limits: RunLimits, words: str, letter: str
) -> None:
    pair = [hostile.harmless(), make()] if letter == "B" else [make(), hostile.harmless()]
    result = onnxshare.compare(*pair, provider="cpu", run_limits=limits)
    assert (result.verdict, result.passed) == ("not run", False)
    assert result.reason.startswith(f"model {letter}: ")
    assert words in result.reason
    assert "\n" not in result.reason


@pytest.mark.parametrize(("make", "limits", "words"), CASES)
def test_a_place_is_usable_after_a_model_died_in_it(
    make: Make, limits: RunLimits, words: str
) -> None:
    host = ChildHost(limits, CPU)
    try:
        bad = Session(make(), provider=CPU, host=host)
        for _ in range(2):  # at once, without dying again
            with pytest.raises(RuntimeFailure) as caught:
                bad.run({"x": X})
            assert words in str(caught.value)
        good = Session(hostile.harmless(), provider=CPU, host=host)
        np.testing.assert_array_equal(good.run({"x": X})["y"], X)
    finally:
        host.stop()


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every model were large."""
    monkeypatch.setattr(ort_weights, "WHOLE_BELOW", -1)
    monkeypatch.setattr(ort_weights, "SMALL", 64)


def images() -> dict[str, Array]:
    return {"x": np.random.default_rng(3).standard_normal((5, 1, 32, 32)).astype(np.float32)}


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("sends", [True, False], ids=["descriptors", "a private folder"])
@pytest.mark.parametrize("form", ["embedded", "external", "memory"])
def test_weights_reach_the_process(
    form: str,
    sends: bool,
    lenet: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_process, "_SENDS_FILES", sends)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    expected = run_model(lenet, images(), provider="cpu", run_limits=RunLimits(in_process=True))
    if form != "memory":
        save(lenet, tmp_path / "net.onnx", external=form == "external")
    model = load(lenet if form == "memory" else tmp_path / "net.onnx")
    found = run_model(model, images(), provider="cpu")
    np.testing.assert_array_equal(found["y"], expected["y"])
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.usefixtures("handed_over")
def test_a_data_file_that_is_exchanged_after_it_was_checked_is_not_read(
    lenet: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(lenet, tmp_path / "net.onnx", external=True)
    data = tmp_path / "net.onnx.data"
    (tmp_path / "secret").write_bytes(b"s" * data.stat().st_size)
    expected = run_model(lenet, images(), provider="cpu")
    hand_over = worker_process.ChildProcess._hand_over

    def exchange(self: worker_process.ChildProcess, given: Any) -> Any:
        if given:
            data.unlink()
            data.symlink_to(tmp_path / "secret")
        return hand_over(self, given)

    monkeypatch.setattr(worker_process.ChildProcess, "_hand_over", exchange)
    found = run_model(load(tmp_path / "net.onnx"), images(), provider="cpu")
    assert data.is_symlink()
    np.testing.assert_array_equal(found["y"], expected["y"])


@pytest.mark.usefixtures("handed_over")
@pytest.mark.parametrize("dtype", "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT64 BOOL".split())
def test_weights_of_every_width_reach_the_process(dtype: str, tmp_path: Path) -> None:
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
    found = run_model(load(tmp_path / "m.onnx"), {}, provider="cpu")
    np.testing.assert_array_equal(found["y"][0], values)


def test_the_process_has_telemetry_off_and_prints_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    child = worker_process.ChildProcess(None)
    try:
        with pytest.raises(RuntimeFailure, match="it cannot be handed over"):
            child.ask({"op": "nonsense"}, seconds=20, what="run")
        if sys.platform.startswith("linux"):
            environment = Path(f"/proc/{child._process.pid}/environ").read_bytes().split(b"\0")
            assert b"ORT_DISABLE_TELEMETRY=1" in environment
    finally:
        child.stop()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("handed_over")
def test_a_full_disk_is_told(lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker_process, "_write", full)
    with pytest.raises(RuntimeFailure, match="cannot be handed over: No space left") as caught:
        run_model(load(lenet), images(), provider="cpu")
    assert "free some space in" in caught.value.remedy


def test_where_there_is_no_place_for_temporary_files_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    with pytest.raises(RuntimeFailure, match="started for it: No usable temporary") as caught:
        run_model(hostile.harmless(), {"x": X}, provider="cpu")
    assert "TMPDIR" in caught.value.remedy


def test_the_peak_is_that_of_a_model_alone() -> None:
    """Told once, after its first samples, and not at all where another session was there first."""
    large = np.ones((5_000_000, 3), np.float32)
    host = ChildHost(RunLimits(), CPU)
    try:
        one = Session(hostile.harmless(), provider=CPU, host=host)
        assert host.first.peak is None
        one.run({"x": X})
        peak = host.first.peak
        assert peak is not None
        one.run({"x": large}, batch=len(large))
        assert host._child is not None
        assert host._child.peak is not None
        assert host._child.peak > peak + large.nbytes
        assert host.first.peak == peak
    finally:
        host.stop()
    two = ChildHost(RunLimits(), CPU)
    try:
        both = [Session(hostile.harmless(), provider=CPU, host=two) for _ in range(2)]
        both[0].run({"x": X})
        assert two.first.peak is None
    finally:
        two.stop()


def test_batches_stream_through_the_process_and_it_ends_with_them() -> None:
    with opened(hostile.harmless(), "cpu") as session:
        assert len(next(session.iter_batches({"x": X}, batch=3))["y"]) == 3
    with opened(hostile.harmless(), "cpu") as session:
        parts = list(session.iter_batches({"x": X}, batch=3))
    np.testing.assert_array_equal(np.concatenate([part["y"] for part in parts]), X)


@pytest.mark.parametrize("where", [RunLimits(), RunLimits(in_process=True)], ids=["apart", "here"])
def test_where_memory_is_short_one_session_is_open_at_a_time(
    where: RunLimits, lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(lenet)
    other.graph.node[0].name = "another"
    expected = onnxshare.compare(lenet, other, provider="cpu", run_limits=where)
    monkeypatch.setattr(session_pair, "_SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: 10**5)
    monkeypatch.setattr(session_host, "_allowed", lambda limits: None)
    opened: list[session_host.Host] = []
    stop = [(kind, kind.stop) for kind in (session_host.ChildHost, session_host.LocalHost)]
    start = [(kind, kind._open) for kind in (session_host.ChildHost, session_host.LocalHost)]
    for kind, real in start:

        def enter(self: Any, *given: Any, real: Any = real) -> Any:
            assert not opened
            opened.append(self)
            return real(self, *given)

        monkeypatch.setattr(kind, "_open", enter)
    for kind, real_stop in stop:

        def leave(self: Any, real_stop: Any = real_stop) -> None:
            opened[:] = [place for place in opened if place is not self]
            real_stop(self)

        monkeypatch.setattr(kind, "stop", leave)
    found = onnxshare.compare(lenet, other, provider="cpu", run_limits=where)
    assert (found.verdict, found.outputs) == (expected.verdict, expected.outputs)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("512MiB", 2**29),
        ("1.5GiB", 3 * 2**29),
        ("268435456", 2**28),
    ],
)
def test_sizes_of_memory(given: str, size: int) -> None:
    assert parse_memory(given) == size


@pytest.mark.parametrize(
    "given", ["", "x", "-1", "1ib", "1 000", "4GBs", "nan", "9" * 5000, "²GB", "٣GB", "1e9"]
)
def test_what_is_no_size_of_memory(given: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_memory(given)


def test_a_process_may_take_nine_tenths_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "can_limit", lambda: True)
    monkeypatch.setattr(memory, "available", lambda: 10**10)
    assert session_host._allowed(RunLimits()) == 9 * 10**9
    assert session_host._allowed(RunLimits(memory=2 * 10**10)) == 2 * 10**10


def test_limits_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in (0.0, -1.0, float("nan"), float("inf"), 1e12):
        with pytest.raises(UsageError, match="s is none"):
            RunLimits(timeout=seconds)
    with pytest.raises(UsageError, match="too small"):
        RunLimits(memory=1000)
    with pytest.raises(UsageError, match="need a process"):
        RunLimits(in_process=True, timeout=3)
    monkeypatch.setattr(memory, "can_limit", lambda: False)
    with pytest.raises(UsageError, match="only Linux can"):
        RunLimits(memory=2**30)


def test_time_grows_with_the_model_and_the_samples() -> None:
    limits = RunLimits()
    assert limits.to_load(0) == limits.to_run(0, 0, 0) == 60
    assert limits.to_load(2 * 10**9) == 60 + 2 * 120
    assert limits.to_run(10**9, 32, 10**7) == 60 + 120 + 32 + 20
    assert RunLimits(timeout=5).to_run(10**9, 32, 10**7) == 5
