"""ONNX Runtime's sessions of a family's models, over one copy of the weights in memory.

ONNX Runtime maps the data file that the models refer to, and the CPU computes with the weights
where they lie: the pages are there once, for all sessions of a process, and of all processes. It
does so only where it makes no copies in other layouts, which each session would hold for itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxshare.errors import RuntimeFailure, UsageError
from onnxshare.io.load import load
from onnxshare.runtime.onnx_runtime import first_line, import_runtime
from onnxshare.runtime.provider_table import CPU


def family_sessions(
    folder: str | os.PathLike[str],
    models: Sequence[str] | None = None,
    *,
    prepack: bool = False,
    configure: Callable[[Any], None] | None = None,
    providers: Sequence[Any] = (CPU,),
) -> dict[str, Any]:
    """Open the models of a folder in ONNX Runtime, with the weights that they share in memory once.

    Args:
        folder: a folder that `onnxshare family --write` wrote, or any folder of models with
            external data.
        models: names of its models, with or without `.onnx`; None for all.
        prepack: let ONNX Runtime copy weights into the layouts that it computes fastest with, as
            it does by itself. Sessions then take as much memory as separate ones.
        configure: called with the `SessionOptions` of each model, to set threads and the like.
        providers: as `onnxruntime.InferenceSession` takes them. Weights are shared on the CPU;
            other providers copy them to their device.

    Returns:
        An `onnxruntime.InferenceSession` for each model, by its file's name without `.onnx`.

    Raises:
        UsageError: there is no such folder or model, or ONNX Runtime is not installed.
        ModelFileError, ModelError: a model, or its data, must not be read, or is damaged.
        RuntimeFailure: ONNX Runtime cannot load a model.

    Example:
        >>> sessions = onnxshare.family_sessions("models/enas", ["child-1", "child-2"])
        >>> sessions["child-1"].get_outputs()[0].shape
        ['batch', 10]
    """
    runtime = import_runtime()
    found: dict[str, Any] = {}
    for path in _paths(Path(folder), models):
        _check_data(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if not prepack:
            levels = runtime.GraphOptimizationLevel
            # The level above this one stores convolutions' weights anew, in blocks of channels.
            options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.disable_prepacking", "1")
        if configure is not None:
            configure(options)
        try:
            session = runtime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its errors have no common base
            raise RuntimeFailure(
                f"{path}: ONNX Runtime cannot load it: {first_line(error)}"
            ) from error
        found[path.stem] = session
    return found


def _paths(folder: Path, models: Sequence[str] | None) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "write one with `onnxshare family --write`")
    known = {path.stem: path for path in sorted(folder.glob("*.onnx"))}
    if not known:
        raise UsageError(f"{folder}: holds no model", "write some with `onnxshare family --write`")
    if isinstance(models, str):
        models = [models]
    names = list(known) if models is None else [name.removesuffix(".onnx") for name in models]
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(f"{folder}: holds no model '{missing[0]}'", f"it holds {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _check_data(path: Path) -> None:
    """Make sure that a model leads ONNX Runtime to nothing but regular files in its folder."""
    model = load(path)
    for tensor in model.external_tensors() if model.external_files() else ():
        model.external.check(tensor)
