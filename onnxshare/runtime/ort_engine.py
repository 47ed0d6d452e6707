"""ONNX Runtime's sessions, held by number: the same in this process and in one of its own.

Imports NumPy and ONNX Runtime alone, so that a process of its own starts fast.
"""

from __future__ import annotations

import gc
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshare.errors import RuntimeFailure
from onnxshare.runtime.onnx_runtime import first_line, import_runtime, quiet
from onnxshare.runtime.provider_session import plugged_in, preload, start
from onnxshare.runtime.provider_table import CPU, CUDA, REFERENCE
from onnxshare.support.option_text import option

Array = np.ndarray[Any, np.dtype[Any]]

#: From so many bytes of weights on, ONNX Runtime makes no copies of them in faster layouts: each
#: session would hold them once or twice more, and take longer to load than that saves in a few
#: runs. Measurements run as a user's session would, while memory allows it.
RELAID_BELOW, RELAID_BELOW_MEASURED = 2**28, 2**30

#: What ONNX Runtime says where it has an operator, but not in the types that are requested; it has
#: no code for that alone.
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)(?:\((\d+)\))?")

#: The oldest version of the standard whose operators ONNX Runtime has.
OLDEST_RUN = 7


def _no_kernel_remedy() -> str:
    way = option("--provider")
    return (
        f"it has that operator in other types: choose another {way}, or give the models in float32"
    )


_OLD_REMEDY = f"its opset is below {OLDEST_RUN}: convert it with onnx.version_converter first"


def _remedy(operator: str, since: str | None) -> str:
    """What helps where there is no code for an operator in its version of opset `since`."""
    import onnx

    try:
        newer = onnx.defs.get_schema(operator, OLDEST_RUN).since_version
    except onnx.defs.SchemaError:
        return _no_kernel_remedy()
    return _OLD_REMEDY if newer > int(since or newer) else _no_kernel_remedy()


#: ONNX's number of bfloat16, which NumPy does not know by itself.
_BFLOAT16 = 16


@dataclass(frozen=True)
class Settings:
    """How a session runs.

    Attributes:
        provider: ONNX Runtime's name of the provider.
        label: the provider as text.
        options: the provider's options.
        optimise: with all of ONNX Runtime's graph optimisations, or with none.
        threads: threads that share an operator's work, which then wait without spinning, as
            fits a measurement; None leaves both to ONNX Runtime.
        library: that of the plug-in that brings the provider; empty if ONNX Runtime has it.
        hardware: whether a plug-in must find a GPU.
    """

    provider: str
    label: str
    options: Mapping[str, str]
    optimise: bool = True
    threads: int | None = None
    library: str = ""
    hardware: bool = False


#: Weights next to a model, by name: ONNX's number of their type, and their values.
Initializers = Mapping[str, tuple[int, Array]]


@dataclass(frozen=True)
class Racer:
    """One of two sessions that are timed: its number, its outputs' names, its inputs, and the
    bytes of its model."""

    number: int
    outputs: Sequence[str]
    feed: Mapping[str, Array]
    size: int = 0


