"""What the GitHub Action runs: `onnxshare check` with reports, its exit code kept for later.

It reads the inputs from variables, never from text put into a script, so that a file name or a
branch name can run nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path


def setting(name: str) -> str:
    """An input of the Action."""
    return os.environ.get(f"ONNXSHARE_ACTION_{name}", "").strip()


def on(name: str) -> bool:
    """Whether an input that is true or false is true."""
    return setting(name) == "true"


def main() -> int:
    """Check, write the reports, and note the exit code; 0 unless that itself fails."""
    paths = [line.strip() for line in setting("PATHS").splitlines() if line.strip()]
    summary = os.environ.get("GITHUB_STEP_SUMMARY", "")
    arguments = ["--format", "github"]
    for option, name in (("--config", "POLICY"), ("--baseline", "BASELINE")):
        if setting(name):
            arguments += [option, setting(name)]
    if setting("SARIF"):
        arguments += ["--report", f"sarif={setting('SARIF')}"]
    table = Path(f"{summary}.onnxshare") if summary and setting("SUMMARY") != "false" else None
    if table is not None:
        arguments += ["--report", f"markdown={table}"]
    comment = Path(f"{summary}.onnxshare-comment") if summary and on("COMMENT") else None
    if comment is not None:
        arguments += ["--report", f"comment={comment}"]
    arguments += shlex.split(setting("ARGUMENTS"))
    base = setting("BASE") or "HEAD~1"
    for option, name in (
        ("--changed-since", "CHANGED_ONLY"),
        ("--baseline-ref", "COMPARE_WITH_BASE"),
    ):
        if on(name) and base.strip("0"):  # a new branch began nowhere
            arguments += [option, base]
    # -P, and no PYTHONPATH: what is in the checkout must not run in place of what is installed.
    command = [sys.executable, "-P", "-m", "onnxshare", "check", *arguments, "--", *paths]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    code = subprocess.run(command, check=False, env=kept).returncode
    if table is not None and table.exists():
        with open(summary, "a", encoding="utf-8") as file:
            file.write(table.read_text(encoding="utf-8"))
        table.unlink()
    with open(os.environ.get("GITHUB_OUTPUT", os.devnull), "a", encoding="utf-8") as file:
        file.write(f"exit-code={code}\n")
        if comment is not None and comment.exists():
            file.write(f"comment={comment}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
