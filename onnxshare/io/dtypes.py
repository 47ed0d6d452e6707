"""How many bits an element of each type takes."""

from __future__ import annotations

from onnx import TensorProto

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

#: Bits per element by TensorProto data type; strings have no fixed width. Older versions of onnx
#: do not know the narrowest types.
BITS: dict[int, int] = {
    getattr(TensorProto, name): bits
    for bits, names in _WIDTHS.items()
    for name in names.split()
    if hasattr(TensorProto, name)
}


def bytes_of(elements: int, dtype: int) -> int:
    """Bytes of so many elements of a type: narrow types share a byte; 0 where the width varies."""
    return (elements * BITS.get(dtype, 0) + 7) // 8
