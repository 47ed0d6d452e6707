"""Edits change what they are asked to change, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.graph.editor import Editor, set_property
from onnxshare.graph.index import Graph
from onnxshare.io.load import Model

node = helper.make_node


def info(name: str, *sizes: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))


def stored(name: str, *sizes: int) -> onnx.TensorProto:
    values = np.arange(np.prod(sizes, dtype=int), dtype=np.float32).reshape(sizes)
    return numpy_helper.from_array(values, name)


def model_of(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto, **more: Any) -> Any:
    """x → … → y."""
    graph = helper.make_graph(nodes, "g", [info("x", 2, 3)], [info("y", 2, 3)], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **more)


def names(model: onnx.ModelProto) -> list[str]:
    return [item.name for item in model.graph.node]


def edited(model: onnx.ModelProto, removed: str) -> onnx.ModelProto:
    """The model with one node replaced by an Identity of its first input."""
    graph = Graph(Model(model))
    old = next(item for item in graph.main.nodes if item.name == removed)
    editor = Editor(model, "test")
    editor.emit(old, "Identity", [old.inputs[0]], old.outputs[0])
    editor.remove(old)
    return editor.apply()


def with_names_everywhere() -> onnx.ModelProto:
    """The name `n` is taken in every place that can take one, with a number each."""
    inner = helper.make_graph(
        [node("Identity", ["x"], ["n_4"], name="n_5")], "g", [], [info("n_4")], [stored("n_6", 1)]
    )
    sparse = helper.make_sparse_tensor(
        stored("n_10", 1), numpy_helper.from_array(np.array([0]), "n_11"), [4]
    )
    model = model_of(
        [
            node("If", ["n_7"], ["n_2"], name="n_3", then_branch=inner, else_branch=inner),
            node("Relu", ["x"], ["y"], name="r"),
        ],
        stored("n", 1),
        numpy_helper.from_array(np.array(True), "n_7"),
    )
    model.graph.input.append(info("n_8", 1))
    model.graph.output.append(info("n_2", 2, 3))
    model.graph.value_info.append(info("n_9", 1))
    model.graph.sparse_initializer.append(sparse)
    return model  # type: ignore[no-any-return]


def test_new_names_never_collide() -> None:
    model = with_names_everywhere()
    editor = Editor(model, "test")
    assert editor.new_name("n") == "n_12"
    assert editor.new_name("n") == "n_13"
    assert editor.new_name("fresh") == "fresh"
    assert editor.new_name("fresh") == "fresh_2"


def test_tensors_that_others_read_in_a_subgraph_stay() -> None:
    """`w` is read by the node that goes, and inside an If that stays."""
    inner = helper.make_graph([node("Add", ["x", "w"], ["i"])], "g", [], [info("i", 2, 3)])
    model = model_of(
        [
            node("Add", ["x", "w"], ["a"], name="goes"),
            node("If", ["c"], ["b"], name="if", then_branch=inner, else_branch=inner),
            node("Add", ["a", "b"], ["y"], name="last"),
        ],
        stored("w", 3),
        numpy_helper.from_array(np.array(True), "c"),
    )
    made = edited(model, "goes")
    assert [t.name for t in made.graph.initializer] == ["w", "c"]
    assert names(made) == ["goes/Identity", "if", "last"]
    onnx.checker.check_model(made, full_check=True)


def test_nodes_that_only_a_subgraph_reads_stay() -> None:
    inner = helper.make_graph([node("Neg", ["s"], ["i"])], "g", [], [info("i", 2, 3)])
    model = model_of(
        [
            node("Abs", ["x"], ["s"], name="shared"),
            node("Add", ["s", "x"], ["a"], name="goes"),
            node("If", ["c"], ["b"], name="if", then_branch=inner, else_branch=inner),
            node("Add", ["a", "b"], ["y"], name="last"),
        ],
        numpy_helper.from_array(np.array(True), "c"),
    )
    assert names(edited(model, "goes"))[0] == "shared"


def test_what_died_goes_with_all_that_led_to_it() -> None:
    model = model_of(
        [
            node("Identity", ["w"], ["w1"], name="first"),
            node("Neg", ["w1"], ["w2"], name="second"),
            node("Add", ["x", "w2"], ["y"], name="goes"),
        ],
        stored("w", 3),
    )
    made = edited(model, "goes")
    assert names(made) == ["goes/Identity"]
    assert list(made.graph.initializer) == []


def test_what_was_dead_before_stays() -> None:
    model = model_of(
        [
            node("Neg", ["old"], ["unread"], name="dead"),
            node("Abs", ["unread"], ["unread2"], name="deader"),
            node("Add", ["x", "w"], ["y"], name="goes"),
        ],
        stored("old", 3),
        stored("w", 3),
        stored("never read", 2),
    )
    made = edited(model, "goes")
    assert names(made) == ["dead", "deader", "goes/Identity"]
    assert [t.name for t in made.graph.initializer] == ["old", "never read"]


def test_new_nodes_say_where_they_come_from() -> None:
    made = edited(model_of([node("Relu", ["x"], ["y"], name="goes")]), "goes")
    entries = {entry.key: entry.value for entry in made.graph.node[0].metadata_props}
    assert entries == {"onnxshare.rewrite": "test", "onnxshare.from": "goes"}
    versions = [e.value for e in made.metadata_props if e.key == "onnxshare.version"]
    assert versions == [onnxshare.__version__]


def test_a_property_is_set_once() -> None:
    model = model_of([node("Relu", ["x"], ["y"])])
    for value in ("1", "2"):
        set_property(model.metadata_props, "key", value)
    assert [(e.key, e.value) for e in model.metadata_props] == [("key", "2")]


def rich_model() -> onnx.ModelProto:
    """Everything a model can hold beside its graph, and fields of a future version."""
    model = model_of(
        [
            node("Relu", ["x"], ["m"], name="goes", doc_string="gone"),
            node("Relu", ["m"], ["y"], name="stays", doc_string="kept"),
        ],
        stored("never read", 2),
        producer_name="somebody",
        doc_string="about",
    )
    model.graph.doc_string = "graph"
    set_property(model.metadata_props, "author", "somebody")
    set_property(model.graph.metadata_props, "g", "1")
    model.graph.value_info.append(info("m", 2, 3))
    note = model.graph.quantization_annotation.add(tensor_name="m")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="never read")
    model.training_info.add().algorithm.name = "training"
    model.opset_import.add(domain="somebody.else", version=3)
    values = stored("thin", 1)
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1])), [4])
    model.graph.sparse_initializer.append(sparse)
    # Field 5000, a varint, at the end: from a version that is yet to come.
    future = model.SerializeToString() + bytes([0xC0, 0xB8, 0x02, 0x07])
    return onnx.ModelProto.FromString(future)


def test_everything_else_is_kept() -> None:
    model = rich_model()
    before = model.SerializeToString(deterministic=True)
    made = edited(model, "goes")
    assert model.SerializeToString(deterministic=True) == before
    assert made.graph.node[1] == model.graph.node[1]
    # With nodes and the added property put back, the two are equal byte for byte.
    del made.graph.node[:]
    made.graph.node.extend(model.graph.node)
    kept = [entry for entry in made.metadata_props if entry.key != "onnxshare.version"]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    assert made.SerializeToString(deterministic=True) == before


def test_what_is_said_of_a_tensor_goes_with_it() -> None:
    model = rich_model()
    graph = Graph(Model(model))
    goes, stays = graph.main.nodes
    editor = Editor(model, "test")
    editor.emit(goes, "Identity", ["x"], "y")
    editor.remove(goes)
    editor.remove(stays)
    made = editor.apply()
    assert [value.name for value in made.graph.value_info] == []
    assert list(made.graph.quantization_annotation) == []


@pytest.mark.parametrize(("ir", "listed"), [(3, True), (4, False), (8, False)])
def test_new_constants_are_inputs_only_where_they_must_be(ir: int, listed: bool) -> None:
    model = model_of([node("Relu", ["x"], ["y"], name="goes")])
    model.ir_version = ir
    [old] = Graph(Model(model)).main.nodes
    editor = Editor(model, "test")
    name = editor.constant(np.ones((1, 3), np.float32), "c")
    editor.emit(old, "Add", ["x", name], "y")
    editor.remove(old)
    made = editor.apply()
    assert (name in [value.name for value in made.graph.input]) is listed
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize("values", [np.float32(3), np.zeros((0, 2)), np.ones((2, 3)).T])
def test_constants_keep_shape_and_values(values: Any) -> None:
    """A scalar stays one, an empty array stays empty, and a transposed view is stored in order."""
    model = model_of([node("Relu", ["x"], ["y"], name="goes")])
    [old] = Graph(Model(model)).main.nodes
    editor = Editor(model, "test")
    name = editor.constant(values, "c")
    editor.emit(old, "Add", ["x", name], "y")
    editor.remove(old)
    found = numpy_helper.to_array(editor.apply().graph.initializer[0])
    np.testing.assert_array_equal(found, values)
    assert found.shape == np.shape(values)
    assert found.dtype == np.asarray(values).dtype
