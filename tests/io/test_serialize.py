from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import OutputError
from onnxshare.io import save as saving
from onnxshare.io import serialize, skeleton
from onnxshare.io.load import Model, all_tensors, load, with_data
from onnxshare.io.save import save_model
from tests.builders import save


def same(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Field by field: as protobuf writes them."""
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def unlocated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without the word that data is not external, which onnx's own loader leaves there, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in all_tensors(copy):
        if tensor.data_location == TensorProto.DEFAULT:
            tensor.ClearField("data_location")
    return copy


def shipped() -> list[Path]:
    """The models in the installed onnx wheel."""
    return sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))


def node_models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """The models of onnx's node tests."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is not None:
                yield case.name, case.model


@pytest.fixture(params=[skeleton.SMALL, 0], ids=["large payloads", "every payload"])
def left_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The size from which payloads stay in the file: as it is, and so that all of them do."""
    monkeypatch.setattr(skeleton, "SMALL", request.param)
    return int(request.param)


def check_identity(path: Path, folder: Path) -> None:
    """load → save → load is the identity, embedded and external."""
    original = onnx.load(path)
    model = load(path)
    assert same(with_data(model), original)
    copy, apart = folder / "copy.onnx", folder / "apart.onnx"
    assert save_model(model, copy, force=True) == copy.stat().st_size
    assert same(onnx.load(copy), original)
    assert same(with_data(load(copy)), original)
    save_model(model, apart, external=True, force=True)
    assert same(unlocated(with_data(load(apart))), unlocated(original))


def test_models_of_the_onnx_wheel(left_out: int, tmp_path: Path) -> None:
    paths = shipped()
    assert len(paths) > 100
    for path in paths:
        check_identity(path, tmp_path)


def test_models_of_node_tests(left_out: int, tmp_path: Path) -> None:
    path, count = tmp_path / "case.onnx", 0
    for name, proto in node_models():
        path.write_bytes(proto.SerializeToString())
        model, count = load(path), count + 1
        assert same(model.proto, proto), name
        parts = serialize.pieces(model)
        assert b"".join(serialize.chunks(parts)) == proto.SerializeToString(deterministic=True), (
            name
        )
    assert count > 1500


def test_models_of_this_project(bundled: Path, left_out: int, tmp_path: Path) -> None:
    paths = sorted(bundled.glob("*.onnx"))
    assert len(paths) > 3
    for path in paths:
        check_identity(path, tmp_path)


def test_models_of_the_zoo(zoo: Path, left_out: int, tmp_path: Path) -> None:
    paths = sorted(zoo.rglob("*.onnx"))
    assert paths
    for path in paths:
        check_identity(path, tmp_path)


WEIGHT = np.random.default_rng(1).standard_normal((300, 100)).astype(np.float32)


def everything() -> onnx.ModelProto:
    """A model with all that a save could lose."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="m", doc_string="doc"),
        helper.make_node("f", ["h"], ["y"], domain="d"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 100])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT[:1], "unused")],
    )
    body = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT, "k"))]
    body.append(helper.make_node("Identity", ["a"], ["b"]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    function = helper.make_function("d", "f", ["a"], ["b"], body, opsets[:1])
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
    sparse = proto.graph.sparse_initializer.add(dims=[100_000])
    sparse.values.CopyFrom(numpy_helper.from_array(WEIGHT.reshape(-1), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(30_000), "i"))
    typed = helper.make_tensor("t", TensorProto.FLOAT, [20_000], WEIGHT.reshape(-1)[:20_000])
    proto.graph.initializer.append(typed)
    proto.graph.initializer.add(
        name="texts", data_type=TensorProto.STRING, dims=[2], string_data=[b"a" * 50_000, b"b"]
    )
    proto.training_info.add().algorithm.initializer.append(numpy_helper.from_array(WEIGHT, "z"))
    note = proto.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    proto.metadata_props.add(key="author", value="somebody")
    proto.graph.metadata_props.add(key="k", value="v")
    # Fields that this version of onnx does not know: 3000 and 3001, in several messages.
    for message in (proto, proto.graph, nodes[0], proto.graph.initializer[0], sparse.values):
        message.MergeFromString(b"\xc2\xbb\x01\x03new\xc8\xbb\x01\x2a")
    return proto


def test_everything_is_kept(left_out: int, tmp_path: Path) -> None:
    proto = everything()
    data = proto.SerializeToString(deterministic=True)
    assert data.count(b"\xc2\xbb\x01\x03new\xc8\xbb\x01\x2a") == 4
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    check_identity(path, tmp_path)
    save_model(load(path), tmp_path / "apart.onnx", external=True, force=True)
    model = load(tmp_path / "apart.onnx")
    assert (tmp_path / "apart.onnx").read_bytes().count(b"\x03new\xc8\xbb\x01\x2a") == 4
    kept = {t.name for t in all_tensors(model.proto) if t.data_location != TensorProto.EXTERNAL}
    # Typed data and strings have no external form; the other is below 1 KiB.
    assert kept == {"t", "texts", "unused"}


def test_a_payload_that_says_it_is_not_external(left_out: int, tmp_path: Path) -> None:
    # As onnx leaves it after it has read external data in.
    proto = everything()
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    assert model.payloads is not None
    assert model.payloads.find(model.skeleton.graph.initializer[0]) is not None
    check_identity(path, tmp_path)


def external(folder: Path, **entries: str) -> Path:
    """A model with three external tensors: two on the same range, one large; one is embedded."""
    proto = everything()
    del proto.graph.initializer[2:]
    (folder / "some.bin").write_bytes(b"junk" * 3 + WEIGHT.tobytes() + bytes(2**21))
    for name, shape, offset in (
        ("w", (300, 100), 12),
        ("tied", (300, 100), 12),
        ("big", (2**19,), 120_012),
    ):
        tensor = next((t for t in proto.graph.initializer if t.name == name), None)
        tensor = tensor or proto.graph.initializer.add(name=name, data_type=TensorProto.FLOAT)
        tensor.ClearField("raw_data")
        tensor.dims[:] = shape
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "some.bin", "offset": offset, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_stays_external_and_embedded_embedded(tmp_path: Path) -> None:
    model = load(external(tmp_path, checksum="abc"))
    new = tmp_path / "new.onnx"
    written = save_model(model, new)
    data = tmp_path / "new.onnx.data"
    assert written == new.stat().st_size + data.stat().st_size
    again = onnx.load(new, load_external_data=False)
    tensors = {tensor.name: tensor for tensor in again.graph.initializer}
    entries = {
        name: {entry.key: entry.value for entry in tensors[name].external_data}
        for name in ("w", "tied", "big")
    }
    # One range for both; the large one begins on a page; other entries are kept.
    whole = {"location": "new.onnx.data", "checksum": "abc"}
    assert entries["w"] == {**whole, "offset": "0", "length": "120000"}
    assert entries["tied"] == entries["w"]
    assert entries["big"] == {**whole, "offset": str(30 * 4096), "length": str(2**21)}
    assert data.stat().st_size == 30 * 4096 + 2**21
    assert all(
        t.data_location == TensorProto.DEFAULT for t in all_tensors(again) if t.name in "ksz"
    )
    ours, theirs = with_data(load(new)), with_data(model)
    assert same(ours, theirs)


def test_what_a_rewrite_made_joins_the_external_data(
    lenet: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(lenet)
    onnx.save(copy, path, save_as_external_data=True, location="net.bin", size_threshold=100)
    result = onnxshare.rewrite(path, ["fc-to-conv"], provider="cpu")
    assert result.validation is not None
    assert result.validation.passed
    result.save(tmp_path / "new.onnx")
    new = load(tmp_path / "new.onnx")
    assert new.external_files() == ("new.onnx.data",)
    assert (tmp_path / "new.onnx").stat().st_size < 12_000
    assert same(unlocated(with_data(new)), unlocated(result.model))
    kernels = {t.name: t for t in new.skeleton.graph.initializer if t.dims == [120, 16, 5, 5]}
    (kernel,) = kernels.values()
    assert kernel.data_location == TensorProto.EXTERNAL
    old = {t.name: numpy_helper.to_array(t) for t in lenet.graph.initializer}
    np.testing.assert_array_equal(new.read(kernel).reshape(120, 400), old["f5.w"])


def test_a_rewritten_embedded_model_stays_embedded(lenet_path: Path, tmp_path: Path) -> None:
    result = onnxshare.rewrite(lenet_path, ["fc-to-conv"], provider="cpu")
    written = result.save(tmp_path / "new.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lenet.onnx", "new.onnx"]
    assert written == (tmp_path / "new.onnx").stat().st_size
    assert same(onnx.load(tmp_path / "new.onnx"), result.model)


def test_above_the_limit_embedded_weights_move_out(
    lenet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 100_000)
    save_model(load(lenet_path), tmp_path / "new.onnx")
    assert load(tmp_path / "new.onnx").external_files() == ("new.onnx.data",)
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 10)
    with pytest.raises(OutputError, match="needs more than 2 GiB without its raw data"):
        save_model(load(lenet_path), tmp_path / "other.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["lenet.onnx", "new.onnx", "new.onnx.data"]


class TestOverwriting:
    def test_a_pair_is_replaced_by_a_pair_under_another_name(self, tmp_path: Path) -> None:
        model = load(external(tmp_path))
        new = tmp_path / "new.onnx"
        for _ in range(3):
            save_model(model, new, force=True)
            (data,) = (path for path in tmp_path.iterdir() if path.name.endswith(".data"))
            assert load(new).external_files() == (data.name,)
            assert same(with_data(load(new)), with_data(model))

    def test_a_model_can_take_its_own_place(self, tmp_path: Path) -> None:
        new = tmp_path / "new.onnx"
        save_model(load(external(tmp_path)), new)
        before = with_data(load(new))
        save_model(load(new), new, force=True)
        assert same(with_data(load(new)), before)
        assert len(list(tmp_path.glob("new.onnx*"))) == 2

    def test_an_embedded_model_takes_the_place_of_a_pair(
        self, lenet: onnx.ModelProto, tmp_path: Path
    ) -> None:
        new = tmp_path / "new.onnx"
        save(lenet, new, external=True)
        save(lenet, new, force=True)
        assert [path.name for path in tmp_path.iterdir()] == ["new.onnx"]

    def test_data_that_was_not_written_here_stays(
        self, lenet: onnx.ModelProto, tmp_path: Path
    ) -> None:
        path = external(tmp_path)
        save(lenet, path, force=True)
        assert (tmp_path / "some.bin").exists()
        stray = tmp_path / "new.onnx.data"
        stray.write_bytes(b"somebody else's")
        save(lenet, tmp_path / "new.onnx", external=True, force=True)
        assert stray.read_bytes() == b"somebody else's"
        assert same(onnx.load(tmp_path / "new.onnx"), with_data(load(tmp_path / "new.onnx")))

    def test_data_of_the_model_that_is_saved_stays(
        self, lenet: onnx.ModelProto, tmp_path: Path
    ) -> None:
        old, head_map = tmp_path / "old.onnx", tmp_path / "twin.onnx"
        save(lenet, old, external=True)
        head_map.write_bytes(old.read_bytes())  # two models, one data file
        before = with_data(load(head_map))
        save_model(load(head_map), old, force=True)
        assert same(with_data(load(head_map)), before)
        assert same(with_data(load(old)), before)
        data = tmp_path / "old.onnx.data"
        with pytest.raises(OutputError, match="holds weights of the model itself"):
            save_model(load(head_map), data, force=True)
        assert same(with_data(load(head_map)), before)

    @pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
    def test_modes_are_kept_whatever_the_umask_says(
        self, lenet: onnx.ModelProto, tmp_path: Path
    ) -> None:
        new = tmp_path / "new.onnx"
        save(lenet, new, external=True)
        new.chmod(0o664)
        new.with_name("new.onnx.data").chmod(0o600)
        umask = os.umask(0o077)
        try:
            save(lenet, new, external=True, force=True)
        finally:
            os.umask(umask)
        (data,) = tmp_path.glob("*.data")
        assert new.stat().st_mode & 0o777 == 0o664
        assert data.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("embedded", [False, True])
def test_memory_does_not_follow_the_weights(embedded: bool, tmp_path: Path) -> None:
    count, path = 2**26, tmp_path / "net.onnx"  # 256 MiB
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count])
    if not embedded:
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="w.bin")
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(4 * count)
    else:
        weight.raw_data = bytes(4 * count)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [y], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    code = (
        "import sys; from pathlib import Path\n"
        "from onnxshare.io.load import load; from onnxshare.io.save import save_model\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "lines = lambda: Path('/proc/self/status').read_text().splitlines()\n"
        "peak = lambda: int(next(x for x in lines() if x.startswith('VmHWM')).split()[1])\n"
        "model = load(sys.argv[1]); before = peak()\n"
        "save_model(model, Path(sys.argv[2])); print(peak() - before)"
    )
    words = [sys.executable, "-c", code, str(path), str(tmp_path / "new.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48 * 1024  # KiB: pieces of 4 MiB, not 256 MiB
    assert sum(p.stat().st_size for p in tmp_path.glob("new*")) > 4 * count


def test_pieces_of_a_model_from_memory() -> None:
    proto = everything()
    data = b"".join(serialize.chunks(serialize.pieces(Model(proto))))
    assert same(onnx.ModelProto.FromString(data), proto)


def test_every_node_model_is_the_same_after_load_save_load(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    count = 0
    for name, model in node_models():
        first.write_bytes(model.SerializeToString())
        save_model(load(first), second, force=True)
        again = load(second).proto.SerializeToString(deterministic=True)
        assert again == onnx.load(first).SerializeToString(deterministic=True), name
        count += 1
    assert count > 1500
