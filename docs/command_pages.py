"""Parts of the pages in `reference/` that are made from the code when the site is built.

A page has a comment where a part belongs: `<!-- options of inspect -->` becomes the usage,
arguments, options and exit codes of a command, `<!-- fields of inspect -->` the fields of what it
prints as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

import typer.main

from docs.json_schemas import PRINTED, Schema, schema
from onnxshare.cli.commands import SUMMARIES, make_app

GROUP = typer.main.get_command(make_app(SUMMARIES))
COMMANDS: dict[str, Any] = GROUP.commands  # type: ignore[attr-defined]

MARK = re.compile(r"^<!-- (options|fields) of ([\w-]+) -->$", re.MULTILINE)


def filled(text: str) -> str:
    """A page with the parts in it that are made from the code."""
    parts = {"options": options, "fields": json_fields}
    return MARK.sub(lambda mark: parts[mark[1]](mark[2]), text)


def options(name: str) -> str:
    """What `onnxshare NAME --help` says, as Markdown."""
    command = COMMANDS[name]
    paragraphs = (command.help or "").split("\n\n")
    code = [part.partition(":")[2].strip() for part in paragraphs if part.startswith("Exit code:")]
    shown = [part for part in paragraphs if not re.match("Exit code:|Example:", part)]
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    usage = " ".join(["onnxshare", name, "[OPTIONS]", *map(_argument, arguments)])
    parts = [*shown, f"```text\n{usage}\n```"]
    if arguments:
        rows = [(f"`{_argument(item)}`", item.help or "") for item in arguments]
        parts.append(_table(("Argument", "Meaning"), rows))
    for panel, items in _panels(command).items():
        rows = [(_names(item), _meaning(item)) for item in items]
        parts.append(_table((panel, "Meaning"), rows))
    parts += [f"Exit code: {text}" for text in code]
    return "\n\n".join(parts)


def _argument(item: Any) -> str:
    name = (item.metavar or item.name.upper()) + ("..." if item.nargs == -1 else "")
    return name if item.required else f"[{name}]"


def _panels(command: Any) -> dict[str, list[Any]]:
    """The options by the heading that they stand below in the help."""
    found: dict[str, list[Any]] = {}
    for item in command.params:
        if item.param_type_name == "option" and not item.hidden and item.name != "help":
            found.setdefault(item.rich_help_panel or "Option", []).append(item)
    return found


def _names(item: Any) -> str:
    names = sorted(item.opts, key=len)
    kind = item.type_descriptor.annotation
    plain = not item.is_flag and not get_args(kind)
    value = f" {item.metavar or kind.__name__.upper()}" if item.metavar or plain else ""
    words = [f"`{name}`" for name in names[:-1]] + [f"`{names[-1]}{value}`"]
    return ", ".join([*words, *(f"`{name}`" for name in item.secondary_opts)])


def _meaning(item: Any) -> str:
    default, kind = item.default, item.type_descriptor.annotation
    words = [item.help or ""]
    if get_origin(kind) is Literal:
        words.append(f"One of {', '.join(f'`{choice}`' for choice in get_args(kind))}.")
    if default not in (None, "", False, True) and item.show_default is not False:
        words.append(f"Default: `{default}`.")
    return " ".join(words)


def json_fields(name: str) -> str:
    """The fields of what a command prints as JSON, a table for each kind of object."""
    found = schema(name)
    kinds = found["$defs"]
    places = {id(kinds[kind]): _home(kind) for kind in HOMES if kind in kinds and _far(kind, name)}
    shown = [("", found), *_places(found, kinds, places, "")]
    parts = [
        f'The <a href="../schemas/{name}.json">JSON Schema</a> is made from the code, as are these '
        "tables."
    ]
    for place, item in shown:
        rows = []
        for key, value in item["properties"].items():
            kind = _type(value, kinds, places, f"{place}.{key}".lstrip("."))
            rows.append(
                (f"`{key}`", kind, re.sub(r"\bNone\b", "null", value.get("description", "")))
            )
        if place:
            parts.append(f"`{place}`: {item.get('description', '')}")
        parts.append(_table(("Field", "Type", "Meaning"), rows))
    return "\n\n".join(parts)


#: Objects that several commands print: the command that explains them, and where.
HOMES = {
    "comparison.Comparison": ("compare", "the whole"),
    "analysis.Totals": ("inspect", "`totals`"),
    "runtime.Latency": ("compare", "`latency[]`"),
}


def _far(kind: str, name: str) -> bool:
    return HOMES[kind][0] != name


def _home(kind: str) -> str:
    command, place = HOMES[kind]
    return f"{place} of [{command}]({command}.md#json)"


def _places(
    item: Schema, kinds: dict[str, Schema], seen: dict[int, str], place: str
) -> Iterator[tuple[str, Schema]]:
    """Every kind of object below one, at the first place where it is, but for those in `seen`."""
    below: list[tuple[str, Schema]] = []
    for key, value in item.get("properties", {}).items():
        for suffix, inner in _objects(value, kinds):
            if id(inner) not in seen:
                path = f"{place}.{key}{suffix}".lstrip(".")
                seen[id(inner)] = f"`{path}`"
                below.append((path, inner))
    yield from below
    for path, inner in below:
        yield from _places(inner, kinds, seen, path)


def _objects(value: Schema, kinds: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """The objects with fields that a value may be, or hold: `[]` for each of a list, `{}` for
    each of a mapping."""
    if "$ref" in value:
        yield "", kinds[value["$ref"].rpartition("/")[2]]
    elif "properties" in value:
        yield "", value
    for part in value.get("anyOf", ()):
        yield from _objects(part, kinds)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(value.get(key), dict):
            yield from ((mark + suffix, found) for suffix, found in _objects(value[key], kinds))


def _type(value: Schema, kinds: dict[str, Schema], places: dict[int, str], here: str) -> str:
    """A type as text; `here` is the place of the field."""
    if "$ref" in value or "properties" in value:
        inner = kinds[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        place = places[id(inner)]
        return "object" if place == f"`{here}`" else f"object as {place}"
    if "anyOf" in value:
        return " or ".join(_type(part, kinds, places, here) for part in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if isinstance(value.get("items"), dict):
        return f"list: {_type(value['items'], kinds, places, here + '[]')}"
    if "prefixItems" in value:
        first = _type(value["prefixItems"][0], kinds, places, here)
        return f"list of {len(value['prefixItems'])}: {first}"
    if isinstance(value.get("additionalProperties"), dict):
        return f"by name: {_type(value['additionalProperties'], kinds, places, here + '{}')}"
    names = value.get("type", "any")
    names = names if isinstance(names, list) else [names]
    return " or ".join("text" if name == "string" else name for name in names)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


__all__ = ["COMMANDS", "PRINTED", "filled", "json_fields", "options", "schema"]
