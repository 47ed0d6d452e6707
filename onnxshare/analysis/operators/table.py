"""The one table of operators: what each input is, and the formula for uses and arithmetic.

To add an operator, add a row in `tables/`. An operator that has none is reported as unknown with
what it holds: its work is None, never 0.
"""

from __future__ import annotations

from onnxshare.analysis.operators.operator import Operator
from onnxshare.analysis.operators.tables import classical_ml, microsoft, microsoft_fused, standard
from onnxshare.graph.index import STANDARD_DOMAINS

UNKNOWN = Operator("other", None, None)

#: (domain, operator) → its row.
TABLE: dict[tuple[str, str], Operator] = {
    **standard.ROWS,
    **microsoft.ROWS,
    **microsoft_fused.ROWS,
    **classical_ml.ROWS,
}


def lookup(domain: str, op_type: str) -> Operator:
    """The row of an operator; `UNKNOWN` for one that has none."""
    return TABLE.get(("" if domain in STANDARD_DOMAINS else domain, op_type), UNKNOWN)
