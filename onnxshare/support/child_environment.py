"""The variables that a process gets which works on a stranger's file."""

from __future__ import annotations

import os

#: Names that a child process needs to find libraries, devices, temporary folders and its language.
_NAMES = frozenset(
    (
        "ALLUSERSPROFILE APPDATA COMSPEC HOME LANG LANGUAGE LD_LIBRARY_PATH LOCALAPPDATA PATH "
        "PATHEXT PROGRAMDATA PROGRAMFILES SYSTEMDRIVE SYSTEMROOT TEMP TMP TMPDIR TZ USERPROFILE "
        "WINDIR XDG_RUNTIME_DIR DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH PYTHONHOME "
        "NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE PROCESSOR_IDENTIFIER ONNXSHARE_DEBUG "
        "_ONNXSHARE_COMMAND_LINE"
    ).split()
)

#: Families of such names: locales, threads and devices.
_FAMILIES = (
    "LC_ CUDA_ CUDNN_ NVIDIA_ NV_ HIP_ HSA_ ROCM_ ROCR_ MIGRAPHX_ OPENVINO_ VK_ MESA_ DRI_ "
    "GOMP_ KMP_ MKL_ OMP_ OPENBLAS_"
).split()


def child_environment(**more: str) -> dict[str, str]:
    """The variables of this process that are not secret and change nothing about a model, and more.

    An allow-list: tokens, keys and passwords have any name. ONNX Runtime's own variables stay out
    too, because they can change how a model is loaded.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _NAMES or name.upper().startswith(tuple(_FAMILIES))
    }
    return {**kept, **more}
