"""`onnxshare.scan`: a row for every model of folders, globs and addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onnxshare.analysis.inspection import inspect
from onnxshare.checks.model_names import find_models
from onnxshare.comparison.function_digest import function_digest
from onnxshare.errors import OnnxShareError, UsageError
from onnxshare.io.load import load, parse
from onnxshare.model_scan.cache import RowCache, state_of
from onnxshare.model_scan.dask_engine import run_on_dask
from onnxshare.model_scan.remote_file import RemoteBytes, filesystem, is_address
from onnxshare.model_scan.results import ScanRow, WeightGroup
from onnxshare.support.cpu_count import usable_cores
from onnxshare.support.process_pool import TOO_LONG, run_apart
from onnxshare.support.progress import report

#: Seconds that a model may take.
SECONDS = 120.0

#: Fewer models are read faster in this process than others take to start.
_WORTH_IT = 48

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Task:
    """One model to read.

    Attributes:
        path: its path or address.
        hashes: whether its weights are read and hashed.
    """

    path: str
    hashes: bool = False


def scan(
    paths: Paths,
    *,
    jobs: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    hashes: bool = False,
    seconds: float = SECONDS,
    scheduler: str | None = None,
) -> Iterator[ScanRow]:
    """Yield a row for every model, as each is done.

    Args:
        paths: files, folders (every `.onnx` file in and below), globs, and addresses that fsspec
            reads (`s3://…`, `https://…`), of which only the structure is fetched.
        jobs: processes at once; None for one per processor where there are many models. A model
            that crashes or hangs one costs its own row.
        cache: a folder for rows; files that did not change are not read again.
        hashes: read and hash all weights too, one at a time at addresses.
        seconds: how long a model may take; counted where there are several processes here.
        scheduler: the address of a Dask scheduler, whose workers read the models instead; they
            must see the same paths.

    Raises:
        UsageError: no model is named, or fsspec is needed and missing.
    """
    found = find(paths)
    if not found:
        raise UsageError("no model is named", "name files, folders, globs or addresses")
    rows = RowCache(None if cache is None else Path(cache), f"hashes={hashes}")
    states = {path: state_of(path) for path in found} if cache is not None else {}
    done = 0
    waiting: list[Task] = []
    for path in found:
        row = rows.find(path, states.get(path))
        if row is None:
            waiting.append(Task(path, hashes))
        else:
            done += 1
            yield row
    for row in read_all(waiting, jobs, seconds, scheduler):
        rows.keep(row, states.get(row.path))
        done += 1
        report("scanning", done, len(found))
        yield row


def find(paths: Paths) -> list[str]:
    """The models that paths and addresses name, each once.

    Raises:
        UsageError: a folder or glob holds no model, or an address cannot be listed.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: dict[str, None] = {}
    for name in [os.fspath(path) for path in given]:
        if is_address(name):
            found.update(dict.fromkeys(_at_address(name)))
        else:
            found.update((str(path), None) for path in find_models([name]))
    return list(found)


def _at_address(address: str) -> list[str]:
    system, path = filesystem(address)
    if not any(sign in path for sign in "*?["):
        if path.endswith(".onnx"):
            return [address]
        path = path.rstrip("/") + "/**/*.onnx"
    try:
        names = system.glob(path)
    except Exception as error:  # every file system has its own
        raise UsageError(f"{address}: cannot be listed: {error}", "name its models") from None
    if not names:
        raise UsageError(f"{address}: holds no .onnx file", "name a folder or file that does")
    return sorted(str(system.unstrip_protocol(name)) for name in names)


def read_all(
    tasks: list[Task], jobs: int | None, seconds: float, scheduler: str | None = None
) -> Iterator[ScanRow]:
    """A row for every task: here, in processes of their own, or on a cluster."""
    lost = partial(_lost, seconds=seconds)
    if scheduler is not None:
        return run_on_dask(read_one, tasks, scheduler, lost)
    if jobs is None:
        jobs = usable_cores() if len(tasks) >= _WORTH_IT else 1
    workers = min(jobs, len(tasks))
    if workers < 2:
        return map(read_one, tasks)
    return run_apart(read_one, tasks, workers, lost, seconds)


def _lost(task: Task, why: str, seconds: float) -> ScanRow:
    told = f"took longer than {seconds:g} s" if why == TOO_LONG else "crashed the interpreter"
    return ScanRow(task.path, error=f"{task.path}: reading it {told}; is the file damaged?")


def read_one(task: Task) -> ScanRow:
    """The row of one model; whatever goes wrong is its error."""
    try:
        if is_address(task.path):
            model = parse(RemoteBytes(task.path, weights=task.hashes), task.path, None)
        else:
            model = load(task.path)
        found = inspect(model, hashes=task.hashes, heads_read=False)
        row = ScanRow.of(task.path, found, function_digest(model, weights=False))
        folder = model.folder or Path()
        return replace(row, data=tuple(str(folder / name) for name in model.external_files()))
    except OnnxShareError as error:
        return ScanRow(task.path, error=str(error))
    except Exception as error:
        if os.environ.get("ONNXSHARE_DEBUG"):
            raise
        kind = type(error).__name__
        return ScanRow(task.path, error=f"{task.path}: internal error: {kind}: {error}")


def weight_groups(rows: Iterable[ScanRow]) -> list[WeightGroup]:
    """Groups of models that hold equal weights, the largest saving first; rows without hashes
    are left out."""
    hashed = [row for row in rows if row.tensors]
    parent = {row.path: row.path for row in hashed}

    def root(path: str) -> str:
        while parent[path] != path:
            parent[path] = parent[parent[path]]
            path = parent[path]
        return path

    first: dict[str, str] = {}
    for row in hashed:
        for key in row.tensors or ():
            parent[root(row.path)] = root(first.setdefault(key, row.path))
    groups: dict[str, list[ScanRow]] = {}
    for row in hashed:
        groups.setdefault(root(row.path), []).append(row)
    found = [_group(group) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: group.unique_bytes - group.stored_bytes)


def _group(rows: list[ScanRow]) -> WeightGroup:
    unique: dict[str, int] = {}
    for row in rows:
        unique.update(row.tensors or {})
    stored = sum(row.weight_bytes or 0 for row in rows)
    return WeightGroup(tuple(sorted(row.path for row in rows)), sum(unique.values()), stored)


#: What `sort_rows` orders by: largest first, unknown last; names the other way.
SORTS = ("path", "bytes", "params", "macs", "sharing", "fc-share", "memory")

_FIELDS = {"sharing": "sharing_ratio", "fc-share": "fc_share", "memory": "peak_activation_bytes"}


def sort_rows(rows: Iterable[ScanRow], by: str) -> list[ScanRow]:
    """The rows in one of the orders of `SORTS`."""
    if by == "path":
        return sorted(rows, key=lambda row: row.path)
    field = _FIELDS.get(by, by)

    def key(row: ScanRow) -> tuple[bool, float, str]:
        value = getattr(row, field)
        return value is None, -(value or 0), row.path

    return sorted(rows, key=key)
