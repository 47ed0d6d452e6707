"""What `inspect` shows of a report: which rows, in which order, with which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from onnxshare.analysis.results import Inspection, NodeFacts, Totals
from onnxshare.errors import UsageError
from onnxshare.report import inspect_groups, inspect_rows, text_tools
from onnxshare.report.inspect_columns import Column, Row, choose, for_each_size

#: What a row can be.
KINDS = ("node", "weight", "op", "scope", "layer")

#: How `--sort` orders the rows; `graph` keeps the order of the graph.
SORTS = ("graph", "params", "macs", "sharing")

_SORTED_BY = {"params": "params", "macs": "macs", "sharing": "sharing_ratio"}

#: Levels of modules that are shown unless more are requested.
DEPTH = 2

#: The columns of tables and Markdown, unless others are requested.
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
    """Rows and columns, ready to be written in any form.

    Attributes:
        kind: one of `KINDS`.
        rows: the rows.
        cases: the same for each of several sizes, the first of which are `rows`.
        totals: the totals for each.
        columns: those of tables.
        fields: those of CSV.
        chosen: whether the user chose the columns, so that none may be left out.
        of: how many rows there are in all.
        nodes: how many nodes the model has.
        whole: whether a person is shown every row by itself.
        sizes: what tells several sizes apart.
        sort: how the rows are ordered.
    """

    kind: str
    rows: tuple[Row, ...]
    cases: tuple[tuple[Row, ...], ...]
    totals: tuple[Totals, ...]
    columns: tuple[Column, ...]
    fields: tuple[Column, ...]
    chosen: bool
    of: int
    nodes: int
    whole: bool
    sizes: list[dict[str, int]]
    sort: str

    def shown(self, most: int = inspect_rows.MOST_LINES) -> list[tuple[Row, ...]]:
        """The rows that a person is shown, so many at most, each for each of several sizes."""
        cases: list[Sequence[Row]] = list(self.cases)
        if not self.whole:
            if self.runs:
                cases = [inspect_rows.folded_rows(rows, self.runs) for rows in cases]
            nested, ends = self.kind == "scope", self.sort == "graph"
            cases = [inspect_rows.cut(rows, most, ends=ends, nested=nested) for rows in cases]
        return list(zip(*cases, strict=True))

    @cached_property
    def runs(self) -> list[inspect_rows.Run]:
        """Nodes and repeated blocks of them; nothing where rows are not nodes in graph order."""
        folds = self.kind == "node" and self.sort == "graph" and not self.whole
        return inspect_rows.runs(self.rows) if folds else []


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
        every: show nodes without parameters and MACs too, and leave no row to a sum.
        sort: one of `SORTS`; largest first, unknown last.
        top: show only so many rows.
        depth: how many levels of modules to show.

    Raises:
        UsageError: there is no such column, or rows of this kind have nothing to sort by.
    """
    reports = report.sizes or (report,)
    everything = [_rows(case, by, depth) for case in reports]
    rows = list(zip(*everything, strict=True))
    of = len(rows)
    if by == "node" and not every:
        rows = [row for row in rows if any(map(_counts, row))]
    if sort != "graph":
        if by == "weight" and sort == "macs":
            raise UsageError("weights have no MACs to sort by", "sort by params or sharing")
        rows = _sorted(rows, sort, by)
    extra = _HASHED if by == "weight" and any(item.hash for item in report.weights) else ""
    sizes = different_sizes(report)
    shown = choose(by, [name for name in _SHOWN[by].split() if name != "output" or not sizes])
    if extra:
        equal = any(item.same_as or item.transposed_of for item in report.weights)
        shown += choose(by, ["hash", "equal_to"] if equal else ["hash"])
    fields = choose(by, (_FIELDS[by] + extra).split() if columns is None else columns)
    cases = tuple(zip(*rows[:top], strict=True)) or ((),) * len(reports)
    return View(
        kind=by,
        rows=cases[0],
        cases=cases,
        totals=tuple(case.totals for case in reports),
        columns=tuple(for_each_size(shown if columns is None else choose(by, columns), sizes)),
        fields=tuple(for_each_size(fields, sizes)),
        chosen=columns is not None,
        of=of,
        nodes=len(report.nodes),
        whole=every or top is not None,
        sizes=sizes,
        sort=sort,
    )


def different_sizes(report: Inspection) -> list[dict[str, int]]:
    """Of a report for several sizes, what tells each from the others; else nothing."""
    dims = [case.totals.dims for case in report.sizes]
    names = [name for name in report.totals.dims if len({each.get(name) for each in dims}) > 1]
    return [{name: each[name] for name in names if name in each} for each in dims]


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


def _sorted(rows: list[tuple[Row, ...]], sort: str, by: str) -> list[tuple[Row, ...]]:
    """Largest first; modules stay below the one that holds them."""
    if by != "scope":
        return sorted(rows, key=lambda row: _rank(row[0], sort), reverse=True)
    ranks = {
        tuple(row[0].name.split("/")): (-_rank(row[0], sort), place)
        for place, row in enumerate(rows)
    }

    def place(row: tuple[Row, ...]) -> list[tuple[float, int]]:
        path = tuple(row[0].name.split("/"))
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
