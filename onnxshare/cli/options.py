"""What the commands share: options and groups of them, and how their values are read.

The options of a command are the fields of a dataclass; `parameters` lays them out for typer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import typer

from onnxshare.cli.printing import note as note
from onnxshare.cli.printing import print_json as print_json
from onnxshare.cli.printing import report_to as report_to
from onnxshare.cli.printing import write_page as write_page
from onnxshare.errors import UsageError
from onnxshare.support.numbers import whole_number

if TYPE_CHECKING:
    from onnxshare.runtime.limits import RunLimits
    from onnxshare.samples.samples import ImageOptions


def option(
    default: Any,
    text: str,
    *names: str,
    metavar: str | None = None,
    panel: str | None = None,
    **more: Any,
) -> Any:
    """A field of a dataclass that is an option of a command, named after the field unless `names`
    says otherwise; `panel` is the heading that it stands below in the help."""
    more = {"metavar": metavar, "rich_help_panel": panel, "help": text, **more}
    return field(default=default, metadata={"names": names, **more})


def argument(default: Any, text: str, metavar: str) -> Any:
    """A field of a dataclass that is an argument of a command; `...`: it must be given."""
    info = typer.Argument(metavar=metavar, help=text, show_default=False)
    return field(default=MISSING if default is ... else default, metadata={"argument": info})


def complete_columns(context: typer.Context, incomplete: str) -> list[str]:
    """What a shell may add to `--columns A,B`: the names of columns, after those that are there."""
    from onnxshare.report.inspect_columns import columns_of

    before, comma, start = incomplete.rpartition(",")
    names = columns_of(context.params.get("by") or "node")
    return [f"{before}{comma}{name}" for name in names if name.startswith(start)]


def complete_rules(incomplete: str) -> list[str]:
    """What a shell may add where rules are named: codes and names, after a comma too."""
    from onnxshare.checks.rules import RULES

    before, comma, start = incomplete.rpartition(",")
    names = [name for rule in RULES for name in (rule.code, rule.name)]
    return [f"{before}{comma}{name}" for name in names if name.startswith(start)]


def complete_rewrites(incomplete: str) -> list[str]:
    """What a shell may add where a rewrite is named."""
    from rewrites import ALL

    return [rewrite.name for rewrite in ALL if rewrite.name.startswith(incomplete)]


def complete_methods(incomplete: str) -> list[str]:
    """What a shell may add where the method of a small head is named."""
    from rewrites.small_heads.methods import family

    methods = (method.name for method in family(3, 10, 64, (6, 6)))
    several = (name for item in methods for name in (item, f"{item}+int8", f"{item}+w8a8"))
    names = ["auto", "int8", "w8a8", *several]
    return [name for name in names if name.startswith(incomplete)]


#: The one model of a command.
OneModel = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="The model; - reads standard input. Left out: the one that the policy file names, "
        "or the only .onnx file of the current folder.",
        show_default=False,
    ),
]

#: The option that allows links to external data.
FollowSymlinks = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Read external data through links too, if they lead into this folder, such as the "
        "cache that a model was downloaded to.",
    ),
]

#: Whether a command prints for people or programs.
TableOrJson = Annotated[
    Literal["table", "json"], typer.Option("--format", help="How to print the report.")
]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Options that give symbolic inputs sizes."""

    input_shape: list[str] | None = option(
        None,
        "Sizes of an input, such as image:1,3,224,224 or image:1x3x224x224; an only input needs no "
        "name. May be given several times.",
        metavar="NAME:SIZES",
    )
    dim: list[str] | None = option(
        None,
        "The size that a symbolic size stands for, such as batch=1. May be given several times. "
        "inspect takes several sizes of one, such as tokens=128,1, and has columns for each.",
        metavar="NAME=SIZE",
    )

    def keywords(self, *, several: bool = False) -> dict[str, Any]:
        """The keywords `input_shapes` and `dims` of the functions that take them; whether they take
        several sizes.

        Raises:
            UsageError: they are not what they should be.
        """
        found = dims(self.dim)
        for name, size in (found or {}).items():
            if not isinstance(size, int) and not several:
                raise UsageError(
                    f"--dim gives '{name}' {len(size)} sizes", "only inspect takes several at once"
                )
        return {"input_shapes": input_shapes(self.input_shape), "dims": found}


