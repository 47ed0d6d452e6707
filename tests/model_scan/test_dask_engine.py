"""The same rows from a Dask cluster, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.errors import UsageError
from onnxshare.model_scan.dask_engine import run_on_dask

distributed = pytest.importorskip("distributed", reason="Dask is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask

    once = {"distributed.scheduler.allowed-failures": 0}  # a worker that dies is not tried again
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": None}
    with (
        dask.config.set(once),
        distributed.LocalCluster(dashboard_address=None, **options) as found,
    ):
        yield found


def killer(item: int) -> int:
    """Ends its worker on one item, which is poisoned."""
    if item == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.isolated
def test_the_same_rows(cluster: Any, lenet: onnx.ModelProto, tmp_path: Path) -> None:
    for number in range(40):
        onnx.save(lenet, tmp_path / f"{number}.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    found = list(onnxshare.scan(tmp_path, scheduler=cluster.scheduler_address))
    here = list(onnxshare.scan(tmp_path, jobs=1))
    assert sorted(found, key=lambda row: row.path) == sorted(here, key=lambda row: row.path)


@pytest.mark.isolated
def test_what_kills_its_worker_costs_itself_alone(cluster: Any) -> None:
    address = cluster.scheduler_address
    found = list(run_on_dask(killer, range(64), address, lambda item, why: -item))
    assert sorted(found) == sorted([-40, *(item for item in range(64) if item != 40)])


def test_no_scheduler_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^scheduler"):
        list(run_on_dask(killer, [1], "nowhere:1:2", lambda item, why: item))
