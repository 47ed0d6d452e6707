"""What writing a family did, or would do: frozen, plain, and the shape of `--format json`."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshare.support.dataclass_tools import Result


@dataclass(frozen=True)
class WrittenModel:
    """A model of the folder.

    Attributes:
        file: the name of its file in the folder.
        source: what it was made of: the path that was given, or that of the file itself.
        action: written, rewritten (it was in the folder, and holds less of its own now) or kept
            (it is in the folder as it was).
        shared_bytes: of its tensors that lie in the shared data file.
        own_bytes: of its model file, and of a data file of its own.
        validation: how it was proven to be the same model.
    """

    file: str
    source: str
    action: str
    shared_bytes: int
    own_bytes: int
    validation: str = ""


@dataclass(frozen=True)
class KeptApart:
    """Equal tensors of several models that cannot lie in one place, and why.

    Attributes:
        tensors: their names, each after the file of its model and a colon.
        bytes: what all of them but the largest take.
        reason: why each is stored for itself.
    """

    tensors: tuple[str, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class WrittenFamily(Result):
    """A folder of models that store what several of them hold once.

    Attributes:
        folder: the folder.
        data: the name of the shared data file in it.
        written: whether anything was written; false for a dry run.
        models: the models that were given, and those of the folder.
        bytes_before: of the files of all models, given ones as they were given.
        bytes_after: of the model files in the folder, and their data.
        shared_bytes: of the shared data file.
        added_bytes: of it that are new.
        kept_apart: equal tensors that cannot lie in one place.
    """

    SHOWN = (
        *("folder", "data", "written", "models", "bytes_before", "bytes_after", "saved_bytes"),
        *("shared_bytes", "added_bytes", "kept_apart"),
    )

    folder: str
    data: str
    written: bool
    models: tuple[WrittenModel, ...]
    bytes_before: int
    bytes_after: int
    shared_bytes: int
    added_bytes: int
    kept_apart: tuple[KeptApart, ...] = ()

    @property
    def saved_bytes(self) -> int:
        """How many bytes fewer the files take."""
        return self.bytes_before - self.bytes_after
