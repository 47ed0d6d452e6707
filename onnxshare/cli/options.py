"""What the commands share: the model argument, the provider option, output and its streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxshare.cli.printing import note as note
from onnxshare.cli.printing import print_json as print_json
from onnxshare.errors import UsageError

if TYPE_CHECKING:
    from onnxshare.io.load import Model
    from onnxshare.runtime.limits import RunLimits


#: The one model of a command.
OneModel = Annotated[
    Path | None,
    typer.Argument(
        metavar="[MODEL]",
        help="The model; - reads standard input. Left out: the one that the policy file names, "
        "or the only .onnx file of the current folder.",
        show_default=False,
    ),
]

#: Sizes for symbolic inputs.
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:SIZES",
        help="Sizes of an input, such as image:1,3,224,224. May be given several times.",
        show_default=False,
    ),
]

#: Sizes by symbol.
Dim = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SIZE",
        help="The size that a symbolic size stands for, such as batch=1. May be given several "
        "times.",
        show_default=False,
    ),
]

_IMAGES = "Images as samples"

#: How pixels become numbers.
Normalize = Annotated[
    str,
    typer.Option(
        metavar="SCALE",
        help="Pixels as they are (0-255), 0-1, -1..1, imagenet, or MEAN/STD for pixels from 0 to "
        "255, each one number or one per channel.",
        rich_help_panel=_IMAGES,
    ),
]

#: Where the channels are.
Layout = Annotated[
    Literal["auto", "nchw", "nhwc"],
    typer.Option(
        help="Where the channels go; auto: as the input's shape says.", rich_help_panel=_IMAGES
    ),
]

#: How images are scaled.
Resize = Annotated[
    str,
    typer.Option(
        metavar="SIDE|HEIGHTxWIDTH",
        help="Scale the shorter side, or both, before the centre is cropped to the model's size. "
        "Left out: as little as covers it.",
        rich_help_panel=_IMAGES,
        show_default=False,
    ),
]

#: The option that allows links to external data.
FollowSymlinks = Annotated[
    Path | None,
    typer.Option(
        "--follow-symlinks",
        metavar="FOLDER",
        help="Read external data through links too, if they lead into this folder, such as the "
        "cache that a model was downloaded to.",
        show_default=False,
    ),
]


_ISOLATION = "How models run"

#: Whether models run in this process.
InProcess = Annotated[
    bool,
    typer.Option(
        "--in-process",
        help="Run models in this process: a little faster, but a model that crashes ONNX Runtime "
        "takes it along, and nothing limits time or memory.",
        rich_help_panel=_ISOLATION,
    ),
]

#: How long a step may take.
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="The most seconds for loading a model, and for each group of samples. Left out: "
        "at least 60, more for large models and samples.",
        rich_help_panel=_ISOLATION,
        show_default=False,
    ),
]

#: How much memory a process may take.
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The most memory for each model on the CPU, such as 4GB or 512MiB (Linux only). "
        "Left out: 90% of what is free.",
        rich_help_panel=_ISOLATION,
        show_default=False,
    ),
]


def run_limits(in_process: bool, timeout: float | None, memory_limit: str | None) -> RunLimits:
    """What a model may take, from the options.

    Raises:
        UsageError: they are not what they should be, or do not go together.
    """
    from onnxshare.runtime.limits import DEFAULT, RunLimits, parse_memory

    if not in_process and timeout is None and memory_limit is None:
        return DEFAULT
    memory = None if memory_limit is None else parse_memory(memory_limit)
    return RunLimits(in_process, timeout, memory)


def model_path(given: Path | None) -> Path:
    """Return the model that the user named, else the one that the policy file names, else the
    only `.onnx` file of the current folder.

    Raises:
        UsageError: none was named and there is none, or several.
    """
    if given is not None:
        return given
    from onnxshare.checks.model_names import find_models
    from onnxshare.checks.policy import find_policy

    named = [entry.path for entry in find_policy().models]
    found = list(find_models(named)) if named else sorted(Path().glob("*.onnx"))
    where = "the policy file names" if named else "the current folder holds"
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no MODEL given, and {where} no .onnx file", "name one")
    names = ", ".join(str(path) for path in found)
    raise UsageError(f"no MODEL given, and {where} several: {names}", "name one")


def input_shapes(given: list[str] | None) -> dict[str, list[int | None]] | None:
    """Parse `name:1,3,224,224`; a size left empty or `?` stays as the model says.

    Raises:
        UsageError: an option is not of that form.
    """
    if not given:
        return None
    shapes: dict[str, list[int | None]] = {}
    for text in given:
        name, colon, sizes = text.rpartition(":")
        try:
            shapes[name] = [
                None if size.strip() in ("", "?") else int(size) for size in sizes.split(",")
            ]
        except ValueError:
            colon = ""
        if not (colon and name) or any(size is not None and size < 1 for size in shapes[name]):
            raise UsageError(
                f"--input-shape '{text}' is not NAME:SIZES", "write it like image:1,3,224,224"
            )
    return shapes


def dims(given: list[str] | None) -> dict[str, int] | None:
    """Parse `batch=1`.

    Raises:
        UsageError: an option is not of that form, or contradicts another.
    """
    if not given:
        return None
    sizes: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not (equals and name and number.isascii() and number.isdigit() and int(number)):
            raise UsageError(f"--dim '{text}' is not NAME=SIZE", "write it like batch=1")
        if sizes.setdefault(name, int(number)) != int(number):
            raise UsageError(f"--dim gives '{name}' two sizes, {sizes[name]} and {number}")
    return sizes


def check_distinct(source: Path, target: Path) -> None:
    """Refuse to write over the model that is read, whatever the two paths look like.

    Raises:
        UsageError: both name the same file.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: is the model itself", "name another file with -o")


def check_spared(model: Model, target: Path) -> None:
    """Refuse an output whose files would be those that hold the weights of the model that is read.

    Raises:
        UsageError: one of them would.
    """
    for location in model.external_files():
        data = (model.folder or Path()) / location
        for written in (target, target.with_name(f"{target.name}.data")):
            if written.exists() and data.exists() and written.samefile(data):
                raise UsageError(
                    f"{written}: holds the weights of the model", "name another file with -o"
                )


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
        raise UsageError(f"{option} '{text}' is no share", "write it like 99% or 0.99")
    return value
