"""Rewrites of other packages, found by their entry points: good, endless and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import RewriteError, UsageError
from rewrites.base import Change, Fitting, Options, Rewrite, Site
from tests.plugin_package import install
from tests.rewrites.checking import is_new
from tests.rewrites.forms import FORMS

MODULE = """
from tests.rewrites.test_plugins import Copies, Endless, Unsound, Wrong
"""
ENTRIES = """[onnxshare.rewrites]
first = copying_plugin:Copies
second = copying_plugin:Endless
third = copying_plugin:Wrong
fifth = copying_plugin:Unsound
fourth = no_such_module:Nothing
"""


class Endless(Rewrite):
    """Puts a copy in the place of each Relu, and of each copy."""

    name = "endless"
    operator = "Relu"

    def fits(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Relu"

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        nodes = [node for node in subject.graph.main.nodes if self.fits(node.proto)]
        return [Site(self.name, n.name, True, None, 0, 0, "a copy", target=n) for n in nodes]

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        node, edit = site.target, subject.editor(self.name)
        edit.remove(node)
        edit.emit(node, self.operator, node.inputs, node.outputs[0])
        return Change(site, edit.apply(), (node.name,), edit.added)


class Copies(Endless):
    """Leaves its own copies alone."""

    name = "copies"

    def fits(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Relu" and not is_new(node)


class Wrong(Copies):
    """Says that it is exact, and is not."""

    name = "wrong"
    operator = "Sigmoid"


class Unsound(Copies):
    """Makes a node that fits nothing."""

    name = "unsound"
    operator = "MatMul"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, ENTRIES, "copying_plugin", MODULE)


def rewrite(name: str) -> onnxshare.RewriteResult:
    limits = onnxshare.RunLimits(in_process=True)
    return onnxshare.rewrite(FORMS["flatten"].model(), [name], provider="cpu", run_limits=limits)


@pytest.mark.usefixtures("installed")
def test_a_rewrite_of_another_package_runs_and_is_compared() -> None:
    result = rewrite("copies")
    assert result.passed
    assert result.changes
    made = [node for node in result.model.graph.node if is_new(node)]
    assert {node.op_type for node in made} == {"Relu"}


@pytest.mark.usefixtures("installed")
def test_one_that_is_wrong_is_not_believed() -> None:
    result = rewrite("wrong")
    assert result.validation is not None
    assert result.validation.verdict == "different"


@pytest.mark.usefixtures("installed")
def test_one_that_comes_to_no_end_is_stopped() -> None:
    with pytest.raises(RewriteError, match="'endless' comes to no end"):
        rewrite("endless")


@pytest.mark.usefixtures("installed")
def test_a_broken_package_stops_nobody_else() -> None:
    assert rewrite("fc-to-conv").passed
    with pytest.raises(UsageError, match="'fourth' cannot be loaded"):
        rewrite("fourth")


@pytest.mark.usefixtures("installed")
def test_one_that_makes_an_unsound_model_is_named_and_not_the_model() -> None:
    with pytest.raises(RewriteError, match="what the rewrite made is not sound"):
        rewrite("unsound")


def test_one_that_no_package_has_is_given_itself() -> None:
    limits = onnxshare.RunLimits(in_process=True)
    model = FORMS["flatten"].model()
    result = onnxshare.rewrite(model, [Copies(), "fc-to-conv"], provider="cpu", run_limits=limits)
    assert result.passed
    assert {change.site.rewrite for change in result.changes} == {"copies", "fc-to-conv"}


def test_one_that_lacks_a_method_cannot_be_made() -> None:
    class Half(Rewrite):
        name = "half"

    half: Any = Half
    with pytest.raises(TypeError, match="abstract"):
        half()
