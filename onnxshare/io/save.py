"""Writes a model so that no half-written file is ever seen under its final name.

What is guaranteed, also when the process is killed or the power fails at any moment: the name of
the model is that of the whole old model or of the whole new one, and the data file that it names
is there and whole. To that end a new data file always gets a name that is not in use; the model
takes its place last, in one step; only then the data file of the model that was overwritten goes,
if its name shows that it was written here. What may be left behind is a file more, never less.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnxshare.errors import OnnxShareError, OutputError
from onnxshare.io import atomic_write
from onnxshare.io.external_data import Reference
from onnxshare.io.load import PROTOBUF_LIMIT, Model, load
from onnxshare.io.serialize import Block, Buffer, Piece, chunks, has_external, lay_out, pieces, size
from onnxshare.io.text_formats import text_form
from onnxshare.support.option_text import option


def check_output(path: Path, *, force: bool, report: bool = False) -> None:
    """Refuse an output path early, before any work is done for it.

    Args:
        path: where to write.
        force: overwrite what is there.
        report: whether a report is written, which may go to a device, and in the place of what
            can be one.

    Raises:
        OutputError: the path exists and must not be overwritten, or its folder is missing or
            read-only.
    """
    if path == Path("-"):
        raise OutputError("-: is not the name of a file", "specify one")
    if path.is_dir():
        raise OutputError(f"{path}: is a directory", "name a file")
    if atomic_write.is_special(path):
        if report:
            return
        raise OutputError(f"{path}: is a device, a pipe or a socket", "name a regular file")
    if path.exists() and not force:
        if not report:
            raise OutputError(
                f"{path}: already exists",
                f"add {option('--force')} to overwrite it, or name another file",
            )
        if not _is_report(path):
            raise OutputError(
                f"{path}: exists, and is not a report", f"add {option('--force')} to overwrite it"
            )
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder", "create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: is not writable", "choose another folder, as with -o")


def _is_report(path: Path) -> bool:
    """Whether a file may be one: text, and neither a model nor a policy."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    # Not every .json file is a model.
    model = text_form("", head) or text_form(path.name, head) not in (None, "json")
    named = path.suffix in (".onnx", ".toml")
    return not (model or named or re.search(rb"[\0-\x08\x0e-\x1f]", head))


def check_distinct(outputs: Sequence[Path], inputs: Mapping[str, Iterable[Path]]) -> None:
    """Refuse outputs that are inputs, or one another, whatever the paths look like: also through
    links, as hard links, and as files of a folder that is read.

    Args:
        outputs: what is to be written; devices and pipes may be given several times.
        inputs: what is read, by what messages call it.

    Raises:
        OutputError: one is.
    """
    files = [path for path in outputs if not atomic_write.is_special(path)]
    for place, path in enumerate(files):
        if any(_same_file(path, other) or _real(path) == _real(other) for other in files[:place]):
            raise OutputError(f"{path}: is to be written twice", "name another file")
    for what, paths in inputs.items():
        for source in paths:
            home = source.resolve() if source.is_dir() else None
            for path in files:
                inside = home is not None and path.exists() and home in _real(path).parents
                if inside or _same_file(path, source):
                    raise OutputError(f"{path}: is {what}", "name another file")


def _real(path: Path) -> Path:
    """Where a file is, or will be; what is itself a link is replaced, not what it leads to."""
    return Path(os.path.realpath(path.parent), os.path.normcase(path.name))


def save_model(model: Model, path: Path, *, external: bool = False, force: bool = False) -> int:
    """Write a model, and return the bytes written (external data included).

    Payloads are copied from where they are, a few MiB at a time: only tensors that were made in
    memory are held there. Embedded weights stay embedded as long as the model stays below 2 GiB,
    and external ones stay external, in one data file next to the model, `path` + ".data" (or,
    while that name is in use, `path` + ".<8 digits>.data"). In it, tensors of 1 MiB or more begin
    at multiples of 4096 bytes, others at multiples of 64; tensors that shared a range still do.

    Args:
        model: the model; not changed. It may be the one at `path`.
        path: where to write it.
        external: move every tensor of 1 KiB or more out of the model file.
        force: overwrite what is there.

    Raises:
        OutputError: the files cannot be written, or exist and `force` is false.
        ModelFileError: external data of the model is missing, or must not be read.
    """
    with hidden_copy(model, path, external=external, force=force) as copy:
        copy.show()
        return copy.size


@dataclass(frozen=True)
class HiddenCopy:
    """A model that is written, and not yet under its name.

    Attributes:
        path: the hidden name of the model file.
        data: the hidden name of its data file, by the name that it will have; empty without one.
        size: bytes of both.
        show: gives the files their names, or raises OutputError.
    """

    path: Path
    data: dict[str, str]
    size: int
    show: Callable[[], None]


@contextlib.contextmanager
def hidden_copy(
    model: Model,
    path: Path,
    *,
    external: bool = False,
    force: bool = False,
    elsewhere: Mapping[int, Reference] | None = None,
) -> Iterator[HiddenCopy]:
    """Write a model as `save_model` does, but under a hidden name, so that it can be tried before
    it is shown; what was not shown in the end is removed.

    Args:
        model, path, external, force: as of `save_model`.
        elsewhere: by place in `all_tensors`, the tensors that lie in a file of another name.

    Raises: as `save_model`.
    """
    atomic_write.sweep(path, partial(_forget, path))
    check_output(path, force=force)
    own = _own_data(model)
    if any(_same_file(path, file) for file in own):
        raise OutputError(f"{path}: holds weights of the model itself", "name another file")
    data_path = _data_path(path, force=force)
    parts, blocks = split_up(model, data_path.name, external=external, elsewhere=elsewhere)
    old = partial(_outdated, path, model, own)
    with _hidden(path, parts, data_path if blocks else None, blocks, old, force=force) as copy:
        yield copy


