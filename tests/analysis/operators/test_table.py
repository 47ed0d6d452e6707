"""The table of operators itself: every row is an operator that exists, every formula is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnxshare.analysis.operators.formulas import (
    attention,
    classical_ml,
    convolutions,
    elementwise,
    matrix_products,
    microsoft_fused,
    recurrent,
    signals,
)
from onnxshare.analysis.operators.table import TABLE
from onnxshare.shapes.rules import old_opsets
from onnxshare.shapes.rules.microsoft import RULES

#: In files of before ONNX 1.0.
_ANCIENT = {("", name) for name in ("Affine", "ParametricSoftplus", "ScaledTanh")}

#: Of ONNX Runtime, what has no row: what stands in a blob that only one backend reads, block
#: floating point, and plug-ins of another runtime.
_BLOBS = {
    *(("com.microsoft", name) for name in ("EPContext", "Snpe", "QuantizeBFP", "DequantizeBFP")),
    *(
        ("", name)
        for name in (
            "DisentangledAttention_TRT",
            "GRUUnit",
            "MultilevelCropAndResize_TRT",
            "PyramidROIAlign_TRT",
        )
    ),
    ("com.ms.internal.nhwc", "QLinearConvTranspose"),
}

#: Of the standard, what has no row: it is reported as unknown.
_WITHOUT = {("ai.onnx.preview.training", "Gradient")}

FORMULAS = (
    attention,
    convolutions,
    elementwise,
    microsoft_fused,
    classical_ml,
    matrix_products,
    recurrent,
    signals,
)


def existing() -> set[tuple[str, str]]:
    """What onnx and ONNX Runtime define, in any version."""
    standard = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    contrib = {(s.domain, s.name) for s in runtime.get_all_operator_schema()}
    return standard | contrib | _ANCIENT


def test_every_row_is_an_operator() -> None:
    assert set(TABLE) - existing() == set()


def test_every_rule_for_shapes_is_an_operator() -> None:
    assert set(RULES) - existing() == set()


@pytest.mark.parametrize("opset", range(1, 8))
def test_what_onnx_knows_no_shapes_of_in_old_versions_has_rules(opset: int) -> None:
    """All operators of an opset whose version there has no inference, as onnx itself says."""
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    found = set()
    for name in names:
        try:
            schema = onnx.defs.get_schema(name, opset)
        except onnx.defs.SchemaError:
            continue
        if not schema.has_type_and_shape_inference_function and not schema.deprecated:
            found.add(("", name))
    assert set(old_opsets.rules(opset)) >= found


def test_the_whole_standard_has_rows() -> None:
    standard = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    assert standard - set(TABLE) == _WITHOUT


def test_all_of_onnx_runtime_has_rows_but_for_a_few(
    record_property: Callable[[str, object], None],
) -> None:
    """Take away from the list what becomes known; add nothing."""
    contrib = {(s.domain, s.name) for s in runtime.get_all_operator_schema()} - {
        (s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()
    }
    unknown = contrib - set(TABLE)
    record_property(
        "summary",
        f"ONNX Runtime's own operators: of {len(contrib)} the work of {len(unknown)} is not known "
        f"({len(unknown) / len(contrib):.1%})",
    )
    assert unknown <= _BLOBS


@pytest.mark.parametrize("module", FORMULAS, ids=lambda module: module.__name__.split(".")[-1])
def test_every_formula_says_what_it_is(module: ModuleType) -> None:
    functions = [
        item
        for name, item in inspect.getmembers(module, inspect.isfunction)
        if item.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert functions
    assert [item.__name__ for item in functions if not (item.__doc__ or "").strip()] == []
