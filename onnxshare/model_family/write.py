"""Writes the models of a family so that each tensor that several hold is stored once.

Every model is written under a hidden name first, read again, and proven to be the one that was
given: the same graph, every tensor equal, and the same outputs in ONNX Runtime bit for bit. Only
when all have passed, the data file gets its name, and then one model after the other.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnxshare.comparison.compare import compare
from onnxshare.comparison.results import Verdict
from onnxshare.errors import OutputError, RewriteError, UsageError
from onnxshare.io.external_data import ExternalData
from onnxshare.io.load import Model, ModelSource, all_tensors, load
from onnxshare.io.save import HiddenCopy, hidden_copy, split_up
from onnxshare.io.serialize import TYPED_FIELDS, raw_data
from onnxshare.io.serialize import size as size_of
from onnxshare.model_family import data_file
from onnxshare.model_family.results import WrittenFamily, WrittenModel
from onnxshare.model_family.shared_tensors import (
    Layout,
    Member,
    digest_of,
    kept_apart,
    lay_out_family,
)
from onnxshare.runtime.limits import RunLimits
from onnxshare.support.option_text import option
from onnxshare.support.progress import report

#: Random samples that both models run on.
_SAMPLES = 8

_PROVEN = "every tensor is equal, and all outputs are bit-equal on {} random samples"
_NOT_RUN = "every tensor is equal; the models were not run"


@dataclass(frozen=True)
class _How:
    validate: bool
    force: bool
    run_limits: RunLimits | None


def write_family(
    sources: Sequence[ModelSource],
    folder: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    force: bool = False,
    validate: bool = True,
    run_limits: RunLimits | None = None,
) -> WrittenFamily:
    """Write models into a folder that stores each tensor that several of them hold once.

    Tensors of 1 KiB or more that are equal bit for bit lie in the folder's `family.data`, to which
    the models refer; all else stays with its model. Models that are in the folder already stay
    valid at any moment, and bytes of the data file where they are: new ones are added to it.

    Args:
        sources: the models; they are not changed. One is enough for a folder that holds a family.
        folder: where to write; it is made if it is missing.
        dry_run: write nothing, and tell what would be saved.
        force: overwrite other models of the same names.
        validate: run each model before and after; without, the tensors and graphs alone are
            compared.
        run_limits: what a model may take when it runs; as of `onnxshare.compare`.

    Raises:
        UsageError: too few models are given, or one has no name.
        ModelFileError, ModelError: a model cannot be read.
        OutputError: the folder cannot be written, or holds another model of a name.
        RewriteError: no tensor is shared, or a written model could not be proven to be the one
            that was given. Nothing is written then.

    Example:
        >>> found = onnxshare.write_family(["models/enas/child-1.onnx",
        ...     "models/enas/child-2.onnx"], "family", dry_run=True)
        >>> found.written, len(found.models)
        (False, 2)
    """
    home = Path(folder)
    _check_folder(home, dry_run=dry_run)
    how = _How(validate, force, run_limits)
    with contextlib.ExitStack() as stack:
        data = home / data_file.NAME
        if not dry_run:
            stack.enter_context(data_file.alone(data))
        members = _members([load(source) for source in sources], home, force=force)
        layout = lay_out_family(members, data)
        if not any(layout.elsewhere.values()):
            raise RewriteError(
                "the models share no tensor of 1 KiB or more bit for bit, so nothing was written",
                "`onnxshare family` without --write shows what is equal otherwise",
            )
        found = _outcome(home, members, layout, dry_run=dry_run)
        if dry_run:
            return found
        validation = _written(home, members, layout, how)
        models = (replace(m, validation=validation.get(m.file, "")) for m in found.models)
        return replace(found, models=tuple(models))


def _written(folder: Path, members: Sequence[Member], layout: Layout, how: _How) -> dict[str, str]:
    """As `_write`, into a folder that is made if it is missing, and not left empty."""
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _write(folder, members, layout, how)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _check_folder(folder: Path, *, dry_run: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is not a folder", "specify a folder")
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not dry_run and not os.access(nearest, os.W_OK):
        raise OutputError(f"{folder}: is not writable", "choose another folder")


def _members(models: list[Model], folder: Path, *, force: bool) -> list[Member]:
    """The models of the folder and those that are new there.

    Raises:
        UsageError: that is one.
    """
    there = {
        name: Member(name, model, known=True) for name, model in data_file.members(folder).items()
    }
    new = {member.file: member for member in _new_members(models, there, folder, force)}
    members = list({**there, **new}.values())
    if len(members) < 2:
        raise UsageError("a family is of two models or more", "name at least two")
    return members


def _new_members(
    models: list[Model], there: dict[str, Member], folder: Path, force: bool
) -> Iterator[Member]:
    """The models that are not in the folder yet, under the names that they will have there."""
    inside = [(folder / name).resolve() for name in there]
    outside = [m for m in models if m.path is None or m.path.resolve() not in inside]
    for model, name in zip(outside, _names(outside), strict=True):
        same = there.get(name)
        if same is not None and not _difference(model, same.model, {}):
            continue
        path = folder / name
        if path.exists() and model.path is not None and path.samefile(model.path):
            raise OutputError(f"{path}: is a model that is read", "choose another folder")
        if path.exists() and not force:
            raise OutputError(
                f"{path}: already exists, and is another model",
                f"rename one of them, or add {option('--force')} to overwrite it",
            )
        yield Member(name, model)


def _names(models: Sequence[Model]) -> list[str]:
    """A file name for each model: its own, with those of folders before it where several models
    are called the same.

    Raises:
        UsageError: a model has no name, or is given twice.
    """
    paths: list[Path] = []
    for model in models:
        if model.path is None:
            raise UsageError("a model from memory has no name", "give the paths of files")
        paths.append(model.path.absolute())
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a model is given twice", "name each once")
    parts = [(*path.parts[1:-1], path.stem) for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["-".join(part[-depth:]) if _doubled(part, parts) else part[-1] for part in parts]
        if max(Counter(map(str.casefold, names)).values()) == 1:
            return [f"{name}.onnx" for name in names]
    raise UsageError("models of equal names cannot be told apart", "rename one of them")


def _doubled(part: tuple[str, ...], parts: Sequence[tuple[str, ...]]) -> bool:
    stems = Counter(other[-1].casefold() for other in parts)
    return stems[part[-1].casefold()] > 1


def _outcome(
    folder: Path, members: Sequence[Member], layout: Layout, *, dry_run: bool
) -> WrittenFamily:
    """What a run will have done, sizes counted without writing."""
    data = folder / data_file.NAME
    old = data.stat().st_size if data.is_file() else 0
    models, after = [], layout.end
    for member in members:
        ranges = layout.elsewhere[member.file]
        own = _own_bytes(member.model)
        action = "written"
        if member.known:
            changed = len(ranges) > len(data_file.ranges(member.model))
            action = "rewritten" if changed else "kept"
        if action != "kept":
            parts, blocks = split_up(member.model, "x", elsewhere=ranges)
            own = size_of(parts) + (blocks[-1].offset + blocks[-1].length if blocks else 0)
        after += own
        shared = sum({where.offset: where.length for where in ranges.values()}.values())
        models.append(WrittenModel(member.file, member.model.name, action, shared, own))
    return WrittenFamily(
        str(folder),
        data_file.NAME,
        not dry_run,
        tuple(models),
        sum({path: n for member in members for path, n in _files(member.model)}.values()),
        after,
        layout.end,
        layout.end - old,
        kept_apart(members, layout),
    )


def _files(model: Model) -> Iterator[tuple[str, int]]:
    """The files of a model, by real path, and their bytes."""
    yield os.path.realpath(model.name), model.size or 0
    for name in model.external_files():
        path = (model.folder or Path()) / name
        yield os.path.realpath(path), model.external.file_size(name) or 0


def _own_bytes(model: Model) -> int:
    """Bytes of a model's files, but for the shared one."""
    return sum(size for path, size in _files(model) if os.path.basename(path) != data_file.NAME)


