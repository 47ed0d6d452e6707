"""What graphs say of the integers that they take, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxshare.samples.input_uses import input_uses

#: A graph of the input x, the rows that x looks up, the numbers it meets, and whether any will do.
CASES: dict[str, tuple[str, int | None, tuple[int, ...], bool]] = {
    "a table": ("y = Gather(t, x)", 30, (), False),
    "columns of a table": ("y = Gather<axis=1>(t, x)", 4, (), False),
    "a table behind a cast": ("c = Cast<to=6>(x) y = Gather(t, c)", 30, (), False),
    "the smaller of two tables": ("y = Gather(t, x) z = Gather(s, x)", 9, (), False),
    "data": ("y = Gather<axis=1>(d, x)", 20, (), False),
    "one of so many": ("y = OneHot(x, seven, s)", 7, (7,), False),
    "arithmetic": ("h = Add(x, seven) y = Cast<to=1>(h)", None, (7,), True),
    "a comparison": ("y = Equal(x, seven)", None, (7,), True),
    "a size": ("y = ConstantOfShape(x)", None, (), False),
    "a size that is computed": ("h = Mul(x, seven) y = Expand(d, h)", None, (7,), False),
    "places of a Slice": ("y = Slice(d, x, seven)", None, (7,), False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_an_integer_may_be(name: str) -> None:
    text, rows, numbers, free = CASES[name]
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"g(int64[N] x, float[N,20] d) => (float[M] y) {{{text}}}"
    )
    stored = {"t": np.zeros((30, 4)), "s": np.zeros((9, 4)), "seven": np.array([7])}
    for key, value in stored.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, key))
    uses = input_uses(proto, "x")
    assert (uses.rows, uses.numbers, uses.free) == (rows, numbers, free)