def split_up(
    model: Model,
    data_name: str,
    *,
    external: bool = False,
    elsewhere: Mapping[int, Reference] | None = None,
) -> tuple[list[Piece], list[Block]]:
    """What a model file and its data file will hold; the second may be empty.

    Raises: as `save_model`.
    """
    if not external and not elsewhere and not has_external(model):
        whole = pieces(model)
        if size(whole) <= PROTOBUF_LIMIT:
            return whole, []
        external = True
    for everything in dict.fromkeys((external, True)):
        structure, blocks = lay_out(model, data_name, everything=everything, elsewhere=elsewhere)
        parts = pieces(model, structure)
        if size(parts) <= PROTOBUF_LIMIT:
            return parts, blocks
    raise OutputError(
        f"{model.name}: cannot be written: it needs more than 2 GiB without its raw data",
        "convert its typed tensors to raw data",
    )


def _data_path(path: Path, *, force: bool) -> Path:
    """A name for the data file that nothing has yet."""
    usual = path.with_name(f"{path.name}.data")
    writing = f".{usual.name}."  # another run is about to give that name
    if not os.path.lexists(usual) and not any(
        n.startswith(writing) for n in os.listdir(path.parent)
    ):
        return usual
    if os.path.lexists(usual):
        check_output(usual, force=force)
    while os.path.lexists(other := path.with_name(f"{path.name}.{secrets.token_hex(4)}.data")):
        pass
    return other


@contextlib.contextmanager
def _hidden(
    path: Path,
    parts: list[Piece],
    data_path: Path | None,
    blocks: list[Block],
    outdated: Callable[[], list[Path]],
    *,
    force: bool,
) -> Iterator[HiddenCopy]:
    mode = atomic_write.mode_of(path)
    with contextlib.ExitStack() as stack:
        size_of_data, name_of_data = 0, None
        if data_path is not None:
            old_mode = next(map(atomic_write.mode_of, outdated()), mode)
            new = atomic_write.written(data_path, data_of(blocks), old_mode)
            name_of_data, size_of_data = stack.enter_context(new)
        name, size = stack.enter_context(atomic_write.written(path, chunks(parts), mode))
        data = {} if data_path is None or name_of_data is None else {data_path: name_of_data}
        yield HiddenCopy(
            name,
            {final.name: hidden.name for final, hidden in data.items()},
            size_of_data + size,
            partial(_show, path, name, data, outdated, force=force),
        )


def _show(
    path: Path,
    name: Path,
    data: Mapping[Path, Path],
    outdated: Callable[[], list[Path]],
    *,
    force: bool,
) -> None:
    """Give a model, and its data file if there is one, their names."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(atomic_write.alone_in(path.parent))
        # What names the old data stays until these are gone, whatever happens.
        if old := outdated():
            stack.enter_context(atomic_write.second_name(path))
        for final, hidden in data.items():
            if os.path.lexists(final):
                raise OutputError(f"{final}: was made meanwhile", "run it again")
            _move(hidden, final, force=False)
        try:
            _move(name, path, force=force)
        except OutputError:
            for final in data:
                final.unlink(missing_ok=True)  # made a moment ago, and nothing names it
            raise
        for file in old:
            with contextlib.suppress(OSError):
                file.unlink()


def _forget(path: Path, left: Path) -> None:
    """Remove the data files that a model names which a killed run left, but not the one at `path`:
    that run did not come to move its own model, or to remove the old data."""
    try:
        needed = load(path).external_files() if path.exists() else ()
        named = load(left).external_files()
    except OnnxShareError:  # nobody knows what is needed, or it was not written to its end
        return
    for name in filter(partial(_is_ours, path), named):
        data = path.with_name(name)
        if name in needed or not data.exists():
            continue
        # Data that a run wrote is not younger than the model that it wrote then.
        own = data.stat().st_mtime_ns <= left.stat().st_mtime_ns
        if own or atomic_write.is_second_name(left):
            atomic_write.remove_unused(data)


def _is_ours(path: Path, name: str) -> bool:
    """Whether a data file's name is one of those that are given to the data of `path`."""
    return bool(re.fullmatch(re.escape(path.name) + r"(\.[0-9a-f]{8})?\.data", name))


def _move(name: Path, path: Path, *, force: bool) -> None:
    try:
        atomic_write.move(name, path, force=force)
    except FileExistsError:
        raise OutputError(
            f"{path}: already exists",
            f"add {option('--force')} to overwrite it, or name another file",
        ) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def data_of(blocks: Iterable[Block], position: int = 0) -> Iterator[Buffer]:
    """The bytes of a data file from a position on: blocks, and zeros between them."""
    for block in blocks:
        if block.offset > position:
            yield bytes(block.offset - position)
        yield from block.read()
        position = block.offset + block.length


def _own_data(model: Model) -> list[Path]:
    """The data files of the model that is saved."""
    return [] if model.folder is None else [model.folder / n for n in model.external_files()]


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except (OSError, ValueError):  # one of them is missing, or its name is none
        return False


def _outdated(path: Path, model: Model, own: list[Path]) -> list[Path]:
    """The data files that only the model at `path` needs, which is about to be overwritten: those
    that it names and whose names are the ones given here; but none of the model that is saved,
    unless that is the one at `path`."""
    if model.path is not None and _same_file(path, model.path):
        own = []
    try:
        named = load(path).external_files()
    except OnnxShareError:  # there is none, or it is not a model: it names no files
        return []
    return [
        path.with_name(name)
        for name in named
        if _is_ours(path, name) and path.with_name(name).is_file()
        if not any(_same_file(path.with_name(name), file) for file in own)
    ]
