"""Every form of head, and every model there is, through every rewrite: what is written is right,
and nothing else is touched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import onnxshare
from onnxshare import RewriteResult
from onnxshare.errors import RewriteError
from onnxshare.io.load import load, with_data
from rewrites import ALL
from tests.rewrites import test_fold_batchnorm as folds
from tests.rewrites import test_global_pool as pools
from tests.rewrites import test_pool_first as orders
from tests.rewrites import test_share as shares
from tests.rewrites.checking import (
    FC,
    Expected,
    assert_untouched_rest,
    audit,
    feeds,
    floats,
    interface,
    loads,
    run,
    values_of,
)
from tests.rewrites.forms import FORMS, REFERENCE_FORMS, Form, Net
from tests.rewrites.small_heads.test_replace_head import small

#: The rewrites that neither is the way back of another nor its way there.
OTHERS = [rewrite.name for rewrite in ALL if rewrite.name not in ("fc-to-conv", "conv-to-fc")]

#: Forms whose weights are folded with a factor, or spread over the outputs.
FOLDED = ("alpha", "beta", "BatchNormalization before", "C []", "C [1")

REWRITTEN = [name for name, form in FORMS.items() if form.refused is None]
REFUSED = [name for name, form in FORMS.items() if form.refused is not None]


def test_forms_are_many() -> None:
    """So that an emptied table cannot pass."""
    assert len(REWRITTEN) > 80
    assert len(REFUSED) > 12


def serial(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def count(model: onnx.ModelProto, *op_types: str) -> int:
    return sum(node.op_type in op_types for node in model.graph.node)


def changed(model: onnx.ModelProto, *names: str, validate: bool = False) -> RewriteResult:
    """What rewrites make of a model, which must stay as it is."""
    before = serial(model)
    result = onnxshare.rewrite(model, list(names), provider="cpu", validate=validate)
    assert serial(model) == before
    return result


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    """Into convolutions and back to FCs; each is whole, right, and proven."""
    form = FORMS[name]
    model = form.model()
    expected = [Expected(model, feeds(model, batch)) for batch in form.batches]
    step = 0.05 * 1.001 if name == "data through 8 bits" else 0.0

    there = changed(model, "fc-to-conv", validate=True)
    assert [site.exact for site in there.sites] == [True] * len(there.sites)
    assert there.validation is not None
    proven = ("inconclusive",) if form.unproven else ("equivalent", "identical")
    assert there.validation.verdict in proven
    assert count(there.model, *FC) == form.left
    assert_untouched_rest(model, there.model)
    assert_weights_moved(name, model, there.model)

    back = changed(there.model, "conv-to-fc", validate=True)
    assert back.validation is not None
    # Where the verdict cannot tell, the results below do.
    assert back.validation.verdict in ("equivalent", "identical", "inconclusive")
    if not form.split:  # an FC that reads several maps comes back as several
        for op_types in (("Conv",), FC):
            assert count(back.model, *op_types) == count(model, *op_types)
    made = {0.0}  # below opset 11 a Gemm must have a bias
    assert set(values_of(floats(back.model))) - made == set(values_of(floats(there.model))) - made

    for old, result in ((model, there), (there.model, back)):
        audit(old, result)
        for before in expected:
            before.assert_of(result.model, step=step)


def assert_weights_moved(name: str, model: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Every stored value is still there, as often as before or as often as it is now needed."""
    if any(word in name for word in FOLDED):
        return
    before, after = values_of(floats(model)), values_of(floats(new))
    assert set(after) == set(before)
    if "tied" not in name and "flattened" not in name and name != "residual":
        grown = Counter({value: count for value, count in after.items() if count > before[value]})
        assert not grown, "values were copied"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason_and_left_alone(name: str, tmp_path: Path) -> None:
    model = FORMS[name].model()
    result = changed(model, "fc-to-conv", validate=True)
    assert result.changes == ()
    assert result.validation is None
    assert serial(result.model) == serial(model)
    reason = FORMS[name].refused or ""
    if reason == "":
        assert result.sites == ()
    else:
        assert [site.exact for site in result.sites] == [None]
        assert reason in (result.sites[0].refused or "")
    with pytest.raises(RewriteError):
        result.save(tmp_path / "out.onnx")


