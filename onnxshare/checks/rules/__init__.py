"""The rules, in the order of their codes' families.

A rule joins by joining the `RULES` of its family; the policy file, the options, the reports and
`onnxshare explain` follow from it. Codes are stable: WS weight sharing, BG budgets, EQ equivalence,
DP deployment, RG regression. Other packages add rules by the entry point group `onnxshare.rules`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import budgets, deployment, equivalence, regression, sharing
from onnxshare.support import plugins

#: The rules of this project.
RULES: tuple[Rule, ...] = (
    *sharing.RULES,
    *budgets.RULES,
    *equivalence.RULES,
    *deployment.RULES,
    *regression.RULES,
)

#: Keys of `[check]` in a policy file that are not limits: lists of rules, and when it fails.
LISTS = ("warn", "select", "ignore")
SETTINGS = ("fail-on", "max-findings")


class _Rules(Mapping[str, Rule]):
    """Rules by a field of theirs: this project's, then those of installed packages, which are
    looked for only where this project's do not answer."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._own = {str(getattr(rule, field)): rule for rule in RULES}

    def __getitem__(self, key: str) -> Rule:
        found = self._own.get(key)
        return self._installed()[key] if found is None else found

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._installed()

    def __len__(self) -> int:
        return len(self._own) + len(self._installed())

    def _installed(self) -> dict[str, Rule]:
        return {str(getattr(rule, self._field)): rule for rule in _installed(tuple(sys.path))}


@cache
def _installed(path: tuple[str, ...]) -> tuple[Rule, ...]:
    rules = list(RULES)
    for entry in plugins.installed("rules"):
        rule = plugins.load(entry)
        why = fault_of(rule, rules)
        if why is not None:
            raise plugins.broken(entry, why)
        rules.append(rule)
    return tuple(rules[len(RULES) :])


def fault_of(rule: object, others: Sequence[Rule] = RULES) -> str | None:
    """Why a rule of another package cannot stand next to others; None if it can."""
    if not isinstance(rule, Rule):
        return "it is not an onnxshare.checks.Rule"
    if rule.code[:2] in {one.code[:2] for one in RULES}:
        return f"codes such as {rule.code} are onnxshare's own"
    taken = {key for one in others for key in (one.code, one.name, one.option)}
    for key in (rule.code, rule.name, rule.option):
        if key in taken or key in (*LISTS, *SETTINGS):
            return f"'{key}' is taken"
    if "limit" in rule.options:
        return "an option may not be called 'limit'"
    return None


#: The rules by the name of their option.
BY_OPTION: Mapping[str, Rule] = _Rules("option")

#: The rules by their code.
BY_CODE: Mapping[str, Rule] = _Rules("code")
