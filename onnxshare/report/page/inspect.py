"""The page of `inspect`: one sentence, six figures, charts, heads with their commands, a table."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import PurePath
from typing import Any

from onnxshare.analysis.results import HeadFacts, HeadOffer, Inspection, NodeFacts, Totals
from onnxshare.errors import printable
from onnxshare.report import text_tools
from onnxshare.report.inspect import make_table, title
from onnxshare.report.inspect_summary import (
    alike,
    describe_equal,
    memory,
    rewrite_command,
    traffic,
    where,
)
from onnxshare.report.inspect_views import make_view
from onnxshare.report.page import charts
from onnxshare.report.page.document import chart, drawn, render, tabulated
from onnxshare.report.page.treemap import LEGEND, Place, color
from onnxshare.report.plot.picture import svg

#: Heads that are drawn, and modules that are listed without a script; the rest is counted.
_HEADS, _MODULES = 4, 60


@dataclass(frozen=True)
class Figure:
    """One of the figures on top.

    Attributes:
        name: what it is.
        value: of the model.
        after: of the second model, if there is one.
        change: how much smaller or larger that is.
    """

    name: str
    value: str
    after: str = ""
    change: str = ""


def as_html(report: Inspection) -> str:
    """The whole page: it holds everything, whatever view of tables was chosen."""
    first, *others = (line.plain for line in title(report))
    path = report.model.path or "model"
    name = PurePath(path).name
    groups = alike(report.heads)
    return render(
        "inspect",
        title=name,
        about=[*([path] if path != name else []), first.removeprefix(printable(path)), *others],
        sentence=where(report).plain,
        figures=figures(report.totals),
        areas=[(area, charts.AREAS[area]) for area in areas_of(report)],
        treemap=_treemap(report),
        legend=LEGEND,
        heads=[_head(group, report) for group in groups[:_HEADS]],
        more_heads=_more(sum(map(len, groups[_HEADS:]))),
        scatter=chart(charts.scatter(report)),
        memory=_charts_of_memory(report),
        modules=modules_table(report),
        notes=[line.plain for line in (*traffic(report), memory(report), *describe_equal(report))],
        warnings=report.warnings,
        data=page_data(report),
    )


def as_fragment(report: Inspection) -> str:
    """The sentence, the figures, the treemap and the modules without a script, for notebooks."""
    picture = svg(charts.standalone(report)).encode()
    return render(
        "notebook",
        title=report.model.path or "model",
        about=[],
        sentence=where(report).plain,
        figures=figures(report.totals),
        picture=base64.b64encode(picture).decode(),
        modules=modules_table(report),
    )


def figures(totals: Totals, after: Totals | None = None) -> list[Figure]:
    """The six figures, with those of a second model where there is one."""
    rows: list[tuple[str, str, Any]] = [
        ("parameters", "params", text_tools.exact),
        ("weight bytes", "param_bytes", text_tools.size),
        ("MACs per sample", "macs", text_tools.rounded),
        ("uses per weight, on average", "sharing_ratio", text_tools.times),
        ("peak of activations", "peak_activation_bytes", text_tools.size),
    ]
    found = []
    for name, field, shown in rows:
        old, new = getattr(totals, field), getattr(after, field, None)
        if after is None:
            found.append(Figure(name, shown(old)))
        else:
            found.append(Figure(name, shown(old), shown(new), change(old, new)))
    part = text_tools.share(totals.fc_params, totals.params)
    then = "" if after is None else text_tools.share(after.fc_params, after.params)
    return [*found, Figure("share of parameters in FCs", part, then)]


def change(before: float | None, after: float | None) -> str:
    """How many times smaller or larger a figure became, such as `÷4.13`; empty if neither."""
    if not before or not after or before == after:
        return ""
    return f"÷{before / after:.3g}" if after < before else f"×{after / before:.3g}"


def modules_table(report: Inspection) -> Any:
    """The largest modules of a model as a table, for readers without a script."""
    view = make_view(report, "scope", top=_MODULES)
    return tabulated(make_table(view, view.shown(), view.columns))


def page_data(report: Inspection) -> dict[str, Any]:
    """What the script reads: a row per node, and where everything is in each treemap.

    Nodes of one kind (everything but name and module alike) share their facts, and names and
    modules leave out what they share with the one before.
    """
    modules: dict[str, int] = {}
    kinds: dict[tuple[Any, ...], int] = {}
    rows: list[list[Any]] = []
    before = ""
    for node in report.nodes:
        name, path = printable(node.name), printable("/".join(charts.module_of(node)))
        module = modules.setdefault(path, len(modules))
        kind = kinds.setdefault(_facts(node), len(kinds))
        rows.append([*_coded(before, name), module, kind])
        before = name
    maps = {area: _map(report, area, modules) for area in areas_of(report)}
    paths = ["", *modules]
    return {
        "kinds": list(kinds),
        "rows": rows,
        "modules": [_coded(*pair) for pair in pairwise(paths)],
        "maps": maps,
        "roles": [role for role, _ in LEGEND],
        "params": report.totals.params,
    }


def _facts(node: NodeFacts) -> tuple[Any, ...]:
    ratio = node.sharing_ratio
    return (
        printable(node.op_type),
        printable(text_tools.shape(node.outputs[0], batch=False)) if node.outputs else "",
        color(node.params, node.connections),
        node.params_new,
        None if ratio is None else float(f"{ratio:.4g}"),
        node.macs,
        node.param_bytes,
        node.activation_bytes,
        node.memory_bytes,
    )


def _coded(before: str, text: str) -> tuple[int, str]:
    """How many characters a text shares with the one before, and the rest of it."""
    pairs = zip(before, text, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return same, text[same:]


def _map(report: Inspection, area: str, modules: dict[str, int]) -> list[list[int]]:
    """The leaves and the modules of a treemap, six numbers each: which row, or which module from
    -1 downwards; the color, or -1 for a module; x, y, width and height in tenths."""
    roles = [role for role, _ in LEGEND]
    layout = charts.layout_of(report, area)

    def numbers(name: str, row: int | None, role: int, place: Place) -> list[int]:
        at = -1 - modules.setdefault(printable(name), len(modules)) if row is None else row
        left, top = round(10 * place.x), round(10 * place.y)
        right, low = round(10 * (place.x + place.width)), round(10 * (place.y + place.height))
        return [at, role, left, top, right - left, low - top]

    flat = [
        number
        for leaf, place in layout.leaves
        for number in numbers(leaf.name, leaf.row, roles.index(leaf.role), place)
    ]
    frames = [
        number
        for path, place in layout.modules
        for number in numbers("/".join(path), None, -1, place)
    ]
    return [flat, frames]


def areas_of(report: Inspection) -> list[str]:
    """The measures of a treemap that are known; bytes only where they say more than counts."""
    totals = report.totals
    shown = {
        "params_new": bool(totals.params),
        "param_bytes": len(totals.param_bytes_by_dtype) > 1,
        "macs": any(node.macs for node in report.nodes),
        "activation_bytes": any(node.activation_bytes for node in report.nodes),
    }
    return [area for area in charts.AREAS if shown[area]]


def _treemap(report: Inspection) -> Any:
    areas = areas_of(report)
    return drawn(charts.treemap(report, areas[0]), data_map=areas[0]) if areas else None


def _charts_of_memory(report: Inspection) -> list[tuple[str, str, Any]]:
    alone, both = charts.memory(report), charts.memory(report, weights=True)
    if alone is None:
        return []
    return [
        ("activations", "activations", chart(alone)),
        ("both", "with the weights", chart(both)),
    ]


def _more(count: int) -> str:
    return f"{count} more heads are not drawn here." if count > 0 else ""


def _head(heads: Sequence[HeadFacts], report: Inspection) -> dict[str, Any]:
    """Heads that are alike, or one: what is shown of the first, and how many there are."""
    head = heads[0]
    most = max(layer.params for layer in head.fcs)
    layers = [
        {
            "name": layer.node,
            "sizes": f"{layer.in_features:,} → {layer.out_features:,}",
            "share": layer.params / (most or 1),
            "params": text_tools.exact(layer.params),
            "percent": text_tools.share(layer.params, report.totals.params),
        }
        for layer in head.fcs
    ]
    many = f" and {len(heads) - 1} alike" if len(heads) > 1 else ""
    return {
        "feature_map": head.feature_map + many,
        "map": "×".join(map(str, (head.channels, *head.spatial))),
        "layout": head.layout,
        "layers": layers,
        "offers": [_offer(name, facts, heads, report) for name, facts in head.rewrites.items()],
    }


_EXACT = "the same function with the same weights; larger inputs use each once per position"
_APPROXIMATE = (
    "pooling alone; the command looks for the smallest head that keeps 99 % of the answers"
)


def _offer(
    name: str, facts: HeadOffer, heads: Sequence[HeadFacts], report: Inspection
) -> dict[str, Any]:
    if "refused" in facts:
        words = "Nothing to do" if facts.get("nothing_to_do") else "Not here"
        return {"name": f"--{name}", "refused": f"{words}: {facts['refused']}", "kind": ""}
    before, after = facts["params_before"], facts["params_after"]
    exact = bool(facts.get("exact"))
    words = _EXACT if exact else _APPROXIMATE
    smaller = change(before, after)
    return {
        "name": f"--{name}",
        "refused": "",
        "kind": "exact" if exact else "approximate",
        "before": text_tools.exact(before),
        "after": text_tools.exact(after) + (f" ({smaller})" if smaller else ""),
        "share": min(after / before, 1.0) if before else 1.0,
        "words": words,
        "command": rewrite_command(name, facts, heads, report),
    }
