"""All models of ONNX's own node tests: none may crash, and no reported size may be wrong."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from onnx.backend.test.case.test_case import TestCase

import onnxshare

_PARTS = 8

#: Tests of operators whose work is always told.
_KNOWN = ("test_conv_", "test_gemm_", "test_matmul_", "test_lstm_", "test_gru_", "test_rnn_")


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


def wrong_shapes(case: TestCase) -> list[str]:
    assert case.model is not None
    report = onnxshare.inspect(case.model)
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
    for case in cases()[part::_PARTS]:
        wrong += wrong_shapes(case)
    assert wrong == []


@pytest.mark.parametrize("prefix", _KNOWN)
def test_operators_with_weights_have_known_work(prefix: str) -> None:
    chosen = [case for case in cases() if case.name.startswith(prefix)]
    assert chosen
    unknown = [case.name for case in chosen if onnxshare.inspect(case.model).totals.macs is None]
    assert unknown == []
