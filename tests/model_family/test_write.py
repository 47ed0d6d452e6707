"""`family --write`: the same models, equal tensors in one file; read by onnx and ONNX Runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import OutputError, RewriteError, UsageError
from onnxshare.io.save import data_of
from onnxshare.model_family import data_file
from onnxshare.model_family.write import write_family
from tests.builders import fc, info, model, node, random_array, tensor

Cli = Callable[..., CompletedProcess[str]]

#: 4 KiB, which all models of these tests share.
TRUNK = random_array(32, 32)


def classifier(seed: int, trunk: onnx.TensorProto | None = None) -> onnx.ModelProto:
    """The trunk, and a head of 2 KiB of its own."""
    trunk = numpy_helper.from_array(TRUNK, "trunk") if trunk is None else trunk
    nodes = [node("MatMul", f"x {trunk.name}", "h"), node("MatMul", "h head", "y")]
    return model(nodes, {"x": ["n", 32]}, ["y"], [trunk, tensor("head", 32, 16, seed=seed)])


def saved(folder: Path, **models: onnx.ModelProto) -> list[Path]:
    for name, proto in models.items():
        onnx.save(proto, folder / f"{name}.onnx")
    return [folder / f"{name}.onnx" for name in models]


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return saved(tmp_path, a=classifier(1), b=classifier(2))


def same_outputs(original: Path, written: Path) -> bool:
    """By ONNX Runtime as a user opens it, both files by their paths."""
    results = []
    for path in (original, written):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = {value.name: random_array(3, *value.shape[1:]) for value in session.get_inputs()}
        results.append(session.run(None, inputs))
    return all(map(np.array_equal, *results))


def same_model(original: Path, written: Path) -> bool:
    """By onnx: equal once its own loader has read all data in, whatever field it lay in."""
    before, after = onnx.load(original), onnx.load(written)
    for proto in (before, after):
        for item in proto.graph.initializer:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item), item.name))
    return before == after


def test_equal_tensors_lie_in_one_file(pair: list[Path], tmp_path: Path) -> None:
    before = [path.read_bytes() for path in pair]
    home = tmp_path / "family"
    found = write_family(pair, home)
    assert [path.read_bytes() for path in pair] == before
    assert (home / "family.data").read_bytes() == TRUNK.tobytes()
    assert sorted(os.listdir(home)) == ["a.onnx", "b.onnx", "family.data"]
    for path in pair:
        assert same_model(path, home / path.name)
        assert same_outputs(path, home / path.name)
    sizes = sum(path.stat().st_size for path in home.iterdir())
    assert (found.bytes_before, found.bytes_after) == (sum(map(len, before)), sizes)
    assert found.saved_bytes == found.bytes_before - sizes
    assert [m.shared_bytes for m in found.models] == [4096, 4096]
    assert all("bit-equal on 8 random samples" in m.validation for m in found.models)


def test_the_children_of_a_search(bundled: Path, tmp_path: Path) -> None:
    children = sorted((bundled / "enas").glob("*.onnx"))
    found = write_family(children, tmp_path / "family", validate=False)
    held: dict[bytes, int] = {}
    for path in children:
        assert same_model(path, tmp_path / "family" / path.name)
        for item in onnx.load(path).graph.initializer:
            data = numpy_helper.to_array(item).tobytes()
            held[data] = held.get(data, 0) + 1
    shared = [len(data) for data, times in held.items() if times > 1 and len(data) >= 1024]
    assert sum(shared) <= found.shared_bytes <= sum(shared) + 64 * len(shared)


def test_a_dry_run_says_the_same_and_writes_nothing(pair: list[Path], tmp_path: Path) -> None:
    said = write_family(pair, tmp_path / "family", dry_run=True)
    assert not (tmp_path / "family").exists()
    done = write_family(pair, tmp_path / "family", validate=False)
    assert (said.written, done.written) == (False, True)
    assert (said.bytes_after, said.shared_bytes) == (done.bytes_after, done.shared_bytes)


def test_a_model_is_added(pair: list[Path], tmp_path: Path) -> None:
    """What is there stays where it is; what the new one shares with one of them moves."""
    home = tmp_path / "family"
    write_family(pair, home, validate=False)
    before = (home / "family.data").read_bytes()
    untouched = (home / "b.onnx").read_bytes()
    late = classifier(1)  # its head is a's
    late.graph.initializer.append(tensor("more", 32, 32, seed=9))
    late.graph.node.append(node("MatMul", "h more", "z"))
    late.graph.output.append(info("z", None))
    (path,) = saved(tmp_path, late=late)
    found = write_family([path], home)
    assert {m.file: m.action for m in found.models} == {
        "a.onnx": "rewritten",
        "b.onnx": "kept",
        "late.onnx": "written",
    }
    data = (home / "family.data").read_bytes()
    assert data == before + random_array(32, 16, seed=1).tobytes()
    assert (found.shared_bytes, found.added_bytes) == (len(data), len(data) - len(before))
    assert (home / "b.onnx").read_bytes() == untouched
    for original in (*pair, path):
        assert same_model(original, home / original.name)
    again = write_family([*pair, path], home)  # nothing is left to do
    assert {m.action for m in again.models} == {"kept"}
    assert (home / "family.data").read_bytes() == data


def sub(proto: onnx.TensorProto) -> onnx.ModelProto:
    """A trunk in the branch of an If."""
    branches = {
        f"{name}_branch": helper.make_graph(nodes, name, [], [info(f"{name}_y", None)], weights)
        for name, nodes, weights in (
            ("then", [node("MatMul", f"x {proto.name}", "then_y")], [proto]),
            ("else", [node("Identity", "x", "else_y")], []),
        )
    }
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([node("If", "yes", "y", **branches)], {"x": ["n", 32]}, ["y"], [yes])


def in_function(proto: onnx.TensorProto) -> onnx.ModelProto:
    body = [node("Constant", "", "w", value=proto), node("MatMul", "a w", "b")]
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Layer", ["a"], ["b"], body, opset)
    call = node("Layer", "x", "y", domain="own")
    return model([call], {"x": ["n", 32]}, ["y"], functions=[function], domains=["own"])


def as_constant(proto: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [node("Constant", "", "w", value=proto), node("MatMul", "x w", "y")]
    return model(nodes, {"x": ["n", 32]}, ["y"])


def other_dims(proto: onnx.TensorProto) -> onnx.ModelProto:
    """The same bytes as a vector."""
    flat = numpy_helper.from_array(TRUNK.reshape(-1), "flat")
    shape = numpy_helper.from_array(np.array([32, 32]), "shape")
    nodes = [node("Reshape", "flat shape", "w"), node("MatMul", "x w", "y")]
    return model(nodes, {"x": ["n", 32]}, ["y"], [flat, shape])


def sparse(proto: onnx.TensorProto) -> onnx.ModelProto:
    places = numpy_helper.from_array(np.arange(0, 2048, 2), "places")
    values = numpy_helper.from_array(TRUNK.reshape(-1), "w")
    built = model([node("MatMul", "x w", "y")], {"x": ["n", 32]}, ["y"])
    item = helper.make_sparse_tensor(values, places, [32, 64])
    built.graph.sparse_initializer.append(item)
    return built


TYPED = helper.make_tensor("trunk", TensorProto.FLOAT, [32, 32], TRUNK.reshape(-1))


@pytest.mark.parametrize(
    "other",
    [
        lambda proto: classifier(2, TYPED),
        sub,
        in_function,
        as_constant,
        other_dims,
        sparse,
    ],
    ids=["typed", "branch", "function", "constant", "dims", "sparse"],
)
def test_wherever_a_tensor_lies(
    other: Callable[[onnx.TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    """In other fields and places of a file; ONNX Runtime opens what is written by its path."""
    trunk = numpy_helper.from_array(TRUNK, "w")
    paths = saved(tmp_path, a=classifier(1), b=other(trunk))
    write_family(paths, tmp_path / "family", validate=False)
    assert (tmp_path / "family" / "family.data").read_bytes() == TRUNK.tobytes()
    assert all(same_outputs(path, tmp_path / "family" / path.name) for path in paths)


def narrow(seed: int, scale: float, dtype: int = TensorProto.INT4) -> onnx.ModelProto:
    """A weight of 64 × 32 elements of four bits."""
    packed = np.random.default_rng(7).integers(0, 256, 1024, np.uint8).tobytes()
    weight = helper.make_tensor("q", dtype, [32, 64], packed, raw=True)
    rest = [
        numpy_helper.from_array(np.array(scale, np.float32), "s"),
        tensor("head", 64, 8, seed=seed),
    ]
    nodes = [
        node("DequantizeLinear", "q s", "w"),
        node("MatMul", "x w", "h"),
        node("MatMul", "h head", "y"),
    ]
    return model(nodes, {"x": ["n", 32]}, ["y"], [weight, *rest], opset=21, ir_version=10)


def test_packed_types(tmp_path: Path) -> None:
    paths = saved(tmp_path, a=narrow(1, 0.1), b=narrow(2, 0.2))
    found = write_family(paths, tmp_path / "family")
    assert found.shared_bytes == 1024
    assert all(same_outputs(path, tmp_path / "family" / path.name) for path in paths)


def test_what_has_external_data_keeps_it(tmp_path: Path) -> None:
    """Large tensors of a model's own stay in a data file of its own."""
    big = classifier(2)
    big.graph.initializer.append(tensor("wide", 32, 512, seed=5))
    big.graph.node.append(node("MatMul", "h wide", "z"))
    big.graph.output.append(info("z", None))
    (first,) = saved(tmp_path, a=classifier(1))
    second = tmp_path / "b.onnx"
    onnx.save(big, second, save_as_external_data=True, location="w.bin", size_threshold=0)
    home = tmp_path / "family"
    write_family([first, second], home)
    assert sorted(os.listdir(home)) == ["a.onnx", "b.onnx", "b.onnx.data", "family.data"]
    assert (home / "family.data").read_bytes() == TRUNK.tobytes()
    assert TRUNK.tobytes() not in (home / "b.onnx.data").read_bytes()
    assert same_outputs(second, home / "b.onnx")
    assert same_outputs(first, home / "a.onnx")


