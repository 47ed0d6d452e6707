"""Damaged models, texts, policies and command lines never crash, hang, or take much memory;
ONNXSHARE_FUZZ=20000 tries that many of each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import campaign, kills
from tests.fuzz.mutations import mutants, places
from tests.fuzz.seeds import (
    calls_functions,
    commands,
    computes_shapes,
    models,
    policies,
    texts,
)

CASES = int(os.environ.get("ONNXSHARE_FUZZ", "400"))
WORKERS = int(os.environ.get("ONNXSHARE_FUZZ_WORKERS", "2"))
SEED = int(os.environ.get("ONNXSHARE_FUZZ_SEED", "1"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


def test_whole_ones_are_read() -> None:
    """Else nothing below would be tested."""
    worker = campaign.Worker()
    kinds = (models(), texts()[::9], policies(), commands())
    ends = {name: worker.ask(data, name) for seeds in kinds for name, data in seeds}
    worker.stop()
    assert {name: end for name, end in ends.items() if end["end"] != "read"} == {}
    assert len(ends) > 60


def test_damage_is_what_it_seems() -> None:
    data = computes_shapes()
    kinds = {place.kind for place in places(data)}
    assert {"graph", "node", "attribute", "tensor", "value", "dim"} <= kinds
    damaged = [bytes for _, (_, bytes) in zip(range(100), mutants(data, 3), strict=False)]
    assert sum(other != data for other in damaged) > 90
    again = [bytes for _, (_, bytes) in zip(range(100), mutants(data, 3), strict=False)]
    assert damaged == again


def test_a_worker_that_dies_or_hangs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = campaign.Worker()
    monkeypatch.setattr(campaign, "TIME_OUT", 0.001)
    assert worker.ask(calls_functions())["details"] == "hang"
    worker.stop()


@pytest.mark.parametrize(
    ("seeds", "cases"),
    [
        pytest.param(models, CASES, id="models"),
        pytest.param(texts, CASES if "ONNXSHARE_FUZZ" in os.environ else 60, id="texts"),
        pytest.param(policies, CASES if "ONNXSHARE_FUZZ" in os.environ else 60, id="policies"),
        pytest.param(commands, CASES if "ONNXSHARE_FUZZ" in os.environ else 60, id="commands"),
    ],
)
def test_what_is_damaged_is_read_or_refused(
    seeds: Callable[[], list[tuple[str, bytes]]], cases: int
) -> None:
    outcome = campaign.run(seeds(), cases, seed=SEED, workers=WORKERS)
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
    assert outcome.cases == cases
    assert outcome.ends["read"] > cases / 50
    assert outcome.ends["refused"] > cases / 20
    assert outcome.largest[0] < 2**20, "more than 1 GiB"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_saves_and_many_at_once_leave_nothing(tmp_path: Path) -> None:
    """A slice of what `python -m tests.fuzz.kills` does."""
    for how, code in ((signal.SIGKILL, "exit -9"), (signal.SIGTERM, "exit 143")):
        (tmp_path / how.name).mkdir()
        found = kills.kill_saves(kills.Stage(tmp_path / how.name, side=256), 2, how, SEED)
        assert set(found) <= {code, "exit -15", "exit 0", "next: exit 0"}, found
    (tmp_path / "at once").mkdir()
    found = kills.at_once(kills.Stage(tmp_path / "at once", side=256), 5)
    assert set(found) <= {"exit 0", "exit 2", "next: exit 0"}, found
