"""Files that are no sound models, as a user meets them: one line on stderr, exit 2, no output."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from onnxshare.io.protobuf_wire import varint
from tests.builders import constant, info, model, node, tensor

Cli = Callable[..., CompletedProcess[str]]

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 102442450\n"
)


def refused(ran: CompletedProcess[str], *parts: str) -> None:
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("onnxshare: error: ")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.rstrip("\n").isprintable()
    for part in ("Traceback", "internal error"):
        assert part not in ran.stderr
    for part in parts:
        assert part in ran.stderr


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


NOT_MODELS = {
    "empty": (b"", "an empty file"),
    "text": (b"hello, this is not a model\n", "a text file"),
    "HTML": (b"<!DOCTYPE html><html></html>", "an HTML page"),
    "HTML after blank lines": (b"\n\n<html lang='en'>", "an HTML page"),
    "XML": (b"<?xml version='1.0'?><net/>", "an XML file"),
    "ZIP": (zipped("readme.txt"), "a ZIP archive"),
    "ZIP of a model": (zipped("model.onnx"), "a ZIP archive with a model in it"),
    "gzip": (gzip.compress(b"model"), "a gzip file"),
    "PyTorch": (zipped("net/data.pkl", "net/data/0"), "a PyTorch file"),
    "TorchScript": (zipped("net/version", "net/data.pkl"), "a PyTorch file"),
    "PyTorch, old": (pickle.dumps({"w": 1}, protocol=2), "a pickle"),
    "Keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras file"),
    "Keras, old": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file (a Keras model?)"),
    "TFLite": (b"\x1c\x00\x00\x00TFL3" + bytes(40), "a TensorFlow Lite model"),
    "safetensors": (safetensors(), "a safetensors file"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "ORT": (b"\x18\x00\x00\x00ORTM" + bytes(40), "ONNX Runtime's own format"),
    "npz": (zipped("image.npy"), "an .npz file"),
    "noise": (bytes(range(128, 256)) * 4, "not a readable ONNX model"),
    "zeros": (bytes(100), "not a readable ONNX model"),
    "wrong wire type of the graph": (b"\x08\x08\x3d\x00\x00\x00\x00", "holds no graph"),
    "a tensor": (tensor("w", 3, 4).SerializeToString(), "not"),
}


@pytest.mark.parametrize("kind", NOT_MODELS)
def test_what_is_no_model(cli: Cli, kind: str, tmp_path: Path) -> None:
    content, part = NOT_MODELS[kind]
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(cli("inspect", path), f"{path}: ", part)


def test_a_git_lfs_pointer_is_told_with_its_size_and_both_remedies(
    cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(LFS)
    refused(
        cli("inspect", path),
        f"a {len(LFS)}-byte Git LFS pointer to a file of 102,442,450 bytes",
        "`git lfs pull`",
        "`lfs: true` in the checkout step",
    )


@pytest.mark.skipif(os.name != "posix", reason="special files of POSIX")
@pytest.mark.parametrize("command", ["inspect", "check"])
def test_special_files_are_not_waited_for(cli: Cli, command: str, tmp_path: Path) -> None:
    fifo, address = tmp_path / "fifo.onnx", tmp_path / "socket.onnx"
    os.mkfifo(fifo)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    cases: dict[Path, str] = {
        fifo: "is a pipe",
        address: "is a socket",
        Path("/dev/zero"): "is a device",
        Path("/dev/tty"): "is a device",
    }
    options = ["--max-params", "1"] if command == "check" else []
    for path, part in cases.items():
        ran = cli(command, path, *options)
        assert ran.returncode == 2
        assert part in ran.stderr
        if command == "inspect":
            refused(ran, part, str(path))
    listener.close()


def test_a_directory_and_nothing(cli: Cli, tmp_path: Path) -> None:
    refused(cli("inspect", tmp_path), "is a directory")
    refused(cli("inspect", tmp_path / "none.onnx"), "no such file")


def test_more_than_protobuf_holds(cli: Cli, tmp_path: Path) -> None:
    """A sparse file: nothing of it is read but its head."""
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08\x3a" + varint(2**31 + 100))
        file.truncate(2**31 + 200)
    refused(cli("inspect", path), "is larger than 2 GiB", "external data")


def test_truncated(cli: Cli, lenet_path: Path) -> None:
    data = lenet_path.read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        lenet_path.write_bytes(data[: int(share * len(data))])
        refused(cli("inspect", lenet_path), "truncated or damaged")


def net() -> onnx.ModelProto:
    return model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        {"x": ["n", 3]},
        ["y"],
        [tensor("w", 3, 4)],
    )


def no_opset() -> onnx.ModelProto:
    built = net()
    del built.opset_import[:]
    return built


def opset(version: int) -> onnx.ModelProto:
    built = net()
    built.opset_import[0].version = version
    return built


def no_operator() -> onnx.ModelProto:
    built = net()
    built.graph.node[1].op_type = ""
    return built


def weights(*tensors: TensorProto) -> onnx.ModelProto:
    rows = max(0, tensors[0].dims[0])
    return model([node("MatMul", "x w", "y")], {"x": ["n", rows]}, ["y"], tensors)


def raw(dims: list[int], size: int, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return weights(TensorProto(name="w", dims=dims, data_type=dtype, raw_data=bytes(size)))


def typed(dims: list[int], count: int) -> onnx.ModelProto:
    return weights(
        TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, float_data=[1.0] * count)
    )


def two_inputs() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], [info("x", [1]), info("x", [2])], ["y"])


def strange_input() -> onnx.ModelProto:
    built = net()
    built.graph.input[0].type.tensor_type.elem_type = 99
    return built


def mistyped() -> onnx.ModelProto:
    built = net()
    attribute = built.graph.node[1].attribute.add(name="axis", type=AttributeProto.INT)
    attribute.g.name = "hidden"
    return built


def wrong_attribute() -> onnx.ModelProto:
    built = net()
    built.graph.node[0].op_type = "Gemm"
    built.graph.node[0].attribute.append(helper.make_attribute("alpha", "much"))
    return built


def cycle() -> onnx.ModelProto:
    return model([node("Add", "x b", "a"), node("Relu", "a", "b")], {"x": [1]}, ["b"])


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """A function that passes its input through others."""
    nodes = [
        helper.make_node(call, [f"t{i}"], [f"t{i + 1}"], domain="f" if call.islower() else "")
        for i, call in enumerate(calls)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["t0"], [f"t{len(calls)}"], nodes, opsets)


def functions(*defined: onnx.FunctionProto) -> onnx.ModelProto:
    return model(
        [helper.make_node("a", ["x"], ["y"], domain="f")],
        {"x": [1, 4]},
        ["y"],
        functions=defined,
        domains=["f"],
    )


def bomb() -> onnx.ModelProto:
    """26 functions, each of which calls the next twice: 2^25 nodes."""
    names = [chr(ord("a") + i) for i in range(26)]
    return functions(*(function(a, b, b) for a, b in pairwise(names)), function("z", "Relu"))


def chain() -> onnx.ModelProto:
    names = ["a", *("b" * (i + 2) for i in range(150))]
    return functions(
        *(function(a, b) for a, b in pairwise(names)),
        function(names[-1], "Relu"),
    )


UNSOUND = {
    "no opset": (no_opset, ["names no opset version"]),
    "opset 0": (lambda: opset(0), ["version 0 of opset 'ai.onnx'"]),
    "opset -3": (lambda: opset(-3), ["version -3"]),
    "no operator": (no_operator, ["names no operator", "Relu:y"]),
    "two weights of a name": (
        lambda: weights(tensor("w", 3, 4), tensor("w", 3, 4)),
        ["two initializers are named 'w'"],
    ),
    "a weight without a name": (
        lambda: weights(tensor("w", 3, 4), tensor("", 3)),
        ["an initializer has no name"],
    ),
    "two inputs of a name": (two_inputs, ["two inputs are named 'x'"]),
    "raw data too short": (lambda: raw([3, 4], 47), ["'w' is damaged", "48 bytes", "holds 47"]),
    "raw data too long": (lambda: raw([3, 4], 52), ["'w' is damaged", "48 bytes", "holds 52"]),
    "raw 4-bit data too short": (
        lambda: raw([3, 3], 4, TensorProto.INT4),
        ["'w' is damaged", "5 bytes", "holds 4"],
    ),
    "large raw data too short": (
        lambda: raw([300, 300], 300 * 300 * 4 - 4),
        ["'w' is damaged", "360,000 bytes", "359,996"],
    ),
    "typed data too short": (lambda: typed([3, 4], 11), ["'w' is damaged", "12 elements", "11"]),
    "large typed data too short": (
        lambda: typed([300, 300], 89_999),
        ["'w' is damaged", "360,000 bytes", "359,996"],
    ),
    "negative dim": (lambda: raw([3, -4], 48), ["'w' has a negative dim"]),
    "dims whose product overflows": (
        lambda: raw([2**32, 2**32], 48),
        ["'w' has more than 2^63 elements"],
    ),
    "dims that overflow beside a 0": (
        lambda: raw([2**32, 2**32, 0], 0),
        ["'w' has more than 2^63 elements"],
    ),
    "a thousand dims": (lambda: raw([1] * 1000, 4), ["'w' has 1,000 dims"]),
    "unknown element type": (lambda: raw([3, 4], 48, 99), ["'w' has the element type 99"]),
    "attribute that hides a graph": (mistyped, ["attribute 'axis'", "Relu:y"]),
    "attribute of another kind": (wrong_attribute, ["attribute 'alpha'", "Gemm"]),
    "unknown type of an input": (strange_input, ["'x' has the element type 99"]),
    "too few inputs": (
        lambda: model([node("Gemm", "x", "y")], {"x": [1, 4]}, ["y"]),
        ["'Gemm:y' has 1 inputs", "Gemm needs 2"],
    ),
    "no outputs": (
        lambda: model([helper.make_node("Relu", ["x"], [])], {"x": [1, 4]}, ["x"]),
        ["'Relu' has 0 outputs", "Relu needs 1"],
    ),
    "cycle": (cycle, ["'b'", "Add:a", "cycle"]),
    "function that calls itself": (
        lambda: functions(function("a", "a")),
        ["local function 'a' calls itself"],
    ),
    "functions in a circle": (
        lambda: functions(function("a", "b"), function("b", "c"), function("c", "a")),
        ["local function 'a' calls itself, by way of 'c'"],
    ),
    "function defined twice": (
        lambda: functions(function("a", "Relu"), function("a", "Abs")),
        ["local function 'a' is defined twice"],
    ),
    "functions that explode": (bomb, ["expand to 33,554,432 nodes", "1,000,000"]),
    "functions too deep": (chain, ["more than 100 deep"]),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_a_model_that_contradicts_itself(cli: Cli, kind: str, tmp_path: Path) -> None:
    build, parts = UNSOUND[kind]
    path = tmp_path / "net.onnx"
    path.write_bytes(build().SerializeToString())
    refused(cli("inspect", path), f"{path}: ", *parts)


def test_the_sound_model_that_these_are_made_from(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    sound = {
        "net": net(),
        "raw": raw([3, 4], 48),
        "4-bit": raw([3, 3], 5, TensorProto.INT4),
        "large": raw([300, 300], 300 * 300 * 4),
        "typed": typed([3, 4], 12),
        "large typed": typed([3, 30_000], 90_000),
        "functions": functions(function("a", "b", "Relu"), function("b", "Abs", "Abs")),
    }
    for built in sound.values():
        path.write_bytes(built.SerializeToString())
        ran = cli("inspect", path)
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "where", ["input", "node", "initializer", "dim", "producer", "graph", "domain", "metadata"]
)
def test_invalid_utf_8(cli: Cli, where: str, tmp_path: Path) -> None:
    built = net()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "QQQQ" if where == "dim" else "n"
    built.graph.name = "QQQQ" if where == "graph" else "g"
    built.producer_name = "QQQQ" if where == "producer" else "p"
    built.graph.node[0].name = "QQQQ" if where == "node" else "m"
    if where == "domain":
        built.opset_import.add(domain="QQQQ", version=1)
    if where == "metadata":
        built.metadata_props.add(key="k", value="QQQQ")
    if where in ("input", "initializer"):
        old = {"input": "x", "initializer": "w"}[where]
        built.graph.node[0].input[{"x": 0, "w": 1}[old]] = "QQQQ"
        (built.graph.input if where == "input" else built.graph.initializer)[0].name = "QQQQ"
    path = tmp_path / "net.onnx"
    path.write_bytes(built.SerializeToString().replace(b"QQQQ", b"Q\xff\xfeQ"))
    refused(cli("inspect", path), "not valid UTF-8")


def test_graphs_nested_too_deep(cli: Cli, tmp_path: Path) -> None:
    """Written as bytes: no library would."""
    graph = node("Relu", "x", "y").SerializeToString()
    graph = b"\x0a" + varint(len(graph)) + graph
    for _ in range(60):
        attribute = b"\x0a\x04body\x32" + varint(len(graph)) + graph + b"\xa0\x01\x05"
        held = b"\x22\x04Loop\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(held)) + held
    path = tmp_path / "net.onnx"
    for padding in (b"", bytes(40_000)):  # small messages are parsed, large ones walked
        inner = graph + (b"\x52" + varint(len(padding)) + padding if padding else b"")
        path.write_bytes(b"\x08\x08\x3a" + varint(len(inner)) + inner + b"\x42\x02\x10\x11")
        refused(cli("inspect", path), "nested too deep")


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        pytest.param(
            lambda: model(net().graph.node, {"x": [1, 3]}, ["y"], net().graph.initializer,
                          ir_version=99),
            ["IR version 99", "install a newer onnx"],
            id="IR version",
        ),
        pytest.param(lambda: opset(9_999), ["opset 9999", "install a newer onnx"], id="opset"),
    ],
)  # fmt: skip
def test_newer_versions_are_read_with_a_warning(
    cli: Cli, build: Callable[[], onnx.ModelProto], parts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(build().SerializeToString())
    ran = cli("inspect", path)
    assert ran.returncode == 0
    assert "12" in ran.stdout
    assert ran.stderr.startswith("warning: ")
    assert ran.stderr.count("\n") == 1
    for part in parts:
        assert part in ran.stderr


def test_missing_external_data_is_only_a_warning_of_inspect(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 60]}, ["y"], [tensor("w", 60, 50)])
    onnx.save(built, path, save_as_external_data=True, location="net.data", size_threshold=10)
    whole = cli("inspect", path)
    (tmp_path / "net.data").unlink()
    ran = cli("inspect", path)
    assert ran.returncode == 0
    assert "3,000" in ran.stdout
    assert ran.stderr == "warning: external data file 'net.data' cannot be read: " + (
        "put it next to the model\n"
    )
    assert whole.stderr == ""
    other = tmp_path / "other.onnx"
    renamed = onnx.load(path, load_external_data=False)
    renamed.graph.name = "other"
    other.write_bytes(renamed.SerializeToString())
    compared = cli("compare", path, other)
    assert compared.returncode in (1, 2)
    assert "net.data" in compared.stderr + compared.stdout


def test_a_missing_file_that_holds_a_shape(cli: Cli, tmp_path: Path) -> None:
    """Even then: what the shape decides is unknown."""
    built = model(
        [node("Reshape", "x s", "r"), node("MatMul", "r w", "y")],
        {"x": [1, 12]},
        ["y"],
        [constant("s", [3, 4]), tensor("w", 4, 2)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(built, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert cli("inspect", path).stderr == ""
    (tmp_path / "net.data").unlink()
    ran = cli("inspect", path)
    assert ran.returncode == 0
    assert "'net.data'" in ran.stderr


HOSTILE = "a\x1b[31mred\x07\x9b2J\u202egnp.exe\r[bold]b[/bold] https://e.xample `c` |d|"


@pytest.mark.parametrize("output", ["table", "csv", "markdown"])
def test_names_cannot_do_anything_to_a_terminal(cli: Cli, output: str, tmp_path: Path) -> None:
    built = net()
    for proto in built.graph.node:
        proto.name = HOSTILE + proto.op_type
        proto.input[0] = proto.input[0].replace("h", HOSTILE)
        proto.output[0] = proto.output[0].replace("h", HOSTILE)
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_param = HOSTILE
    built.producer_name = built.graph.name = HOSTILE
    built.graph.node.append(helper.make_node(HOSTILE, ["y"], ["z"], domain=HOSTILE))
    built.opset_import.append(helper.make_opsetid(HOSTILE, 1))
    path = tmp_path / "net.onnx"
    path.write_bytes(built.SerializeToString())
    ran = cli("inspect", path, "--all", "--format", output)
    assert ran.returncode == 0
    for text in (ran.stdout, ran.stderr):
        assert "red" in text.replace("\n", "")
        odd = {char for char in text if not char.isprintable()} - {"\n"}
        assert not (odd - ({"\r"} if output == "csv" else set())), odd
    if output == "table":  # and markup is no markup
        assert "[bold]" in ran.stdout.replace("\n", "").replace(" ", "")


def test_names_in_json_are_what_the_model_says(cli: Cli, tmp_path: Path) -> None:
    import json

    built = net()
    built.graph.node[0].name = HOSTILE
    path = tmp_path / "net.onnx"
    path.write_bytes(built.SerializeToString())
    ran = cli("inspect", path, "--format", "json")
    assert json.loads(ran.stdout)["nodes"][0]["name"] == HOSTILE
    assert "\x1b" not in ran.stdout


def test_names_in_errors_are_escaped(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(weights(tensor(HOSTILE, 3), tensor(HOSTILE, 3)).SerializeToString())
    refused(cli("inspect", path), "\\x1b[31mred", "\\u202e")


def test_arrays_are_told_from_models(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refused(cli("inspect", path), "a NumPy array", "--samples")