def test_models_of_one_name(tmp_path: Path) -> None:
    paths = []
    for number, name in enumerate(("encoder", "decoder")):
        (tmp_path / name).mkdir()
        paths += saved(tmp_path / name, model=classifier(number))
    found = write_family(paths, tmp_path / "family", validate=False)
    assert [m.file for m in found.models] == ["encoder-model.onnx", "decoder-model.onnx"]


def test_what_is_equal_otherwise_is_said(tmp_path: Path) -> None:
    """Transposed, or the same once dequantized, by names of the models that hold them."""
    turned = numpy_helper.from_array(TRUNK.T.copy(), "turned")
    steps = np.random.default_rng(3).integers(-99, 99, (32, 40)).astype(np.int8)
    plain = numpy_helper.from_array(steps.astype(np.float32) * np.float32(0.5), "plain")
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    a, b = classifier(1), classifier(2)
    a.graph.initializer.extend([turned, plain])
    a.graph.node.extend([node("MatMul", "h turned", "t"), node("MatMul", "h plain", "p")])
    b.graph.initializer.extend([numpy_helper.from_array(steps, "q"), scale])
    b.graph.node.extend([node("DequantizeLinear", "q s", "w"), node("MatMul", "h w", "p")])
    a.graph.output.extend([info("t", None), info("p", None)])
    b.graph.output.append(info("p", None))
    b.graph.initializer[0].CopyFrom(numpy_helper.from_array(TRUNK, "trunk"))
    b.graph.initializer.append(tensor("both", 32, 32, seed=8))
    a.graph.initializer.append(tensor("both", 32, 32, seed=8))
    for proto in (a, b):
        proto.graph.node.append(node("MatMul", "h both", "u"))
        proto.graph.output.append(info("u", None))
    found = write_family(saved(tmp_path, a=a, b=b), tmp_path / "family", dry_run=True)
    apart = {item.reason: (item.tensors, item.bytes) for item in found.kept_apart}
    assert apart == {
        "they are equal only once they are dequantized": (("a.onnx:plain", "b.onnx:q"), 1280)
    }
    del a.graph.initializer[0]  # then only b has the trunk, and a its transpose
    a.graph.node[0].input[1] = "turned"
    found = write_family(saved(tmp_path, a=a, b=b), tmp_path / "family", dry_run=True)
    apart = {item.reason: (item.tensors, item.bytes) for item in found.kept_apart}
    assert apart["one is the transpose of another"] == (("a.onnx:turned", "b.onnx:trunk"), 4096)


