"""DP: whether the model can go where it is meant to run."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from onnxshare.checks.rule import Problem, Rule, Subject, command, python, quoted, sibling
from onnxshare.checks.targets import IR_VERSION, outside, parse_target
from onnxshare.errors import ModelFileError

if TYPE_CHECKING:
    from onnxshare.analysis.results import NodeFacts, TensorInfo

#: Names of the ONNX specification's optional metadata, and what people write instead.
_LICENCE_KEYS = ("model_license", "license", "licence", "spdx")

#: Nodes that one message names.
_NAMED = 3


def _target(subject: Subject, limit: str) -> Iterator[Problem]:
    model = subject.inspection.model
    bounds = parse_target(limit)
    for bound, version in outside(bounds, model.ir_version, model.opsets):
        what = "IR version" if bound.name == IR_VERSION else f"opset of {bound.name}"
        older = bound.highest is not None and version > bound.highest
        reads = f"up to {bound.highest}" if older else f"from {bound.lowest} on"
        wanted = (bound.highest if older else bound.lowest) or 0
        yield Problem(
            f"{what} is {version}, and {bound.words} reads {reads}",
            version,
            _converted(subject.name, bound.name, wanted),
        )


def _converted(name: str, what: str, version: int) -> str:
    """The command that gives a model another opset or IR version, where there is one."""
    if what == IR_VERSION:
        new = sibling(name, f"ir{version}")
        return python(
            f"import onnx; m = onnx.load({name!r}); m.ir_version = {version}; "
            f"onnx.checker.check_model(m); onnx.save(m, {new!r})"
        )
    if what != "ai.onnx":
        return command("inspect", name)
    new = sibling(name, f"opset{version}")
    return python(
        "import onnx, onnx.version_converter as v; "
        f"onnx.save(v.convert_version(onnx.load({name!r}), {version}), {new!r})"
    )


def _operators(subject: Subject, limit: tuple[str, ...]) -> Iterator[Problem]:
    refused: dict[str, list[NodeFacts]] = {}
    for node in subject.inspection.nodes:
        name = f"{node.domain or 'ai.onnx'}:{node.op_type}"
        if not _allowed(name, limit):
            refused.setdefault(name, []).append(node)
    for name, nodes in refused.items():
        named = ", ".join(node.name for node in nodes[:_NAMED])
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        yield Problem(
            f"operator {name} is not allowed, and is used by {named}{more}",
            name,
            command("inspect", subject.name, "--all"),
            nodes[0].name,
        )


def _allowed(name: str, patterns: tuple[str, ...]) -> bool:
    """The last pattern that matches decides; `!` before it forbids."""
    verdict = all(pattern.startswith("!") for pattern in patterns)
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if fnmatchcase(name, bare if ":" in bare else f"ai.onnx:{bare}"):
            verdict = not pattern.startswith("!")
    return verdict


def _loads(subject: Subject, limit: bool) -> Iterator[Problem]:
    reason = subject.loads()
    if reason is not None:
        yield Problem(f"ONNX Runtime does not load it: {reason}", None, command("doctor"))


def _named_dims(subject: Subject, limit: bool) -> Iterator[Problem]:
    model = subject.inspection.model
    for value in model.inputs:
        if _unnamed(value):
            sizes = [1 if size is None else size for size in value.shape or ()]
            fixed = all(isinstance(size, int) for size in sizes) and value.shape is not None
            fix = command("inspect", subject.name)
            if fixed:
                fix = " ".join(
                    [
                        "python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name",
                        quoted(value.name),
                        "--input_shape",
                        ",".join(map(str, sizes)),
                        quoted(subject.name),
                        quoted(sibling(subject.name, "fixed")),
                    ]
                )
            yield Problem(f"input '{value.name}' has {_which(value)}", None, fix)


def _unnamed(value: TensorInfo) -> bool:
    return value.shape is None or any(size is None for size in value.shape)


def _which(value: TensorInfo) -> str:
    if value.shape is None:
        return "no shape at all"
    axes = [str(axis) for axis, size in enumerate(value.shape) if size is None]
    word = "axis" if len(axes) == 1 else "axes"
    return f"a size without number or name at {word} {', '.join(axes)}"


def _external_data(subject: Subject, limit: bool) -> Iterator[Problem]:
    model = subject.model
    seen: set[str] = set()
    for tensor in model.external_tensors():
        try:
            model.external.check(tensor)
        except ModelFileError as error:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "")
            if where not in seen:
                seen.add(where)
                words = str(error).removeprefix(f"{subject.name}: ")
                yield Problem(words, None, command("inspect", subject.name))


def _licences(subject: Subject, limit: tuple[str, ...]) -> Iterator[Problem]:
    script = (
        f"import onnx; m = onnx.load({subject.name!r}); "
        "m.metadata_props.add(key='model_license', value='YOUR LICENCE'); "
        f"onnx.save(m, {sibling(subject.name, 'licensed')!r})"
    )
    found = [
        item.value.strip()
        for item in subject.model.skeleton.metadata_props
        if item.key.lower() in _LICENCE_KEYS and item.value.strip()
    ]
    if not found:
        yield Problem("no licence in the metadata (model_license)", None, python(script))
    elif not any(fnmatchcase(name.lower(), pattern.lower()) for name in found for pattern in limit):
        yield Problem(
            f"the licence is {found[0]}, which is not allowed",
            found[0],
            command("inspect", subject.name),
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "DP401",
        "target",
        "target",
        "target",
        None,
        "the model's opsets and IR version against what the target runtime reads, such as "
        "'onnxruntime 1.20' or 'opset <= 17, ir_version <= 8'",
        "An older runtime on the device refuses a newer model, or guesses.",
        "Export with a lower opset, or convert with onnx.version_converter.",
        _target,
        help="What must read it: 'onnxruntime 1.20' or 'opset <= 17, ir_version <= 8'.",
        short="The target runtime does not read this opset or IR version",
    ),
    Rule(
        "DP402",
        "operators",
        "operators",
        "names",
        ("ai.onnx:*", "ai.onnx.ml:*"),
        "operators against a list of patterns DOMAIN:OPERATOR, of which the last that matches "
        "decides and ! forbids; a name without a domain is one of ai.onnx",
        "An operator that the target lacks fails on the device, or falls back to a slow path.",
        "Export without it, or name it in the list where the target has it.",
        _operators,
        short="The model needs an operator that is not allowed",
    ),
    Rule(
        "DP403",
        "does-not-load",
        "loads",
        "flag",
        True,
        "whether the installed ONNX Runtime makes a session of the model on the CPU",
        "A model that does not load here rarely loads there.",
        "The message is ONNX Runtime's own; `onnxshare doctor` shows the installation.",
        _loads,
        frozenset({"runtime"}),
        short="ONNX Runtime does not load the model",
    ),
    Rule(
        "DP404",
        "unnamed-dims",
        "named-dims",
        "flag",
        True,
        "sizes of the inputs that have neither a number nor a name",
        "Nobody can tell which sizes the model takes, and engines that need a range cannot be "
        "given one.",
        "Export with named dynamic axes, or fix the size.",
        _named_dims,
        short="An input has a size without a name",
    ),
    Rule(
        "DP405",
        "external-data",
        "external-data",
        "flag",
        True,
        "whether each external tensor's file is there, long enough, and within the model's folder",
        "A weight file that stays behind, or a path that leads out of the folder, shows only when "
        "the model is loaded on the device.",
        "Put the files next to the model, or save the model anew.",
        _external_data,
        short="External data is missing or out of place",
    ),
    Rule(
        "DP406",
        "licence",
        "licenses",
        "names",
        ("*",),
        "the licence in the model's metadata (model_license) against a list of patterns; * allows "
        "any, but one must be there",
        "A model that is shipped without its licence cannot be audited.",
        "Write model_license into the metadata when exporting.",
        _licences,
        short="The model names no allowed licence",
    ),
)
