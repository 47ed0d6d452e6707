"""The pages of the rules: what each measures, why it matters, how to fix what it finds."""

from __future__ import annotations

import json

from onnxshare.checks.limits import show
from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import RULES

#: The families of codes, in their order.
FAMILIES = {
    "WS": "Weight sharing",
    "BG": "Budgets",
    "EQ": "Equivalence",
    "DP": "Deployment",
    "RG": "Regression",
}

#: What a limit of each unit looks like in a policy file.
_EXAMPLES = {
    "count": '"5M"',
    "bytes": '"20MiB"',
    "share": '"50%"',
    "ratio": "20",
    "model": '"reference.onnx"',
    "target": '"onnxruntime 1.20"',
    "names": '["*"]',
    "text": '"text"',
    "flag": "true",
}


def page(rule: Rule) -> str:
    """The page of one rule, as Markdown."""
    return "\n".join(
        [
            f"### {rule.code} {rule.name}",
            "",
            f"**Measures** {rule.measures}.",
            "",
            f"**Why.** {rule.why}",
            "",
            f"**Fix.** {rule.fix}",
            "",
            f"**Default limit:** {default(rule)}.{_needs(rule)}",
            "",
            "```toml",
            "[check]",
            f"{rule.option} = {example(rule)}",
            *_options(rule),
            "```",
            "",
        ]
    )


def _options(rule: Rule) -> list[str]:
    """The table of what a rule can be told besides its limit, with the defaults."""
    if not rule.options:
        return []
    lines = ["", f"[check.{rule.name}]"]
    for name, option in rule.options.items():
        value = json.dumps(option.default, ensure_ascii=False)  # is TOML's too
        lines.append(f"{name} = {value}  # {option.about}")
    return lines


#: Where the pages of this project's rules are.
_PAGES = "https://github.com/onnxshare/onnxshare/blob/main/docs/rules.md"


def help_address(rule: Rule) -> str:
    """The address of the page of a rule, as GitHub names its heading."""
    return f"{_PAGES}#{rule.code.lower()}-{rule.name}"


def default(rule: Rule) -> str:
    """The limit that `--select` takes, as text."""
    if rule.default is None:
        return "none, so one must be given"
    return "on" if rule.unit == "flag" else show(rule.default, rule.unit)


def example(rule: Rule) -> str:
    """A limit as a policy file has it."""
    if rule.unit == "names" and isinstance(rule.default, tuple):
        return "[" + ", ".join(f'"{name}"' for name in rule.default) + "]"
    return _EXAMPLES[rule.unit]


def all_pages() -> str:
    """The pages of all rules, family by family; `docs/rules.md` holds them."""
    parts = []
    for family, title in FAMILIES.items():
        parts.append(f"## {title}\n")
        parts.extend(page(rule) for rule in RULES if rule.code.startswith(family))
    return "\n".join(parts)


def _needs(rule: Rule) -> str:
    if "runtime" in rule.needs:
        return " Runs ONNX Runtime."
    return " Reads all weights." if "hashes" in rule.needs else ""
