"""Seeded damage to text: policies, models in text form, command lines."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

#: Names, numbers, texts in quotes, and every other sign.
_TOKEN = re.compile(r'[A-Za-z_][\w.-]*|[-+]?\d[\w.+-]*|"[^"\n]*"|\s+|.', re.DOTALL)

#: Values that programs forget.
_VALUES = (
    *(
        "0",
        "-1",
        "1e999",
        "nan",
        "-inf",
        "9" * 5000,
        "0x" + "f" * 40,
        "1_0",
        "²",
        "½",
        "٣",
        "1e-400",
    ),
    *(
        '""',
        '"',
        "'",
        '"""',
        "true",
        "null",
        "[]",
        "{}",
        "[[]]",
        "{a = {}}",
        "1979-05-27",
        "07:32:00",
    ),
    *("\0", "\x1b[31m", "\u202e", "\ufeff", "\udc80", "\U000e0041", "::error::x", "##[x]", "=1+1"),
    *(
        '"../../etc/passwd"',
        '"/dev/zero"',
        '"a*"',
        '"**"',
        '"["',
        '"-"',
        "onnxshare.toml",
        "m.onnx",
    ),
    *("#", "\\", "\\u0000", "\r", "\n", "=", ",", ".", "[", "]", "{", "}", "(", ")", "<", ">"),
)

#: What opens, and what closes it, to be nested.
_PAIRS = (
    *(("[", "]"), ("{a = ", "}"), ('{"a":', "}"), ("(", ")"), ("seq(", ")"), ("optional(", ")")),
    *(("map(int64, ", ")"), ("graph {", "}"), ("<", ">"), ("a.", ""), ("[[", "]]"), ('"', '"')),
)


def _value(tokens: list[str], rng: random.Random) -> None:
    tokens[rng.randrange(len(tokens))] = rng.choice(_VALUES)


def _insert(tokens: list[str], rng: random.Random) -> None:
    tokens.insert(rng.randrange(len(tokens)), rng.choice(_VALUES))


def _drop(tokens: list[str], rng: random.Random) -> None:
    start = rng.randrange(len(tokens))
    del tokens[start : start + rng.choice((1, 1, 3, 20))]


def _repeat(tokens: list[str], rng: random.Random) -> None:
    start = rng.randrange(len(tokens))
    part = tokens[start : start + rng.choice((1, 4, 30))]
    tokens[start:start] = part * rng.choice((1, 2, 100))


def _swap(tokens: list[str], rng: random.Random) -> None:
    a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    tokens[a], tokens[b] = tokens[b], tokens[a]


def _nest(tokens: list[str], rng: random.Random) -> None:
    opening, closing = rng.choice(_PAIRS)
    depth, place = rng.choice((2, 60, 500, 5000)), rng.randrange(len(tokens))
    tokens[place] = opening * depth + tokens[place] + closing * rng.choice((depth, depth, 0))


def _long(tokens: list[str], rng: random.Random) -> None:
    place = rng.randrange(len(tokens))
    tokens[place] = (tokens[place] or "x") * rng.choice((10, 1000, 20_000))


def _truncate(tokens: list[str], rng: random.Random) -> None:
    del tokens[rng.randrange(len(tokens)) :]


def _character(tokens: list[str], rng: random.Random) -> None:
    place = rng.randrange(len(tokens))
    signs = list(tokens[place]) or [""]
    signs[rng.randrange(len(signs))] = chr(rng.choice((rng.randrange(128), rng.randrange(0xD800))))
    tokens[place] = "".join(signs)


_KINDS: tuple[Callable[[list[str], random.Random], None], ...] = (
    *(_value, _insert, _drop, _repeat, _swap, _nest, _long, _truncate, _character),
)


def mutants(text: str, seed: int) -> Iterator[tuple[str, str]]:
    """Damaged forms of a text without end: what was done, and the result. Every other one has been
    damaged twice or more."""
    rng = random.Random(seed)
    whole = _TOKEN.findall(text)
    while True:
        tokens = list(whole)
        names: list[str] = []
        while not names or rng.random() < 0.5:
            kind = rng.choice(_KINDS)
            kind(tokens, rng)
            names.append(kind.__name__.strip("_"))
            if not tokens:
                break
        yield "+".join(names), "".join(tokens)
