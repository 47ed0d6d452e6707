"""Which models are checked, each against which limits."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxshare.checks.jobs import plan
from onnxshare.checks.policy import ModelEntry, Policy, read_policy
from onnxshare.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.onnx", "b.onnx", "deep/c.onnx"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LIMITS = {"max-params": 5, "max-macs": 7}


@pytest.mark.usefixtures("folder")
def test_entries_are_put_over_the_policy_in_their_order() -> None:
    policy = Policy(
        LIMITS,
        (
            ModelEntry("**/*.onnx", {"max-params": 6}, line=3),
            ModelEntry("b.onnx", {"max-macs": False}, {"x": [1, 2]}, "s.npz", 9),
        ),
    )
    jobs = {job.name: job for job in plan([], policy)}
    assert set(jobs) == {"a.onnx", "b.onnx", str(Path("deep/c.onnx"))}
    assert jobs["a.onnx"].limits == {"max-params": 6, "max-macs": 7}
    assert jobs["b.onnx"].limits == {"max-params": 6}
    assert (jobs["b.onnx"].input_shapes, jobs["b.onnx"].samples) == ({"x": [1, 2]}, "s.npz")
    assert (jobs["a.onnx"].line, jobs["b.onnx"].line) == (3, 9)


@pytest.mark.parametrize("named", ["b.onnx", "./b.onnx", "deep/../b.onnx"])
@pytest.mark.usefixtures("folder")
def test_entries_apply_however_a_model_is_named(named: str) -> None:
    policy = Policy(LIMITS, (ModelEntry("b.onnx", {"max-params": 1}),))
    (job,) = plan([Path(named)], policy)
    assert job.limits["max-params"] == 1


@pytest.mark.usefixtures("folder")
def test_other_entries_may_match_nothing_but_what_is_checked_must_exist() -> None:
    policy = Policy(LIMITS, (ModelEntry("none/*.onnx", {"max-params": 1}),))
    assert [job.limits for job in plan(["a.onnx"], policy)] == [LIMITS]
    with pytest.raises(UsageError, match="matches no file"):
        plan([], policy)


@pytest.mark.usefixtures("folder")
def test_the_line_is_that_of_the_entry_that_names_the_model_itself() -> None:
    entries = (ModelEntry("a.onnx", line=2), ModelEntry("*.onnx", line=5))
    jobs = plan([], Policy(LIMITS, entries))
    assert [(job.name, job.line) for job in jobs] == [("a.onnx", 2), ("b.onnx", 5)]


@pytest.mark.usefixtures("folder")
def test_a_glob_without_models_does_not_hide_the_others() -> None:
    policy = Policy(LIMITS, (ModelEntry("none/*.onnx"), ModelEntry("a.onnx")))
    missing, job = plan([], policy)
    assert (missing.name, job.name, job.error) == ("none/*.onnx", "a.onnx", None)
    assert missing.error == "none/*.onnx: matches no file; check the pattern"


def test_a_model_from_memory_has_the_limits_of_the_policy() -> None:
    (job,) = plan(onnx.ModelProto(), Policy(LIMITS))
    assert (job.name, job.limits) == ("<model>", LIMITS)


POLICY = """
[check]
max-params = "5M"
select = ["WS104", "single-use-weights"]
warn = ["WS"]

[[models]]
path = "big/*.onnx"
check = { max-params = "50M", WS = 1 }
input-shapes = { image = [1, 3, 224, 224] }
reference = "ref.onnx"
samples = "samples.npz"

[[allow]]
rule = "fc-dominates"
model = "big/old.onnx"
reason = "is replaced"
expires = 2027-01-31
"""


def test_every_key_of_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "onnxshare.toml"
    path.write_text(POLICY.replace(", WS = 1", ""))
    policy = read_policy(path)
    assert policy.limits == {
        "max-single-use-share": 0.9,
        "convolution-form": True,
        "max-params": 5_000_000,
    }
    assert policy.warn == {f"WS10{number}" for number in range(1, 10)}
    (entry,) = policy.models
    assert entry.path == str(tmp_path / "big" / "*.onnx")
    assert entry.limits == {"max-params": 50_000_000, "equivalent-to": str(tmp_path / "ref.onnx")}
    assert entry.input_shapes == {"image": [1, 3, 224, 224]}
    assert entry.samples == str(tmp_path / "samples.npz")
    assert entry.line == 8
    (allowed,) = policy.allow
    assert (allowed.rule, allowed.reason) == ("WS101", "is replaced")
    assert allowed.model == "big/old.onnx"
    assert str(allowed.expires) == "2027-01-31"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (POLICY, ["models[0].check.WS: unknown key"]),
        (
            "[[models]]\ncheck = 3\n",
            ["models[0].check: expected a table", "models[0].path: is missing"],
        ),
        (
            "[[models]]\npath = 'a'\npaht = 'b'\n",
            ["models[0].paht: unknown key, did you mean path?"],
        ),
        (
            "[[models]]\npath = 'a'\ninput-shapes = { x = [0], y = 3 }\n",
            ["models[0].input-shapes.x: expected", "models[0].input-shapes.y: expected"],
        ),
        ("[[allow]]\nrule = 'WS101'\n", ["allow[0]: needs a rule and a reason"]),
        ("[[allow]]\nrule = 'WS101'\nreason = ' '\n", ["allow[0]: needs a rule and a reason"]),
        (
            "[[allow]]\nrule = 'WS999'\nreason = 'x'\nexpires = 'soon'\n",
            ["allow[0].expires: expected a date"],
        ),
        ("[[allow]]\nrule = 'WS199'\nreason = 'x'\n", ["WS199: no such rule, did you mean WS10"]),
        ("[check]\nselect = 'WS101'\n", ["check.select: expected a list"]),
        ("[check]\nwarn = ['WS1']\n", ["check.warn: WS1: no such rule"]),
        ("[check]\nselect = ['BG202']\n", ["onnxshare.toml: check: --select BG202: needs a limit"]),
        ("[check]\ntarget = 'x'\n", ["check.target: expected a target"]),
        ("[check]\ngap-is-exact = 'maybe'\n", ["check.gap-is-exact: expected true or false"]),
        ("baseline = 3\n", ["baseline: expected the path of a file"]),
    ],
)
def test_what_is_wrong_is_named_with_its_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "onnxshare.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_policy(path)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_the_last_entry_counts_for_samples_and_sizes_and_a_model_keeps_its_first_name() -> None:
    entries = (
        ModelEntry("*.onnx", {}, {"x": [1]}, "first.npz"),
        ModelEntry("a.onnx", {}, {"x": [2]}, "last.npz"),
    )
    first, *_ = plan(["a.onnx", "*.onnx", "deep/../a.onnx"], Policy(LIMITS, entries))
    assert (first.samples, first.input_shapes) == ("last.npz", {"x": [2]})
    jobs = plan(["a.onnx", "*.onnx", "deep/../a.onnx"], Policy(LIMITS, entries))
    assert [job.name for job in jobs] == ["a.onnx", "b.onnx"]
