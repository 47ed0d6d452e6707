"""Options in messages, as who called writes them: `--keep 99%` on the command line, `keep=0.99` in
Python.

Messages name options in one way, `option("--keep 99%")`. The command line says at its start that
it calls, and the processes that it starts inherit that.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

#: The variable that says that the command line calls; `ONNXSHARE_…` would be a limit of `check`.
COMMAND_LINE = "_ONNXSHARE_COMMAND_LINE"

_REWRITES = "share fold-batchnorm global-pool pool-first fc-to-gap fc-to-conv conv-to-fc".split()

#: Option → what stands for it in Python; {} is its value. All others are keywords of their name.
PYTHON = {
    "--no-validate": "validate=False",
    "--in-process": "run_limits=RunLimits(in_process=True)",
    "--timeout": "run_limits=RunLimits(timeout={})",
    "--memory-limit": "run_limits=RunLimits(memory={})",
    "--normalize": "images=ImageOptions(normalize={})",
    "--layout": "images=ImageOptions(layout={})",
    "--resize": "images=ImageOptions(resize={})",
    "--input-shape": "input_shapes={}",
    "--dim": "dims={}",
    "--config": "policy={}",
    **{f"--{name}": f"'{name}'" for name in _REWRITES},
}

#: Options that take no value.
FLAGS = frozenset(
    "--approximate --fully-convolutional --pool-outputs --assume-defaults --force".split()
)

#: Options that are given several times, each for a name, and what is between it and its value.
_BY_NAME = {"--input-shape": ":", "--dim": "=", "--map-input": "=", "--map-output": "="}


@contextmanager
def called_by_the_command_line() -> Iterator[None]:
    """Within this, messages name options as the command line does."""
    before = os.environ.get(COMMAND_LINE)
    os.environ[COMMAND_LINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[COMMAND_LINE]
        else:
            os.environ[COMMAND_LINE] = before


def option(text: str, given: object = None) -> str:
    """Options as who called writes them.

    Args:
        text: as the command line has them, with or without values.
        given: the value that the user gave to the last, whatever it is.
    """
    if COMMAND_LINE in os.environ:
        return text if given is None else f"{text} '{given}'"
    found: dict[str, list[str]] = {}
    name = ""
    for word in _split(text):
        if word.startswith("--"):
            name = word
            found.setdefault(name, [])
        else:
            found[name].append(word)
    if given is not None:
        return _keyword(name, [repr(given)])
    return ", ".join(_keyword(name, _values(name, words)) for name, words in found.items())


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote in what the user gave
        return text.split()


def _keyword(name: str, values: list[str]) -> str:
    word = name.removeprefix("--").replace("-", "_")
    form = f"{word}=True" if name in FLAGS else PYTHON.get(name, f"{word}={{}}")
    if "{}" not in form:
        return form
    if values:
        return form.replace("{}", ", ".join(values))
    return form.removesuffix("={}").replace("{}", "…")


def _values(name: str, words: list[str]) -> list[str]:
    """Values as Python writes them."""
    between = _BY_NAME.get(name)
    if between is None or not all(between in word for word in words):
        return [_value(word) for word in words]
    pairs = [word.rpartition(between) for word in words]
    items = [
        f"{key!r}: {_sizes(item) if between == ':' else _value(item)}" for key, _, item in pairs
    ]
    return [f"{{{', '.join(items)}}}"] if items else []


def _value(word: str) -> str:
    """Shares and numbers are numbers, what stands in capitals for a value stays."""
    if re.fullmatch(r"\d+(\.\d+)?%", word):
        return f"{float(word[:-1]) / 100:g}"
    return word if re.fullmatch(r"-?\d+(\.\d+)?|[A-Zx]+", word) else repr(word)


def _sizes(word: str) -> str:
    sizes = [size if size else "None" for size in word.split(",")]
    return word if word.isupper() else f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
