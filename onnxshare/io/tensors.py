"""The values of stored tensors, read only when somebody asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxshare.errors import ModelError, ModelFileError

Array = np.ndarray[Any, np.dtype[Any]]


def element_count(tensor: onnx.TensorProto) -> int:
    """The number of elements that the tensor's dims announce."""
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def read(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """Return a tensor's values, reading external data from `folder` when needed.

    bfloat16, float8 and the 4-bit types come as the `ml_dtypes` of the same name.

    Raises:
        ModelFileError: external data is missing or unreadable.
        ModelError: the payload does not fit the tensor's dims.
    """
    try:
        return numpy_helper.to_array(tensor, base_dir="" if folder is None else str(folder))
    except (OSError, onnx.checker.ValidationError) as error:
        raise ModelFileError(
            f"external data of tensor '{tensor.name}' cannot be read",
            "put the data file beside the model",
        ) from error
    except (ValueError, TypeError) as error:
        raise ModelError(f"tensor '{tensor.name}' is damaged: {error}") from error
