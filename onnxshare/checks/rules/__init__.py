"""The rules, in the order of their codes' families.

A rule joins by joining the `RULES` of its family; the policy file, the options, the reports and
`onnxshare explain` follow from it. Codes are stable: WS weight sharing, BG budgets, EQ equivalence,
DP deployment, RG regression.
"""

from __future__ import annotations

from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import budgets, deployment, equivalence, regression, sharing

RULES: tuple[Rule, ...] = (
    *sharing.RULES,
    *budgets.RULES,
    *equivalence.RULES,
    *deployment.RULES,
    *regression.RULES,
)

#: The rules by the name of their option.
BY_OPTION: dict[str, Rule] = {rule.option: rule for rule in RULES}

#: The rules by their code.
BY_CODE: dict[str, Rule] = {rule.code: rule for rule in RULES}
