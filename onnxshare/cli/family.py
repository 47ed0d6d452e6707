"""`onnxshare family`: what several models share, and a folder that stores it once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.cli import options
from onnxshare.cli.options import argument, option
from onnxshare.errors import RewriteError, UsageError

if TYPE_CHECKING:
    from onnxshare.io.load import Model

_WRITE = "Writing"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare family` takes."""

    models: list[Path] = argument(
        ...,
        "The models, two or more, or a folder of them; with --write one is enough where the "
        "folder holds a family.",
        metavar="MODEL",
    )
    every: bool = option(False, "List all weights, also those of one model alone.", "--all")
    write: Path | None = option(
        None,
        "Write the models into this folder, tensors that several hold once, in its family.data, "
        "to which a model can be added later. The input is never changed.",
        metavar="FOLDER",
        panel=_WRITE,
    )
    dry_run: bool = option(
        False, "With --write: write nothing, and show what would be saved.", panel=_WRITE
    )
    no_validate: bool = option(
        False,
        "With --write: do not run the models before and after, but compare graphs and tensors "
        "alone.",
        panel=_WRITE,
    )
    isolation: options.Isolation
    follow_symlinks: options.FollowSymlinks = None
    output: options.TableOrJson = "table"
    out: options.Out = None
    force: bool = option(
        False, "Overwrite files that are not reports, too; with --write, models of the same names."
    )


def command(given: Options) -> int:
    """Show which weights several models share, and store them once.

    For the children of an architecture search, fine-tuned variants, or a model in parts. Weights
    are compared by content, whatever their names. With --write, every model is written again and
    proven to be the same before it gets its name: each tensor is equal, and all outputs are
    bit-equal in ONNX Runtime.

    Exit code: 0; 1 if nothing was written because no tensor is shared or the proof failed; 2 if a
    file cannot be read or written.

    Example: onnxshare family models/enas/*.onnx --write family
    """
    import onnxshare

    if given.write is None:
        for name in ("dry_run", "no_validate"):
            if getattr(given, name):
                words = name.replace("_", "-")
                raise UsageError(f"--{words} is about what is written", "add --write FOLDER")
    models = [path for given_path in given.models for path in _models_of(given_path)]
    read = {"a model that is read": models}
    with options.report_to(given.out, read=read, force=given.force):
        loaded = [onnxshare.load(path, follow_symlinks=given.follow_symlinks) for path in models]
        return _show(given, loaded) if given.write is None else _write(given, given.write, loaded)


def _models_of(path: Path) -> list[Path]:
    """A model, or those of a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.onnx"))
    if not found:
        raise UsageError(f"{path}: holds no .onnx file", "name a folder that does, or the models")
    return found


def _show(given: Options, loaded: list[Model]) -> int:
    import onnxshare
    from onnxshare.cli.progress import Bars

    with Bars() as bars:
        found = onnxshare.family(loaded, progress=bars)
    if given.output == "json":
        options.print_json(found.to_dict())
    else:
        from onnxshare.report.family import print_family

        print_family(found, every=given.every)
    return 0


def _write(given: Options, folder: Path, loaded: list[Model]) -> int:
    import onnxshare
    from onnxshare.cli.progress import Steps

    try:
        with Steps("reading tensors"):
            found = onnxshare.write_family(
                loaded,
                folder,
                dry_run=given.dry_run,
                force=given.force,
                validate=not given.no_validate,
                run_limits=given.isolation.limits(),
            )
    except RewriteError as error:
        options.note(f"onnxshare: error: {error}")
        return 1
    if given.output == "json":
        options.print_json(found.to_dict())
    else:
        from onnxshare.report.family import print_written

        print_written(found)
    return 0