def test_strings_stay_with_their_models(tmp_path: Path) -> None:
    models = {}
    for seed, name in enumerate("ab"):
        proto = models[name] = classifier(seed)
        words = numpy_helper.from_array(np.array([b"word " * 10] * 30, object), "words")
        proto.graph.initializer.append(words)
        proto.graph.node.append(node("Identity", "words", "names"))
        proto.graph.output.append(info("names", [30], TensorProto.STRING))
    paths = saved(tmp_path, **models)
    (apart,) = write_family(paths, tmp_path / "family", validate=False).kept_apart
    assert (apart.tensors, apart.bytes) == (("a.onnx:words", "b.onnx:words"), 1500)
    assert all(same_outputs(path, tmp_path / "family" / path.name) for path in paths)


def test_what_is_refused(pair: list[Path], tmp_path: Path) -> None:
    home = tmp_path / "family"
    with pytest.raises(UsageError, match="two models or more"):
        write_family(pair[:1], home)
    with pytest.raises(UsageError, match="given twice"):
        write_family([pair[0], pair[0]], home)
    with pytest.raises(UsageError, match="has no name"):
        write_family([classifier(1), classifier(2)], home)
    with pytest.raises(OutputError, match="is not a folder"):
        write_family(pair, pair[0])
    with pytest.raises(OutputError, match="is a model that is read"):
        write_family(pair, tmp_path)
    small = saved(tmp_path, small=fc(["n", 4], 4, 3), other=fc(["n", 4], 4, 3))
    with pytest.raises(RewriteError, match="share no tensor of 1 KiB or more"):
        write_family(small, home)
    assert not home.exists()
    write_family(pair, home, validate=False)
    onnx.save(classifier(3), pair[0])
    with pytest.raises(OutputError, match="already exists, and is another model"):
        write_family(pair, home)
    write_family(pair, home, force=True)
    assert same_model(pair[0], home / "a.onnx")


