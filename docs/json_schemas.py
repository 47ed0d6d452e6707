"""JSON Schemas of what `--format json` prints, made from the dataclasses that are printed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxshare.analysis.results import Inspection, NodeFacts, Totals
from onnxshare.checks.results import CheckReport
from onnxshare.comparison.results import Comparison
from onnxshare.differences.family import Family
from onnxshare.differences.results import Difference
from onnxshare.model_family.results import WrittenFamily
from onnxshare.model_scan.results import ScanRow
from onnxshare.runtime.doctor import Diagnosis
from onnxshare.support.dataclass_tools import Result
from rewrites.base import Change, Site
from rewrites.run import RewriteResult

Schema = dict[str, Any]

#: What each command prints; of `scan` a line of `--format jsonl`.
PRINTED: dict[str, type[Any]] = {
    "inspect": Inspection,
    "rewrite": RewriteResult,
    "compare": Comparison,
    "diff": Difference,
    "family": Family,
    "family-write": WrittenFamily,
    "check": CheckReport,
    "scan": ScanRow,
    "doctor": Diagnosis,
}

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema(command: str) -> Schema:
    """The JSON Schema (draft 2020-12) of what a command prints."""
    kinds: dict[str, Schema] = {}
    top = _object(PRINTED[command], kinds)
    if command == "inspect":
        top["properties"]["sizes"] = _sizes(kinds)
    if command == "rewrite":
        top["properties"]["written"] = {
            "type": ["string", "null"],
            "description": "the file that was written",
        }
        top["required"].append("written")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"onnxshare {command}",
        **top,
        "$defs": dict(sorted(kinds.items())),
    }


def _sizes(kinds: dict[str, Schema]) -> Schema:
    """`Inspection.records` shows two parts for each of several sizes, and nothing for one."""
    each = {"totals": _of(Totals, kinds), "nodes": _of(tuple[NodeFacts, ...], kinds)}
    item = {"type": "object", "properties": each, "required": [*each]}
    words = "for each of several sizes (`--dim NAME=SIZE,SIZE`); left out where there is one"
    return {"type": "array", "items": item, "description": words}


def _object(kind: type[Any], kinds: dict[str, Schema]) -> Schema:
    """The schema of a class whose instances become objects."""
    hints = _hints(kind)
    found = {key: _of(hints[name], kinds) for key, name in _keys(kind, hints)}
    words = {**described(kind), "schema_version": "changes when a field changes or goes away"}
    for key, name in _keys(kind, hints):
        if text := words.get(name) or _said_by_property(kind, name):
            found[key] = {**found[key], "description": text}
    return {
        "description": _first_sentence(kind),
        "type": "object",
        "properties": found,
        "required": [*found] if getattr(kind, "__total__", True) else [],
        "additionalProperties": False,
    }


def _keys(kind: type[Any], hints: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Under which key which attribute is printed, as `Result.to_dict` and `plain` do it."""
    if kind is Inspection:
        yield "schema_version", "schema_version"
    if kind is Change:
        yield from _keys(Site, hints)
    if issubclass(kind, Result) and kind.SHOWN:
        for word in kind.SHOWN:
            key, _, name = word.partition("=")
            yield key, name or key
    elif is_dataclass(kind):
        names = [item.name for item in fields(kind)]
        yield from ((name, name) for name in names if kind is not Inspection or name != "sizes")
    else:
        yield from ((name, name) for name in kind.__annotations__)


def _of(hint: Any, kinds: dict[str, Schema]) -> Schema:
    """The schema of a type."""
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _any([_of(item, kinds) for item in inner])
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (tuple, list, Sequence) and inner:
        if origin is tuple and inner[-1] is not Ellipsis:
            each = [_of(item, kinds) for item in inner]
            return {"type": "array", "prefixItems": each, "items": False, "minItems": len(each)}
        return {"type": "array", "items": _of(inner[0], kinds)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inner[1], kinds)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [str(item) for item in hint]}
    if isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "__total__")):
        name = f"{hint.__module__.split('.')[1]}.{hint.__name__}"
        if name not in kinds:
            kinds[name] = {}  # a class may hold its own kind
            kinds[name] = _object(hint, kinds)
        return {"$ref": f"#/$defs/{name}"}
    raise TypeError(f"{hint!r} has no schema")


def _any(found: list[Schema]) -> Schema:
    """One of several schemas; plain types are listed together."""
    plain = [item["type"] for item in found if [*item] == ["type"]]
    rest = [item for item in found if [*item] != ["type"]]
    if plain and not rest:
        return {"type": plain}
    return {"anyOf": [*rest, *([{"type": plain if len(plain) > 1 else plain[0]}] if plain else [])]}


def _hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a class's fields and properties, those imported for type checkers included."""
    names: dict[str, Any] = {}
    for base in (kind, Site) if kind is Change else (kind,):
        names |= _imported_for_types(base.__module__)
    hints = get_type_hints(kind, localns=names)
    if kind is Change:
        hints |= _hints(Site)
    for base in kind.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, property) and value.fget is not None:
                space = _imported_for_types(base.__module__)
                hints.setdefault(name, get_type_hints(value.fget, localns=space).get("return"))
    hints["schema_version"] = Literal[1]
    return hints


@cache
def _imported_for_types(module: str) -> dict[str, Any]:
    """What a module imports below `if TYPE_CHECKING`."""
    found: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom) and line.module:
                    source = importlib.import_module(line.module)
                    found |= {item.name: getattr(source, item.name) for item in line.names}
    return found


def described(kind: type[Any]) -> dict[str, str]:
    """What the section `Attributes:` of a class's docstring says of each field."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + text):
        names, _, words = " ".join(entry.split()).partition(": ")
        found |= {name.strip(): words.rstrip(".") for name in names.split(",") if words}
    return found | (described(Site) if kind is Change else {})


def _said_by_property(kind: type[Any], name: str) -> str:
    value = inspect.getattr_static(kind, name, None)
    words = " ".join((value.__doc__ or "").split()) if isinstance(value, property) else ""
    return words[:1].lower() + words[1:].rstrip(".")


def _first_sentence(kind: type[Any]) -> str:
    words = " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
    return words.rstrip(".")
