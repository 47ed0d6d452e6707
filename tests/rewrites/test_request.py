"""What `onnxshare.rewrite` may be asked for: names, rewrites with options of their own, both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxshare
from onnxshare.errors import UsageError
from onnxshare.rewrites import ALL, FcToConv, FcToGap, Options, PoolFirst, Share
from rewrites.request import request


def test_own_options_are_those_of_the_rewrite_alone(bundled: Path) -> None:
    model = bundled / "lenet5.onnx"
    asked: list[Any] = [FcToConv(fully_convolutional=True), Share()]
    own = onnxshare.rewrite(model, asked, provider="cpu")
    assert own.passed
    assert [change.site.rewrite for change in own.changes] == ["fc-to-conv"]
    (size,) = own.model.graph.input
    assert all(dim.dim_param for dim in size.type.tensor_type.shape.dim[2:])
    words = onnxshare.rewrite(model, "fc-to-conv", fully_convolutional=True, provider="cpu")
    assert own.model == words.model


def test_they_come_before_those_of_the_call_where_they_are_given() -> None:
    call = Options(fully_convolutional=True, method="gap", keep=0.9)
    _, options = request(["fc-to-conv", FcToGap(keep=0.99)], call, given=True)
    assert options == Options(fully_convolutional=True, method="gap", keep=0.99)
    _, options = request([FcToGap(), FcToConv(fully_convolutional=False)], call, given=True)
    assert options == Options(fully_convolutional=False, method="gap", keep=0.9)


def test_the_order_is_that_of_all_whatever_is_given() -> None:
    asked: list[Any] = [FcToConv(), "global-pool", PoolFirst(), Share(), "share"]
    chosen, _ = request(asked, Options(), given=False)
    assert [item.name for item in chosen] == ["share", "global-pool", "pool-first", "fc-to-conv"]
    assert [item.name for item in ALL if item in chosen] == [item.name for item in chosen]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([FcToConv(pool_outputs=True)], "pool_outputs=True needs fully_convolutional=True"),
        ([FcToGap(approximate=True)], "approximate=True needs inputs to fit to"),
        ([FcToGap(method="auto")], "method='auto' searches"),
        ([FcToGap(keep=99.0)], "keep is 99.0; give a share"),
        ([FcToGap(keep=0.9), "fc-to-gap"], "'fc-to-gap' is requested twice"),
        ([object()], "is not a rewrite"),
        ([], "no rewrite was requested"),
        ("fc-to-cow", "there is no rewrite 'fc-to-cow'"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(asked: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        request(asked, Options(), given=False)


def test_an_option_of_another_rewrite_is_an_error_of_python() -> None:
    conv: Any = FcToConv
    with pytest.raises(TypeError, match="method"):
        conv(method="auto")
    share: Any = Share
    with pytest.raises(TypeError):
        share(keep=0.9)
