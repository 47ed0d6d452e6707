"""The values of stored tensors, read only when they are needed, and the bits they take."""

from __future__ import annotations

import mmap
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.errors import ModelError, ModelFileError


def types(names: str) -> frozenset[int]:
    """Element types by their names; older versions of onnx do not know the narrowest."""
    return frozenset(getattr(TensorProto, name) for name in names.split() if name in _KNOWN)


_KNOWN = frozenset(TensorProto.DataType.keys())

_WIDTHS = {
    2: "UINT2 INT2",
    4: "UINT4 INT4 FLOAT4E2M1",
    6: "FLOAT6E2M3 FLOAT6E3M2",
    8: "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0",
    16: "UINT16 INT16 FLOAT16 BFLOAT16",
    32: "FLOAT INT32 UINT32",
    64: "DOUBLE INT64 UINT64 COMPLEX64",
    128: "COMPLEX128",
}

#: Bits per element by TensorProto data type; strings have no fixed width.
BITS = {dtype: bits for bits, names in _WIDTHS.items() for dtype in types(names)}


def bytes_of(elements: int, dtype: int) -> int:
    """Bytes of so many elements of a type: narrow types share a byte; 0 where the width varies."""
    return (elements * BITS.get(dtype, 0) + 7) // 8


Array = np.ndarray[Any, np.dtype[Any]]

#: Element types whose raw bytes are a NumPy array as they stand: little-endian, nothing packed.
PLAIN = types(
    "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL "
    "COMPLEX64 COMPLEX128"
)


def element_count(tensor: onnx.TensorProto) -> int:
    """The number of elements that the tensor's dims announce."""
    return prod(tensor.dims)


def raw_bytes(tensor: onnx.TensorProto) -> int:
    """How many bytes the elements that a tensor's dims announce take as raw data; types of less
    than a byte are packed.

    Raises:
        ValueError: a dim is negative, or the element type has no raw form (strings).
    """
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"its dims {list(tensor.dims)} are negative")
    if tensor.data_type not in BITS:
        raise ValueError("its element type cannot be stored as raw data")
    return bytes_of(element_count(tensor), tensor.data_type)


def from_raw(tensor: onnx.TensorProto, data: bytes | memoryview, start: int, end: int) -> Array:
    """The values of a tensor whose raw data is data[start:end]: a read-only view of it where the
    type allows, else a copy.

    Raises:
        ValueError: the data does not have the length that the tensor's dims announce.
    """
    if raw_bytes(tensor) != end - start:
        raise ValueError("its payload does not have the length that its dims announce")
    dims = tuple(tensor.dims)
    if tensor.data_type in PLAIN:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
        if end == start:
            return np.empty(dims, dtype)
        return np.frombuffer(data, dtype, element_count(tensor), start).reshape(dims)
    whole = onnx.TensorProto(data_type=tensor.data_type, dims=dims, raw_data=bytes(data[start:end]))
    values = numpy_helper.to_array(whole)
    values.flags.writeable = False
    return values


def read(tensor: onnx.TensorProto) -> Array:
    """Return the values of a tensor that is whole in memory.

    bfloat16, float8 and the 4-bit types come as the `ml_dtypes` of the same name.

    Raises:
        ModelFileError: its data is external; `Model.read` finds that.
        ModelError: the payload does not fit the tensor's dims.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelFileError(f"tensor '{tensor.name}' keeps its values in external data")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(f"tensor '{tensor.name}' is damaged: {error}") from error


def mapping(array: Array | bytes | memoryview) -> mmap.mmap | None:
    """The mapped file that an array or a buffer is a view of."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner


def release(part: Array | bytes | memoryview) -> None:
    """Say that a part of a mapped file is not needed for now, so that its pages stop counting as
    our memory; reading it again brings them back. Anything else is left as it is."""
    array = part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8)
    owner = mapping(array)
    if owner is None or not hasattr(mmap, "MADV_DONTNEED") or not array.flags.c_contiguous:
        return
    begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    end = begin + array.nbytes
    begin -= begin % mmap.PAGESIZE
    end -= end % mmap.PAGESIZE  # what follows on the last page may be needed next
    if end > begin:
        owner.madvise(mmap.MADV_DONTNEED, begin, end - begin)
