"""All models of ONNX's own node tests: none may crash, no reported size may be wrong, and of few
nodes may the work be unknown: their share stands in the summary of the test run."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from onnx.backend.test.case.test_case import TestCase

import onnxshare

_PARTS = 8

#: Tests of operators whose work is always told.
_KNOWN = ("test_conv_", "test_gemm_", "test_matmul_", "test_lstm_", "test_gru_", "test_rnn_")


#: Nodes whose MACs or uses of weights are unknown, by operator: of the grid's size, which is an
#: input there, nothing is known before a run. Take away what becomes known; add nothing.
UNKNOWN = {"AffineGrid": 4, "MatMul": 4}


@cache
def cases() -> list[TestCase]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of examples that divide by zero on purpose
        return list(collect_testcases(None))


def agrees(reported: tuple[int | str | None, ...], real: tuple[int, ...]) -> bool:
    """Whether every size that is reported as known is right."""
    return len(reported) == len(real) and all(
        size == true for size, true in zip(reported, real, strict=True) if isinstance(size, int)
    )


@cache
def inspected(position: int) -> onnxshare.Inspection:
    """The report on one of the cases."""
    return onnxshare.inspect(cases()[position].model)


def unknown_nodes() -> Counter[str]:
    """Nodes of unknown work, by operator."""
    return Counter(
        facts.op_type
        for position in range(len(cases()))
        for facts in inspected(position).nodes
        if None in (facts.macs, facts.params, facts.connections)
    )


def wrong_shapes(case: TestCase, report: onnxshare.Inspection) -> list[str]:
    assert case.model is not None
    reported = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    results = [
        (declared.name, reported.get(declared.name), result.shape)
        for _, outputs in case.data_sets or ()
        for declared, result in zip(case.model.graph.output, outputs, strict=True)
        if isinstance(result, np.ndarray)
    ]
    return [
        f"{case.name}: {name} {shape}, really {real}"
        for name, shape, real in results
        if shape is not None and not agrees(shape, real)
    ]


def test_there_are_models() -> None:
    assert len(cases()) > 1_000


@pytest.mark.parametrize("part", range(_PARTS))
def test_reported_sizes_are_real(part: int) -> None:
    wrong: list[str] = []
    for position in range(part, len(cases()), _PARTS):
        wrong += wrong_shapes(cases()[position], inspected(position))
    assert wrong == []


@pytest.mark.parametrize("prefix", _KNOWN)
def test_operators_with_weights_have_known_work(prefix: str) -> None:
    chosen = [at for at, case in enumerate(cases()) if case.name.startswith(prefix)]
    assert chosen
    unknown = [cases()[at].name for at in chosen if inspected(at).totals.macs is None]
    assert unknown == []


def test_the_work_of_all_but_a_few_nodes_is_known(
    record_property: Callable[[str, object], None],
) -> None:
    unknown = unknown_nodes()
    nodes = sum(len(inspected(position).nodes) for position in range(len(cases())))
    record_property(
        "summary",
        f"onnx's node tests: of {nodes} nodes in {len(cases())} models the work of "
        f"{unknown.total()} is unknown ({unknown.total() / nodes:.2%})",
    )
    assert unknown == UNKNOWN
