"""A team's two weeks with the gate, in a repository of its own: each step's exit code and text."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxshare.checks import known_findings
from tests.builders import fc, model, node, tensor
from tests.checks.pairs import small

Cli = Callable[..., subprocess.CompletedProcess[str]]

POLICY = """\
baseline = "known.json"
[check]
max-params = "baseline + 2%"
max-fc-share = "50%"
max-regression = "5%"
[[models]]
path = "models/**/*.onnx"
[[models]]
path = "models/copy.onnx"
reference = "models/reference.onnx"
"""


def git(*words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    ran = subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def commit(subject: str) -> None:
    git("add", "-A")
    git("commit", "-qm", subject)


def net(outputs: int = 160) -> onnx.ModelProto:
    """A convolution of 150 weights, used 64 times each, and an FC of 384 for each output."""
    return model(
        [node("Conv", "x c1", "a"), node("Flatten", "a", "flat"), node("Gemm", "flat w", "y")],
        {"x": ["N", 1, 12, 12]},
        ["y"],
        [tensor("c1", 6, 1, 5, 5), tensor("w", 384, outputs)],
    )


def with_data(built: onnx.ModelProto, path: str) -> None:
    """Save a model with its weights in a file of its own, which is named after it."""
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)
    onnx.save(built, path, save_as_external_data=True, location=data.name, size_threshold=0)


def size(path: str) -> str:
    """Of a model and its external data."""
    return f"{(Path(path).stat().st_size + Path(f'{path}.data').stat().st_size) / 1024:.1f} KiB"


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "-q", "-b", "main")
    Path("models").mkdir()
    with_data(net(), "models/large.onnx")
    onnx.save(small(), "models/small.onnx")
    onnx.save(fc(["N", 8], 8, 4), "models/reference.onnx")
    onnx.save(fc(["N", 8], 8, 4), "models/copy.onnx")
    return tmp_path


def test_two_weeks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    check = ("check", "--provider", "cpu")

    # Monday: the gate is set up. What is there already is known, the reference is not gated.
    ran = cli("init", "--preset", "server")
    assert (ran.returncode, ran.stderr[:20]) == (0, "wrote onnxshare.toml")
    assert 'path = "models/**/*.onnx"' in Path("onnxshare.toml").read_text()
    Path("onnxshare.toml").write_text(POLICY)
    ran = cli(*check)
    assert ran.returncode == 1
    assert "WS101  models/large.onnx" in ran.stdout
    assert "3 models checked, 2 findings" in ran.stdout
    assert "note: BG202, RG501 judge nothing without a baseline" in ran.stderr
    assert "not checked, as a reference: models/reference.onnx" in ran.stderr
    ran = cli(*check, "--write-baseline", "known.json")
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (
        0,
        "wrote known.json: 2 known findings",
    )
    commit("Check our models")
    ran = cli(*check)
    assert (ran.returncode, ran.stdout) == (
        0,
        "3 models checked, no findings, 2 silenced (WS101, BG202, EQ301, RG501)\n",
    )

    # Tuesday: a new model is checked, as the glob names it, and one elsewhere is mentioned.
    onnx.save(net(), "models/new.onnx")
    Path("research").mkdir()
    onnx.save(net(), "research/try.onnx")
    ran = cli(*check, "--changed-since", "main")
    assert ran.returncode == 1
    assert "WS101  models/new.onnx" in ran.stdout
    assert "1 model checked, 1 finding" in ran.stdout
    assert "as no entry of onnxshare.toml names it: research/try.onnx" in ran.stderr
    assert "new, so that nothing in the baseline limits what is measured: models/new" in ran.stderr
    Path("models/new.onnx").unlink()
    Path("onnxshare.toml").write_text(f'exclude = ["research"]\n{POLICY}')

    # Wednesday: a model is renamed, and its data with it: nothing is new.
    git("mv", "models/large.onnx", "models/detector.onnx")
    git("mv", "models/large.onnx.data", "models/detector.onnx.data")
    renamed = onnx.load("models/detector.onnx", load_external_data=False)
    for weight in renamed.graph.initializer:
        for entry in weight.external_data:
            entry.value = entry.value.replace("large", "detector")
    onnx.save(renamed, "models/detector.onnx")
    ran = cli(*check)
    assert (ran.returncode, ran.stdout.count("WS101  ")) == (0, 0)
    assert "note: models/detector.onnx was models/large.onnx" in ran.stderr
    assert cli(*check, "--changed-since", "main", "--ignore", "EQ").returncode == 0
    ran = cli(*check, "--update-baseline")
    assert "wrote known.json: 2 known findings, 0 less than before" in ran.stderr
    assert "models/detector.onnx" in Path("known.json").read_text()
    commit("Rename the detector")
    ran = cli(*check)
    assert (ran.returncode, "was models" in ran.stderr) == (0, False)

    # Thursday: the reference changes; the copy did not, and is checked all the same.
    git("checkout", "-qb", "other-reference")
    onnx.save(fc(["N", 8], 8, 4, bias=False), "models/reference.onnx")
    ran = cli(*check, "--changed-since", "main")
    assert ran.returncode == 1
    assert "EQ301  models/copy.onnx  not equivalent to models/reference.onnx" in ran.stdout
    assert "1 model checked, 1 finding, 1 silenced" in ran.stdout
    git("checkout", "-qf", "main")

    # Friday: a model grows. The budget leaves 2 % of 61,590 parameters, 62,821.
    before = size("models/detector.onnx")
    with_data(net(162), "models/detector.onnx")
    assert cli(*check).returncode == 0
    with_data(net(170), "models/detector.onnx")
    after = size("models/detector.onnx")
    ran = cli(*check, "--format", "concise")
    assert ran.returncode == 1
    assert [line for line in ran.stdout.splitlines() if "detector.onnx  " in line] == [
        "BG202  models/detector.onnx  65,430 parameters; the limit is at most 62,821 "
        "(baseline + 2%)",
        f"RG501  models/detector.onnx  file size: {before} → {after} (+6.2%); "
        "the limit is at most 5%",
        "RG501  models/detector.onnx  parameters: 61,590 → 65,430 (+6.2%); the limit is at most 5%",
        "RG501  models/detector.onnx  multiply-accumulates: 71,040 → 74,880 (+5.4%); "
        "the limit is at most 5%",
    ]
    assert cli(*check, "--exit-zero").returncode == 0
    assert cli(*check, "--max-findings", "4").returncode == 0
    assert cli(*check, "--max-findings", "3").returncode == 1
    assert cli(*check, "--warn", "BG,RG").returncode == 0
    assert cli(*check, "--warn", "BG,RG", "--fail-on", "warning").returncode == 1
    ran = cli(*check, "--update-baseline")  # which is no way out: it only shrinks
    assert (ran.returncode, ran.stdout.count("RG501  ")) == (1, 3)
    assert git("status", "--porcelain", "known.json") == ""

    # The second Monday: it may be so large until Wednesday; in the evening of that day still.
    exception = """
