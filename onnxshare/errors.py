"""What goes wrong in a way that the user can fix: one line with the cause and the remedy."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def printable(text: str) -> str:
    """Return `text` with control and format characters and line separators escaped, so that
    names from a file can neither move the cursor nor change colours of a terminal."""
    return "".join(
        char.encode("unicode_escape").decode() if _disturbs(char) else char for char in text
    )


def _disturbs(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp")


def hint(word: str, names: Sequence[str], what: str, *, always: bool = False) -> str:
    """What may have been meant by a word that is none of some names, such as keys; all of these
    where none is like it, or `always`."""
    import difflib

    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    meant = [f"did you mean {near[0]}?"] if near else []
    known = [] if near and not always else [f"the {what} are {', '.join(names)}"]
    return " ".join(meant + known)


class OnnxShareError(Exception):
    """The base of every error that onnxshare raises on purpose.

    Attributes:
        cause: what is wrong, naming the file, node or option.
        remedy: what the user can do about it; may be empty.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = printable(cause)
        self.remedy = printable(remedy)
        super().__init__(self.cause, self.remedy)

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}" if self.remedy else self.cause


class UsageError(OnnxShareError):
    """Options or arguments that do not go together, or that name nothing."""


class ModelFileError(OnnxShareError):
    """A model file that cannot be read as ONNX."""


class ModelError(OnnxShareError):
    """A model that was read but whose graph contradicts itself."""


class SamplesError(OnnxShareError):
    """Sample inputs that cannot be read or do not fit the model."""


class OutputError(OnnxShareError):
    """A file that cannot be written, or must not be overwritten."""


class RewriteError(OnnxShareError):
    """A rewrite that was requested and cannot be made safely."""


class RuntimeFailure(OnnxShareError):
    """ONNX Runtime could not load or run a model.

    Attributes:
        missing_kernel: the operator that it has in other types only, where that is why; else "".
        model: which of two models it is, "A" or "B"; "" where there is one.
    """

    def __init__(self, cause: str, remedy: str = "", missing_kernel: str = "") -> None:
        super().__init__(cause, remedy)
        self.missing_kernel = missing_kernel
        self.model = ""

    def of_model(self, letter: str) -> RuntimeFailure:
        """The same, said of one of two models."""
        named = RuntimeFailure(f"model {letter}: {self.cause}", self.remedy, self.missing_kernel)
        named.model = letter
        return named


class OutOfMemory(RuntimeFailure):
    """ONNX Runtime needs more memory than it may have; smaller batches may need less."""
