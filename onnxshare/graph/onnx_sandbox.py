"""Calls into onnx's C++ code that a file cannot turn against the user.

Its shape inference and its inliner may crash, hang or exhaust memory on a crafted file. What is
ordinary (`inference_cost.py`, and `io/function_limits.py` for the inliner) runs in this process,
which costs nothing; the rest runs in a process of its own, with a limit on memory and time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnxshare.errors import ModelError
from onnxshare.graph.inference_cost import is_cheap
from onnxshare.graph.nodes import Node
from onnxshare.io.function_limits import calls_fit
from onnxshare.support.child_environment import child_environment
from onnxshare.support.garbage_collection import give_back

#: Memory that another process may use, in bytes, beside several times the model itself.
MEMORY, TIMES_MODEL = 3 * 2**28, 16

#: Seconds it may take, and how many more per megabyte of the model.
SECONDS, SECONDS_PER_MB = 8.0, 0.5


#: Models of more bytes, weights left out: onnx takes twenty times as many to infer their shapes.
_LARGE = 2**23

_TOO_LARGE = "it needs too much memory"


class InferenceRefused(ModelError):
    """onnx's inference rejects a model.

    Attributes:
        reason: its report, a line for each node.
    """

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
    """onnx's shape inference.

    Args:
        proto: the model without large weights.
        name: what messages call it.
        strict: whether what does not fit is an error wherever it is.
        values: whether it follows the values of computed shapes (data propagation).
        nodes: the nodes of its graph; None if they have to be read.

    Raises:
        InferenceRefused: inference rejects the model, or needs too much time or memory for it.
    """
    if not is_cheap(proto, nodes):
        task = ("strict " if strict else "") + ("shapes" if values else "shapes without values")
        return _elsewhere(task, proto, name)
    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=values)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError) as error:
        raise _refused("shapes", name, str(error)) from error
    except MemoryError:
        raise _given_up("shapes", name, _TOO_LARGE) from None
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


def _elsewhere(task: str, proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Run a task in another process."""
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise _given_up(task, name, f"it cannot be passed on: {error}") from error
    memory = MEMORY + TIMES_MODEL * len(data)
    seconds = SECONDS + SECONDS_PER_MB * len(data) / 1e6
    # Threads of a linear algebra library would reserve most of the memory, and do nothing.
    environment = child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    script = Path(__file__).with_name("onnx_sandbox_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(script), task, str(memory)],
            input=data,
            capture_output=True,
            check=False,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise _given_up(task, name, f"it takes longer than {seconds:.0f} s") from None
    if done.returncode != 0:
        raise _given_up(task, name, _failure(done.returncode))
    if done.stdout.startswith(b"-"):
        raise _refused(task, name, done.stdout[1:].decode(errors="replace"))
    if not done.stdout.startswith(b"+"):
        raise _given_up(task, name, _TOO_LARGE)
    result = onnx.ModelProto()
    try:
        result.ParseFromString(done.stdout[1:])
    except DecodeError as error:
        raise _given_up(task, name, "onnx answers with something unreadable") from error
    return result


def _failure(code: int) -> str:
    """Why a process has ended, by its exit code."""
    if code < 0:
        try:
            what = signal.Signals(-code).name
        except ValueError:
            what = f"signal {-code}"
        return f"onnx crashes on it ({what})"
    return "onnx fails on it, perhaps for want of memory"


def _given_up(task: str, name: str, reason: str) -> ModelError:
    what = "expanding its functions" if task == "inline" else "inferring its shapes"
    return ModelError(f"{name}: {what} is given up: {reason}", "simplify the model")


def _refused(task: str, name: str, reason: str) -> InferenceRefused:
    what = "its local functions cannot be expanded" if task == "inline" else "its shapes do not fit"
    return InferenceRefused(f"{name}: {what}: {' '.join(reason.split())[:300]}", reason=reason)
