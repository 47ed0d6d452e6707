"""The one table of operators: what each input is, and the formula for uses and arithmetic.

To add an operator, add a row in `tables/`. An operator that has none is reported as unknown with
what it holds: its work is None, never 0.
"""

from __future__ import annotations

from onnxshare.analysis.operators.operator import Operator
from onnxshare.analysis.operators.tables import classical_ml, microsoft, microsoft_fused, standard
from onnxshare.graph.index import STANDARD_DOMAINS
from onnxshare.support import plugins

UNKNOWN = Operator("other", None, None)

#: (domain, operator) → its row.
TABLE: dict[tuple[str, str], Operator] = {
    **standard.ROWS,
    **microsoft.ROWS,
    **microsoft_fused.ROWS,
    **classical_ml.ROWS,
}


def lookup(domain: str, op_type: str) -> Operator:
    """The row of an operator, of an installed package where this table has none; `UNKNOWN` for one
    that nobody knows."""
    if domain in STANDARD_DOMAINS:
        return TABLE.get(("", op_type), UNKNOWN)
    row = TABLE.get((domain, op_type))
    return plugins.operators(domain).get(op_type, UNKNOWN) if row is None else row
