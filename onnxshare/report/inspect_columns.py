"""The one table of columns: what `--columns` can name, and how each is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from onnxshare.analysis.results import NodeFacts, TensorInfo, Totals, WeightFacts
from onnxshare.errors import UsageError, hint, printable
from onnxshare.report import text_tools
from onnxshare.report.inspect_groups import Group
from onnxshare.report.inspect_rows import Block
from onnxshare.report.table import Bar

#: A row is the facts of a node or a weight, or a group of nodes.
Row = Any


@dataclass(frozen=True)
class Column:
    """One column: its name as `--columns` takes it and CSV heads it, its title in tables, the plain
    value of a row for CSV, what a person reads, given the totals of the model, whether it stands to
    the right, and which of several sizes it is for."""

    name: str
    title: str
    value: Callable[[Row, Totals], Any]
    text: Callable[[Row, Totals], str | Bar]
    right: bool = False
    case: int = 0

    @property
    def field(self) -> str:
        """Its name, without the sizes that it is for."""
        return self.name.partition(" ")[0]


#: Titles other than the field's name, and the operator's and layer's in the words of a reader.
_TITLES = {
    "name": "layer",
    "op_type": "operator",
    "sharing_ratio": "sharing",
    "macs": "MACs",
    "flops": "FLOPs",
    "params_new": "new params",
    "used_by": "used by",
    "sharing": "factors",
    "same_after": "same after",
    "transposed_of": "transposed of",
    "dense_params": "dense form",
    "unshared_params": "unshared form",
    "receptive_field": "receptive field",
    "receptive_field_note": "note",
    "arithmetic_intensity": "FLOPs/byte",
}

#: Names of columns other than the field's: `sharing` is what tables call the ratio.
_NAMES = {"sharing": "factors"}

#: Numbers that are read in another form than in full.
_NUMBERS: dict[str, Callable[[Any], str]] = {
    "macs": text_tools.rounded,
    "flops": text_tools.rounded,
    "connections": text_tools.rounded,
    "sharing_ratio": text_tools.times,
}

#: Where nothing is better said by nothing.
_BLANK_ZERO = ("params", "params_new", "connections", "macs", "flops")


def columns_of(kind: str) -> dict[str, Column]:
    """The columns of a view by name, in the order in which they are listed."""
    row = {"node": NodeFacts, "weight": WeightFacts}.get(kind, Group)
    found = [_field(item.name) for item in fields(row) if item.name != "outputs"]
    if row is not WeightFacts:
        found.append(Column("output", "output", _output, lambda r, t: _output(r, t, batch=False)))
        found.append(_share("macs_share", "of MACs", "macs", "macs"))
    found += [
        _share(
            "params_share", "of all", "params" if row is WeightFacts else "params_new", "params"
        ),
        Column("bar", "", lambda row, totals: "", _bar),
    ]
    if row is WeightFacts:
        found.append(Column("equal_to", "same as", _equal_to, _equal_to))
    absent = _ABSENT.get(kind, ())
    return {
        column.name: replace(column, title=_HEADS.get((kind, column.name), column.title))
        for column in found
        if column.name not in absent
    }


#: What stands over the names of this kind of row.
_HEADS = {("weight", "name"): "weight", ("scope", "name"): "module", ("layer", "number"): "#"}


#: Fields that a group of this kind has no use for.
_ABSENT = {
    "op": ("name", "number", "output", "depth", "kind"),
    "scope": ("op_type", "domain", "number", "output", "depth", "kind"),
    "layer": ("depth",),
}


def choose(kind: str, names: Sequence[str]) -> tuple[Column, ...]:
    """The columns that a user names, by name or by title.

    Raises:
        UsageError: there is no such column.
    """
    known = columns_of(kind)
    titles = {c.title.casefold(): c for c in known.values() if c.title}
    chosen = []
    for name in names:
        column = known.get(name.strip()) or titles.get(name.strip().casefold())
        if column is None:
            raise UsageError(
                f"--columns: there is no column '{name}' in the view by {kind}",
                hint(name, list(known), "columns", always=True),
            )
        chosen.append(column)
    return tuple(chosen)


#: Columns that depend on the sizes of the inputs.
_SIZED = (
    *("output", "connections", "sharing_ratio", "factors", "macs", "flops", "macs_share"),
    *("activation_bytes", "arithmetic_intensity", "bound_by"),
)


def for_each_size(columns: Sequence[Column], sizes: Sequence[dict[str, int]]) -> list[Column]:
    """The columns with one for each of several sizes of those that depend on them.

    Args:
        columns: the columns.
        sizes: what tells the sizes apart; one or none leaves the columns as they are.
    """
    found = []
    for column in columns:
        if len(sizes) < 2 or column.name not in _SIZED:
            found.append(column)
            continue
        for case, dims in enumerate(sizes):
            words = " ".join(f"{name}={size}" for name, size in dims.items())
            name, title = f"{column.name} {words}", f"{column.title} {size_label(dims)}"
            found.append(replace(column, name=name, title=title, case=case))
    return found


def size_label(dims: dict[str, int]) -> str:
    """What stands for sizes over a column: `128/0`."""
    return "/".join(map(str, dims.values()))


def cell(column: Column, rows: Sequence[Row], totals: Sequence[Totals]) -> str | Bar:
    """One cell as a person reads it, without characters that disturb a terminal; the rows and the
    totals are those for each of several sizes."""
    found = column.text(rows[column.case], totals[column.case])
    return found if isinstance(found, Bar) else printable(found)


def record(columns: Sequence[Column], rows: Sequence[Row], totals: Sequence[Totals]) -> list[str]:
    """One row of plain values for CSV; unknown ones are empty."""
    return [printable(_plain(c.value(rows[c.case], totals[c.case]))) for c in columns]


def _field(name: str) -> Column:
    right = name in (*_NUMBERS, *_BLANK_ZERO, "bytes", "number", "nodes") or name.endswith("params")

    def text(row: Row, totals: Totals) -> str:
        value = getattr(row, name, "")  # a sum over rows does not have all that they have
        if name == "name":
            return _layer(row)
        if (name in _BLANK_ZERO and value == 0) or (name == "sharing_ratio" and not row.params):
            return ""
        if name not in _NUMBERS or value == "":
            return _readable(name, value)
        said = _NUMBERS[name](value)
        # What totals leave out stands in brackets.
        return said if name == "sharing_ratio" or getattr(row, "counted", True) else f"({said})"

    title = _TITLES.get(name, name.replace("_", " "))
    return Column(
        _NAMES.get(name, name), title, lambda row, totals: getattr(row, name), text, right
    )


def _layer(row: Row) -> str:
    """A node's name with the subgraph it is in; a module below the one that holds it."""
    if isinstance(row, Block):
        return row.label
    depth = getattr(row, "depth", 0)
    if depth:
        return "  " * (depth - 1) + str(row.name).rpartition("/")[2]
    return str(getattr(row, "path", row.name))


