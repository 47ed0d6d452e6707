"""Several sites in one go: the same as one after the other, and only where they do not meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from rewrites import apply as rewriting
from rewrites.base import Change, Fitting, Options, Rewrite, Site, study
from rewrites.fc_to_conv import FcToConv
from rewrites.fold_batchnorm import FoldBatchNorm
from rewrites.refusal import Refusal
from tests.rewrites.checking import assert_same_results, assert_untouched_rest, feeds, run
from tests.rewrites.forms import FORMS, Net, batchnorm


def chain(length: int) -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu, so many times."""
    net = Net(seed=1)
    x = net.input(3, 5, 5)
    for _ in range(length):
        x = net.node("Conv", x, net.weight(3, 3, 3, 3), pads=[1] * 4)
        x = net.node("Relu", batchnorm(net, x, 3))
    net.output(x, "n", 3, 5, 5)
    return net.model()


def test_a_chain_is_folded_at_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def counted(*arguments: Any) -> Any:
        looks.append(1)
        return study(*arguments)

    monkeypatch.setattr(rewriting, "study", counted)
    model = chain(12)
    result = onnxshare.rewrite(model, ["fold-batchnorm"], provider="cpu")
    assert len(result.changes) == 12
    assert len(looks) == 2  # one to find them, one to see that there are no more
    assert result.passed
    assert_untouched_rest(model, result.model)
    assert_same_results(model, result.model, feeds(model, 2), spread=40.0)
    added = [name for change in result.changes for name in change.added]
    assert len(added) == len(set(added)) == 12


@pytest.mark.parametrize("name", ["policy and value", "map and its own features"])
def test_heads_in_one_go_are_those_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FORMS[name].model()
    together = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    monkeypatch.setattr(FcToConv, "together", False)
    apart = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert len(together.changes) == len(apart.changes) == 2
    assert_untouched_rest(model, together.model)
    for batch in (1, 3):
        given = feeds(model, batch)
        for a, b in zip(run(together.model, given), run(apart.model, given), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert together.validation is not None
    assert apart.validation is not None
    assert together.validation.weights == apart.validation.weights


class Pairs(Rewrite):
    """Turns two Relus in a row into one: sites that meet wherever there are three."""

    name = "pairs"
    together = True

    def sites(self, subject: Any, options: Options) -> list[Site]:
        found = []
        for node in subject.graph.main.nodes:
            before = subject.graph.main.producers.get(node.inputs[0])
            if node.op_type == "Relu" and before is not None and before.op_type == "Relu":
                found.append(Site(self.name, node.name, True, None, 0, 0, "", (before, node)))
        return found

    def apply(self, subject: Any, site: Site, options: Options, fitting: Fitting) -> Change:
        first, second = site.target
        editor = subject.editor(self.name)
        editor.emit(second, "Relu", [first.inputs[0]], second.outputs[0])
        for node in (first, second):
            editor.remove(node)
        return Change(site, editor.apply(), (first.name, second.name), editor.added)


def relus(count: int) -> onnx.ModelProto:
    net = Net()
    x = net.input(4)
    for _ in range(count):
        x = net.node("Relu", x)
    net.rows(x, 4)
    return net.model()


def made(rewrite: Rewrite, model: onnx.ModelProto) -> list[Change]:
    subject = study(onnxshare.load(model))
    options, fitting = Options(), Fitting()
    sites = rewrite.sites(subject, options)
    return rewrite.apply_several(subject, sites, options, fitting)[0]


@pytest.mark.parametrize(("count", "done"), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_sites_that_meet_wait(count: int, done: int) -> None:
    model = relus(count)
    changes = made(Pairs(), model)
    assert len(changes) == done
    result = changes[-1].model
    onnx.checker.check_model(result, full_check=True)
    assert len(result.graph.node) == count - done
    given = feeds(model, 2)
    np.testing.assert_array_equal(run(model, given)[0], run(result, given)[0])


class Shortcut(Pairs):
    """Reads what another site takes away: the first of two Relus, by itself."""

    def apply(self, subject: Any, site: Site, options: Options, fitting: Fitting) -> Change:
        first, second = site.target
        editor = subject.editor(self.name)
        editor.emit(second, "Relu", [first.outputs[0]], second.outputs[0])
        editor.remove(second)
        return Change(site, editor.apply(), (second.name,), editor.added)


def test_what_a_site_reads_may_be_made_anew_by_another() -> None:
    model = relus(5)
    changes = made(Shortcut(), model)
    assert len(changes) == 4
    onnx.checker.check_model(changes[-1].model, full_check=True)
    assert len(changes[-1].model.graph.node) == 5


class Refuses(Pairs):
    """Refuses every second site, after it has edited."""

    def __init__(self) -> None:
        self.calls = 0

    def apply(self, subject: Any, site: Site, options: Options, fitting: Fitting) -> Change:
        change = super().apply(subject, site, options, fitting)
        self.calls += 1
        if self.calls % 2:
            raise Refusal("not this one")
        return change


def test_edits_of_a_refused_site_are_forgotten() -> None:
    model = relus(4)
    changes = made(Refuses(), model)
    assert len(changes) == 1
    onnx.checker.check_model(changes[0].model, full_check=True)
    assert len(changes[0].model.graph.node) == 3


class Single(FoldBatchNorm):
    """Says nothing of its sites going together."""

    together = Rewrite.together


def test_a_rewrite_that_says_nothing_is_made_site_by_site() -> None:
    assert len(made(FoldBatchNorm(), chain(3))) == 3
    assert len(made(Single(), chain(3))) == 1
