"""`check`: rules that a model must keep, where their limits come from, and what they found.

A package that adds a rule of its own makes a `Rule`, and gives it under the entry point group
`onnxshare.rules`; `try_rule` tries one on a model, for its tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxshare.checks.model_check import try_rule
    from onnxshare.checks.rule import Figure, Option, Problem, Rule, Subject, command

__all__ = ["Figure", "Option", "Problem", "Rule", "Subject", "command", "try_rule"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    module = "model_check" if name == "try_rule" else "rule"
    return getattr(import_module(f"onnxshare.checks.{module}"), name)