class Engine:
    """Sessions, by number."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[Any, Any]] = {}
        self._numbers = itertools.count()

    def open(
        self, model: bytes, weights: Initializers, settings: Settings
    ) -> tuple[int, list[str]]:
        """Load a model; returns the session's number, and the names of the nodes that a provider
        other than the CPU left to the CPU.

        Raises:
            RuntimeFailure: ONNX Runtime cannot load it.
            UsageError: ONNX Runtime is not installed, or broken.
        """
        if settings.provider == REFERENCE:
            return self._keep(_Reference(model), None), []
        options = self._options(weights, settings)
        preload(settings.provider)
        devices = plugged_in(settings.provider, settings.library, settings.hardware)
        try:
            values = _give(weights, settings, options)
            # CUDA's libraries print past every log setting when they are loaded.
            with quiet():
                session = start(model, options, settings.provider, settings.options, devices)
        except Exception as error:
            words = first_line(error)
            missing = _NO_KERNEL.search(words)
            remedy, operator = (_remedy(*missing.groups()), missing[1]) if missing else ("", "")
            words = f"ONNX Runtime cannot load it: {words}"
            raise RuntimeFailure(words, remedy, operator) from error
        if settings.provider not in session.get_providers():
            raise RuntimeFailure(f"ONNX Runtime left {settings.label} and took the CPU instead")
        return self._keep(session, values), [] if settings.provider == CPU else _on_cpu(session)

    def _keep(self, session: Any, values: Any) -> int:
        number = next(self._numbers)
        self._sessions[number] = session, values
        return number

    def run(self, number: int, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run a session and return the outputs that are named.

        Raises:
            RuntimeFailure: ONNX Runtime cannot run it, or an output is not a tensor.
        """
        try:
            values = self._sessions[number][0].run(list(names), dict(feed))
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run it: {first_line(error)}") from error
        return [_as_array(name, value) for name, value in zip(names, values, strict=True)]

    def race(self, racers: Sequence[Racer], orders: Array, runs: int) -> Array:
        """Time two sessions in pairs, `orders` `[pairs, 2]` saying who goes first; a timing spans
        several runs. Returns seconds of a run, `[pairs, 2]`.

        Raises:
            RuntimeFailure: ONNX Runtime cannot run one of them.
        """
        calls = [self._call(racer) for racer in racers]
        times = np.zeros((len(orders), 2))
        collecting = gc.isenabled()
        gc.disable()
        try:
            for pair, order in zip(times, orders, strict=True):
                for who in order:
                    call = calls[who]
                    start = time.perf_counter_ns()
                    for _ in range(runs):
                        call()
                    pair[who] = (time.perf_counter_ns() - start) / 1e9 / runs
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime cannot run it: {first_line(error)}") from error
        finally:
            if collecting:
                gc.enable()
        return times

    def _call(self, racer: Racer) -> Callable[[], object]:
        """A run of a session, on CUDA with its inputs and outputs bound to the device: copying
        them is not the model's work."""
        session, _ = self._sessions[racer.number]
        outputs, feed = list(racer.outputs), dict(racer.feed)
        if session.get_providers()[0] != CUDA:
            return lambda: session.run(outputs, feed)
        return bound(session, outputs, feed, "cuda")

    def close(self, number: int) -> None:
        """Forget a session."""
        self._sessions.pop(number, None)

    def _options(self, weights: Initializers, settings: Settings) -> Any:
        onnxruntime = import_runtime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        levels = onnxruntime.GraphOptimizationLevel
        most = RELAID_BELOW if settings.threads is None else RELAID_BELOW_MEASURED
        large = sum(array.nbytes for _, array in weights.values()) >= most
        best = levels.ORT_ENABLE_EXTENDED if large else levels.ORT_ENABLE_ALL
        options.graph_optimization_level = best if settings.optimise else levels.ORT_DISABLE_ALL
        if large:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if settings.threads is not None:
            options.intra_op_num_threads = settings.threads
            options.inter_op_num_threads = 1
        # Threads that wait in a loop take time from what the other sessions and we compute.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if settings.provider != CPU:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            options.use_deterministic_compute = True
        return options


def bound(
    session: Any, outputs: Sequence[str], feed: Mapping[str, Array], device: str
) -> Callable[[], object]:
    """A run of a session whose inputs lie on a device already and whose outputs stay there."""
    to_device = import_runtime().OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, to_device(array, device, 0))
    for name in outputs:
        binding.bind_output(name, device)

    def call() -> object:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return call


class _Reference:
    """onnx's evaluator of a whole model."""

    def __init__(self, model: bytes) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(model))
        except Exception as error:
            raise RuntimeFailure(f"onnx's evaluator cannot load it: {first_line(error)}") from error

    def run(self, names: Sequence[str], feed: Mapping[str, Array]) -> list[Any]:
        """As an `InferenceSession` does."""
        with np.errstate(all="ignore"):  # an exp that overflows is the model's business
            return list(self._evaluator.run(list(names), dict(feed)))


def _give(weights: Initializers, settings: Settings, options: Any) -> list[Any]:
    """Add weights to session options; what is returned must live as long as the session.

    Given as external initializers, they stand in for the files that the model does not name; given
    as shared ones, too, the CPU computes with them where they lie and makes no copies. Measured:
    1.2 GB of weights then take nothing in addition to the mapped file, and another 1.2 GB without.
    """
    OrtValue = import_runtime().OrtValue
    values = [
        OrtValue.ortvalue_from_numpy_with_onnx_type(array, data_type)
        if data_type == _BFLOAT16
        else OrtValue.ortvalue_from_numpy(array)
        for data_type, array in weights.values()
    ]
    if weights:
        options.add_external_initializers(list(weights), values)
    if settings.provider == CPU:
        for (name, (_, array)), value in zip(weights.items(), values, strict=True):
            if array.ctypes.data % array.itemsize == 0:
                options.add_initializer(name, value)
    return [values, weights]


def _on_cpu(session: Any) -> list[str]:
    """The nodes that run on the CPU, by name, or by operator where they have none; none where ONNX
    Runtime is too old to say."""
    return [
        node.name or node.op_type
        for part in getattr(session, "get_provider_graph_assignment_info", tuple)()
        if part.ep_name == CPU
        for node in part.get_nodes()
    ]


def _as_array(name: str, value: Any) -> Array:
    """An output as an array of numbers or strings; a table of scores by class becomes a row each,
    in the order of the classes.

    Raises:
        RuntimeFailure: it is something else.
    """
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        classes = sorted(value[0], key=str)
        value = [[row.get(name) for name in classes] for row in value]
    try:
        array: Array = np.asarray(value)
    except ValueError:
        raise RuntimeFailure(f"output '{name}' is a sequence of tensors of other shapes") from None
    if array.dtype.kind == "O" and not all(isinstance(item, str) for item in array.flat):
        raise RuntimeFailure(f"output '{name}' is not a tensor")
    return array
