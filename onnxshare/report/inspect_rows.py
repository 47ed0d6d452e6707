"""Which rows of a report a person is shown: repeated blocks as one, and of many the rest as one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshare.analysis.results import NodeFacts
from onnxshare.report.inspect_groups import Group, group, total
from onnxshare.support.numbers import quotient

#: So many lines a table on a terminal has at most, with all that is said above and below it.
MOST_LINES = 120

#: Blocks are folded that are there so often, and have so many rows in all.
_LEAST_TIMES, _LEAST_ROWS = 3, 8

#: Bounds on what is tried to find them: periods in all, and at each row.
_PERIODS, _TRIED = 64, 8

#: Blocks of blocks are found in further passes.
_PASSES = 3

#: Where the common beginning of names may end.
_BORDERS = "/.:"


@dataclass(frozen=True)
class Block(Group):
    """A block of rows that is repeated, all of its repetitions together.

    Attributes:
        times: how often it is there.
        first, last: what the names of the first and the last one have in common.
    """

    times: int
    first: str
    last: str

    @property
    def label(self) -> str:
        """How often it is there, and the first and the last name: `×28 /model/layers.0…27/`."""
        first, last = self.first, self.last
        if first == last:
            return f"×{self.times} {first}"
        start = _alike(first, last)
        end = min(_alike(first[::-1], last[::-1]), len(first) - start, len(last) - start)
        if not start or first[-1] not in _BORDERS:
            return f"×{self.times} {first} … {last}"
        between = f"{first[start : len(first) - end]}…{last[start : len(last) - end]}"
        return f"×{self.times} {first[:start]}{between}{first[len(first) - end :]}"


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class Run:
    """Rows from `start` to `stop`: one row, or a block that is there so many times."""

    start: int
    stop: int
    times: int = 1


def runs(nodes: Sequence[NodeFacts]) -> list[Run]:
    """The rows of nodes with repeated blocks together, in graph order."""
    kinds: list[Hashable] = [
        (n.op_type, n.domain, n.params, n.params_new, n.connections, n.macs, n.flops, n.counted)
        for n in nodes
    ]
    found = [Run(place, place + 1) for place in range(len(nodes))]
    for _ in range(_PASSES):
        codes: dict[Hashable, int] = {}
        numbers = [codes.setdefault(kind, len(codes)) for kind in kinds]
        spans = _repeated(np.array(numbers, np.int32), [run.stop - run.start for run in found])
        if len(spans) == len(found):
            break
        kinds = [
            kinds[at] if times == 1 else (times, *numbers[at : at + period])
            for at, period, times in spans
        ]
        found = [
            found[at]
            if times == 1
            else Run(found[at].start, found[at + period * times - 1].stop, times)
            for at, period, times in spans
        ]
    return found


def _repeated(codes: np.ndarray[Any, Any], rows: list[int]) -> list[tuple[int, int, int]]:
    """Where each row or block begins, how many it has, and how often it is there."""
    places: dict[int, list[int]] = {}
    for place, code in enumerate(codes.tolist()):
        places.setdefault(code, []).append(place)
    ends: dict[int, np.ndarray[Any, Any]] = {}  # where what repeats with a period stops
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(codes):
        same = places[int(codes[at])]
        here = bisect_left(same, at)
        best = (at, 1, 1)
        for other in same[here + 1 : here + 1 + _TRIED]:
            period = other - at
            if period not in ends:
                if len(ends) == _PERIODS:
                    continue
                differ = np.flatnonzero(codes[:-period] != codes[period:])
                ends[period] = np.append(differ, len(codes) - period).astype(np.int32)
            end = int(ends[period][np.searchsorted(ends[period], at)])
            times = (end - at) // period + 1
            if times >= _LEAST_TIMES and times * period > best[1] * best[2]:
                best = (at, period, times)
        if best[2] > 1 and sum(rows[at : at + best[1] * best[2]]) < _LEAST_ROWS:
            best = (at, 1, 1)
        found.append(best)
        at += best[1] * best[2]
    return found


def folded_rows(nodes: Sequence[NodeFacts], found: Sequence[Run]) -> list[NodeFacts | Block]:
    """The rows of nodes, with those of a block summed up in one."""
    return [
        nodes[run.start] if run.times == 1 else _block(nodes[run.start : run.stop], run.times)
        for run in found
    ]


def _block(nodes: Sequence[NodeFacts], times: int) -> Block:
    size = len(nodes) // times
    one = size == 1
    sums = group(
        nodes, "", op_type=nodes[0].op_type if one else f"{size} nodes", kind=nodes[0].kind
    )
    names = _names(nodes, size)
    return Block(
        **{**sums.__dict__, "outputs": nodes[size - 1].outputs, "kind": sums.kind if one else ""},
        times=times,
        first=names[0],
        last=names[1],
    )


def _names(nodes: Sequence[NodeFacts], size: int) -> tuple[str, str]:
    """What the names in the first and in the last block begin with; where that is nothing, the
    first and the last of them."""
    names = [f"{node.scope}/{node.name}" if node.scope else node.name for node in nodes]
    first, last = beginning(names[:size]), beginning(names[-size:])
    if size == 1 or not (first and last):
        first, last = names[0], names[-1]
    return first, last


def beginning(names: Sequence[str]) -> str:
    """What all names begin with, up to a border."""
    first = min(names)
    shared = first[: _alike(first, max(names))]
    return shared[: max(shared.rfind(border) for border in _BORDERS) + 1]


def cut(rows: Sequence[Any], most: int, *, ends: bool, nested: bool) -> list[Any]:
    """So many rows at most: of more, the first, and the last where `ends`, with one in their place
    that sums up the rest; a sum is not known of rows that are `nested`."""
    if len(rows) <= most:
        return list(rows)
    last = (most - 1) // 3 if ends else 0
    first = max(0, most - 1 - last)
    rest = rows[first : len(rows) - last]
    return [*rows[:first], _rest(rest, nested=nested), *rows[len(rows) - last :]]


def _rest(rows: Sequence[Any], *, nested: bool) -> Group:
    counted = [row for row in rows if getattr(row, "counted", True)]
    params = 0 if nested else sum(getattr(row, "params_new", row.params) for row in rows)
    connections = None if nested else total(row.connections for row in counted)
    number = sum(getattr(row, "nodes", 1) if isinstance(row, Block) else 1 for row in rows)
    return Group(
        number=None,
        name=f"… {number:,} more: --all shows them",
        op_type="",
        domain="",
        kind="",
        depth=0,
        outputs=(),
        nodes=sum(getattr(row, "nodes", 1) for row in rows),
        params=params,
        params_new=params,
        connections=connections,
        sharing_ratio=quotient(connections, params),
        macs=None if nested else total(getattr(row, "macs", 0) for row in counted),
        flops=None if nested else total(getattr(row, "flops", 0) for row in counted),
    )
