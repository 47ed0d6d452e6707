"""The policy file: which models are checked, and what they must keep."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxshare.checks.limits import parse_limit
from onnxshare.checks.results import Limit
from onnxshare.checks.rules import BY_OPTION, RULES
from onnxshare.errors import UsageError

#: The file that is looked for first; `[tool.onnxshare]` in PYPROJECT comes second.
POLICY_FILE = "onnxshare.toml"
PYPROJECT = "pyproject.toml"

_KEYS = ("models", "check")


@dataclass(frozen=True)
class Policy:
    """What a policy file says.

    Attributes:
        limits: the selected rules: option name to limit. Paths in it are relative to the
            current folder, whatever folder the file is in.
        models: paths, folders and globs, relative to the current folder too.
        path: the file, or None where there is none.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    path: Path | None = None

    def with_options(self, options: Mapping[str, object]) -> Policy:
        """Return this policy with options put over its limits; None leaves one as it is.

        Args:
            options: option name (`max-params`) to what the user gave.

        Raises:
            UsageError: a value is not what its rule needs; every one is named.
        """
        problems: list[str] = []
        given = {name: value for name, value in options.items() if value is not None}
        limits = _read_limits(given, "--", problems)
        _fail_on(problems, "")
        merged = {**self.limits, **limits}
        ordered = {rule.option: merged[rule.option] for rule in RULES if rule.option in merged}
        return Policy(ordered, self.models, self.path)


def find_policy(folder: Path | None = None) -> Policy:
    """Return the policy of a folder (the current one, if not given), or an empty one.

    `onnxshare.toml` comes first, then `[tool.onnxshare]` in `pyproject.toml`.

    Raises:
        UsageError: as `read_policy`.
    """
    own = POLICY_FILE if folder is None else folder / POLICY_FILE
    if Path(own).is_file():
        return read_policy(Path(own))
    project = Path(PYPROJECT) if folder is None else folder / PYPROJECT
    if project.is_file() and _tool_table(_read_toml(project), project) is not None:
        return read_policy(project)
    return Policy()


def read_policy(path: Path) -> Policy:
    """Read one policy file; a `pyproject.toml` must have a table `[tool.onnxshare]`.

    Raises:
        UsageError: the file cannot be read or is not valid; every problem is named at once,
            with the path of its key.
    """
    document = _read_toml(path)
    prefix = ""
    if path.name == PYPROJECT:
        table = _tool_table(document, path)
        if table is None:
            raise UsageError(f"{path}: has no table [tool.onnxshare]", "add it, or name another")
        document, prefix = table, "tool.onnxshare."
    problems: list[str] = []
    policy = _read_document(document, prefix, path, problems)
    _fail_on(problems, f"{path}: ")
    return policy


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "check the path after --config") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text", "give a TOML file") from None
    except ValueError as error:
        raise UsageError(f"{path}: is not valid TOML: {error}", "mend it") from error


def _tool_table(document: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    tool = document.get("tool")
    table = tool.get("onnxshare") if isinstance(tool, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise UsageError(f"{path}: tool.onnxshare: expected a table", "write [tool.onnxshare]")


def _read_document(
    document: Mapping[str, Any], prefix: str, path: Path, problems: list[str]
) -> Policy:
    _report_unknown(document, _KEYS, prefix, problems)
    models = document.get("models", [])
    if not isinstance(models, list) or not all(isinstance(item, str) and item for item in models):
        problems.append(f'{prefix}models: expected a list of paths, such as ["models/*.onnx"]')
        models = []
    table = document.get("check", {})
    if not isinstance(table, dict):
        problems.append(f"{prefix}check: expected a table, [{prefix}check]")
        table = {}
    _report_unknown(table, BY_OPTION, f"{prefix}check.", problems)
    limits = _read_limits(table, f"{prefix}check.", problems)
    for option, limit in limits.items():
        if BY_OPTION[option].unit == "model":
            limits[option] = _beside(path, str(limit))
    return Policy(limits, tuple(_beside(path, model) for model in models), path)


def _read_limits(
    values: Mapping[str, object], prefix: str, problems: list[str]
) -> dict[str, Limit]:
    limits: dict[str, Limit] = {}
    for rule in RULES:
        if rule.option not in values:
            continue
        try:
            limits[rule.option] = parse_limit(values[rule.option], rule.unit)
        except ValueError as error:
            problems.append(f"{prefix}{rule.option}: {error}")
    return limits


def _report_unknown(
    table: Mapping[str, Any], known: Iterable[str], prefix: str, problems: list[str]
) -> None:
    names = list(known)
    for key in table:
        if key in names:
            continue
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(names)}"
        problems.append(f"{prefix}{key}: unknown key, {hint}")


def _beside(path: Path, name: str) -> str:
    """A path in a policy file is meant relative to that file."""
    return str(path.parent / name)


def _fail_on(problems: list[str], start: str) -> None:
    if problems:
        count = f"{len(problems)} errors: " if len(problems) > 1 else ""
        raise UsageError(f"{start}{count}{'; '.join(problems)}")
