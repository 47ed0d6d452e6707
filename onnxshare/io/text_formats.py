"""Models in text: ONNX's own text form, JSON and protobuf's text form, by onnx's serializers."""

from __future__ import annotations

import re
import warnings

import onnx

from onnxshare.errors import ModelFileError

#: The parser of the text form calls itself for what is nested; deeper text is refused.
MAX_NESTING = 64

#: A text model larger than this is not parsed: its parsers need many times its size in memory.
MAX_SIZE = 64 * 2**20

#: Text forms: what messages call each, and how its files are named.
_FORMS = {
    "onnxtxt": ("ONNX text", (".onnxtxt", ".onnxtext", ".onnx.txt")),
    "json": ("JSON", (".json", ".onnxjson")),
    "textproto": ("protobuf text", (".textproto", ".txtpb", ".prototxt", ".pbtxt")),
}


def text_form(name: str, head: bytes) -> str | None:
    """Which text form a model has, by its name, else by how it begins; None for none of them.

    Args:
        name: the file's name.
        head: the first bytes of the file.
    """
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
    """Parse a model in a text form.

    Args:
        data: the whole file.
        form: what `text_form` returned.
        name: what messages call it.

    Raises:
        ModelFileError: it is no model in that form; the message says where, if that is known.
    """
    if len(data) > MAX_SIZE:
        raise ModelFileError(
            f"{name}: is larger than {MAX_SIZE // 2**20} MiB, too large for a model in text",
            "convert it to a binary .onnx file",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelFileError(
            f"{name}: is not valid UTF-8, so it is no {_FORMS[form][0]} model",
            "name a binary model .onnx",
        ) from None
    _require_flat(data, name)
    serializer = onnx.serialization.registry.get(form)
    proto = onnx.ModelProto()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the text form is experimental, says onnx
            parsed = serializer.deserialize_proto(text, proto)
    except Exception as error:
        raise ModelFileError(
            f"{name}: is no model in {_FORMS[form][0]} form: {_reason(error)}", "export it again"
        ) from error
    assert isinstance(parsed, onnx.ModelProto)
    return parsed


def _require_flat(data: bytes, name: str) -> None:
    depth = 0
    for match in re.finditer(rb"[{}\[\]<>]", re.sub(rb'"(?:\\.|[^"\\])*"|=>', b"", data)):
        depth += 1 if match[0] in (b"{", b"[", b"<") else -1
        if depth > MAX_NESTING:
            raise ModelFileError(f"{name}: its graphs are nested too deep", "simplify the model")


def _reason(error: Exception) -> str:
    """The part of a parser's message that says what is wrong, and where."""
    text = str(error)
    place = re.search(r"line: (\d+) column: (\d+)", text)
    if place is not None:  # "b'[ParseError at position (…)]\\nError context: …\\nwhat is wrong.'"
        what = text.removesuffix("'").split("\\n")[-1].rstrip(".")
        return f"line {place[1]}, column {place[2]}: {what}"
    words = " ".join(text.split()).rstrip(".")
    return (words if len(words) <= 200 else words[:197] + "…") or type(error).__name__
