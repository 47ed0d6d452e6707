"""Rows that are worked out on first use are what they would have been at once."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

import onnxshare
from onnxshare.analysis import inspection
from onnxshare.analysis.results import Inspection
from onnxshare.graph.index import Graph
from onnxshare.io.load import Model
from onnxshare.support.garbage_collection import paused
from tests.builders import info, model, node, tensor


def _later(path: Path) -> Inspection:
    report = onnxshare.inspect(path)
    assert not {"nodes", "weights"} & set(vars(report))
    return report


@pytest.fixture
def at_once(lenet_path: Path) -> Inspection:
    """The same report with all its rows: a ModelProto may change, so they are made at once."""
    report = onnxshare.inspect(onnx.load(lenet_path))
    assert {"nodes", "weights"} <= set(vars(report))
    return report


@pytest.mark.parametrize(
    "through",
    [
        pytest.param(lambda report: report, id="as-it-is"),
        pytest.param(lambda report: pickle.loads(pickle.dumps(report)), id="pickled"),
        pytest.param(copy.copy, id="copied"),
        pytest.param(copy.deepcopy, id="copied-deeply"),
        pytest.param(lambda report: replace(report, warnings=report.warnings), id="replaced"),
    ],
)
def test_rows_are_the_same(
    lenet_path: Path, at_once: Inspection, through: Callable[[Inspection], Inspection]
) -> None:
    report = through(_later(lenet_path))
    assert report.nodes == at_once.nodes
    assert report.weights == at_once.weights
    assert isinstance(report.nodes, tuple)
    assert report.nodes is report.nodes
    assert sum(row.params_new for row in report.nodes) == 61_706


def test_reports_of_one_file_are_equal(lenet_path: Path) -> None:
    assert _later(lenet_path) == _later(lenet_path)


def test_a_model_that_changes_afterwards_changes_no_row(lenet_path: Path) -> None:
    proto = onnx.load(lenet_path)
    report = onnxshare.inspect(proto)
    del proto.graph.node[:]
    del proto.graph.initializer[:]
    assert sum(row.params for row in report.weights) == 61_706
    assert len(report.nodes) > 5


def test_other_attributes_are_still_missing(lenet_path: Path) -> None:
    report = onnxshare.inspect(lenet_path)
    assert not hasattr(report, "layers")
    _ = report.nodes
    assert not hasattr(report, "layers")


@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    empty: dict[str, int] = {}
    try:
        with pytest.raises(KeyError), paused():
            _ = empty["missing"]
        assert gc.isenabled() is enabled
        with paused():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        assert gc.get_freeze_count() == 0
    finally:
        (gc.enable if before else gc.disable)()


def test_what_is_needed_no_more_is_freed_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ring:
        def __init__(self) -> None:
            self.me = self

    gc.collect()
    monkeypatch.setattr("onnxshare.support.garbage_collection._MOST_UNSEEN", 10)
    before = sum(isinstance(item, Ring) for item in gc.get_objects())
    with paused():
        for _ in range(100):
            Ring()
    assert before == 0
    assert not any(isinstance(item, Ring) for item in gc.get_objects())


@pytest.mark.parametrize(
    ("rows", "done"),
    [
        pytest.param((), "dropped", id="no rows, dropped"),
        pytest.param(("nodes",), "dropped", id="nodes, dropped"),
        pytest.param(("weights", "nodes"), "kept", id="all rows, kept"),
    ],
)
def test_the_index_goes_with_its_last_use_and_waits_for_no_collector(
    lenet_path: Path, rows: tuple[str, ...], done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[object]] = []

    def watched(model: Model) -> Graph:
        graph = Graph(model)
        seen.extend([weakref.ref(graph), weakref.ref(graph.main)])
        return graph

    monkeypatch.setattr(inspection, "Graph", watched)
    gc.collect()
    gc.disable()
    try:
        report: Inspection | None = _later(lenet_path)
        assert all(item() is not None for item in seen)
        for name in rows:
            assert len(getattr(report, name)) > 5
        if done == "dropped":
            report = None
        assert [item() for item in seen] == [None, None]
    finally:
        gc.enable()
    if report is not None:
        assert sum(row.params_new for row in report.nodes) == 61_706


@pytest.mark.parametrize(
    ("nodes", "outputs", "blocked"),
    [
        ([node("MatMul", "x w", "h"), node("NonZero", "h", "nz")], ["nz"], "nz"),
        ([node("Unique", "x", "u"), node("MatMul", "x w", "h")], ["u", "h"], "u"),
        ([node("MatMul", "x w", "h"), node("Compress", "h c", "kept")], ["kept"], "kept"),
        ([node("NonZero", "x", "a"), node("Cast", "a", "b", to=1)], ["b"], "a"),
    ],
)
def test_an_unknown_peak_names_the_tensor(
    nodes: list[onnx.NodeProto], outputs: list[str], blocked: str
) -> None:
    inputs = [info("x", [1, 4]), info("c", [4], TensorProto.BOOL)]
    report = onnxshare.inspect(model(nodes, inputs, outputs, [tensor("w", 4, 4)]))
    assert report.totals.peak_activation_bytes is None
    (said,) = [text for text in report.warnings if "peak of activations" in text]
    assert f"'{blocked}'" in said
