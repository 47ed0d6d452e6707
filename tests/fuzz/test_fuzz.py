"""Damaged models never crash, hang, or take much memory; ONNXSHARE_FUZZ=20000 tries that many."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.builders import info, model, node
from tests.fuzz import campaign
from tests.fuzz.mutations import mutants, places

#: Larger models are left out: the same damage to a smaller one shows as much and takes less time.
LARGEST = 1_500_000

CASES = int(os.environ.get("ONNXSHARE_FUZZ", "400"))
SEED = int(os.environ.get("ONNXSHARE_FUZZ_SEED", "1"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


def seeds() -> list[tuple[str, bytes]]:
    """Real models: those that this project brings, some of the onnx wheel's, and the zoo's."""
    root = Path(__file__).resolve().parents[2]
    wheel = Path(onnx.__file__).parent / "backend" / "test" / "data"
    found = [*(root / "models").glob("*.onnx")]
    found += [*wheel.glob("simple/*/model.onnx"), *wheel.glob("light/*.onnx")]
    found += [*wheel.glob("pytorch-operator/*/model.onnx")]
    found += [*wheel.glob("pytorch-converted/*/model.onnx")][::4]
    if zoo := os.environ.get("ONNXSHARE_ZOO"):
        found += Path(zoo).glob("models/*.onnx")
    small = sorted(path for path in found if path.stat().st_size <= LARGEST)
    named = [(f"{path.parent.name}/{path.name}", path.read_bytes()) for path in small]
    return [*named, ("shapes", _computes_shapes()), ("functions", _calls_functions())]


def _computes_shapes() -> bytes:
    """What exporters write for a Reshape of unknown sizes, in a branch."""
    inner = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n minus", "t", axis=0),
        node("Range", "first last step", "r"),
        node("Expand", "r t", "e"),
        node("Reshape", "x t", "o"),
    ]
    numbers = {"zero": [0], "one": [1], "minus": [-1]}
    scalars = {"first": 0, "last": 4, "step": 1}
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], v) for n, v in numbers.items()]
    constants += [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in scalars.items()]
    branch = helper.make_graph(inner, "inner", [], [info("o", None)], constants)
    other = helper.make_graph([node("Relu", "x", "p")], "other", [], [info("p", None)])
    built = model(
        [node("If", "c", "y", then_branch=branch, else_branch=other)],
        [info("x", ["n", 2, 3]), info("c", [], TensorProto.BOOL)],
        ["y"],
    )
    return built.SerializeToString()


def _calls_functions() -> bytes:
    built = model(
        [helper.make_node("twice", ["x"], ["h"], domain="f"), node("Relu", "h", "y")],
        {"x": ["n", 4]},
        ["y"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    once = helper.make_function("f", "once", ["a"], ["b"], [node("Abs", "a", "b")], opsets)
    calls = [helper.make_node("once", [a], [b], domain="f") for a, b in ("ab", "bc")]
    built.functions.extend([once, helper.make_function("f", "twice", ["a"], ["c"], calls, opsets)])
    built.opset_import.append(helper.make_opsetid("f", 1))
    return built.SerializeToString()


def test_whole_models_are_read() -> None:
    """Else nothing below would be tested."""
    worker = campaign.Worker()
    ends = {name: worker.ask(data)["end"] for name, data in seeds()}
    worker.stop()
    assert set(ends.values()) == {"read"}, ends
    assert len(ends) > 30


def test_damage_is_what_it_seems() -> None:
    data = _computes_shapes()
    kinds = {place.kind for place in places(data)}
    assert {"graph", "node", "attribute", "tensor", "value", "dim"} <= kinds
    damaged = [bytes for _, (_, bytes) in zip(range(100), mutants(data, 3), strict=False)]
    assert sum(other != data for other in damaged) > 90
    again = [bytes for _, (_, bytes) in zip(range(100), mutants(data, 3), strict=False)]
    assert damaged == again


def test_a_worker_that_dies_or_hangs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = campaign.Worker()
    monkeypatch.setattr(campaign, "TIME_OUT", 0.001)
    assert worker.ask(_calls_functions())["details"] == "hang"
    worker.stop()


def test_damaged_models_are_read_or_refused() -> None:
    outcome = campaign.run(seeds(), CASES, seed=SEED)
    print(
        f"\n{outcome.cases} cases, seed {SEED}: {dict(outcome.ends)}, "
        f"slowest {outcome.slowest[0]:.1f} s ({outcome.slowest[1]}), "
        f"peak {outcome.largest[0] / 1024:.0f} MiB ({outcome.largest[1]})"
    )
    if keep := os.environ.get("ONNXSHARE_FUZZ_KEEP"):
        Path(keep, f"{SEED}-slowest.onnx").write_bytes(outcome.slowest[2])
        Path(keep, f"{SEED}-largest.onnx").write_bytes(outcome.largest[2])
        for place, (_, data, _) in enumerate(outcome.bad):
            Path(keep, f"{SEED}-{place}.onnx").write_bytes(data)
    shown = "\n\n".join(f"{name}:\n{details}" for name, _, details in outcome.bad[:10])
    assert not outcome.bad, f"{len(outcome.bad)} of {outcome.cases}:\n{shown}"
    assert outcome.cases == CASES
    assert outcome.ends["read"] > CASES / 20
    assert outcome.ends["refused"] > CASES / 20
    assert outcome.largest[0] < 2**20, "more than 1 GiB"