[[allow]]
rule = "{}"
model = "models/detector.onnx"
reason = "is cut down this week"
expires = 2026-12-09
"""
    allowed = "".join(exception.format(code) for code in ("BG202", "RG501"))
    Path("onnxshare.toml").write_text(f'exclude = ["research"]\n{POLICY}{allowed}')
    commit("Allow a larger detector")
    monkeypatch.setattr(known_findings, "today", lambda: datetime.date(2026, 12, 9))
    ran = cli(*check)
    assert (ran.returncode, ran.stdout.count("6 silenced")) == (0, 1)
    monkeypatch.setattr(known_findings, "today", lambda: datetime.date(2026, 12, 10))
    ran = cli(*check)
    assert (ran.returncode, ran.stdout.count("allowed until 2026-12-09, which has passed")) == (
        1,
        4,
    )

    # Thursday: the fixed model needs neither the exception nor what the baseline knows.
    Path("models/detector.onnx.data").unlink()
    onnx.save(small(), "models/detector.onnx")
    ran = cli(*check)
    assert ran.returncode == 0
    assert [line for line in ran.stdout.splitlines() if line.startswith("stale  ")] == [
        "stale  allow BG202 (is cut down this week): nothing needs it any more",
        "stale  allow RG501 (is cut down this week): nothing needs it any more",
        "stale  baseline WS101 models/detector.onnx: not found any more, "
        "shrink the baseline with `onnxshare check --update-baseline`",
    ]
    ran = cli(*check, "--update-baseline")
    assert ran.stderr.endswith("wrote known.json: 1 known finding, 1 less than before\n")
    Path("onnxshare.toml").write_text(f'exclude = ["research"]\n{POLICY}')
    commit("Cut the detector down")
    ran = cli(*check)
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1)

    # Friday: a pull request that makes one model larger, takes one away, and has a comment.
    git("checkout", "-qb", "larger")
    old = Path("models/copy.onnx").stat().st_size
    onnx.save(fc(["N", 8], 8, 5), "models/copy.onnx")
    git("rm", "-q", "models/small.onnx")
    commit("Another class")
    since = ("--changed-since", "main", "--baseline-ref", "main", "--ignore", "EQ")
    ran = cli(*check, *since, "--format", "comment")
    assert ran.returncode == 1
    lines = ran.stdout.splitlines()
    assert lines[:2] == [
        "<!-- onnxshare check onnxshare.toml -->",
        "## ❌ onnxshare failed: 1 model checked, 4 findings, 1 silenced; "
        # 8 weights and a bias more.
        f"models/copy.onnx: file size {old} bytes → {old + 36} bytes ({36 / old:+.1%})",
    ]
    # 8 · 4 weights and 4 biases; 8 · 5 and 5.
    assert "| models/copy.onnx | Parameters | 36 | 45 | +25.0% |" in lines
    assert "- models/small.onnx is gone since main" in lines
    assert "- baseline models/small.onnx: is not there any more" in ran.stdout
    assert len(ran.stdout) < 65_536
    measured = json.loads(cli(*check, *since, "--format", "jsonl").stdout)
    assert (measured["params"], measured["params_before"]) == (45, 36)
