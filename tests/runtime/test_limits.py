"""Where models run unless a caller says otherwise, in these tests as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxshare
from onnxshare.runtime import worker_process
from onnxshare.runtime.session import run_model
from tests.runtime import hostile

X = np.ones((2, 3), np.float32)


class Started(Exception):
    pass


@pytest.fixture
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise Started

    monkeypatch.setattr(worker_process.ChildProcess, "__init__", start)


@pytest.mark.usefixtures("_no_process")
def test_in_tests_models_run_in_this_process() -> None:
    """Else each of thousands would start processes, as users' do."""
    model = hostile.harmless()
    np.testing.assert_array_equal(run_model(model, {"x": X}, provider="cpu")["y"], X)
    assert onnxshare.compare(model, model, provider="cpu").passed


@pytest.mark.isolated
@pytest.mark.usefixtures("_no_process")
def test_for_users_they_run_in_another() -> None:
    with pytest.raises(Started):
        run_model(hostile.harmless(), {"x": X}, provider="cpu")
