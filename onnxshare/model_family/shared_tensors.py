"""Which tensors several models hold bit for bit, and where each then lies in one data file.

Raw data is compared, whatever its name, dims and place: in the model file or in a data file, in
the main graph, in subgraphs or functions. A tensor is read only where another has its length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxshare.differences.model_side import stored_tensors
from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph
from onnxshare.io.external_data import Reference
from onnxshare.io.load import Model, all_tensors
from onnxshare.io.serialize import EXTERNAL_FROM, Block, Buffer, RawData, aligned, raw_data
from onnxshare.model_family import data_file
from onnxshare.model_family.results import KeptApart
from onnxshare.support.progress import report
from onnxshare.weights.content import axis_orders
from onnxshare.weights.index import Copy, IndexedTensor, TensorIndex, equal_groups


@dataclass(frozen=True, eq=False)
class Member:
    """A model of the family.

    Attributes:
        file: the name of its file in the folder.
        model: the model.
        known: whether it is in the folder already.
    """

    file: str
    model: Model
    known: bool = False


@dataclass(eq=False)
class _Tensor:
    """A tensor that may lie in a data file, and its place in `all_tensors`."""

    member: Member
    place: int
    name: str
    data: RawData
    key: tuple[int, bytes] | None = None


@dataclass
class Layout:
    """Where the tensors of a family lie.

    Attributes:
        elsewhere: by file, and by place in `all_tensors`, the range of the shared data file.
        blocks: what is added to the shared data file.
        end: its length after that.
        digests: by file and place, of the tensors that were read, a hash of their raw data.
    """

    elsewhere: dict[str, dict[int, Reference]] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    end: int = 0
    digests: dict[tuple[str, int], bytes] = field(default_factory=dict)


def lay_out_family(members: Sequence[Member], data: Path) -> Layout:
    """Find the tensors that more than one model holds, or that the data file holds already, and
    give each of them one range of that file; ranges that are used stay.

    Raises:
        ModelFileError, ModelError: a tensor cannot be read.
    """
    layout = Layout(end=data.stat().st_size if data.is_file() else 0)
    tensors = [tensor for member in members for tensor in _tensors(member)]
    _read(tensors)
    kept = {member.file: data_file.ranges(member.model) for member in members if member.known}
    offsets: dict[tuple[int, bytes], int] = {}
    groups: dict[tuple[int, bytes], list[_Tensor]] = {}
    for tensor in tensors:
        if tensor.key is None:
            continue
        layout.digests[tensor.member.file, tensor.place] = tensor.key[1]
        groups.setdefault(tensor.key, []).append(tensor)
        known = kept.get(tensor.member.file, {}).get(tensor.place)
        if known is not None:
            offsets.setdefault(tensor.key, known.offset)
    layout.elsewhere = {member.file: dict(kept.get(member.file, {})) for member in members}
    for key, group in groups.items():
        several = len({id(tensor.member) for tensor in group}) > 1
        if key not in offsets and not several:
            continue
        length = key[0]
        if key not in offsets:
            offsets[key] = aligned(layout.end, length)
            layout.end = offsets[key] + length
            layout.blocks.append(Block(offsets[key], length, group[0].data.read))
        where = Reference(data_file.NAME, offsets[key], length)
        for tensor in group:
            layout.elsewhere[tensor.member.file].setdefault(tensor.place, where)
    return layout


def _tensors(member: Member) -> Iterator[_Tensor]:
    for place, tensor in enumerate(all_tensors(member.model.skeleton)):
        data = raw_data(member.model, tensor, typed=True)
        if data is not None and data.length >= EXTERNAL_FROM:
            yield _Tensor(member, place, tensor.name, data)


def _read(tensors: Iterable[_Tensor]) -> None:
    """Hash the tensors of whose length there are several in different models."""
    lengths: dict[int, list[_Tensor]] = {}
    for tensor in tensors:
        lengths.setdefault(tensor.data.length, []).append(tensor)
    alike = [
        tensor
        for group in lengths.values()
        if len({id(tensor.member) for tensor in group}) > 1
        for tensor in group
    ]
    total, done = sum(tensor.data.length for tensor in alike), 0
    known: dict[tuple[Path | None, Reference], bytes] = {}
    for tensor in alike:
        origin = tensor.data.origin
        place = None if origin is None else (tensor.member.model.folder, origin)
        digest = known.get(place) if place else None
        if digest is None:
            digest = digest_of(tensor.data.read())
            if place is not None:
                known[place] = digest
        tensor.key = tensor.data.length, digest
        done += tensor.data.length
        report("reading tensors of equal length", done, total)


def digest_of(parts: Iterable[Buffer]) -> bytes:
    """A hash of raw data that comes in pieces."""
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        found.update(part)
    return found.digest()


def kept_apart(members: Sequence[Member], layout: Layout) -> tuple[KeptApart, ...]:
    """The tensors of several models that equal one another transposed, or once dequantized, which
    no range of a file can be, and equal strings. Of tensors that are equal as they are, the first
    stands for all; models whose graph cannot be followed are left out.

    Raises:
        ModelFileError, ModelError: a tensor cannot be read.
    """
    firsts: list[IndexedTensor] = []
    homes: dict[int, Member] = {}
    seen: set[bytes] = set()
    for member in members:
        parts = all_tensors(member.model.skeleton)  # held, so that each stays the same object
        places = {id(part): place for place, part in enumerate(parts)}
        try:
            graph = Graph(member.model)
        except ModelError:
            continue
        index = TensorIndex(graph)
        for stored in stored_tensors(graph):
            tensor = index.add(stored)
            place = places.get(id(stored.tensor), -1)
            digest = layout.digests.get((member.file, place))
            if tensor.bytes < EXTERNAL_FROM or not tensor.laid_out or digest in seen:
                continue
            if digest is not None:
                seen.add(digest)
            firsts.append(tensor)
            homes[id(stored)] = member
    found = [
        _apart(group, homes, "one is the transpose of another")
        for group in equal_groups(_comparable(firsts, homes, _turns))
        if any(copy.transposed for copy in group)
    ]
    numbers = [tensor.numbers for tensor in firsts]
    quantized = {id(one.stored) for one in numbers if one.quantized}
    found += [
        _apart(group, homes, "they are equal only once they are dequantized")
        for group in equal_groups(_comparable(numbers, homes, _has_quantized))
        if any(id(copy.stored) in quantized for copy in group)
    ]
    found += _strings(members)
    return tuple(item for item in found if item is not None)


def _strings(members: Sequence[Member]) -> Iterator[KeptApart]:
    """Equal tensors of strings, which ONNX keeps in the model file."""
    groups: dict[tuple[bytes, ...], dict[str, str]] = {}
    for member in members:
        for tensor in all_tensors(member.model.skeleton):
            if sum(map(len, tensor.string_data)) >= EXTERNAL_FROM:
                group = groups.setdefault(tuple(tensor.string_data), {})
                group.setdefault(member.file, tensor.name)
    for texts, group in groups.items():
        if len(group) > 1:
            names = tuple(f"{file}:{name}" for file, name in group.items())
            size = (len(group) - 1) * sum(map(len, texts))
            yield KeptApart(names, size, "strings cannot lie in a data file")


def _comparable(
    tensors: Iterable[IndexedTensor],
    homes: Mapping[int, Member],
    wanted: Callable[[list[IndexedTensor]], bool],
) -> list[IndexedTensor]:
    """The tensors of those types and dims that different models have, and that are wanted."""
    forms: dict[Any, list[IndexedTensor]] = {}
    for tensor in tensors:
        forms.setdefault(tensor.form, []).append(tensor)
    return [
        tensor
        for alike in forms.values()
        if len({id(homes[id(tensor.stored)]) for tensor in alike}) > 1 and wanted(alike)
        for tensor in alike
    ]


def _turns(alike: list[IndexedTensor]) -> bool:
    """Whether one of these may be the transpose of another."""
    shapes = {tensor.shape for tensor in alike}
    return any(any(axis_orders(one, other)) for one in shapes for other in shapes)


def _has_quantized(alike: list[IndexedTensor]) -> bool:
    return any(tensor.quantized for tensor in alike)


def _apart(group: list[Copy], homes: Mapping[int, Member], reason: str) -> KeptApart | None:
    """What is said of equal tensors; None if one model alone holds them."""
    files = [homes[id(copy.stored)].file for copy in group]
    if len(set(files)) < 2:
        return None
    names = (f"{file}:{copy.stored.name}" for file, copy in zip(files, group, strict=True))
    sizes = [copy.stored.bytes for copy in group]
    return KeptApart(tuple(names), sum(sizes) - max(sizes), reason)
