"""What the summary of `inspect` says, and what it does not."""

from __future__ import annotations

import onnxshare
from onnxshare.report.inspect_summary import describe
from tests.builders import model, node, tensor


def test_the_range_of_the_known_is_not_said_of_all() -> None:
    """A gate runs once; how often the trunk runs is open: nothing is said of both."""
    built = model(
        [
            node("Conv", "x k", "a", pads=[1] * 4),
            node("GlobalAveragePool", "a", "p"),
            node("Conv", "p g", "gate"),
            node("Mul", "a gate", "y"),
        ],
        {"x": ["batch", 3, "h", "w"]},
        ["y"],
        [tensor("k", 4, 3, 3, 3), tensor("g", 4, 4, 1, 1)],
    )
    open_sizes = onnxshare.inspect(built)
    assert "2 convolutions hold 100 % of the 124 parameters." in describe(open_sizes)[0].plain
    given = onnxshare.inspect(built, dims={"h": 5, "w": 8})
    assert "use each 1× to 40×" in describe(given)[0].plain
