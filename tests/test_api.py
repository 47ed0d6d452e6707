"""The signature of `onnxshare.check`: every limit of the rules is a typed keyword, and no other."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import pytest

import onnxshare
from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import RULES

SIGNATURE = inspect.signature(onnxshare.check)

#: What a limit of each unit may be, beside None.
TYPES = {
    "count": "int | str",
    "bytes": "int | str",
    "share": "float | str",
    "ratio": "float | str",
    "model": "str | os.PathLike[str] | Literal[False]",
    "target": "str | Literal[False]",
    "names": "Sequence[str] | str | Literal[False]",
    "text": "str | Literal[False]",
    "flag": "bool",
}


def test_it_is_a_plain_function() -> None:
    assert inspect.isfunction(onnxshare.check)
    assert onnxshare.check.__module__ == "onnxshare.api"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_limit_is_a_keyword(rule: Rule) -> None:
    keyword = SIGNATURE.parameters[rule.option.replace("-", "_")]
    assert keyword.kind is keyword.KEYWORD_ONLY
    assert keyword.annotation == f"{TYPES[rule.unit]} | None"
    assert keyword.default is None


def test_every_keyword_up_to_the_last_limit_is_a_limit() -> None:
    names = [name.replace("_", "-") for name in SIGNATURE.parameters]
    limits = names[1 : names.index("max-regression") + 1]
    assert limits == [rule.option for rule in RULES]


def test_units_are_all_known() -> None:
    from onnxshare.checks import limits

    assert set(TYPES) == set(typing.get_args(limits.Unit))


def test_inspect_does_not_load_what_checks_and_rewrites_need() -> None:
    script = (
        "import sys, onnxshare; onnxshare.inspect; "
        "sys.exit(any(n.startswith(('rewrites', 'onnxshare.checks')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
