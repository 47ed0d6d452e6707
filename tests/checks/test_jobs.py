"""Several models at once: the same report, and a crash takes one model only."""

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
from onnxshare.checks.jobs import Job, each
from onnxshare.checks.results import ModelReport
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
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        # Each of the eight models would take 20 seconds.
        try:
            _, words = process.communicate(timeout=15)
        finally:
            process.kill()
    assert sent != signal.SIGINT or b"KeyboardInterrupt" in words
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    for worker in workers:
        deadline = time.monotonic() + 30
        while _runs(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(worker)


def slow(job: Job) -> ModelReport:
    Path(job.name).with_name(f"{os.getpid()}.pid").touch()
    time.sleep(20)
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
    script = tmp_path / "script.py"
    script.write_text(
        "import onnxshare\n"
        "report = onnxshare.check(['a.onnx', 'b.onnx'], max_params=11, jobs=2)\n"
        "print([(model.error, len(model.findings)) for model in report.models])\n"
    )
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[(None, 1), (None, 1)]\n", "")