def _share(name: str, title: str, part: str, whole: str) -> Column:
    def value(row: Row, totals: Totals) -> float | None:
        of, all_of = getattr(row, part, None), getattr(totals, whole)
        if whole == "macs" and not getattr(row, "counted", True):
            return 0.0
        return of / all_of if all_of and of is not None else None

    def text(row: Row, totals: Totals) -> str:
        of, all_of = getattr(row, part, None), getattr(totals, whole)
        if whole == "macs" and not getattr(row, "counted", True):
            return ""
        if not (row.params if whole == "params" else of) and of is not None:
            return ""
        if of is None or all_of is None:
            return "–"
        return text_tools.share(of, all_of)

    return Column(name, title, value, text, right=True)


def _bar(row: Row, totals: Totals) -> Bar:
    return Bar(getattr(row, "params_new", row.params), totals.params)


def _equal_to(row: Row, totals: Totals) -> str:
    """What a weight equals, and how."""
    how = ", dequantized" if row.same_after else ""
    if row.same_as:
        return f"{row.same_as}{how}"
    return f"{row.transposed_of}{how}, transposed" if row.transposed_of else ""


def _output(row: Row, totals: Totals, *, batch: bool = True) -> str:
    outputs: Sequence[TensorInfo] = row.outputs
    return text_tools.shape(outputs[0], batch=batch) if outputs else ""


def _receptive_field(field: dict[str, list[Any]]) -> str:
    """A receptive field in a few characters: `14×14, stride 2, start -3`; one number where all
    axes agree."""
    size = "×".join(map(str, field["size"]))
    rest = (
        f"{name} {'×'.join(map(str, found if len(set(found)) > 1 else found[:1]))}"
        for name, found in (("stride", field["stride"]), ("start", field["start"]))
    )
    return ", ".join([size, *rest])


def _readable(name: str, value: Any) -> str:
    if name == "receptive_field" and value is not None:
        return _receptive_field(value)
    if value is None:
        return "–" if name not in _WORDS else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return text_tools.size(value) if name.endswith("bytes") else text_tools.exact(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if name == "shape":
        return "×".join(map(str, value)) or "1"
    if name == "hash":
        return str(value)[:12]
    if isinstance(value, (tuple, list)):
        return ", ".join(str(item) for item in value)
    if isinstance(value, Mapping) or is_dataclass(value):
        items = value if isinstance(value, Mapping) else asdict(value)  # type: ignore[arg-type]
        words = (f"{key} {_readable('', item)}" for key, item in items.items() if item != 1)
        return ", ".join(words)
    return str(value)


#: Fields that are words, so that nothing means that there is nothing to say.
_WORDS = (
    "number",
    "same_as",
    "same_after",
    "transposed_of",
    "permutation",
    "op_type",
    "bound_by",
    "receptive_field_note",
    "hash",
    "uniform",
)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)) and all(isinstance(item, (str, int)) for item in value):
        return " ".join(map(str, value))
    if is_dataclass(value) and not isinstance(value, type):
        return json.dumps(asdict(value), ensure_ascii=False)
    if isinstance(value, (Mapping, tuple, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