@pytest.mark.parametrize("name", FORMS)
def test_small_heads_that_keep_everything_are_exact(name: str) -> None:
    """A collapse of one FC, and a stack whose rank cuts nothing, are the head itself: whatever is
    mixed up on the way would show."""
    form = FORMS[name]
    model = form.model()
    method = "collapse" if count(model, *FC) == 1 else "stack:64"
    result = small(model, method, form.options.get("batch", 1) * 40)
    if not result.changes:
        assert all(site.refused for site in result.sites)
        return
    assert interface(result.model) == interface(model)
    onnx.checker.check_model(result.model, full_check=True)
    if any(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer):
        given = feeds(model, 3)  # ONNX Runtime's kernel for DequantizeLinear → MatMul rounds
        np.testing.assert_allclose(run(result.model, given)[0], run(model, given)[0], atol=0.02)
        return
    for batch in form.batches:
        # Weights of a fit are rounded once more, and its sums are longer.
        Expected(model, feeds(model, batch)).assert_of(result.model, spread=16.0)


@pytest.mark.parametrize("name", REFERENCE_FORMS)
def test_types_that_onnx_runtime_does_not_convolve_in(name: str) -> None:
    form: Form = REFERENCE_FORMS[name]
    model = form.model()
    result = changed(model, "fc-to-conv")
    if form.refused is not None:
        assert result.changes == ()
        assert form.refused in (result.sites[0].refused or "")
        return
    audit(model, result, loads=False)
    assert count(result.model, *FC) == 0
    assert_untouched_rest(model, result.model)
    given = feeds(model, 3)
    protos = (model, result.model)
    old, new = (np.asarray(next(iter(ReferenceEvaluator(m).run(None, given)))) for m in protos)
    assert new.dtype == old.dtype
    wide = [value.astype(np.float64) for value in (old, new)]
    unit = 0.1 if name == "bfloat16" else 1e-13
    np.testing.assert_allclose(wide[1], wide[0], atol=unit, rtol=unit)
    back = changed(result.model, "conv-to-fc")
    if back.changes:
        audit(result.model, back, loads=False)


def there_and_back(model: onnx.ModelProto, *names: str, loads: bool = True) -> None:
    """What these rewrites write is whole, and the way back from convolutions too."""
    there = changed(model, *names)
    if there.changes:
        audit(model, there, loads=loads)
        if "fc-to-conv" in names:
            back = changed(there.model, "conv-to-fc")
            if back.changes:
                audit(there.model, back, loads=loads)


@pytest.mark.parametrize("name", [*FORMS, *REFERENCE_FORMS])
def test_all_rewrites_one_after_the_other(name: str) -> None:
    model = (FORMS | REFERENCE_FORMS)[name].model(2)
    if changed(model, *OTHERS).changes:  # else it is what the tests above have seen
        there_and_back(model, *OTHERS, "fc-to-conv", loads=name in FORMS)


TABLES: dict[str, dict[str, Any]] = {
    "share": shares.CASES,
    "fold": folds.FOLDED,
    "pool": pools.CASES,
    "order": orders.CASES,
}


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, cases in TABLES.items() for name in cases]
)
def test_tables_of_the_other_rewrites(table: str, name: str) -> None:
    case = TABLES[table][name]
    net = Net(**case.options)
    case.build(net)
    model = net.model()
    there_and_back(model, *OTHERS, "conv-to-fc", loads=loads(model))


def each_alone(path: Path) -> None:
    model = with_data(load(path))
    for rewrite in ALL:
        there_and_back(model, rewrite.name)


def test_bundled_models(bundled: Path) -> None:
    for path in sorted(bundled.rglob("*.onnx")):
        each_alone(path)


def test_models_of_other_people(zoo: Path) -> None:
    for path in sorted((zoo / "models").rglob("*.onnx")):
        each_alone(path)
