"""The rows of `scan` as a table, CSV, JSON Lines or Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console

from onnxshare.errors import UsageError, printable
from onnxshare.io.atomic_write import replace_file
from onnxshare.model_scan.results import ScanRow, WeightGroup
from onnxshare.report import text_tools
from onnxshare.report.console import make_console
from onnxshare.report.table import Bar, Cell, Column, Row, Table, rows
from onnxshare.support.json_text import json_text

#: Rows that a table shows; the other formats have all.
_SHOWN = 200

#: How wide a console must be for a bar per model next to the numbers.
_ROOM_FOR_BARS = 90

#: Rows whose cells are held at once; there may be many thousands.
_AT_ONCE = 500


_Writer = Callable[[Sequence[ScanRow], Sequence[WeightGroup]], bytes | str]


def write(
    found: Sequence[ScanRow], groups: Sequence[WeightGroup], form: str, path: Path | None
) -> None:
    """Write the rows to stdout or a file.

    Args:
        found: the rows.
        groups: models that hold equal weights; shown in tables.
        form: `table`, `csv`, `jsonl` or `parquet`.
        path: the file; None for stdout, which Parquet does not go to.

    Raises:
        UsageError: Parquet needs pyarrow, which is not installed.
        OutputError: the file cannot be written.
    """
    if form == "table" and path is None:
        print_rows(found, groups, make_console(answers=False))
        return
    writers: dict[str, _Writer] = {
        "table": _as_text,
        "csv": _as_csv,
        "jsonl": _as_lines,
        "parquet": _as_parquet,
    }
    content = writers[form](found, groups)
    if path is not None:
        replace_file(path, content)
    elif isinstance(content, str):
        print(content, end="")


def print_rows(found: Sequence[ScanRow], groups: Sequence[WeightGroup], console: Console) -> None:
    """Print the table, the sums and the groups."""
    console.print(table_of(found[:_SHOWN], bars=console.width >= _ROOM_FOR_BARS).text())
    console.print(f"\n{sentence_of(found)}", soft_wrap=True, markup=False)
    if len(found) > _SHOWN:
        console.print(f"{_SHOWN} of {len(found):,} rows: --format csv has all", soft_wrap=True)
    for line in lines_of(groups):
        console.print(line, soft_wrap=True, markup=False)


def table_of(found: Sequence[ScanRow], *, bars: bool) -> Table:
    """A row per model, with a bar of its weights or without."""
    most = max((row.weight_bytes or 0 for row in found), default=0)
    folder = _folder(found)
    titles = ("weights", "params", "in FCs", "uses", "MACs", "memory", "heads")
    head = f"model in {printable(folder)}" if folder else "model"
    columns = [Column(head, folds=True, least=12), *([Column()] if bars else [])]
    table_rows = []
    for row in found:
        path, *numbers = _cells(row, len(folder))
        bar: list[Cell] = ["" if row.error else Bar(row.weight_bytes or 0, most)] if bars else []
        table_rows.append(Row([path, *bar, *numbers], "red" if row.error else ""))
    return Table(columns + [Column(title, right=True) for title in titles], table_rows)


def _folder(found: Sequence[ScanRow]) -> str:
    """What all paths begin with, up to a slash, where there are several."""
    paths = [row.path for row in found]
    if len(paths) < 2:
        return ""
    low, high = min(paths), max(paths)  # what these share, all share
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    return low[: low.rfind("/", 0, same) + 1]


def _cells(row: ScanRow, skipped: int) -> list[str]:
    path = printable(row.path[skipped:])
    if row.error is not None:
        return [path, *["–"] * 6, "not read"]
    return [
        path,
        text_tools.size(row.weight_bytes),
        text_tools.rounded(row.params),
        "–" if row.fc_share is None else f"{row.fc_share:.1%}",
        text_tools.times(row.sharing_ratio),
        text_tools.rounded(row.macs),
        text_tools.size(row.peak_activation_bytes),
        str(row.heads),
    ]


def sentence_of(found: Sequence[ScanRow]) -> str:
    """How many models, and what they hold."""
    read = [row for row in found if row.error is None]
    weights = text_tools.size(sum(row.weight_bytes or 0 for row in read))
    broken = len(found) - len(read)
    words = f"{len(read):,} model{'' if len(read) == 1 else 's'}, {weights} of weights"
    return words + (f"; {broken:,} could not be read" if broken else "")


def lines_of(groups: Sequence[WeightGroup]) -> list[str]:
    """A line for each group of models that hold equal weights."""
    lines = []
    for group in groups:
        named = ", ".join(map(printable, group.models[:3]))
        more = f" and {len(group.models) - 3} more" if len(group.models) > 3 else ""
        lines.append(
            f"share weights: {named}{more}: {text_tools.size(group.unique_bytes)} held "
            f"{group.times:.3g} times over, as {text_tools.size(group.stored_bytes)}"
        )
    return lines


def _as_text(found: Sequence[ScanRow], groups: Sequence[WeightGroup]) -> str:
    file = io.StringIO()
    print_rows(found, groups, make_console(file, answers=False))
    return file.getvalue()


def _as_csv(found: Sequence[ScanRow], groups: Sequence[WeightGroup]) -> str:
    columns = [Column(name) for name in ScanRow.SHOWN]
    text = Table(columns, []).csv()
    for at in range(0, len(found), _AT_ONCE):
        cells = (
            ["" if value is None else _flat(value) for value in row.to_dict().values()]
            for row in found[at : at + _AT_ONCE]
        )
        text += Table(columns, rows(cells)).csv().partition("\n")[2]
    return text


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={count}" for key, count in value.items())
    return str(value)


def _as_lines(found: Sequence[ScanRow], groups: Sequence[WeightGroup]) -> str:
    return "".join(json_text(row.to_dict()) + "\n" for row in found)


def _as_parquet(found: Sequence[ScanRow], groups: Sequence[WeightGroup]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            "Parquet is written by pyarrow, which is not installed",
            "pip install 'onnxshare[parquet]', or --format csv",
        ) from None
    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    types = {"path": text, "producer": text, "structure_hash": text, "weights_hash": text}
    types |= {"error": text, "weight_bytes_by_dtype": pyarrow.map_(text, whole)}
    types |= dict.fromkeys(("sharing_ratio", "fc_share", "fc_after_conv_share"), real)
    schema = pyarrow.schema([(name, types.get(name, whole)) for name in ScanRow.SHOWN])
    records = [
        {**record, "weight_bytes_by_dtype": list(record["weight_bytes_by_dtype"].items())}
        for record in (row.to_dict() for row in found)
    ]
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records, schema), sink)
    return sink.getvalue()
