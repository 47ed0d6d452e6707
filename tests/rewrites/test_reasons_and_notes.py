"""What holds of everything that any rewrite writes, whatever the model: one table for all of them.

The full checker passes, ONNX Runtime loads it, inputs and outputs are what they were, the IR
version is no newer than ONNX Runtime reads, no node, stored tensor or constant is left over, and
what the rewrite has nothing to do with is what it was, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

import onnxshare
from onnxshare.io.load import load, with_data
from rewrites import ALL
from tests.rewrites import test_fold_batchnorm as folds
from tests.rewrites import test_global_pool as pools
from tests.rewrites import test_pool_first as orders
from tests.rewrites import test_share as shares
from tests.rewrites.checking import dead, interface, is_new
from tests.rewrites.forms import FORMS, REFERENCE_FORMS, Net

#: The newest IR version that the installed ONNX Runtime reads (1.23 and up: 13).
NEWEST_IR = 13

EXACT = [rewrite.name for rewrite in ALL]

#: Types that ONNX Runtime has no convolution for on a CPU: loading says nothing about these.
NOT_LOADED = set(REFERENCE_FORMS)


def built(case: Any) -> onnx.ModelProto:
    net = Net(**case.options)
    case.build(net)
    return net.model()


TABLES: dict[str, dict[str, Any]] = {
    "share": shares.CASES,
    "fold": folds.FOLDED,
    "pool": pools.CASES,
    "order": orders.CASES,
}


def rewritten(model: onnx.ModelProto, *names: str) -> Iterator[onnxshare.RewriteResult]:
    """The results of these rewrites that change something."""
    result = onnxshare.rewrite(model, list(names), provider="cpu", validate=False)
    if result.changes:
        yield result


def audit(old: onnx.ModelProto, result: onnxshare.RewriteResult, *, loads: bool = True) -> None:
    new = result.model
    if sound(old):  # some exporters leave what the checker does not like
        onnx.checker.check_model(new, full_check=True)
    if loads:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        onnxruntime.InferenceSession(
            new.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    assert interface(new) == interface(old)
    assert new.ir_version <= max(NEWEST_IR, old.ir_version)
    assert dead(new) <= dead(old)
    assert unread_inside(new) <= unread_inside(old)
    assert_rest_as_it_was(old, new, {name for c in result.changes for name in c.removed})


def sound(model: onnx.ModelProto) -> bool:
    """Whether a model passes the checker."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError:
        return False
    return True


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all subgraphs in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from graphs(body)


def unread_inside(model: onnx.ModelProto) -> set[str]:
    """Tensors of subgraphs that nothing in the model reads."""
    every = list(graphs(model.graph))
    read = {name for graph in every for node in graph.node for name in node.input}
    read |= {value.name for graph in every for value in graph.output}
    made = {name for graph in every[1:] for node in graph.node for name in node.output if name}
    made |= {tensor.name for graph in every[1:] for tensor in graph.initializer}
    return made - read


def assert_rest_as_it_was(old: onnx.ModelProto, new: onnx.ModelProto, removed: set[str]) -> None:
    """Old nodes are there byte for byte and in order, but for those that were removed, and for
    readers of a tensor that was merged, which read another name and may turn it."""
    before = {tuple(node.output): node for node in old.graph.node}
    places = {tuple(node.output): place for place, node in enumerate(old.graph.node)}
    kept = [node for node in new.graph.node if not is_new(node)]
    order = [places[tuple(node.output)] for node in kept]
    assert order == sorted(order)
    for node in kept:
        origin = before[tuple(node.output)]
        if node == origin:
            continue
        was = onnx.NodeProto()
        was.CopyFrom(origin)
        now = onnx.NodeProto()
        now.CopyFrom(node)
        assert any(name in removed for name in was.input) or any(
            attribute.HasField("g") for attribute in was.attribute
        ), f"'{node.name}' was changed"
        for item in (was, now):
            del item.input[:]
            left = [
                a for a in item.attribute if a.name not in ("transA", "transB") and not a.g.node
            ]
            del item.attribute[:]
            item.attribute.extend(left)
        assert was == now
    stored = {tensor.name: tensor for tensor in old.graph.initializer}
    assert all(stored.get(t.name, t) == t for t in new.graph.initializer)
    for field in ("opset_import", "functions", "training_info"):
        assert list(getattr(new, field)) == list(getattr(old, field))
    own = [[p for p in m.metadata_props if "onnxshare." not in p.key] for m in (old, new)]
    assert own[0] == own[1]
    assert (new.graph.name, new.producer_name) == (old.graph.name, old.producer_name)


@pytest.mark.parametrize("form", [*FORMS, *REFERENCE_FORMS])
def test_forms(form: str) -> None:
    """Into convolutions, back again, and all that goes with each."""
    model = (FORMS | REFERENCE_FORMS)[form].model(2)
    loads = form not in NOT_LOADED
    others = [name for name in EXACT if name not in ("fc-to-conv", "conv-to-fc")]
    for there in rewritten(model, *others, "fc-to-conv"):
        audit(model, there, loads=loads)
        for back in rewritten(there.model, "conv-to-fc"):
            audit(there.model, back, loads=loads)


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, cases in TABLES.items() for name in cases]
)
def test_tables_of_the_other_rewrites(table: str, name: str) -> None:
    model = built(TABLES[table][name])
    for result in rewritten(model, *(item for item in EXACT if item != "fc-to-conv")):
        audit(model, result, loads=loads(model))


def loads(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime loads a model as it is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # no kernel for its types
        return False
    return True


def everything(model: onnx.ModelProto) -> None:
    for name in EXACT:
        for there in rewritten(model, name):
            audit(model, there)
            if name == "fc-to-conv":
                for back in rewritten(there.model, "conv-to-fc"):
                    audit(there.model, back)


def whole(path: Path) -> onnx.ModelProto:
    return with_data(load(path))


def test_bundled_models(bundled: Path) -> None:
    for path in sorted(bundled.rglob("*.onnx")):
        everything(whole(path))


def test_models_of_other_people(zoo: Path) -> None:
    for path in sorted((zoo / "models").rglob("*.onnx")):
        everything(whole(path))
