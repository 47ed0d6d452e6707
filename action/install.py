"""What the GitHub Action installs: onnxshare as the Action was checked out, and its requirements by
hash; or another version, as the index has it.

It is started by `python -I`, in the checkout of a stranger, of which nothing must run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

PIP = [
    sys.executable,
    "-P",
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--no-input",
    "install",
    "-q",
]


def commands(runtime: str, version: str) -> list[list[str]]:
    """The commands that install, for the Action's inputs of these names."""
    if version:
        extra = "" if runtime == "none" else f"[{runtime}]"
        return [[*PIP, f"onnxshare{extra}{version}"]]
    pinned = HERE / "requirements" / f"{runtime}.txt"
    kept = ["--cache-dir", str(cache())]
    return [
        [*PIP, *kept, "--require-hashes", "--only-binary", ":all:", "-r", str(pinned)],
        [*PIP, "--no-deps", "--no-index", "--no-build-isolation", str(HERE.parent)],
    ]


def cache() -> Path:
    """Where pip keeps what it downloads."""
    return Path(os.environ.get("RUNNER_TEMP") or tempfile.gettempdir(), "onnxshare-pip")


def key(runtime: str) -> str:
    """What is equal where the same is installed: by system, interpreter and pins."""
    pins = (HERE / "requirements" / f"{runtime}.txt").read_bytes()
    parts = (sys.platform, platform.machine(), sys.implementation.cache_tag)
    return "-".join(["onnxshare", *map(str, parts), hashlib.sha256(pins).hexdigest()[:32]])


def main() -> int:
    """Install what the inputs ask for; with --key, say what names it and where it is kept."""
    runtime = os.environ.get("ONNXSHARE_ACTION_RUNTIME", "") or "none"
    version = os.environ.get("ONNXSHARE_ACTION_VERSION", "").strip()
    if runtime not in ("none", "cpu", "gpu"):
        sys.exit(f"the input `runtime` is none, cpu or gpu, not {runtime!r}")
    if sys.argv[1:] == ["--key"]:
        with open(os.environ.get("GITHUB_OUTPUT", os.devnull), "a", encoding="utf-8") as file:
            file.write(f"key={key(runtime)}\nfolder={cache()}\n")
        return 0
    # PYTHONPATH and its like may lead into the checkout.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for command in commands(runtime, version):
        code = subprocess.run(command, check=False, cwd=HERE.parent, env=kept).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
