"""The data file that the models of a family share: it only grows, and what is in it stays.

A run that adds to it first writes down how long it was. Where such a run is killed, the next one
finds that note, and cuts off what no model of the folder needs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import onnx

from onnxshare.errors import OnnxShareError, OutputError
from onnxshare.io import atomic_write
from onnxshare.io.external_data import Reference, Refused, reference
from onnxshare.io.load import Model, all_tensors, load
from onnxshare.io.save import data_of
from onnxshare.io.serialize import Block

#: The name of the data file in the folder of a family.
NAME = "family.data"

#: What a run writes down before it adds to the file.
_NOTE = re.compile(rb"family\.data had (\d{1,19}) bytes\n")

_BUSY = "another run adds to it"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other run adds to this data file meanwhile; what a run left that was killed is put right.

    Raises:
        OutputError: another run adds to it.
    """
    with contextlib.ExitStack() as stack:
        if path.is_file() and not path.is_symlink():
            try:
                file = stack.enter_context(open(path, "rb"))
            except OSError as error:
                raise OutputError(f"{path}: cannot be read: {error.strerror}") from None
            if not atomic_write.locked(file):
                raise OutputError(f"{path}: {_BUSY}", "wait until that is done")
        atomic_write.sweep(path, partial(_put_right, path))
        yield


def ranges(model: Model) -> dict[int, Reference]:
    """By place in `all_tensors`, where tensors of a model lie in the shared data file."""
    found: dict[int, Reference] = {}
    for place, tensor in enumerate(all_tensors(model.skeleton)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            with contextlib.suppress(Refused):
                where = reference(tensor)
                if where.location == NAME:
                    found[place] = where
    return found


def members(folder: Path) -> dict[str, Model]:
    """The models of a folder that have tensors in its shared data file, by file name.

    Raises:
        ModelFileError: a model of the folder cannot be read.
    """
    if not (folder / NAME).is_file():
        return {}
    loaded = {path.name: load(path) for path in sorted(folder.glob("*.onnx")) if path.is_file()}
    return {name: model for name, model in loaded.items() if NAME in model.external_files()}


@contextlib.contextmanager
def extended(path: Path, blocks: Sequence[Block]) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Write blocks to the data file: yields where its bytes can be read, and what gives it its
    name. A new file is hidden until then; to one that is there, blocks are added, which no model
    names yet. In the end, what no model of the folder needs is removed again.

    Raises:
        OutputError: it cannot be written.
    """
    if not blocks:
        yield path, lambda: None
        return
    old = path.stat().st_size if path.exists() else 0
    note = b"family.data had %d bytes\n" % old
    with contextlib.ExitStack() as stack:
        stack.enter_context(atomic_write.written(path, [note]))
        if old:
            stack.callback(_cut, path, old)
            _add(path, blocks, old)
            yield path, lambda: None
            return
        hidden, _ = stack.enter_context(atomic_write.written(path, data_of(blocks)))

        def show() -> None:
            _show(hidden, path)
            stack.callback(_cut, path, 0)

        yield hidden, show


def _add(path: Path, blocks: Sequence[Block], old: int) -> None:
    try:
        with open(path, "r+b") as file:
            file.seek(old)
            for piece in data_of(blocks, old):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}",
            "nothing was changed: free some space or choose another folder",
        ) from error


def _show(hidden: Path, path: Path) -> None:
    with atomic_write.alone_in(path.parent):
        try:
            atomic_write.move(hidden, path, force=False)
        except FileExistsError:
            raise OutputError(f"{path}: {_BUSY}", "wait until that is done") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _put_right(path: Path, left: Path) -> None:
    """Cut off what a run added that was killed, by its note."""
    with open(left, "rb") as file:
        note = _NOTE.fullmatch(file.read(64))
    if note is not None:
        _cut(path, int(note[1]))


def _cut(path: Path, old: int) -> None:
    """Cut off what is behind the old end of the data file and no model of its folder needs."""
    with contextlib.suppress(OSError, OnnxShareError):  # else nobody knows what is needed
        models = members(path.parent).values()
        used = [where for model in models for where in ranges(model).values()]
        end = max([old, *(where.offset + where.length for where in used)])
        if not end:
            path.unlink()
        elif path.stat().st_size > end:
            os.truncate(path, end)
