"""The page of `scan`: a sortable index of models, with a bar for each."""

from __future__ import annotations

from collections.abc import Sequence

from onnxshare.model_scan.results import ScanRow, WeightGroup
from onnxshare.report import text_tools
from onnxshare.report.page.document import render
from onnxshare.report.scan import lines_of, sentence_of


def as_html(found: Sequence[ScanRow], groups: Sequence[WeightGroup]) -> str:
    """The page: all models that could be read, then those that could not."""
    read = [row for row in found if row.error is None]
    most = max((row.weight_bytes or 0 for row in read), default=0) or 1
    return render(
        "scan",
        title="onnxshare scan",
        about=[],
        sentence=sentence_of(found),
        columns=["model", "weights", "parameters", "in FCs", "uses", "MACs", "memory", "heads"],
        models=[_cells(row) for row in read],
        shares=[(row.weight_bytes or 0) / most for row in read],
        broken=[(row.path, row.error) for row in found if row.error is not None],
        notes=lines_of(groups),
        warnings=[],
    )


def _cells(row: ScanRow) -> list[tuple[str, float | str]]:
    """What is shown of each column, and what it is sorted by."""
    share = "–" if row.fc_share is None else f"{row.fc_share:.1%}"
    return [
        (row.path, row.path),
        (text_tools.size(row.weight_bytes), row.weight_bytes or 0),
        (text_tools.exact(row.params), row.params or 0),
        (share, row.fc_share or 0),
        (text_tools.times(row.sharing_ratio), row.sharing_ratio or 0),
        (text_tools.rounded(row.macs), row.macs or 0),
        (text_tools.size(row.peak_activation_bytes), row.peak_activation_bytes or 0),
        (str(row.heads), row.heads or 0),
    ]