def test_nothing_is_shown_that_is_not_proven(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that the disk turns over, in a new family and in one that is added to."""
    home = tmp_path / "family"
    (late,) = saved(tmp_path, late=classifier(1))

    def broken(*given: object) -> list[bytes]:
        data = bytearray(b"".join(data_of(*given)))  # type: ignore[arg-type]
        data[100] ^= 1
        return [bytes(data)]

    with monkeypatch.context() as patched:
        patched.setattr("onnxshare.model_family.data_file.data_of", broken)
        with pytest.raises(RewriteError, match="'trunk' holds other values"):
            write_family(pair, home)
        assert not home.exists()
    write_family(pair, home, validate=False)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr("onnxshare.model_family.data_file.data_of", broken)
        with pytest.raises(RewriteError, match="'head' holds other values"):
            write_family([late], home)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_another_run_adds_to_it(pair: list[Path], tmp_path: Path) -> None:
    write_family(pair, tmp_path / "family", validate=False)
    (late,) = saved(tmp_path, late=classifier(1))
    with (
        data_file.alone(tmp_path / "family" / "family.data"),
        pytest.raises(OutputError, match="another run adds to it"),
    ):
        write_family([late], tmp_path / "family")


def test_what_a_killed_run_added_is_cut_off(pair: list[Path], tmp_path: Path) -> None:
    """Its note is there, and its lock is gone; what models need by now stays."""
    home = tmp_path / "family"
    write_family(pair, home, validate=False)
    data = home / "family.data"
    data.write_bytes(TRUNK.tobytes() + bytes(5000))
    (home / ".family.data.0123abcd.tmp").write_bytes(b"family.data had 64 bytes\n")
    write_family(pair, home)
    assert sorted(os.listdir(home)) == ["a.onnx", "b.onnx", "family.data"]
    assert data.read_bytes() == TRUNK.tobytes()


@pytest.mark.isolated
def test_killed_at_any_moment(pair: list[Path], tmp_path: Path) -> None:
    """Every model that is seen is whole, before and after; a run that ends puts all right."""
    (late,) = saved(tmp_path, late=classifier(1))
    originals = {path.name: path for path in (*pair, late)}
    code = (
        "import sys; from onnxshare.model_family.write import write_family;"
        "print(flush=True); a, b, c, home = sys.argv[1:];"
        "write_family([a, b], home, validate=False); write_family([c], home, validate=False)"
    )
    for number in range(4):
        home = tmp_path / f"family-{number}"
        command = [sys.executable, "-c", code, *map(str, (*pair, late, home))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.008 * number)
            process.send_signal(signal.SIGKILL)
        for path in home.glob("*.onnx"):
            assert same_model(originals[path.name], path)
        write_family([*pair, late], home, validate=False)
        assert sorted(os.listdir(home)) == ["a.onnx", "b.onnx", "family.data", "late.onnx"]
        assert (home / "family.data").stat().st_size == 4096 + 2048


def test_the_command(cli: Cli, pair: list[Path], tmp_path: Path) -> None:
    home = tmp_path / "family"
    dry = cli("family", *pair, "--write", home, "--dry-run", "--format", "json")
    assert (dry.returncode, home.exists()) == (0, False)
    assert json.loads(dry.stdout)["saved_bytes"] > 0
    ran = cli("family", *pair, "--write", home, "--no-validate")
    assert ran.returncode == 0
    assert "family.data has 4.1 kB" in ran.stdout
    assert "the models were not run" in ran.stdout
    assert cli("family", *pair, "--dry-run").returncode == 2
    small = saved(tmp_path, small=fc(["n", 4], 4, 3), other=fc(["n", 4], 4, 3))
    ran = cli("family", *small, "--write", tmp_path / "none")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)


def test_in_python(pair: list[Path], tmp_path: Path) -> None:
    found = onnxshare.write_family(pair, tmp_path / "family", validate=False)
    assert isinstance(found, onnxshare.WrittenFamily)
    assert found.to_dict()["models"][0]["action"] == "written"
