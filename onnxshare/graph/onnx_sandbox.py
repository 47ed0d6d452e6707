"""Calls into onnx's C++ code that a file cannot turn against the user.

Its shape inference and its inliner may crash, hang or exhaust memory on a crafted file. What is
ordinary (`inference_cost.py`, and `io/function_limits.py` for the inliner) runs in this process,
which costs nothing; the rest runs in a process of its own, with a limit on memory and time.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnxshare.errors import ModelError
from onnxshare.graph.inference_cost import is_cheap
from onnxshare.graph.nodes import Node
from onnxshare.io.function_limits import calls_fit
from onnxshare.io.onnx_process import TaskFailed, run_task
from onnxshare.support.garbage_collection import give_back

#: Models of more bytes, weights left out: onnx takes twenty times as many to infer their shapes.
_LARGE = 2**23

_TOO_LARGE = "it needs too much memory"


class InferenceRefused(ModelError):
    """onnx's inference rejects a model; `reason` is its report, a line for each node."""

    def __init__(self, cause: str, remedy: str = "", reason: str = "") -> None:
        super().__init__(cause, remedy)
        self.reason = reason


def infer_shapes(
    proto: onnx.ModelProto,
    name: str,
    *,
    strict: bool = False,
    values: bool = True,
    nodes: Sequence[Node] | None = None,
) -> onnx.ModelProto:
    """onnx's shape inference on a model without large weights.

    Args:
        proto, nodes: the model; the nodes of its graph are read if they are not given.
        name: what messages call it.
        strict: whether what does not fit is an error wherever it is.
        values: whether it follows the values of computed shapes (data propagation).

    Raises:
        InferenceRefused: inference rejects the model, or needs too much time or memory for it.
    """
    if not is_cheap(proto, nodes):
        start = "strict " if strict else ""
        try:
            return _elsewhere(
                start + ("shapes" if values else "shapes without values"), proto, name
            )
        except InferenceRefused:
            raise
        except ModelError as error:  # a computed shape may have any number of elements
            if not values or _TOO_LARGE not in error.cause:
                raise
            return _elsewhere(start + "shapes without values", proto, name)
    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=values)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError) as error:
        raise _refused("shapes", name, str(error)) from error
    except MemoryError:
        raise _refused("shapes", name, "it needs too much memory", given_up=True) from None
    finally:
        if proto.ByteSize() > _LARGE:
            give_back()


def inline_functions(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Expand local functions, whose expansion `io/function_limits.py` has bounded.

    Raises:
        ModelError: the inliner rejects the model, crashes, or needs too much time or memory.
    """
    if not calls_fit(proto):
        return _elsewhere("inline", proto, name)
    from onnx import inliner

    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:
        raise _refused("inline", name, str(error)) from error


def convert_opset(proto: onnx.ModelProto, version: int, name: str) -> onnx.ModelProto:
    """A model, its weights with it, in another version of the standard, by onnx's converter.

    Raises:
        ModelError: it cannot be converted, or that needs too much time or memory.
    """
    return _elsewhere(f"opset {version}", proto, name)


def _elsewhere(task: str, proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Run a task in another process."""
    result = onnx.ModelProto()
    try:
        result.ParseFromString(run_task(task, proto.SerializeToString()))
    except TaskFailed as error:
        raise _refused(task, name, str(error), given_up=error.given_up) from None
    except (EncodeError, ValueError) as error:
        reason = f"it cannot be passed on: {error}"
        raise _refused(task, name, reason, given_up=True) from error
    except DecodeError as error:
        reason = "onnx answers with something unreadable"
        raise _refused(task, name, reason, given_up=True) from error
    return result


def _refused(task: str, name: str, reason: str, *, given_up: bool = False) -> ModelError:
    if task.startswith("opset"):
        return ModelError(f"{name}: it cannot be converted to {task}: {reason}")
    what = "its local functions cannot be expanded" if task == "inline" else "its shapes do not fit"
    if given_up:
        what = "expanding its functions" if task == "inline" else "inferring its shapes"
        return ModelError(f"{name}: {what} is given up: {reason}", "simplify the model")
    return InferenceRefused(f"{name}: {what}: {' '.join(reason.split())[:300]}", reason=reason)
