"""Tells from a file's first bytes why it is not an ONNX model."""

from __future__ import annotations

# (first bytes, what it is, what to do); the longest prefixes come first where they nest.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer, not the model itself",
        "run `git lfs pull`, or set `lfs: true` in the checkout step",
    ),
    (b"PK\x03\x04", "a ZIP archive (a PyTorch or Keras file?)", "export the model to ONNX first"),
    (b"\x1f\x8b", "a gzip file", "decompress it first"),
    (b"\x89HDF", "an HDF5 file (a Keras model?)", "export the model to ONNX first"),
    (b"\x80\x02", "a pickle (a PyTorch checkpoint?)", "export the model to ONNX first"),
    (b"\x80\x04", "a pickle (a PyTorch checkpoint?)", "export the model to ONNX first"),
    (b"<!DOCTYPE", "an HTML page", "download the model file, not its web page"),
    (b"<!doctype", "an HTML page", "download the model file, not its web page"),
    (b"<html", "an HTML page", "download the model file, not its web page"),
    (b"\x93NUMPY", "a NumPy array", "give the model first; arrays go to --samples"),
)


def describe(head: bytes) -> tuple[str, str] | None:
    """Return what a file is and the remedy, judged by its first bytes, or None if it may be ONNX.

    Args:
        head: the first bytes of the file; 512 are enough.
    """
    if not head:
        return "an empty file", "export or download the model again"
    for prefix, what, remedy in _SIGNATURES:
        if head.startswith(prefix):
            return what, remedy
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "convert the model to ONNX first"
    if head[8:10] == b'{"':
        return "a safetensors file", "weights alone are not a model: export the model to ONNX"
    if _looks_like_text(head):
        return "a text file", "give the binary .onnx file"
    return None


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character may be cut at the end of the piece
            return False
        text = head[: error.start].decode("utf-8")
    return all(char.isprintable() or char in "\t\r\n" for char in text)
