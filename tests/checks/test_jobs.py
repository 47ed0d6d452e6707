"""Which models are checked against which limits, and several at once: a crash takes one only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from onnxshare.api import check
from onnxshare.checks.jobs import Job, each, left_out, plan
from onnxshare.checks.policy import ModelEntry, Policy
from onnxshare.checks.policy_file import read_policy
from onnxshare.checks.results import ModelReport
from onnxshare.errors import UsageError
from tests.builders import model, node, save, tensor
from tests.checks.pairs import lenet, small


def crash(job: Job) -> ModelReport:
    if job.name == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return ModelReport(job.name)


def jobs(*names: str) -> list[Job]:
    return [Job(Path(name), name, {}) for name in names]


def test_a_crash_takes_one_model_only() -> None:
    reports = each(crash, jobs("a", "bad", "b", "c"), 2)
    assert [report.path for report in reports] == ["a", "bad", "b", "c"]
    assert [report.error is None for report in reports] == [True, False, True, True]
    assert reports[1].error == "bad: checking it crashed the interpreter; is the file damaged?"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(
            getattr(signal, "SIGKILL", None),
            id="killed",
            marks=pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL"),
        ),
    ],
)
def test_an_end_halfway_waits_for_nothing_and_leaves_no_process(
    tmp_path: Path, sent: signal.Signals
) -> None:
    for number in range(8):
        onnx.save(small(), tmp_path / f"{number}.onnx")
    script = (
        "import time, sys; from pathlib import Path; from tests.checks import test_jobs as t; "
        "from onnxshare.checks.jobs import each\n"
        "if __name__ == '__main__':\n"
        "    print('ready', flush=True)\n"
        f"    each(t.slow, [t.Job(p, str(p), {{}}) for p in Path({str(tmp_path)!r}).iterdir()], 2)"
    )
    program = tmp_path / "program.py"
    program.write_text(script)
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        # Each of the eight models would take ten minutes.
        try:
            _, words = process.communicate(timeout=120)
        finally:
            process.kill()
    assert sent != signal.SIGINT or b"KeyboardInterrupt" in words
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    for worker in workers:
        deadline = time.monotonic() + 120
        while _runs(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = _runs(worker)
        if left:
            os.kill(worker, signal.SIGTERM)
        assert not left


def slow(job: Job) -> ModelReport:
    Path(job.name).with_name(f"{os.getpid()}.pid").touch()
    time.sleep(600)
    return ModelReport(job.name)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{number}/stat")  # one that has ended and that nobody waits for is gone
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_same_report_as_one_by_one(tmp_path: Path) -> None:
    for number in range(4):
        onnx.save(lenet() if number % 2 else small(), tmp_path / f"{number}.onnx")
    (tmp_path / "z.onnx").write_bytes(b"no model")
    one = check(tmp_path, max_params="1k", jobs=1)
    two = check(tmp_path, max_params="1k", jobs=2)
    assert one == two
    assert [len(model.findings) for model in two.models] == [0, 1, 0, 1, 0]


def test_progress_is_told_of_each_model(tmp_path: Path) -> None:
    for number in range(3):
        onnx.save(small(), tmp_path / f"{number}.onnx")
    seen: list[tuple[str, int]] = []

    def progress(reports: object, count: int) -> list[ModelReport]:
        kept = []
        for report in reports:  # type: ignore[attr-defined]
            seen.append((Path(report.path).name, count))
            kept.append(report)
        return kept

    assert check(tmp_path, max_params="1k", progress=progress).passed
    assert seen == [("0.onnx", 3), ("1.onnx", 3), ("2.onnx", 3)]


@pytest.mark.parametrize("wanted", [None, 1, 5])
def test_models_from_memory_stay_here(wanted: int | None) -> None:
    report = check([small(), lenet()], max_params="1k", jobs=wanted)
    assert [len(model.findings) for model in report.models] == [0, 1]


def test_a_script_without_a_guard_checks_each_model_once(tmp_path: Path) -> None:
    for name in "ab":
        built = model([node("MatMul", "x w", "y")], {"x": ["n", 3]}, ["y"], [tensor("w", 3, 4)])
        save(built, tmp_path / f"{name}.onnx")
    for name in ("subprocess", "sitecustomize", "multiprocessing", "onnx", "numpy", "os"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the current folder ran')")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(
        "import onnxshare\n"
        "report = onnxshare.check(['a.onnx', 'b.onnx'], max_params=11, jobs=2)\n"
        "print([(model.error, len(model.findings)) for model in report.models])\n"
    )
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[(None, 1), (None, 1)]\n", "")


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
    assert policy.warn == {f"WS1{number:02}" for number in range(1, 11)}
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
        ("[check]\nselect = ['BG202']\n", ["onnxshare.toml: check: select BG202: needs a limit"]),
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


def test_what_a_policy_leaves_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = "m/a.onnx m/ref.onnx m/own.onnx m/old/c.onnx x/d.onnx venv/e.onnx .h/f.onnx"
    for name in names.split():
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_bytes(b"")
    Path("venv/pyvenv.cfg").write_text("")
    Path("onnxshare.toml").write_text(
        'exclude = ["m/old"]\n[check]\nmax-params = 1\n'
        '[[models]]\npath = "m/**/*.onnx"\nreference = "m/ref.onnx"\n'
        '[[models]]\npath = "m/own.onnx"\nreference = "m/own.onnx"\n'
    )
    policy = read_policy(Path("onnxshare.toml"))
    planned = plan((), policy)
    # A reference that an entry names by itself is checked.
    assert [job.key for job in planned] == ["m/a.onnx", "m/own.onnx"]
    unnamed, references = left_out(policy, planned)
    assert "as no entry of onnxshare.toml names it: x/d.onnx; add an entry" in unnamed
    assert "as a reference: m/ref.onnx; name it" in references
    # By hand, any of them.
    for given in ("m/ref.onnx", "m/old/c.onnx", "x/d.onnx"):
        assert [job.key for job in plan([given], policy)] == [given]
    assert [job.key for job in plan(["m"], policy)] == ["m/a.onnx", "m/own.onnx"]
