from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.errors import RuntimeFailure
from onnxshare.runtime.hosts import ChildHost
from onnxshare.runtime.providers import choose
from onnxshare.runtime.run_limits import RunLimits
from onnxshare.runtime.session import Session
from tests.runtime import hostile

pytestmark = pytest.mark.isolated

CPU = choose("cpu")
LIMITED = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux holds a process to a memory limit"
)
TRAPS = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps on this division"
)
X = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
Make = Callable[[], onnx.ModelProto]

CASES = [
    pytest.param(hostile.crash, RunLimits(), "crashes on it (SIGFPE)", id="crash", marks=TRAPS),
    pytest.param(
        hostile.hang, RunLimits(timeout=0.7), "takes longer than 0.7 s to run it", id="hang"
    ),
    pytest.param(hostile.gorge, RunLimits(), "needs more memory", id="at once", marks=LIMITED),
    pytest.param(
        hostile.swell, RunLimits(memory=2**29), "(0.537 GB)", id="little by little", marks=LIMITED
    ),
]


@pytest.mark.parametrize(("make", "limits", "words"), CASES)
@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_model_that_turns_on_onnx_runtime_is_not_run(
    make: Make, limits: RunLimits, words: str, letter: str
) -> None:
    pair = [hostile.harmless(), make()] if letter == "B" else [make(), hostile.harmless()]
    result = onnxshare.compare(*pair, provider="cpu", run_limits=limits)
    assert (result.verdict, result.passed) == ("not run", False)
    assert result.reason.startswith(f"model {letter}: ")
    assert words in result.reason
    assert "\n" not in result.reason


@pytest.mark.parametrize(("make", "limits", "words"), CASES)
def test_a_place_is_usable_after_a_model_died_in_it(
    make: Make, limits: RunLimits, words: str
) -> None:
    host = ChildHost(limits, CPU)
    try:
        bad = Session(make(), provider=CPU, host=host)
        for _ in range(2):  # at once, without dying again
            with pytest.raises(RuntimeFailure) as caught:
                bad.run({"x": X})
            assert words in str(caught.value)
        good = Session(hostile.harmless(), provider=CPU, host=host)
        np.testing.assert_array_equal(good.run({"x": X})["y"], X)
    finally:
        host.stop()
