"""What damaged models, policies and command lines are made of: whole ones."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.builders import info, model, node

#: Larger models are left out: the same damage to a smaller one shows as much and takes less time.
LARGEST, LARGEST_TEXT = 1_500_000, 30_000

_FORMS = ("onnxtxt", "json", "textproto")


def models() -> list[tuple[str, bytes]]:
    """Real models: those that this project brings, some of the onnx wheel's, and the zoo's."""
    root = Path(__file__).resolve().parents[2]
    wheel = Path(onnx.__file__).parent / "backend" / "test" / "data"
    found = [*(root / "models").glob("*.onnx")]
    found += [*wheel.glob("simple/*/model.onnx"), *wheel.glob("light/*.onnx")]
    found += [*wheel.glob("pytorch-operator/*/model.onnx")]
    found += [*wheel.glob("pytorch-converted/*/model.onnx")][::4]
    if zoo := os.environ.get("ONNXSHARE_ZOO"):
        found += Path(zoo).glob("models/*.onnx")
    small = sorted(path for path in found if path.stat().st_size <= LARGEST)
    named = [(f"{path.parent.name}/{path.name}", path.read_bytes()) for path in small]
    return [*named, ("shapes", computes_shapes()), ("functions", calls_functions())]


def texts() -> list[tuple[str, bytes]]:
    """The small ones of these in the text forms that onnx writes."""
    found = []
    for name, data in models():
        for form in _FORMS if len(data) < 8_000 else ():
            serializer = onnx.serialization.registry.get(form)
            text = serializer.serialize_proto(onnx.load_from_string(data))
            if len(text) <= LARGEST_TEXT:
                found.append((f"{name}.{form}", text))
    return found


def computes_shapes() -> bytes:
    """What exporters write for a Reshape of unknown sizes, in a branch."""
    inner = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n minus", "t", axis=0),
        node("Range", "first last step", "r"),
        node("Expand", "r t", "e"),
        node("Reshape", "x t", "o"),
    ]
    numbers = {"zero": [0], "one": [1], "minus": [-1]}
    scalars = {"first": 0, "last": 4, "step": 1}
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], v) for n, v in numbers.items()]
    constants += [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in scalars.items()]
    branch = helper.make_graph(inner, "inner", [], [info("o", None)], constants)
    other = helper.make_graph([node("Relu", "x", "p")], "other", [], [info("p", None)])
    built = model(
        [node("If", "c", "y", then_branch=branch, else_branch=other)],
        [info("x", ["n", 2, 3]), info("c", [], TensorProto.BOOL)],
        ["y"],
    )
    return built.SerializeToString()


def calls_functions() -> bytes:
    """A local function that calls another."""
    built = model(
        [helper.make_node("twice", ["x"], ["h"], domain="f"), node("Relu", "h", "y")],
        {"x": ["n", 4]},
        ["y"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    once = helper.make_function("f", "once", ["a"], ["b"], [node("Abs", "a", "b")], opsets)
    calls = [helper.make_node("once", [a], [b], domain="f") for a, b in ("ab", "bc")]
    built.functions.extend([once, helper.make_function("f", "twice", ["a"], ["c"], calls, opsets)])
    built.opset_import.append(helper.make_opsetid("f", 1))
    return built.SerializeToString()


_POLICY = """\
models = ["m.onnx", "*.onnx", { path = "other.onnx" }]
baseline = "known.json"
[check]
max-params = "5M"
max-fc-share = "50%"
max-file-size = "20 MiB"
min-sharing-ratio = 2.5
operators = ["ai.onnx:*", "com.microsoft:MatMulNBits"]
target = "onnxruntime 1.20, opset <= 17"
max-regression = "5%"
select = ["WS", "BG202"]
warn = ["WS101"]
ignore = ["RG501"]
[[allow]]
rule = "WS101"
model = "models/**"
node = "fc*"
reason = "is replaced by the new network"
expires = 2030-01-31
"""

_ENTRIES = """\
[tool.onnxshare]
check = { max-params = 1_000, named-dims = true, external-data = false }
[[tool.onnxshare.models]]
path = "m.onnx"
check = { max-macs = "1G", gap-is-exact = true }
input-shapes = { x = [1, 3, 8, 8] }
reference = "other.onnx"
samples = "samples.npz"
[[tool.onnxshare.models]]
path = "*.onnx"
"""


def policies() -> list[tuple[str, bytes]]:
    """Policy files that name the models beside them."""
    from onnxshare.checks.policy_template import PRESETS, starter

    made = [(f"{name}/onnxshare.toml", starter(name, Path())) for name in PRESETS]
    written = [("all/onnxshare.toml", _POLICY), ("entries/pyproject.toml", _ENTRIES)]
    return [(name, text.encode()) for name, text in (*written, *made)]


_COMMANDS = (
    "inspect m.onnx --by node --columns name,macs,params --sort macs --top 3 --dim n=1",
    "inspect m.onnx --input-shape x:1,2,3 --by scope --format csv --depth 2",
    "inspect m.onnx --summary --format markdown",
    "check m.onnx --max-params 5M --max-fc-share 50% --limit max-macs=1G --select WS,BG202",
    "check *.onnx --ignore DP --warn WS101 --report json=out.json --report sarif=out.sarif",
    "check --config onnxshare.toml --write-baseline new.json --isolated",
    "ONNXSHARE_MAX_PARAMS=5M ONNXSHARE_SELECT=WS COLUMNS=80 TERM=xterm check m.onnx --jobs 1",
    "SOURCE_DATE_EPOCH=0 NO_COLOR=1 check m.onnx --format junit --max-activation-memory 16MiB",
    "check m.onnx --changed-since 0000000000000000000000000000000000000000 --format markdown",
    "diff m.onnx other.onnx --format json",
    "family m.onnx other.onnx --format json",
    "rewrite m.onnx --share --fc-to-conv --dry-run --no-validate --node 'fc*' --seed 3",
    "rewrite m.onnx --fold-batchnorm --no-validate --force -o out.onnx --timeout 5 --dim n=1",
    "rewrite m.onnx --share --no-validate --dry-run --memory-limit 4GB --normalize imagenet",
    "rules --format json",
    "explain WS101",
    "init --preset edge -o new.toml --force",
)


def commands() -> list[tuple[str, bytes]]:
    """Command lines of which none runs a model."""
    return [(f"{line.split()[0]}.{n}.args", line.encode()) for n, line in enumerate(_COMMANDS)]
