"""The plugins of docs/how-to/write-a-plugin.md, installed as a package; and broken packages.

Figures of the operators are worked out by hand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.checks.rules import BY_CODE, BY_OPTION
from onnxshare.errors import UsageError
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.support import plugins
from tests.plugin_package import install

Cli = Callable[..., subprocess.CompletedProcess[str]]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "write-a-plugin.md").read_text()
CODE = "\n".join(re.findall(r"```py\n(.*?)```", PAGE, re.S))
#: The lines that try a rule on a model of the reader's are run with the page's commands.
CODE = re.sub(r"^assert try_rule.*\n", "", CODE, flags=re.M)
PROJECT = re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0]
#: `[project.entry-points."group"]` with `name = "value"`, as an installer writes it down.
ENTRIES = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", PROJECT).replace('"', "")


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "acme", raising=False)
    install(tmp_path / "site", monkeypatch, ENTRIES, "acme", CODE)


def model(nodes: list[onnx.NodeProto], weights: dict[str, Any], **sizes: list[Any]) -> Any:
    """A model whose inputs and outputs are the tensors with sizes that no node or one makes."""
    made = {name for node in nodes for name in node.output}
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes.items()}
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [info for name, info in infos.items() if name not in made],
        [info for name, info in infos.items() if name in made - read],
        [numpy_helper.from_array(value.astype(np.float32), n) for n, value in weights.items()],
        value_info=[info for name, info in infos.items() if name in made & read],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def dropouts() -> onnx.ModelProto:
    """Four: plain, with a ratio, with a mask, and one that is told not to train."""
    nodes = [
        helper.make_node("Dropout", ["x"], ["a"], name="plain"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Dropout", ["b", "ratio"], ["c"], name="ratio"),
        helper.make_node("Dropout", ["c"], ["d", "mask"], name="masked"),
        helper.make_node("Dropout", ["d", "ratio", "train"], ["y"], name="told"),
    ]
    proto = model(nodes, {"ratio": np.array(0.5)}, x=["N", 6], y=["N", 6])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(False), "train"))
    return proto  # type: ignore[no-any-return]


@pytest.mark.usefixtures("acme")
def test_the_rewrite_is_exact_and_refuses_what_it_does_not_fit() -> None:
    result = onnxshare.rewrite(dropouts(), "no-dropout", provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "identical"
    assert [change.removed for change in result.changes] == [("plain",), ("ratio",)]
    refused = {site.node: site.refused for site in result.sites if site.refused}
    assert refused == {
        "masked": "its mask is requested",
        "told": "an input says whether it trains",
    }


@pytest.mark.usefixtures("acme")
def test_an_object_of_it_will_do() -> None:
    from acme import NoDropout  # type: ignore[import-not-found]

    assert len(onnxshare.rewrite(dropouts(), [NoDropout()], provider="cpu").changes) == 2


@pytest.mark.usefixtures("acme")
def test_the_command_finds_it(cli: Cli, tmp_path: Path) -> None:
    onnx.save(dropouts(), tmp_path / "a.onnx")
    ran = cli("rewrite", tmp_path / "a.onnx", "--rewrite", "no-dropout", "-o", tmp_path / "b.onnx")
    assert ran.returncode == 0, ran.stderr
    kept = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert kept == ["Identity", "Relu", "Identity", "Dropout", "Dropout"]


@pytest.mark.usefixtures("acme")
def test_the_rule_is_listed_explained_selected_and_limited(cli: Cli, tmp_path: Path) -> None:
    onnx.save(dropouts(), tmp_path / "a.onnx")
    assert "AC101  too-many-nodes" in cli("rules").stdout
    assert "nodes of the graph, those in subgraphs" in cli("explain", "AC101").stdout
    (tmp_path / "onnxshare.toml").write_text("[check]\nmax-nodes = 4\n")
    for arguments, code in (
        (("--limit", "max-nodes=4"), 1),
        (("--limit", "max-nodes=5"), 0),
        (("--select", "AC101"), 0),
        (("--config", tmp_path / "onnxshare.toml"), 1),
        (("--config", tmp_path / "onnxshare.toml", "--warn", "AC"), 0),
        (("--limit", "max-nodes=4", "--format", "sarif"), 1),
        (("--limit", "max-nodes=4", "--format", "junit"), 1),
    ):
        ran = cli("check", tmp_path / "a.onnx", *arguments)
        assert ran.returncode == code, (arguments, ran.stdout, ran.stderr)
        if code or "--warn" in arguments:
            assert "AC101" in ran.stdout
            assert "5 nodes" in ran.stdout


@pytest.mark.usefixtures("acme")
def test_its_limit_is_a_keyword_a_variable_and_may_be_checked_in_processes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        onnx.save(dropouts(), tmp_path / f"{name}.onnx")
    (finding,) = onnxshare.check(dropouts(), max_nodes=4).findings
    assert (finding.code, finding.measured, finding.bound) == ("AC101", 5, "at most 4")
    assert len(onnxshare.check(tmp_path, max_nodes=4, jobs=2).findings) == 2
    monkeypatch.setenv("ONNXSHARE_MAX_NODES", "4")
    assert cli("check", tmp_path / "a.onnx").returncode == 1


@pytest.mark.usefixtures("acme")
def test_the_operators_have_macs_weights_and_sharing() -> None:
    """x is 5 rows of 6 features, w 6×8, b 8: 5 · 48 MACs, and 5 uses of each of 56 parameters."""
    nodes = [
        helper.make_node("FastDense", ["x", "w", "b"], ["h"], name="dense", domain="com.acme"),
        helper.make_node("FastAct", ["h"], ["y"], name="act", domain="com.acme"),
    ]
    weights = {"w": np.ones((6, 8)), "b": np.ones(8)}
    report = onnxshare.inspect(model(nodes, weights, x=["N", 5, 6], h=["N", 5, 8], y=["N", 5, 8]))
    dense, act = report.nodes
    assert (dense.kind, dense.params, dense.macs) == ("fc", 56, 240)
    assert (dense.connections, dense.sharing_ratio, dense.sharing.token) == (280, 5.0, 5)
    assert (act.params, act.macs, act.flops) == (0, 0, 40)
    assert report.totals.macs == 240
    assert not [line for line in report.warnings if "not known" in line]


@pytest.mark.usefixtures("acme")
def test_traits_of_a_custom_operator_are_those_of_its_row() -> None:
    node = helper.make_node("FastAct", ["x"], ["y"], domain="com.acme")
    assert traits_of(node).effect is Effect.ELEMENTWISE
    other = helper.make_node("Other", ["x"], ["y"], domain="com.acme")
    assert traits_of(other).effect is Effect.UNKNOWN


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(("op_type", "followed"), [("FastAct", True), ("Other", False)])
def test_a_head_behind_a_custom_activation_is_found(op_type: str, followed: bool) -> None:
    """4 channels of 4×4 positions into 5 features: 320 weights, 20 where the map is pooled."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node(op_type, ["f"], ["a"], name="act", domain="com.acme"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="fc"),
    ]
    weights = {"k": np.ones((4, 1, 3, 3)), "w": np.arange(320).reshape(64, 5)}
    proto = model(nodes, weights, x=["N", 1, 6, 6], a=["N", 64], y=["N", 5])
    (head,) = onnxshare.inspect(proto).heads
    offers = head.rewrites
    if followed:
        assert (head.feature_map, head.channels, head.spatial) == ("m", 4, (4, 4))
        assert (offers["fc-to-gap"]["params_before"], offers["fc-to-gap"]["params_after"]) == (
            320,
            20,
        )
    else:
        assert "cannot be followed" in offers["fc-to-conv"]["refused"]


