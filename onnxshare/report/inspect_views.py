"""What `inspect` shows of a report: which rows, in which order, with which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.errors import UsageError
from onnxshare.report import inspect_groups, text_tools
from onnxshare.report.inspect_columns import Column, Row, choose

#: What a row can be.
KINDS = ("node", "weight", "op", "scope", "layer")

#: How `--sort` orders the rows; `graph` keeps the order of the graph.
SORTS = ("graph", "params", "macs", "sharing")

_SORTED_BY = {"params": "params", "macs": "macs", "sharing": "sharing_ratio"}

#: Levels of modules that are shown unless more are asked for.
DEPTH = 2

#: The columns of tables and Markdown, unless others are asked for.
_SHOWN = {
    "node": "name op_type output params params_share bar sharing_ratio macs",
    "weight": "name dtype shape params params_share bytes used_by sharing_ratio",
    "op": "op_type nodes params params_share bar sharing_ratio macs macs_share",
    "scope": "name nodes params params_share bar sharing_ratio macs macs_share",
    "layer": "number name op_type output params params_share sharing_ratio macs",
}

#: Those of CSV.
_FIELDS = {
    "node": "name op_type scope kind output params params_new connections sharing_ratio macs flops",
    "weight": "name dtype shape params bytes used_by connections sharing_ratio",
    "op": "op_type domain nodes params connections sharing_ratio macs flops",
    "scope": "name nodes params connections sharing_ratio macs flops",
    "layer": "number name op_type kind output nodes params connections sharing_ratio macs flops",
}

_HASHED = " hash same_as same_after transposed_of permutation uniform"


@dataclass(frozen=True)
class View:
    """Rows of a kind, and columns of tables and (`fields`) of CSV, ready to be written in any form.
    None may be left out of `chosen` columns; `of` is how many rows there are in all."""

    kind: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    fields: tuple[Column, ...]
    chosen: bool
    of: int


def make_view(
    report: Inspection,
    by: str = "node",
    *,
    columns: Sequence[str] | None = None,
    every: bool = False,
    sort: str = "graph",
    top: int | None = None,
    depth: int = DEPTH,
) -> View:
    """Choose rows and columns.

    Args:
        report: what was found.
        by: what a row is, one of `KINDS`.
        columns: names of columns; None for the usual ones.
        every: show nodes without parameters and MACs too.
        sort: one of `SORTS`; largest first, unknown last.
        top: show only so many rows.
        depth: how many levels of modules to show.

    Raises:
        UsageError: there is no such column, or rows of this kind have nothing to sort by.
    """
    everything: Sequence[Row] = _rows(report, by, depth)
    rows = [row for row in everything if every or by != "node" or _counts(row)]
    if sort != "graph":
        if by == "weight" and sort == "macs":
            raise UsageError("weights have no MACs to sort by", "sort by params or sharing")
        rows = _sorted(rows, sort, by)
    extra = _HASHED if by == "weight" and any(item.hash for item in report.weights) else ""
    shown = choose(by, _SHOWN[by].split())
    if extra:
        equal = any(item.same_as or item.transposed_of for item in report.weights)
        shown += choose(by, ["hash", "equal_to"] if equal else ["hash"])
    return View(
        kind=by,
        rows=tuple(rows if top is None else rows[:top]),
        columns=shown if columns is None else choose(by, columns),
        fields=choose(by, (_FIELDS[by] + extra).split() if columns is None else columns),
        chosen=columns is not None,
        of=len(everything),
    )


def _rows(report: Inspection, by: str, depth: int) -> Sequence[Row]:
    if by == "weight":
        return report.weights
    if by == "op":
        return inspect_groups.by_operator(report)
    if by == "scope":
        return inspect_groups.by_module(report, depth)
    return inspect_groups.by_layer(report) if by == "layer" else report.nodes


def _counts(node: NodeFacts) -> bool:
    return bool(node.params) or node.macs is None or node.macs > 0


def _rank(row: Row, sort: str) -> float:
    value = getattr(row, _SORTED_BY[sort])
    return -1.0 if value is None else float(value)


def _sorted(rows: list[Row], sort: str, by: str) -> list[Row]:
    """Largest first; modules stay below the one that holds them."""
    if by != "scope":
        return sorted(rows, key=lambda row: _rank(row, sort), reverse=True)
    ranks = {
        tuple(row.name.split("/")): (-_rank(row, sort), place) for place, row in enumerate(rows)
    }

    def place(row: Row) -> list[tuple[float, int]]:
        path = tuple(row.name.split("/"))
        return [ranks[path[:size]] for size in range(1, len(path) + 1)]

    return sorted(rows, key=place)


#: Words for totals whose field says too little.
_WORDS = {
    "params": "parameters",
    "statistics": "running means and variances",
    "constants": "constants",
    "quantization": "scales and zero points",
    "unused": "elements that nothing reads",
    "other": "elements of unknown use",
    "param_bytes": "bytes of parameters",
    "sharing_ratio": "sharing",
    "macs": "MACs",
    "flops": "FLOPs",
    "fc_params": "parameters in FCs",
    "fc_after_conv_params": "parameters in FCs after convolutions",
    "peak_activation_bytes": "bytes of activations at the peak",
    "peak_activation_node": "node at that peak",
    "param_bytes_by_dtype": "bytes of parameters by type",
    "weight_bound_layers": "layers bound by reading weights",
    "weight_bound_bytes": "bytes of their weights",
    "dims": "sizes that this holds for",
}


def words_of(field: str) -> str:
    """What a total is called."""
    return _WORDS.get(field, field.replace("_", " "))


def totals_of(report: Inspection) -> list[tuple[str, str, object]]:
    """The totals: field, words for it, value."""
    return [
        (item.name, words_of(item.name), value)
        for item in fields(report.totals)
        for value in (getattr(report.totals, item.name),)
    ]


def amount(field: str, value: object) -> str:
    """A total as a person reads it."""
    if isinstance(value, int):
        number = text_tools.exact(value)
        return f"{number} ({text_tools.size(value)})" if field.endswith("bytes") else number
    if isinstance(value, float):
        return text_tools.times(value) if field == "sharing_ratio" else f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {amount(field, item)}" for key, item in value.items()) or "none"
    return "–" if value is None else str(value)


def for_sizes(dims: dict[str, int]) -> str:
    """For which sizes the counts hold; "" where that is one sample and nothing else."""
    if list(dims.values()) in ([], [1]):
        return ""
    return "per sample, for " + ", ".join(f"{name} = {size}" for name, size in dims.items())


def count_of(view: View) -> str:
    """How many rows are shown of how many, where some are left out."""
    if len(view.rows) == view.of:
        return ""
    more = " (--all shows every one)" if view.kind == "node" else ""
    names = {"op": "operators", "scope": "modules"}
    return f"{len(view.rows)} of {view.of} {names.get(view.kind, view.kind + 's')}{more}; "
