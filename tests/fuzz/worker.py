"""Reads damaged models, policies and command lines that come on stdin, and answers a line for each.

Run by `campaign.py` in a process with a limit on memory, which a crash or a hang ends. The ending
of a case's name says what it is: a model in a text form, a policy, a command line, else a model.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import select
import shlex
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any

MEMORY = 2**30

#: Beside a policy or a command line lie these models.
MODELS = ("m.onnx", "other.onnx")

#: What no output may hold: it would act on a terminal.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


def look(data: bytes, name: str) -> tuple[str, str]:
    """Load and inspect a model as the command line does: the kind of end, and details."""
    import onnxshare
    from onnxshare.cli.options import print_json
    from onnxshare.report import inspect, inspect_views

    source = io.BytesIO(data)
    source.name = name
    try:
        report = onnxshare.inspect(source)
        data_out, table = io.StringIO(), io.StringIO()
        with redirect_stdout(data_out):
            print_json(report.to_dict())
        with redirect_stdout(table):
            for kind in inspect_views.KINDS:
                inspect.print_table(report, inspect_views.make_view(report, kind, every=True))
        if "\x1b" in table.getvalue() or json.loads(data_out.getvalue())["schema_version"] != 1:
            return "bad", "the report is not what it should be"
        return "read", ""
    except onnxshare.OnnxShareError as error:
        line = str(error)
        return ("refused", line) if line.isprintable() else ("bad", f"not printable: {line!r}")
    except Exception:
        return "bad", traceback.format_exc()


def parsed(task: str, data: bytes) -> bytes:
    """As `run_task`, which starts a new process for each text; here one is forked, which is a
    hundred times faster and holds the same limits."""
    from onnxshare.io import onnx_process, onnx_process_worker

    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            limit_memory(onnx_process.MEMORY + onnx_process.TIMES_INPUT * len(data))
            try:
                answer = b"+" + onnx_process_worker.work(task, data)
            except MemoryError:
                answer = b"!it needs too much memory"
            except Exception as error:
                answer = b"-" + str(error).strip()[:4000].encode(errors="replace")
            with os.fdopen(theirs, "wb") as file:
                file.write(answer)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        ready, _, _ = select.select([file], [], [], onnx_process.SECONDS)
        answer = file.read() if ready else b"!it takes too long"
    if not ready:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    if not answer:
        raise onnx_process.TaskFailed(f"onnx crashes on it ({status})", given_up=True)
    if not answer.startswith(b"+"):
        reason = answer[1:].decode(errors="replace")
        raise onnx_process.TaskFailed(reason, given_up=answer.startswith(b"!"))
    return answer[1:]


def command(words: list[str], said: IO[bytes]) -> tuple[str, str]:
    """Run one command line: the kind of end, and details."""
    from onnxshare.cli.main import run

    kept = dict(os.environ)
    while words and re.match("[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    try:
        code: Any = run(words)
    except SystemExit as end:
        code = end.code
    finally:
        os.environ.clear()
        os.environ.update(kept)
    sys.stdout.flush()
    sys.stderr.flush()
    said.seek(0)
    text = said.read().decode(errors="replace")
    said.seek(0)
    said.truncate()
    if code not in (0, 1, 2) or "Traceback" in text or "internal error" in text:
        return "bad", f"exit {code}: {text[-2000:]}"
    if code == 2 and not text.strip():
        return "bad", "refused in silence"
    if found := _CONTROL.search(text):
        return "bad", f"prints {found[0]!r}: {text[:2000]!r}"
    return ("refused", text) if code == 2 else ("read", "")


#: Linux takes no longer word of a command line (MAX_ARG_STRLEN), and shlex splits no faster.
_LONGEST_WORD = 2**17 - 1


def arranged(folder: Path) -> None:
    """Empty the current folder, but for the models and a policy."""
    for entry in os.scandir("."):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    shutil.copytree(folder, ".", dirs_exist_ok=True)


def answer(name: str, data: bytes, said: IO[bytes], folder: Path) -> tuple[str, str]:
    """What becomes of one case."""
    if not name.endswith((".toml", ".args")):
        noise = io.StringIO()
        with redirect_stderr(noise):
            found = look(data, name)
        return found if not noise.getvalue() else ("bad", f"it prints: {noise.getvalue()}")
    arranged(folder)
    if name.endswith(".toml"):
        Path(Path(name).name).write_bytes(data)
        return command(["check", "--ignore", "DP403,EQ"], said)
    text = data.decode(errors="surrogateescape").replace("\0", "")[:_LONGEST_WORD]
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split(" ")
    return command(words, said)


def peak_memory() -> int:
    """The most memory of this process in KiB. Where there is /proc, not `ru_maxrss`, which begins
    at what the process that started this one had."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def limit_memory(size: int) -> None:
    """Let no allocation succeed that takes so many bytes more than this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Answer until the input ends; the argument is a folder of files that lie beside each case."""
    import onnxshare.api  # with what it needs, before memory is limited
    import onnxshare.cli.commands
    from onnxshare.io import text_formats

    assert onnxshare.api
    onnxshare.cli.commands.make_app(onnxshare.cli.commands.SUMMARIES)
    vars(text_formats)["run_task"] = parsed
    folder = Path(sys.argv[1])
    cases, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory(MEMORY)
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as said:
        os.chdir(home)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        print("ready", file=answers, flush=True)
        while header := cases.read(16):
            lengths = struct.unpack("<QQ", header)
            name, data = cases.read(lengths[0]).decode(), cases.read(lengths[1])
            start = sum(os.times()[:4])
            end, details = answer(name, data, said, folder)
            seconds = sum(os.times()[:4]) - start
            line = {"end": end, "details": details, "seconds": seconds, "peak": peak_memory()}
            print(json.dumps(line), file=answers, flush=True)


if __name__ == "__main__":
    main()