BROKEN = """
from onnxshare.checks import Rule
taken = Rule("WS900", "mine", "mine", "count", 1, "m", "w", "m", lambda subject, limit: ())
double = Rule("ZZ900", "mine", "max-params", "count", 1, "m", "w", "m", lambda subject, limit: ())
thing = object()
rows = {"FastDense": 1}
"""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("missing_module:RULE", "ModuleNotFoundError: No module named 'missing_module'"),
        ("broken_rules:nothing", "AttributeError"),
        ("broken_rules:thing", "it is not an onnxshare.checks.Rule"),
        ("broken_rules:taken", "codes such as WS900 are onnxshare's own"),
        ("broken_rules:double", "'max-params' is taken"),
    ],
)
def test_a_broken_rule_is_one_line_that_names_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    entries = f"[onnxshare.rules]\nbad-rule = {value}\n"
    install(tmp_path / "site", monkeypatch, entries, "broken_rules", BROKEN)
    onnx.save(dropouts(), tmp_path / "a.onnx")
    assert cli("check", tmp_path / "a.onnx", "--max-params", "5M").returncode == 0
    for command in (("rules",), ("check", tmp_path / "a.onnx", "--limit", "mine=3")):
        ran = cli(*command)
        assert ran.returncode == 2
        (line,) = ran.stderr.splitlines()
        assert "entry point 'bad-rule' cannot be loaded (onnxshare.rules" in line
        assert why in line


