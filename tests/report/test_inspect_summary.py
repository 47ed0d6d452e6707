"""What the summary of `inspect` says, and what it does not."""

from __future__ import annotations

import onnx

import onnxshare
from onnxshare.report.inspect_summary import describe
from tests.builders import constant, model, node, tensor


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


def steps(between: str = "", *, other: bool = False) -> onnx.ModelProto:
    """A convolution whose columns an unrolled cell reads one after the other, with the same
    weights; and an FC that reads its whole map too, if asked for."""
    nodes, sums = [node("Conv", "x k", "m")], []
    for step in range(7):
        at, read = f"column{step}", f"read{step}"
        nodes.append(node("Gather", f"m i{step}", at, axis=3))
        if between:
            nodes.append(node(between, at, read, name=f"step{step}", domain="custom"))
        nodes.append(node("Flatten", read if between else at, f"flat{step}"))
        nodes.append(node("Gemm", f"flat{step} w", f"z{step}", name=f"fc{step}"))
        sums.append(f"z{step}")
    if other:
        nodes += [node("Flatten", "m", "all"), node("Gemm", "all v", "z", name="last")]
        sums.append("z")
    nodes.append(node("Sum", " ".join(sums), "y"))
    weights = [tensor("k", 4, 2, 3, 3), tensor("w", 20, 3), tensor("v", 4 * 5 * 7, 3)]
    weights += [constant(f"i{step}", step) for step in range(7)]
    return model(nodes, {"x": ["n", 2, 7, 9]}, ["y"], weights, domains=["custom"], opset=17)


def lines(built: onnx.ModelProto, *, every: bool = False) -> list[str]:
    return [line.plain for line in describe(onnxshare.inspect(built), every=every)]


def test_the_heads_of_an_unrolled_cell_are_one_line() -> None:
    said = lines(steps())
    (head,) = (line for line in said if "FC 20" in line)
    assert head == (
        "7 heads alike after 'column0', 'column1', 'column2' and 4 more (4×5, NCW): FC 20 → 3"
    )
    assert [line for line in said if "--fc-to-conv" in line] == [
        "  onnxshare rewrite MODEL --fc-to-conv"
    ]
    assert sum("FC 20 → 3" in line for line in lines(steps(), every=True)) == 7


def test_a_command_for_heads_that_are_alike_leaves_others_alone() -> None:
    said = lines(steps(other=True))
    at = said.index("  onnxshare rewrite MODEL --fc-to-conv --node fc0")
    assert said[at + 2] == "      and so for the others: --all shows each command"
    assert "  onnxshare rewrite MODEL --fc-to-conv --node last" in said


def test_refused_heads_that_differ_in_names_are_one_line() -> None:
    said = lines(steps("Thing"))
    assert sum("heads alike after" in line or line.startswith("Head ") for line in said) == 1
    (reason,) = (line for line in said if "--fc-to-conv: not here" in line)
    assert "'step0'" in reason


def test_equal_fcs_side_by_side_are_counted() -> None:
    names = [f"z{at}" for at in range(9)]
    nodes = [node("Conv", "x k", "m"), node("Flatten", "m", "f")]
    nodes += [node("Gemm", "f w", name) for name in names[:8]]
    nodes += [node("Gemm", "f v", "z8"), node("Concat", " ".join(names), "y", axis=1)]
    weights = [tensor("k", 4, 2, 3, 3), tensor("w", 80, 3), tensor("v", 80, 5)]
    said = lines(model(nodes, {"x": ["n", 2, 6, 7]}, ["y"], weights))
    assert "Head after 'm' (4×4×5, NCHW): FC 8× 80 → 3, 80 → 5" in said
