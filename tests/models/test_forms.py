"""The bundled networks of other forms: one and three dimensions, two heads on one trunk. Figures by
hand from the layers that models/forms.py describes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

import onnxshare


def script(bundled: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("forms", bundled / "forms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["forms"] = module
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_script_makes(bundled: Path) -> None:
    for form in script(bundled).FORMS:
        assert onnx.load(bundled / "forms" / f"{form.__name__}.onnx") == form()


# Convolutions and FCs, each as (weights, biases, positions).
LAYERS = {
    "text_1d": [(32 * 16 * 3, 32, 40), (32 * 32 * 3, 32, 20), (320 * 64, 64, 1), (64 * 5, 5, 1)],
    "volume_3d": [
        *((8 * 27, 8, 16**3), (16 * 8 * 27, 16, 8**3)),
        *((1024 * 32, 32, 1), (32 * 4, 4, 1)),
    ],
    "policy_value": [
        *((16 * 4 * 9, 16, 81), (16 * 16 * 9, 16, 81)),
        *((2 * 16, 2, 81), (162 * 82, 82, 1)),
        *((16, 1, 81), (81 * 32, 32, 1), (32, 1, 1)),
    ],
}


@pytest.mark.parametrize("name", LAYERS)
def test_figures(name: str, bundled: Path) -> None:
    totals = onnxshare.inspect(bundled / "forms" / f"{name}.onnx").totals
    layers = LAYERS[name]
    assert totals.weight_layers == len(layers)
    assert totals.params == sum(weights + biases for weights, biases, _ in layers)
    assert totals.macs == sum(weights * positions for weights, _, positions in layers)
    assert totals.connections == sum((w + b) * positions for w, b, positions in layers)
    assert f"{totals.params:,}" in (bundled / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        pytest.param("text_1d", [((32, (10,)), [(320, 64), (64, 5)])], id="text_1d"),
        pytest.param("volume_3d", [((16, (4, 4, 4)), [(1024, 32), (32, 4)])], id="volume_3d"),
        pytest.param(
            "policy_value",
            [((2, (9, 9)), [(162, 82)]), ((1, (9, 9)), [(81, 32), (32, 1)])],
            id="policy_value",
        ),
    ],
)
def test_heads(
    name: str,
    heads: list[tuple[tuple[int, tuple[int, ...]], list[tuple[int, int]]]],
    bundled: Path,
) -> None:
    """Each head is found, and becomes convolutions of the same weights, exactly."""
    path = bundled / "forms" / f"{name}.onnx"
    report = onnxshare.inspect(path)
    assert [
        ((head.channels, head.spatial), [(fc.in_features, fc.out_features) for fc in head.fcs])
        for head in report.heads
    ] == heads
    result = onnxshare.rewrite(path, ["fc-to-conv"], provider="cpu")
    after = onnxshare.inspect(result.model).totals
    assert (after.params, after.fc_params) == (report.totals.params, 0)
    assert result.validation is not None
    assert result.validation.verdict in ("identical", "equivalent")