@pytest.mark.parametrize(
    "source", ["import sys; sys.exit(0)", "raise SystemExit", "raise GeneratorExit"]
)
def test_a_plugin_that_ends_the_program_is_named(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ends" + str(len(source))
    install(tmp_path / "site", monkeypatch, f"[onnxshare.rules]\nend = {name}:x\n", name, source)
    [entry] = plugins.installed("rules")
    with pytest.raises(UsageError, match=r"entry point 'end' cannot be loaded .*Exit"):
        plugins.load(entry)


@pytest.mark.parametrize("value", ["missing_module:ROWS", "broken_rows:rows", "broken_rows:thing"])
def test_broken_operators_are_one_line_where_their_domain_is_used(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    entries = f"[onnxshare.operators]\ncom.acme = {value}\n"
    install(tmp_path / "site", monkeypatch, entries, "broken_rows", BROKEN)
    node = helper.make_node("FastDense", ["x", "w"], ["y"], domain="com.acme")
    onnx.save(model([node], {"w": np.ones((6, 8))}, x=["N", 6], y=["N", 8]), tmp_path / "a.onnx")
    ran = cli("inspect", tmp_path / "a.onnx")
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert "entry point 'com.acme' cannot be loaded (onnxshare.operators" in line
    onnx.save(dropouts(), tmp_path / "b.onnx")
    assert cli("inspect", tmp_path / "b.onnx").returncode == 0


def test_nothing_is_looked_for_where_every_name_is_known(
    bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(group: str) -> Any:
        raise AssertionError(group)

    monkeypatch.setattr(plugins, "installed", looked)
    onnxshare.inspect(bundled / "lenet5.onnx")
    limits: dict[str, Any] = {"max_params": "5M", "select": ["WS", "gap-is-exact"]}
    onnxshare.check(bundled / "lenet5.onnx", **limits, ignore=["DP406"], warn=["WS101"])
    onnxshare.rewrite(bundled / "lenet5.onnx", "fc-to-conv", provider="cpu")
    monkeypatch.syspath_prepend("nowhere")  # what was found before is kept by path
    with pytest.raises(AssertionError, match="rules"):
        list(BY_CODE)


def test_what_nobody_has_is_still_an_error() -> None:
    with pytest.raises(UsageError, match="max-cows: unknown key"):
        onnxshare.check("a.onnx", max_cows=3)
    assert "max-cows" not in BY_OPTION


_REWRITE = """
from onnxshare.rewrites import Rewrite
class Bad(Rewrite):
    name = "bad"
    def sites(self, *given):
        {act}
    apply = sites
it = Bad()
"""
_RULE = """
from onnxshare.checks.rule import Rule
def judge(subject, limit):
    {act}
    yield
it = Rule("EV901", "bad", "max-bad", "count", 1, "what", "why", "fix", judge)
"""
_ACTS = ["1 / 0", "raise SystemExit(0)", "import sys; sys.exit()", "raise BaseException('x')"]


@pytest.mark.parametrize("act", [*_ACTS, "raise GeneratorExit"])
@pytest.mark.parametrize("kind", ["rewrites", "rules"])
def test_a_package_that_fails_when_it_is_used_is_named(
    kind: str, act: str, bundled: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may even try to exit, with 0: the answer of a gate must not be its own."""
    monkeypatch.delitem(sys.modules, "bad_plugin", raising=False)
    name, source = {"rewrites": ("bad", _REWRITE), "rules": ("EV901", _RULE)}[kind]
    entries = f"[onnxshare.{kind}]\n{name} = bad_plugin:it\n"
    install(tmp_path / "site", monkeypatch, entries, "bad_plugin", source.format(act=act))
    words = {
        "rewrites": ("rewrite", bundled / "lenet5.onnx", "--rewrite", "bad", "--dry-run"),
        "rules": ("check", bundled / "lenet5.onnx", "--select", "EV901"),
    }[kind]
    ran = cli(*words)
    assert ran.returncode == 2
    assert ran.stderr.startswith("onnxshare: error: the package 'bad_plugin' fails: ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["rewrites", "rules"])
def test_what_a_package_prints_when_it_is_used_is_no_data(
    kind: str, bundled: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "loud_plugin", raising=False)
    name, source, act = {
        "rewrites": ("bad", _REWRITE, "print('noise'); return []"),
        "rules": ("EV901", _RULE, "print('noise'); return"),
    }[kind]
    entries = f"[onnxshare.{kind}]\n{name} = loud_plugin:it\n"
    install(tmp_path / "site", monkeypatch, entries, "loud_plugin", source.format(act=act))
    words = {
        "rewrites": ("rewrite", bundled / "lenet5.onnx", "--rewrite", "bad", "--dry-run"),
        "rules": ("check", bundled / "lenet5.onnx", "--select", "EV901"),
    }[kind]
    ran = cli(*words, "--format", "json")
    json.loads(ran.stdout)
    assert ran.stderr.startswith("noise\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a timer of POSIX")
def test_a_package_that_never_comes_to_an_end_is_named(
    tmp_path: Path, cli: Cli, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "slow_plugin", raising=False)
    monkeypatch.setattr(plugins, "_PATIENCE", 0.05)
    entries = "[onnxshare.rewrites]\nslow = slow_plugin\n"
    source = "print('noise')\nimport time; time.sleep(60)"
    install(tmp_path / "site", monkeypatch, entries, "slow_plugin", source)
    ran = cli("rewrite", bundled / "lenet5.onnx", "--rewrite", "slow", "--dry-run")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "entry point 'slow' cannot be loaded" in ran.stderr
    assert "takes longer than 0.05 s" in ran.stderr
