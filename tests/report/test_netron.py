"""The copy of a model's structure for viewers of graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import onnx

Cli = Callable[..., CompletedProcess[str]]


def test_nodes_carry_our_figures(cli: Cli, lenet_path: Path) -> None:
    """The second FC of LeNet-5: 84 · 120 + 84 parameters, each used once."""
    path = lenet_path.with_name("structure.onnx")
    assert cli("inspect", lenet_path, "--netron", path).returncode == 0
    copy, original = onnx.load(path, load_external_data=False), onnx.load(lenet_path)
    assert [n.op_type for n in copy.graph.node] == [n.op_type for n in original.graph.node]
    found = {n.output[0]: {p.key: p.value for p in n.metadata_props} for n in copy.graph.node}
    second = found[next(n.output[0] for n in original.graph.node if "f6.w" in n.input)]
    assert second["onnxshare.params"] == "10,164"
    assert second["onnxshare.uses_per_weight"] == "1×"
    assert second["onnxshare.macs"] == "10,080"


def test_weights_are_left_out(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    path = tmp_path / "structure.onnx"
    cli("inspect", bundled / "vgg_small.onnx", "--netron", path)
    assert path.stat().st_size < 100_000  # the model has 1.5 MB
    large = next(
        t
        for t in onnx.load(path, load_external_data=False).graph.initializer
        if len(t.dims) == 2 and t.dims[1] == 2304
    )
    assert [(entry.key, entry.value) for entry in large.external_data] == [
        ("location", "left out by onnxshare")
    ]
