"""The page of `rewrite`: the verdict, both models at one scale, what moved, and the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from onnxshare.analysis.results import Inspection, WeightFacts
from onnxshare.report import text_tools
from onnxshare.report.page import charts
from onnxshare.report.page.compare import evidence
from onnxshare.report.page.document import drawn, render, tabulated
from onnxshare.report.page.inspect import change, figures
from onnxshare.report.page.treemap import LEGEND
from onnxshare.report.plot import table as search_table
from onnxshare.report.rewrite import NOT_COMPARED, tradeoff
from onnxshare.report.table import Table, named, rows
from rewrites.base import Change, Site
from rewrites.run import RewriteResult

#: Names that are listed; the rest is counted.
_LISTED = 40

_NOTHING: dict[str, Any] = {
    "standing": "open",
    "outputs": None,
    "errors": [],
    "latency": None,
    "lines": [],
}


def as_html(result: RewriteResult, before: Inspection, after: Inspection) -> str:
    """The page of a rewrite.

    Args:
        result: what was done.
        before, after: what `inspect` says of both models.
    """
    done = {(change.site.rewrite, change.site.node): change for change in result.changes}
    old, new = result.before.params, result.after.params
    share = new / old if old else 1.0
    proof = (
        {**_NOTHING, "sentence": NOT_COMPARED if result.changes else "Nothing was rewritten."}
        if result.validation is None
        else evidence(result.validation)
    )
    return render(
        "rewrite",
        title=PurePath(before.model.path or "model").name,
        about=[
            before.model.path or "",
            ", ".join(dict.fromkeys(f"--{site.rewrite}" for site in result.sites)),
        ],
        figures=figures(result.before, result.after),
        pair=_pair(before, after, share) if result.changes else [],
        legend=LEGEND,
        sites=[_site(site, done.get((site.rewrite, site.node))) for site in result.sites],
        tensors=_tensors(before, after) if result.changes else [],
        tradeoff=drawn(tradeoff(result)),
        searches=[
            (
                tabulated(search_table.table(c.search)),
                [w.plain for w in search_table.lines(c.search)],
            )
            for c in result.changes
            if c.search is not None
        ],
        notes=[],
        warnings=result.warnings,
        **proof,
    )


def _pair(before: Inspection, after: Inspection, share: float) -> list[tuple[str, Any]]:
    """Both treemaps at one scale: areas are comparable."""
    whole = max(share, 1.0)
    return [
        (
            f"before: {text_tools.exact(before.totals.params)} parameters",
            drawn(charts.scaled_treemap(before, 1 / whole)),
        ),
        (
            f"after: {text_tools.exact(after.totals.params)} parameters",
            drawn(charts.scaled_treemap(after, share / whole)),
        ),
    ]


def _site(site: Site, done: Change | None) -> dict[str, Any]:
    reason = "" if done is not None else site.refused or "left as it is"
    left = "nothing to do" if site.nothing_to_do else "refused"
    after = site.params_after
    return {
        "name": f"{site.rewrite} at {site.node}",
        "kind": left if reason else "exact" if site.exact else "approximate",
        "refused": f"{left.capitalize()}: {reason}" if reason else "",
        "detail": site.detail,
        "before": text_tools.exact(site.params_before),
        "after": text_tools.exact(after) + _ratio(site.params_before, after),
        "share": min((after or 0) / site.params_before, 1.0) if site.params_before else 0.0,
        "notes": done.notes if done is not None else (),
        "removed": _named(done.removed) if done is not None else "",
        "added": _named(done.added) if done is not None else "",
        "moved": _named([f"{m.source} → {m.target}" for m in done.moved])
        if done is not None
        else "",
    }


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _ratio(before: int, after: int | None) -> str:
    ratio = change(before, after)
    return f" ({ratio})" if ratio else ""


def _tensors(before: Inspection, after: Inspection) -> list[tuple[str, Any]]:
    """Which stored parameters are no longer there, and which are new."""
    old, new = ({item.name: item for item in report.weights} for report in (before, after))
    removed = [item for name, item in old.items() if not _same(item, new.get(name))]
    added = [item for name, item in new.items() if not _same(item, old.get(name))]
    return [
        (_heading("removed", removed), tabulated(_listed(removed))),
        (_heading("added", added), tabulated(_listed(added))),
    ]


def _same(item: WeightFacts, other: WeightFacts | None) -> bool:
    return other is not None and (item.shape, item.dtype) == (other.shape, other.dtype)


def _heading(word: str, items: Sequence[WeightFacts]) -> str:
    params = text_tools.exact(sum(item.params for item in items))
    more = f", the first {_LISTED} of them" if len(items) > _LISTED else ""
    return f"{len(items):,} {word}: {params} parameters{more}"


def _listed(items: Sequence[WeightFacts]) -> Table:
    cells = (
        (item.name, "×".join(map(str, item.shape)), text_tools.exact(item.params))
        for item in items[:_LISTED]
    )
    return Table(named("weight", "shape", "parameters"), rows(cells))
