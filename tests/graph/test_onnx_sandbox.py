"""Files that ask for more work than there is memory or time: answered quickly, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from onnxshare.errors import ModelError
from onnxshare.graph import onnx_sandbox
from onnxshare.graph.constant_values import Values
from onnxshare.graph.inference_cost import is_cheap
from onnxshare.io import onnx_process
from tests.builders import constant, conv, fc, info, model, node, tensor

#: What `inspect` may take of a machine for any of these, in seconds and MiB.
SECONDS, MEMORY = 10.0, 900


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a new process may take seconds to start."""
    monkeypatch.setattr(onnx_process, "SECONDS", 120)


def reshaped(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """A model whose last shape is what some nodes compute."""
    weights = [constant(name, value) for name, value in constants.items()]
    return model([*nodes, node("Reshape", "x s", "y")], {"x": [1, 4]}, ["y"], weights)


def doubled(times: int) -> onnx.ModelProto:
    """A shape of 2^times numbers, by Concat with itself."""
    nodes = [node("Concat", f"s{i} s{i}", f"s{i + 1}", axis=0) for i in range(times)]
    return reshaped(*nodes, node("Identity", f"s{times}", "s"), s0=[1])


def many_axes() -> onnx.ModelProto:
    """A thousand axes more with each of a thousand nodes."""
    nodes = [node("Unsqueeze", f"t{i} axes", f"t{i + 1}") for i in range(1000)]
    return model(nodes, {"t0": [1]}, ["t1000"], [constant("axes", list(range(1000)))])


def gathered(times: int) -> onnx.ModelProto:
    """Twice as many axes with each node."""
    nodes = [node("Gather", f"t{i} t{i}", f"t{i + 1}") for i in range(times)]
    return model(nodes, [info("t0", [1, 1], TensorProto.INT64)], [f"t{times}"])


def filled(size: object, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    return model(
        [node("ConstantOfShape", "size", "f"), *nodes, node("MatMul", "x w", "y")],
        {"x": ["n", 4]},
        ["y"],
        [constant("size", size)],
    )


def head_of(sizes: list[int]) -> onnx.ModelProto:
    """A head whose feature map is as large as its input says, and whose weight is no more."""
    return model(
        [
            node("Conv", "x k", "map"),
            node("Flatten", "map", "flat"),
            node("ConstantOfShape", "size", "w"),
            node("Gemm", "flat w", "y"),
        ],
        {"x": ["n", 1, *sizes]},
        ["y"],
        [tensor("k", 1, 1, 1, 1), constant("size", [int(np.prod(sizes)), 1])],
    )


def divided() -> onnx.ModelProto:
    return reshaped(node("Shape", "x", "h"), node("Div", "h zero", "s"), zero=[0])


def blocks() -> onnx.ModelProto:
    return model(
        [
            node("DequantizeLinear", "q scale", "w", axis=0, block_size=2**40),
            node("MatMul", "x w", "y"),
        ],
        {"x": ["n", 4]},
        ["y"],
        [constant("q", np.ones((4, 3)), np.int8), constant("scale", np.ones((2, 3)), np.float32)],
        opset=21,
    )


def long_tail(nodes: int) -> onnx.ModelProto:
    """Many layers after one long chain of element-wise nodes."""
    chain = [node("Conv", "x k", "t0")]
    chain += [node("Relu", f"t{i}", f"t{i + 1}") for i in range(nodes)]
    chain.append(node("Flatten", f"t{nodes}", "flat"))
    chain += [node("Gemm", "flat w", f"y{i}") for i in range(nodes)]
    return model(
        chain,
        {"x": ["n", 1, 2, 2]},
        [f"y{i}" for i in range(nodes)],
        [tensor("k", 1, 1, 1, 1), tensor("w", 4, 1)],
    )


TRILLION = 10**12
HOSTILE: dict[str, Callable[[], onnx.ModelProto]] = {
    "Range of 10^12": lambda: reshaped(
        node("Range", "a b c", "s"), a=0, b=TRILLION, c=1
    ),
    "Range that wraps around": lambda: reshaped(
        node("Range", "a b c", "s"), a=-(2**62) - 2**61, b=2**62 + 2**61, c=1
    ),
    "Range down to -10^12": lambda: reshaped(
        node("Range", "a b c", "s"), a=0, b=-TRILLION, c=-1
    ),
    "Expand to 10^12": lambda: reshaped(node("Expand", "one to", "s"), one=[1], to=[TRILLION]),
    "Expand to 2^66": lambda: reshaped(
        node("Expand", "one to", "e"), node("Identity", "e", "s"), one=[1], to=[2**33, 2**33]
    ),
    "Tile by 10^12": lambda: reshaped(node("Tile", "one by", "s"), one=[1], by=[TRILLION]),
    "ConstantOfShape of 10^12 as a shape": lambda: reshaped(
        node("ConstantOfShape", "size", "s"), size=[TRILLION]
    ),
    "shape of 2^40 numbers": lambda: doubled(40),
    "a thousand axes, a thousand times": many_axes,
    "2^30 axes": lambda: gathered(30),
    "weight of 10^12 elements, cast": lambda: filled(
        [4, 10**11], node("Cast", "f", "w", to=TensorProto.DOUBLE)
    ),
    "weight of 2^28 elements, cast": lambda: filled(
        [4, 2**26], node("Cast", "f", "w", to=TensorProto.DOUBLE)
    ),
    "weight of 2^28 elements, turned": lambda: filled(
        [2**26, 4], node("Transpose", "f", "w")
    ),
    "feature map of 2^26": lambda: head_of([2**13, 2**13]),
    "feature map of 2^62": lambda: head_of([2**31, 2**31]),
    "shape of 2^31 numbers, given": lambda: model(
        [node("Expand", "x s", "y")],
        [info("x", [1, 4]), info("s", [2**31], TensorProto.INT64)],
        ["y"],
    ),
    "shape of 10^9 numbers, flattened": lambda: model(
        [node("Reshape", "d all", "s"), node("Reshape", "x s", "y")],
        [info("x", [1, 4]), info("d", [10**5, 10**4], TensorProto.INT64)],
        ["y"],
        [constant("all", [-1])],
    ),
    "division by zero": divided,
    "blocks of 2^40": blocks,
    "Conv with a stride of 0": lambda: conv(["n", 1, 8, 8], (2, 1, 3, 3), strides=[0, 0]),
    "Conv with dilations of 2^62": lambda: conv(
        ["n", 1, 8, 8], (2, 1, 3, 3), dilations=[2**62, 2**62]
    ),
    "Conv with a group of 0": lambda: conv(["n", 1, 8, 8], (2, 1, 3, 3), group=0),
    "Conv with pads of -2^63": lambda: conv(
        ["n", 1, 8, 8], (2, 1, 3, 3), pads=[-(2**63), 0, 2**63 - 1, 0]
    ),
    "input of 2^186 elements": lambda: fc([2**62, 2**62, 2**62], 4, 3),
    "layers after a long chain": lambda: long_tail(3000),
}  # fmt: skip


#: Runs the command line in a forked process for each list of words on its input, and prints what
#: that took. What a process takes counts from what its parent took, so this one is small.
_MEASURE = """
import json, os, sys
import numpy, onnx
from onnxshare.cli.main import run

for line in sys.stdin:
    out, err, *words = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        code = 99
        try:
            code = run(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    print(json.dumps([seconds, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]), flush=True)
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Callable[..., list[float]]]:
    """Runs the command line elsewhere: processor seconds, peak memory and exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", _MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def call(*words: object) -> list[float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([*map(str, words)]) + "\n")
            process.stdin.flush()
            figures: list[float] = json.loads(process.stdout.readline())
            return figures

        yield call
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory is measured as POSIX does")
@pytest.mark.parametrize("kind", HOSTILE)
def test_work_is_bounded(kind: str, measured: Callable[..., list[float]], tmp_path: Path) -> None:
    path, out, err = tmp_path / "net.onnx", tmp_path / "out", tmp_path / "err"
    onnx.save(HOSTILE[kind](), path)
    seconds, peak, code = measured(out, err, "inspect", path, "--format", "json")
    text = err.read_text()
    assert seconds < SECONDS
    assert peak / (1024 if sys.platform == "linux" else 2**20) < MEMORY
    assert code in (0, 2), text
    assert "Traceback" not in text
    assert "internal error" not in text
    assert "RuntimeWarning" not in text
    if code == 0:
        assert json.loads(out.read_text())["schema_version"] == 1
    else:
        assert len(text.splitlines()) == 1
        assert out.read_text() == ""


def test_a_fill_of_a_trillion_elements_is_counted_exactly() -> None:
    totals = onnxshare.inspect(filled([4, TRILLION], node("Identity", "f", "w"))).totals
    assert totals.params == 4 * TRILLION
    assert totals.param_bytes == 16 * TRILLION
    assert totals.macs == 4 * TRILLION


def test_counts_beyond_64_bits_are_exact() -> None:
    totals = onnxshare.inspect(filled([4, 2**61], node("Identity", "f", "w"))).totals
    assert totals.params == 2**63
    assert totals.param_bytes == 2**65


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are given to another process from now on."""
    tasks: list[str] = []
    real = onnx_sandbox._elsewhere

    def note(task: str, *rest: Any) -> onnx.ModelProto:
        tasks.append(task)
        return real(task, *rest)

    monkeypatch.setattr(onnx_sandbox, "_elsewhere", note)
    return tasks


def test_ordinary_models_never_leave_the_process(
    monkeypatch: pytest.MonkeyPatch, bundled: Path, onnx_light: Path
) -> None:
    tasks = elsewhere(monkeypatch)
    for path in [*bundled.glob("*.onnx"), *onnx_light.glob("*.onnx")]:
        onnxshare.inspect(path)
    assert tasks == []


ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "shape of 2^40 numbers": lambda: doubled(40),
    "a thousand axes, a thousand times": many_axes,
    "2^30 axes": lambda: gathered(30),
    "Range of 10^12": HOSTILE["Range of 10^12"],
    "stride of 0": HOSTILE["Conv with a stride of 0"],
    "group of 0": HOSTILE["Conv with a group of 0"],
    "huge input": HOSTILE["input of 2^186 elements"],
    "in a branch": lambda: model(
        [
            node(
                "If", "c", "y",
                then_branch=helper.make_graph(
                    [node("Conv", "x w", "o", strides=[0, 0])], "t", [], [info("o", None)]
                ),
                else_branch=helper.make_graph([node("Relu", "x", "p")], "e", [], [info("p", None)]),
            )
        ],
        [info("c", [], TensorProto.BOOL), info("x", [1, 1, 4, 4])],
        ["y"],
        [tensor("w", 1, 1, 1, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_seen(kind: str) -> None:
    assert not is_cheap(ODD[kind]())


@pytest.mark.parametrize(
    "built",
    [
        pytest.param(conv(["n", 3, 32, 32], (8, 3, 3, 3), strides=[2, 2]), id="conv"),
        pytest.param(doubled(5), id="a few doublings"),
        pytest.param(
            model(
                [
                    node("Shape", "x", "h"),
                    node("Gather", "h zero", "n"),
                    node("Mul", "n two", "m"),
                    node("Unsqueeze", "m zeros", "u"),
                    node("Concat", "u minus", "s", axis=0),
                    node("Shape", "s", "k"),
                    node("ConstantOfShape", "k", "ones"),
                    node("Equal", "s ones", "same"),
                    node("Where", "same ones s", "e"),
                    node("Expand", "x e", "y"),
                ],
                {"x": ["n", 1]},
                ["y"],
                [constant("zero", 0), constant("two", 2), constant("zeros", [0]),
                 constant("minus", [-1])],
            ),
            id="sizes as PyTorch computes them",
        ),
        pytest.param(
            model([node("Reshape", "x s", "y")],
                  [info("x", [1, 4]), info("s", [2], TensorProto.INT64)], ["y"]),
            id="shape that is given",
        ),
        pytest.param(filled([4, 2**40], node("Identity", "f", "w")), id="large matrix"),
        pytest.param(
            model(
                [node("Slice", "x a b", "y")],
                {"x": ["n", 4]},
                ["y"],
                [constant("a", [0]), constant("b", [2**63 - 1])],
            ),
            id="slice to the end",
        ),
        pytest.param(
            model([node("Slice", "x", "y", starts=[0], ends=[2**63 - 1])], {"x": [2]}, ["y"],
                  opset=9),
            id="slice to the end, old",
        ),
        pytest.param(
            model([node("Concat", f"t{i} t{i}", f"t{i + 1}", axis=1) for i in range(20)],
                  {"t0": ["n", 1]}, ["t20"]),
            id="doubled data",
        ),
    ],
)  # fmt: skip
def test_what_exporters_write_is_ordinary(built: onnx.ModelProto) -> None:
    assert is_cheap(built)


def test_another_process_gives_the_same_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    built = conv(["n", 3, 32, 32], (8, 3, 3, 3), strides=[2, 2])
    here = onnxshare.inspect(built)
    tasks = elsewhere(monkeypatch)
    monkeypatch.setattr(onnx_sandbox, "is_cheap", lambda *model: False)
    assert onnxshare.inspect(built) == here
    assert "strict shapes" in tasks


def test_functions_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    body = [node("Relu", "a", "h"), node("Abs", "h", "b")]
    function = helper.make_function("f", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    built = model(
        [helper.make_node("f", ["x"], ["y"], domain="f")],
        {"x": [1, 4]}, ["y"], functions=[function], domains=["f"],
    )  # fmt: skip
    here = onnxshare.inspect(built)
    tasks = elsewhere(monkeypatch)
    monkeypatch.setattr(onnx_sandbox, "calls_fit", lambda proto: False)
    assert [facts.op_type for facts in onnxshare.inspect(built).nodes] == ["Relu", "Abs"]
    assert onnxshare.inspect(built) == here
    assert tasks == ["inline", "inline"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_memory_runs_out_in_the_other_process() -> None:
    with pytest.raises(onnx_process.TaskFailed, match=r"needs too much memory|want of memory"):
        onnx_process.run_task("shapes", doubled(40).SerializeToString())


def test_time_runs_out_in_the_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_process, "SECONDS", 0.01)
    with pytest.raises(ModelError, match=r"net\.onnx: .* takes longer than"):
        onnx_sandbox.infer_shapes(ODD["stride of 0"](), "net.onnx")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_crash_of_the_other_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "onnx_process_worker.py"
    fake.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(onnx_process, "__file__", str(tmp_path / "onnx_process.py"))
    with pytest.raises(ModelError, match=r"onnx crashes on it \(SIGABRT\)"):
        onnx_sandbox.infer_shapes(ODD["stride of 0"](), "net.onnx")


def test_what_onnx_says_in_the_other_process() -> None:
    built = model(
        [node("Conv", "x w", "c", strides=[0, 0]), node("Concat", "_", "y", axis=0)],
        {"x": [1, 1, 4, 4]},
        ["y"],
        [tensor("w", 1, 1, 1, 1)],
    )
    built.graph.node[1].ClearField("input")
    with pytest.raises(ModelError, match=r"its shapes do not fit: .*Concat"):
        onnx_sandbox.infer_shapes(built, "net.onnx")


def test_values_are_never_larger_than_asked() -> None:
    from onnxshare.graph.index import Graph
    from onnxshare.io.load import load

    built = filled([4, 2**26], node("Cast", "f", "w", to=TensorProto.DOUBLE))
    graph = Graph(load(built))
    value = Values(graph).get(graph.main, "w")
    assert value is not None
    assert value.shape == (4, 2**26)
    assert value.dtype == np.float64
    assert not any(value.strides)


@pytest.mark.parametrize("bounds", [(0, 7 * 10**11, 1), (10**12, 0, -1), (0, 3 * 10**9, 1)])
def test_a_range_of_any_length_is_inspected(bounds: tuple[int, int, int]) -> None:
    weights = [constant(name, value) for name, value in zip("abc", bounds, strict=True)]
    nodes = [node("Range", "a b c", "r"), node("Cast", "r", "y", to=1)]
    built = model(nodes, {"x": [1]}, ["y"], weights)
    assert len(onnxshare.inspect(built).nodes) == 2