#: Help of every --provider.
PROVIDER = (
    "Where models run: auto (the first GPU that works, else the CPU), cpu, or a provider such as "
    "cuda or webgpu."
)

_IMAGES = "Images as samples"


@dataclass(frozen=True, kw_only=True)
class Images:
    """Options that say how images become samples."""

    normalize: str = option(
        "0-255",
        "Pixels as they are (0-255), 0-1, -1..1, imagenet, or MEAN/STD for pixels from 0 to "
        "255, each one number or one per channel.",
        metavar="SCALE",
        panel=_IMAGES,
    )
    layout: Literal["auto", "nchw", "nhwc"] = option(
        "auto", "Where the channels go; auto: as the input's shape says.", panel=_IMAGES
    )
    resize: str = option(
        "",
        "Scale the shorter side, or both, before the centre is cropped to the model's size. "
        "Left out: as little as covers it.",
        metavar="SIDE|HEIGHTxWIDTH",
        panel=_IMAGES,
        show_default=False,
    )

    def options(self) -> ImageOptions:
        """The same as the readers of samples take it."""
        from onnxshare.samples.samples import ImageOptions

        return ImageOptions(self.normalize, self.layout, self.resize)


_ISOLATION = "How models run"


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """Options that say what a model may take when it runs."""

    in_process: bool = option(
        False,
        "Run models in this process: a little faster, but a model that crashes ONNX Runtime "
        "takes it along, and nothing limits time or memory.",
        panel=_ISOLATION,
    )
    timeout: float | None = option(
        None,
        "The most seconds for loading a model, and for each group of samples. Left out: "
        "at least 60, more for large models and samples.",
        metavar="SECONDS",
        panel=_ISOLATION,
    )
    memory_limit: str | None = option(
        None,
        "The most memory for each model on the CPU, such as 4GB or 512MiB (Linux only). "
        "Left out: 90% of what is free. Samples and outputs may take as much.",
        metavar="SIZE",
        panel=_ISOLATION,
    )

    def limits(self) -> RunLimits:
        """What a model may take.

        Raises:
            UsageError: they are not what they should be, or do not go together.
        """
        from onnxshare.runtime.limits import DEFAULT, RunLimits, parse_memory

        if self == Isolation():
            return DEFAULT
        memory = None if self.memory_limit is None else parse_memory(self.memory_limit)
        return RunLimits(self.in_process, self.timeout, memory)


