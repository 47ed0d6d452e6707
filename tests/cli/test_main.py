"""The command line as a whole: what it imports, how it exits, what bad input looks like."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest

from onnxshare.cli.main import run
from onnxshare.version import __version__

Ran = subprocess.CompletedProcess[str]
Cli = Callable[..., Ran]

COMMANDS = ("inspect", "rewrite", "compare", "check")
HEAVY = ("onnx", "onnxruntime", "numpy")

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
BAD_INPUT = {
    "empty file": (b"", "an empty file"),
    "text file": (b"not a model\n", "a text file"),
    "LFS pointer": (LFS, "git lfs pull"),
    "ZIP": (b"PK\x03\x04\x14\x00\x08\x08", "a ZIP archive"),
    "HTML": (b"<!DOCTYPE html><html></html>", "an HTML page"),
    "noise": (bytes(range(128, 256)) * 4, "not a readable ONNX model"),
}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def imported_by(arguments: Sequence[str]) -> set[str]:
    """Top-level packages that a command line has imported when it exits."""
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('|'.join(sys.modules), file=sys.stderr))\n"
        "from onnxshare.cli.main import run\n"
        f"sys.exit(run({list(arguments)!r}))"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split("|")}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_by(arguments)
    assert "typer" in modules  # or the list above is not what it seems
    assert not modules.intersection(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["check", "--max-params", "1M", "--min-sharing-ratio", "1"]]
)
def test_inspect_and_check_never_import_onnxruntime(arguments: list[str], lenet_path: Path) -> None:
    modules = imported_by([*arguments, str(lenet_path)])
    assert "onnx" in modules
    assert "onnxruntime" not in modules


def test_version_as_a_module() -> None:
    done = python("-m", "onnxshare", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"onnxshare {__version__}\n", "")


def test_help_names_every_command() -> None:
    done = python("-m", "onnxshare", "--help", COLUMNS="100")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout


def test_help_is_broken_where_the_terminal_ends_and_nowhere_else() -> None:
    done = python("-m", "onnxshare", "rewrite", "--help", COLUMNS="200")
    [told] = [line for line in done.stdout.splitlines() if "Both models are run" in line]
    assert told.strip().endswith("The input is never changed.")


def test_no_command_prints_the_help_and_no_error(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "Commands" in done.stdout + done.stderr
    assert "error" not in done.stdout + done.stderr


def test_telemetry_is_off_before_onnxruntime_can_be_imported() -> None:
    done = python(
        "-c",
        "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "from onnxshare.cli.main import run; run(['--version'])\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])",
    )
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["inspect", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
        (["inspct"], "no such command 'inspct'; did you mean inspect or init?"),
        (["inspect", "m", "--hashh"], "no such option: --hashh; did you mean --hash?"),
        (["inspect", "m", "--by", "no"], "--by: 'no' is not one of 'node', 'weight', 'op', "),
        (["inspect", "m", "--top", "x"], "--top: is not a whole number; see `onnxshare inspect"),
        (["inspect", "m", "--top", "0"], "--top: is less than 1; see `onnxshare inspect --help`"),
        (["compare", "a", "b", "--timeout", "x"], "--timeout: is not a number; see `onnxshare co"),
        (["init", "--preset", "x"], "--preset: 'x' is not one of 'edge', 'server', 'teaching'; s"),
        (["inspect", "a.onnx", "b.onnx"], "takes one model; use `onnxshare scan`, "),
        (["rules", "x"], "got unexpected extra argument(s) (x); see `onnxshare rules --help`"),
        ([__file__], "did you mean `onnxshare inspect "),
        (["compare", "a.onnx"], "missing argument"),
        (["check", "--format", "yaml"], "yaml"),
    ],
)
def test_usage_errors_are_one_line(cli: Cli, arguments: list[str], part: str) -> None:
    assert_one_line(cli(*arguments), part)


@pytest.mark.parametrize("kind", BAD_INPUT)
@pytest.mark.parametrize("command", ["inspect", "rewrite"])
def test_bad_input_is_one_line(cli: Cli, command: str, kind: str, tmp_path: Path) -> None:
    content, part = BAD_INPUT[kind]
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    options = ["--fc-to-conv"] if command == "rewrite" else []
    ran = cli(command, path, *options)
    assert_one_line(ran, part)
    assert str(path) in ran.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_truncated_model_is_one_line(cli: Cli, lenet_path: Path) -> None:
    data = lenet_path.read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        lenet_path.write_bytes(data[: int(share * len(data))])
        assert_one_line(cli("inspect", lenet_path), "truncated or damaged")


def test_a_missing_file_and_a_directory_are_one_line(cli: Cli, tmp_path: Path) -> None:
    assert_one_line(cli("inspect", tmp_path / "none.onnx"), "no such file")
    assert_one_line(cli("inspect", tmp_path), "is a directory")
    assert list(tmp_path.iterdir()) == []


def test_no_model_and_several_models(
    cli: Cli, tmp_path: Path, lenet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(cli("inspect"), "holds no .onnx file")
    onnx.save(lenet, "a.onnx")
    assert cli("inspect").returncode == 0
    onnx.save(lenet, "b.onnx")
    assert_one_line(cli("inspect"), "holds several: a.onnx, b.onnx")


def test_a_name_with_control_characters_cannot_move_the_cursor(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", tmp_path / "net\x1b[31m\n.onnx")
    assert_one_line(ran, "no such file")
    assert "\x1b" not in ran.stderr
    assert "\\x1b[31m" in ran.stderr


@pytest.mark.skipif(os.name == "nt", reason="as POSIX names files")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "{}", "--report", "json=" + "x" * 300),
        ("check", "{}", "--report", "json={}/x"),
        ("check", "{}", "--write-baseline", "x" * 300),
        ("rewrite", "{}", "--share", "--no-validate", "-o", "x" * 300),
        ("rewrite", "{}", "--share", "--no-validate", "-o", "{}/x.onnx"),
        ("rewrite", "{}", "--dry-run", "--rewrite", "../../x"),
        ("init", "-o", "x" * 300),
        ("inspect", "x" * 5000),
        ("inspect", "{}/x"),
    ],
)
def test_names_that_are_none_are_one_line(cli: Cli, lenet_path: Path, words: tuple[str]) -> None:
    ran = cli(*(word.format(lenet_path) for word in words))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "internal error" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="a folder that is used stays there")
def test_a_current_folder_that_is_gone(
    cli: Cli, lenet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli("inspect", lenet_path).returncode == 0
    for words in (("check", lenet_path), ("rewrite", lenet_path, "--share", "-o", "x"), ("check",)):
        ran = cli(*words)
        assert ran.returncode == 2
        assert "internal error" not in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_errors_that_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run(["inspect", "missing.onnx"]) == 2
        with contextlib.suppress(OSError):
            full.close()


_LONG = "9" * 5000

#: Options, and what is no number for them.
_NO_NUMBERS = {
    "inspect {} --dim n=": (_LONG, "²", "-1", "1_0", "٣", "1e3", ""),
    "inspect {} --input-shape x:1,1,32,": (_LONG, "²", "-1", "1_0"),
    "inspect {} --top ": (_LONG, "²", "-1", "nan"),
    "check {} --max-params ": (_LONG, "²", "1e999", "nan", "-1", "0x9"),
    "check {} --max-fc-share ": ("inf%", "1e400", "²%", _LONG + "%"),
    "check {} --jobs ": (_LONG, "²", "0", "1.5"),
    "rewrite {} --share --dry-run --seed ": (_LONG, "²", "-1"),
    "rewrite {} --share --dry-run --timeout ": (_LONG, "inf", "nan", "1e300", "²"),
    "rewrite {} --share --dry-run --memory-limit ": (_LONG, "²GB", "1e9", "٣GB"),
    "rewrite {} --fc-to-gap --approximate --keep ": (_LONG, "nan%", "²%", "1_0%"),
    "compare {} {} --latency --batch ": (_LONG, "0", "²", "-1"),
}


@pytest.mark.parametrize("option", _NO_NUMBERS)
def test_what_is_no_number_is_one_line(cli: Cli, lenet_path: Path, option: str) -> None:
    for number in _NO_NUMBERS[option]:
        ran = cli(*(option.format(lenet_path, lenet_path) + number).split(" "))
        assert (ran.returncode, ran.stdout) == (2, ""), number
        assert "internal error" not in ran.stderr
        assert 1 <= len(ran.stderr.splitlines()) <= 2
        assert len(ran.stderr) < 4100


@pytest.mark.parametrize("value", ["garbage", "²", "-5", "0", "", "1e9", _LONG, "99999999999"])
def test_variables_that_are_no_width_are_ignored(
    cli: Cli, lenet_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cli("inspect", lenet_path).stdout
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, value)
    assert cli("inspect", lenet_path).stdout == expected
    assert cli("--help").returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="shell pipes")
def test_a_reader_that_goes_away_is_no_crash(lenet_path: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m onnxshare inspect --format json '{lenet_path}' | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "{"
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("to", "words"),
    [
        (">/dev/full", "the output cannot be written: No space left"),
        (">&-", "standard output is closed"),
    ],
    ids=["full", "closed"],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_an_output_that_takes_nothing(lenet_path: Path, form: str, to: str, words: str) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m onnxshare inspect --format {form} '{lenet_path}' {to}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert_one_line(done, words)
    silent = subprocess.run(f"{done.args} 2>&-", shell=True, check=False, timeout=120)
    assert silent.returncode == 2


def assert_one_line(ran: Ran, part: str) -> None:
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("onnxshare: error: ")
    assert ran.stderr.count("\n") == 1
    assert part.lower() in ran.stderr.lower()
    assert "Traceback" not in ran.stderr
    assert "internal error" not in ran.stderr


@pytest.mark.parametrize("command", ["inspect", "rewrite"])
def test_one_model_at_a_time(cli: Callable[..., Ran], command: str, lenet_path: Path) -> None:
    ran = cli(command, lenet_path, lenet_path)
    assert_one_line(
        ran, f"`onnxshare {command}` takes one model; use `onnxshare scan`, `onnxshare check` or"
    )
