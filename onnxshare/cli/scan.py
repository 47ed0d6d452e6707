"""`onnxshare scan`: a row for every model of folders, globs and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnxshare.cli import options
from onnxshare.cli.options import argument, option
from onnxshare.errors import UsageError

if TYPE_CHECKING:
    from onnxshare.model_scan.results import ScanRow


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare scan` takes."""

    paths: list[str] = argument(
        ...,
        "Files, folders (every .onnx file in and below), globs, and addresses that fsspec reads, "
        "such as s3://bucket/models or https://host/model.onnx.",
        metavar="PATH",
    )
    output: Literal["table", "csv", "jsonl", "parquet"] = option(
        "table", "How to write the rows.", "--format"
    )
    out: Path | None = option(
        None, "Where to write the rows. Left out: stdout.", "--output", "-o", metavar="FILE"
    )
    html: options.Html = None
    force: bool = option(False, "Overwrite files that are not reports, too.")
    sort: Literal["path", "bytes", "params", "macs", "sharing", "fc-share", "memory"] = option(
        "path", "The order of the rows: by path, or largest first."
    )
    families: bool = option(
        False, "Read all weights, and show which models hold the same and how many times over."
    )
    strict: bool = option(False, "Exit 1 if a model cannot be read.")
    jobs: int | None = option(
        None, "How many models at once. Left out: one per processor.", metavar="N", min=1
    )
    cache: Path | None = option(
        None,
        "Keep rows in this folder, and read no file again that did not change; a scan that was "
        "stopped goes on where it was.",
        metavar="FOLDER",
    )
    scheduler: str | None = option(
        None,
        "The address of a Dask scheduler, such as tcp://host:8786, whose workers read the models.",
        metavar="ADDRESS",
    )
    time_limit: float = option(120.0, "Seconds that a model may take.", metavar="SECONDS", min=0.1)


def command(given: Options) -> int:
    """Show one row for every model: where weights sit, and what they cost.

    Of a model at an address only the structure is fetched, not its weights. A model that cannot
    be read is a row with an error.

    Exit code: 0; with --strict 1 if a model cannot be read.

    Example: onnxshare scan models/ --sort fc-share --html models.html
    """
    from onnxshare.cli.progress import Steps
    from onnxshare.model_scan import scan
    from onnxshare.report import scan as report

    found = scan.find(given.paths)
    _check_files(given, found)
    with Steps("scanning"):
        rows = list(
            scan.scan(
                found,
                jobs=given.jobs,
                cache=given.cache,
                hashes=given.families,
                seconds=given.time_limit,
                scheduler=given.scheduler,
            )
        )
    rows = scan.sort_rows(rows, given.sort)
    groups = scan.weight_groups(rows) if given.families else []
    report.write(rows, groups, given.output, given.out)
    if given.out is not None:
        options.note(f"wrote {given.out}: {len(rows)} rows")
    if given.html is not None:
        from onnxshare.report.page.scan import as_html

        options.write_page(given.html, as_html(rows, groups))
    broken = list(_broken(rows))
    for line in broken:
        options.note(f"onnxshare: error: {line}")
    return 1 if broken and given.strict else 0


def _check_files(given: Options, found: list[str]) -> None:
    from onnxshare.io.save import check_distinct, check_output

    outputs = [path for path in (given.out, given.html) if path is not None]
    if given.output == "parquet" and given.out is None:
        raise UsageError("Parquet is not text", "specify a file with -o")
    read = [Path(path) for path in found if "://" not in path]
    check_distinct(outputs, {"a model that is read": read if outputs else []})
    for path in outputs:
        check_output(path, force=given.force or path.suffix == ".parquet", report=True)


def _broken(rows: list[ScanRow]) -> Iterator[str]:
    yield from (row.error for row in rows if row.error is not None)
