"""The table of operators: which input is a weight, how often it is used, how much work it is.

A package that describes operators of its own makes `Operator` rows, with a formula from a `Context`
to its `Work`, and gives them under the entry point group `onnxshare.operators`.
"""

from onnxshare.analysis.operators.operator import Context, Operator, Work
from onnxshare.analysis.results import Sharing
from onnxshare.graph.operator_traits import Effect, Traits

__all__ = ["Context", "Effect", "Operator", "Sharing", "Traits", "Work"]