def parameters(kind: type[Any]) -> Iterator[Parameter]:
    """The fields of a dataclass of options, and of the groups within it, as typer wants them."""
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from parameters(cast("type[Any]", hint))
            continue
        if item.metadata:
            more = dict(item.metadata)
            names = more.pop("names", ()) or [f"--{item.name.replace('_', '-')}"]
            hint = Annotated[hint, more.get("argument") or typer.Option(*names, **more)]
        default = Parameter.empty if item.default is MISSING else item.default
        yield Parameter(item.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def filled(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """The dataclass of options, with the groups within it, from the values that typer gives."""
    hints = get_type_hints(kind)
    return kind(
        **{
            item.name: filled(hints[item.name], values)
            if is_dataclass(hints[item.name])
            else values[item.name]
            for item in fields(kind)
        }
    )


def model_path(given: Path | None) -> Path:
    """Return the model that the user named, else the one that the policy file names, else the
    only `.onnx` file of the current folder.

    Raises:
        UsageError: none was named and there is none, or several.
    """
    if given is not None:
        return given
    from onnxshare.checks.model_names import find_models
    from onnxshare.checks.policy_file import find_policy

    named = [entry.path for entry in find_policy().models]
    found = list(find_models(named)) if named else sorted(Path().glob("*.onnx"))
    where = "the policy file names" if named else "the current folder holds"
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no MODEL given, and {where} no .onnx file", "specify one")
    names = ", ".join(str(path) for path in found)
    raise UsageError(f"no MODEL given, and {where} several: {names}", "specify one")


def input_shapes(given: list[str] | None) -> dict[str, list[int | None]] | None:
    """Parse `name:1,3,224,224`, also with x or × between the sizes, and without the name of an
    only input, which is "" then; a size left empty or `?` stays as the model says.

    Raises:
        UsageError: an option is not of that form.
    """
    if not given:
        return None
    shapes: dict[str, list[int | None]] = {}
    for text in given:
        name, colon, sizes = text.rpartition(":")
        words = [size.strip() for size in re.split("[,x×]", sizes)]
        shapes[name] = [whole_number(word) for word in words]
        found = [
            size for size, word in zip(shapes[name], words, strict=True) if word not in ("", "?")
        ]
        if None in found or bool(colon) != bool(name) or not (name or any(words)):
            raise UsageError(
                f"--input-shape '{text[:80]}' is not NAME:SIZES", "write it like image:1,3,224,224"
            )
    return shapes


def dims(given: list[str] | None) -> dict[str, int | tuple[int, ...]] | None:
    """Parse `batch=1`, or several sizes in turn: `batch=1,8`.

    Raises:
        UsageError: an option is not of that form, or contradicts another.
    """
    if not given:
        return None
    found: dict[str, int | tuple[int, ...]] = {}
    for text in given:
        name, equals, numbers = text.rpartition("=")
        words = [whole_number(word.strip()) for word in numbers.split(",")]
        sizes = tuple(word for word in words if word is not None)
        if not (equals and name) or len(sizes) < len(words):
            raise UsageError(f"--dim '{text[:80]}' is not NAME=SIZE", "write it like batch=1")
        size = sizes if len(sizes) > 1 else sizes[0]
        if found.setdefault(name, size) != size:
            raise UsageError(f"--dim gives '{name}' two sizes, {found[name]} and {numbers}")
    return found


#: Where a report goes, and whether over what is there.
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Write the report to this file. Left out: to standard output.",
        metavar="FILE",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are not reports, too.")]

#: The option of commands that write a page.
Html = Annotated[
    Path | None,
    typer.Option("--html", help="Also write the report as one HTML page.", metavar="FILE"),
]


def counted_share(option: str, text: str | None) -> tuple[int, float] | None:
    """Parse `5:99%`: a number, and a share as `share` takes it; None stays None.

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    number, colon, rest = text.partition(":")
    count = whole_number(number) or 0
    if count < 1 or not colon:
        raise UsageError(f"{option} '{text}' is no number and share", "write it like 5:99%")
    found = share(option, rest)
    assert found is not None  # nor is the text
    return count, found


def points(option: str, text: str | None) -> float | None:
    """Parse `1pt`, `1 points` or `1%` as 0.01, and `0.01`; None stays None.

    Raises:
        UsageError: it is none of these, or not between 0 and 1.
    """
    if text is None:
        return None
    number = re.fullmatch(r"\s*([0-9.]+)\s*(pts?|points?)\s*", text)
    try:
        return share(option, f"{number[1]}%" if number else text)
    except UsageError as error:
        raise UsageError(
            f"{option} '{text}' is no loss of accuracy", "write it like 1pt"
        ) from error


def share(option: str, text: str | None) -> float | None:
    """Parse `99%`, `99 %` or `0.99`; None stays None.

    Raises:
        UsageError: it is none of these, or not between 0 and 1.
    """
    if text is None:
        return None
    number = text.strip().removesuffix("%").strip()
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise UsageError(f"{option} '{text}' is not a share", "write it like 99% or 0.99")
    return value
