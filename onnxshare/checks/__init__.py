"""`check`: rules that a model must keep, where their limits come from, and what they found.

A package that adds a rule of its own makes a `Rule`, and gives it under the entry point group
`onnxshare.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxshare.checks.rule import Figure, Problem, Rule, Subject, command

__all__ = ["Figure", "Problem", "Rule", "Subject", "command"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("onnxshare.checks.rule"), name)