def _write(folder: Path, members: Sequence[Member], layout: Layout, how: _How) -> dict[str, str]:
    """Write what changes, prove it, and then show it; returns how each model was proven."""
    data = folder / data_file.NAME
    validation: dict[str, str] = {}
    changed = [
        member
        for member in members
        if not member.known
        or len(layout.elsewhere[member.file]) > len(data_file.ranges(member.model))
    ]
    with contextlib.ExitStack() as stack:
        hidden_data, show_data = stack.enter_context(data_file.extended(data, layout.blocks))
        copies: list[HiddenCopy] = []
        for done, member in enumerate(changed):
            report("writing and running models", done, len(changed))
            # What is in the folder is read anew: its data file has grown.
            original = load(folder / member.file) if member.known else member.model
            path = folder / member.file
            copy = stack.enter_context(
                hidden_copy(
                    original,
                    path,
                    force=member.known or how.force,
                    elsewhere=layout.elsewhere[member.file],
                )
            )
            hidden = {**copy.data, data_file.NAME: hidden_data.name}
            written = replace(
                load(copy.path), external=ExternalData(folder, str(path), hidden=hidden)
            )
            digests = {p: d for (file, p), d in layout.digests.items() if file == member.file}
            validation[member.file] = _prove(original, written, digests, how)
            copies.append(copy)
        show_data()
        for copy in copies:
            copy.show()
    return validation


def _prove(original: Model, written: Model, digests: Mapping[int, bytes], how: _How) -> str:
    """Make sure that a written model is the one that was given, and say how.

    Raises:
        RewriteError: it is not, or that could not be shown.
    """
    wrong = _difference(original, written, digests)
    if wrong:
        raise RewriteError(f"{original.name}: {wrong} after writing; nothing was written")
    if not how.validate:
        return _NOT_RUN
    found = compare(original, written, provider="cpu", count=_SAMPLES, run_limits=how.run_limits)
    if found.verdict is not Verdict.IDENTICAL:
        raise RewriteError(
            f"{original.name}: nothing was written, because the outputs were not shown to be "
            f"bit-equal: {found.reason}",
            f"add {option('--no-validate')} to compare graphs and tensors alone",
        )
    return _PROVEN.format(found.samples)


def _difference(original: Model, other: Model, digests: Mapping[int, bytes]) -> str:
    """What is not the same in two models, wherever their tensors lie; empty if nothing.

    Args:
        original, other: the models.
        digests: by place, hashes of tensors of the first that were read already.
    """
    if _without_values(original.skeleton) != _without_values(other.skeleton):
        return "the graph is another"
    pairs = zip(all_tensors(original.skeleton), all_tensors(other.skeleton), strict=True)
    for place, (one, two) in enumerate(pairs):
        ours, theirs = raw_data(original, one, typed=True), raw_data(other, two, typed=True)
        if ours is None or theirs is None:  # strings
            same = (ours is theirs) and one.string_data == two.string_data
        else:
            digest = digests.get(place) or digest_of(ours.read())
            same = ours.length == theirs.length and digest == digest_of(theirs.read())
        if not same:
            return f"tensor '{one.name}' holds other values"
    return ""


def _without_values(proto: onnx.ModelProto) -> bytes:
    """A model, serialized without what its tensors hold and where."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for tensor in all_tensors(bare):
        for field in ("raw_data", "external_data", "data_location", *TYPED_FIELDS):
            tensor.ClearField(field)
    return bare.SerializeToString(deterministic=True)
