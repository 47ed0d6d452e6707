"""Inspects models that come as length-prefixed bytes on stdin, and answers a line for each.

Run by `campaign.py` in a process with a limit on memory, which a crash or a hang ends.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

MEMORY = 2**30


def look(data: bytes) -> tuple[str, str]:
    """Load and inspect a model as the command line does: the kind of end, and details."""
    import onnxshare
    from onnxshare.cli.options import print_json
    from onnxshare.report import inspect, inspect_views

    try:
        report = onnxshare.inspect(data)
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


def peak_memory() -> int:
    """The most memory of this process in KiB. Where there is /proc, not `ru_maxrss`, which begins
    at what the process that started this one had."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    import onnxshare.api  # with what it needs, before memory is limited

    assert onnxshare.api
    answers, noise = os.fdopen(os.dup(1), "w"), io.StringIO()
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("always")
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
        start = time.perf_counter()
        with redirect_stderr(noise):
            end, details = look(data)
        if noise.getvalue():
            end, details = "bad", f"it prints on stderr: {noise.getvalue()}"
            noise.seek(0)
            noise.truncate()
        peak = peak_memory()
        answer = {"end": end, "details": details, "seconds": time.perf_counter() - start}
        print(json.dumps({**answer, "peak": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
