"""How many processors there are for this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnxshare.support.cpu_count import usable_cores


def test_at_least_one_and_at_most_all() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_limit_is_heeded() -> None:
    """In a process of its own that may use one."""
    code = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from onnxshare.support.cpu_count import usable_cores\n"
        "print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
