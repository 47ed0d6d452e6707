"""Models in text: ONNX's own text form, JSON and protobuf's text form, by onnx's serializers.

Its parsers recurse in C++ and can crash, so they run in another process (`onnx_process.py`).
"""

from __future__ import annotations

import re

import onnx

from onnxshare.errors import ModelFileError
from onnxshare.io.onnx_process import TaskFailed, run_task

#: A text model larger than this is not parsed: its parsers need many times its size in memory.
MAX_SIZE = 64 * 2**20

#: Text forms: what messages call each, and how its files are named.
_FORMS = {
    "onnxtxt": ("ONNX text", (".onnxtxt", ".onnxtext", ".onnx.txt")),
    "json": ("JSON", (".json", ".onnxjson")),
    "textproto": ("protobuf text", (".textproto", ".txtpb", ".prototxt", ".pbtxt")),
}


def text_form(name: str, head: bytes) -> str | None:
    """Which text form a model has, by its name, else by how it begins; None for none of them."""
    for form, (_, suffixes) in _FORMS.items():
        if name.lower().endswith(suffixes):
            return form
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"<\s*(ir_version|opset_import)\s*:", start):
        return "onnxtxt"
    if re.match(rb'\{\s*"(irVersion|ir_version|opsetImport|producerName|graph)"', start):
        return "json"
    return None


def parse_text(data: bytes, form: str, name: str) -> onnx.ModelProto:
    """Parse a whole file in a text form that `text_form` returned.

    Raises:
        ModelFileError: it is not a model in that form; the message says where, if that is known.
    """
    if len(data) > MAX_SIZE:
        raise ModelFileError(
            f"{name}: is larger than {MAX_SIZE // 2**20} MiB, too large for a model in text",
            "convert it to a binary .onnx file",
        )
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelFileError(
            f"{name}: is not valid UTF-8, so it is not a {_FORMS[form][0]} model",
            "name a binary model .onnx",
        ) from None
    try:
        parsed = run_task(f"parse {form}", data)
    except TaskFailed as error:
        reason = str(error) if error.given_up else _reason(str(error))
        raise ModelFileError(
            f"{name}: is not a model in {_FORMS[form][0]} form: {reason}", "export it again"
        ) from None
    proto = onnx.ModelProto()
    proto.ParseFromString(parsed)
    return proto


def _reason(text: str) -> str:
    """The part of a parser's message that says what is wrong, and where."""
    if "recursion depth" in text:  # Python's words, inside those of protobuf
        return "it is nested too deep"
    place = re.search(r"line: (\d+) column: (\d+)", text)
    words = " ".join(text.split())
    if place is not None:  # "b'[ParseError at position (…)]\\nError context: …\\nwhat is wrong.'"
        words = text.removesuffix("'").split("\\n")[-1]
        words = f"line {place[1]}, column {place[2]}: {words}"
    words = words.rstrip(".")
    return words if len(words) <= 200 else words[:197] + "…"
