"""Finds and reads the policy file: `onnxshare.toml`, or `[tool.onnxshare]` in `pyproject.toml`."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxshare.checks.limits import parse_limit
from onnxshare.checks.model_names import portable, repository_root
from onnxshare.checks.policy import (
    Allow,
    ModelEntry,
    Policy,
    fail_on,
    find_codes,
    ordered,
    parse_setting,
    read_limits,
    report_unknown,
)
from onnxshare.checks.results import Limit
from onnxshare.checks.rules import BY_CODE, BY_OPTION, LISTS, SETTINGS
from onnxshare.errors import UsageError
from onnxshare.io.user_files import read_user_file
from onnxshare.support.option_text import option

#: The file that is looked for first; `[tool.onnxshare]` in PYPROJECT comes second.
POLICY_FILE = "onnxshare.toml"
PYPROJECT = "pyproject.toml"

_KEYS = ("models", "exclude", "check", "allow", "baseline")
_MODEL_KEYS = ("path", "check", "input-shapes", "samples", "reference")
_ALLOW_KEYS = ("rule", "reason", "model", "node", "expires")


def find_policy(folder: Path | None = None) -> Policy:
    """Return the policy of a folder (the current one, if not given), or of the nearest folder above
    it that has one, up to the root of the repository; or an empty one.

    In each, `onnxshare.toml` comes first, then `[tool.onnxshare]` in `pyproject.toml`.

    Raises:
        UsageError: as `read_policy`.
    """
    searched: list[Path] = []
    for place in _folders(folder):
        own, project = place / POLICY_FILE, place / PYPROJECT
        if own.is_file():
            return replace(read_policy(own), searched=tuple(searched))
        if project.is_file() and _tool_table(_read_toml(project)[0], project) is not None:
            return replace(read_policy(project), searched=(*searched, own))
        searched += (own, project)
    return replace(Policy(), searched=tuple(searched))


def _folders(folder: Path | None = None) -> list[Path]:
    """Where a policy is looked for: a folder (the current one, if not given), and those above it,
    up to the root of the repository; where there is no repository, the folder alone."""
    places = [folder or Path()]
    root = repository_root(places[0])
    while root is not None and places[-1] != root:
        places.append(places[-1] / "..")
    return places


def read_policy(path: Path) -> Policy:
    """Read one policy file; a `pyproject.toml` must have a table `[tool.onnxshare]`.

    Raises:
        UsageError: the file cannot be read or is not valid; every problem is named at once,
            with the path of its key.
    """
    document, text = _read_toml(path)
    prefix = ""
    if path.name == PYPROJECT:
        table = _tool_table(document, path)
        if table is None:
            raise UsageError(f"{path}: has no table [tool.onnxshare]", "add it, or name another")
        document, prefix = table, "tool.onnxshare."
    reader = _Reader(path, prefix, text)
    policy = reader.policy(document)
    fail_on(reader.problems, f"{path}: ")
    return policy


def _read_toml(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = read_user_file(path, UsageError).decode()
        return tomllib.loads(text), text
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file", f"check the path after {option('--config')}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text", "give a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not valid TOML: {error}", "fix it") from error


def _tool_table(document: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    tool = document.get("tool")
    table = tool.get("onnxshare") if isinstance(tool, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise UsageError(f"{path}: tool.onnxshare: expected a table", "write [tool.onnxshare]")


class _Reader:
    """Reads one document and gathers all that is wrong with it."""

    def __init__(self, path: Path, prefix: str, text: str) -> None:
        self.problems: list[str] = []
        self._path = path
        self._prefix = prefix
        self._lines = text.splitlines()

    def policy(self, document: Mapping[str, Any]) -> Policy:
        prefix = self._prefix
        report_unknown(document, _KEYS, prefix, self.problems)
        more, (own, options) = (*LISTS, *SETTINGS), self._options(document.get("check"))
        if own:
            document = {**document, "check": own}
        table, limits = self._check(document, prefix, f"a table, [{prefix}check]", more)
        baseline = self._text(document, "baseline", prefix, "the path of a file")
        policy = Policy(
            ordered(limits),
            tuple(self._models(document.get("models", []))),
            self._path,
            allow=tuple(self._allow(document.get("allow", []))),
            baseline=None if baseline is None else Path(self._beside(baseline)),
            options=options,
            lines={option: line for option in limits if (line := self._key_line(option))},
            exclude=tuple(map(self._portable, self._words(document, "exclude", prefix))),
            **self._settings(table),
        )
        words = {key: self._words(table, key, f"{prefix}check.") for key in LISTS}
        for key, given in words.items():
            find_codes(given, f"{prefix}check.{key}:", self.problems)
        policy = replace(policy, references=self._references(policy))
        if self.problems:
            return policy
        try:
            # The entries are put over [check], whatever it selects or ignores.
            return replace(
                replace(policy, models=()).with_options({}, **words), models=policy.models
            )
        except UsageError as error:
            self.problems.append(f"{prefix}check: {error.cause}")
            return policy

    def _check(
        self, holder: Mapping[str, Any], prefix: str, expected: str, more: Sequence[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Limit]]:
        """The table `check` of the policy or of an entry, and the limits in it."""
        table, prefix = holder.get("check", {}), f"{prefix}check"
        if not isinstance(table, dict):
            self.problems.append(f"{prefix}: expected {expected}")
            table = {}
        report_unknown(table, BY_OPTION, f"{prefix}.", self.problems, more)
        limits = read_limits(table, f"{prefix}.", self.problems)
        for name, limit in limits.items():
            if BY_OPTION[name].unit == "model" and isinstance(limit, str):
                limits[name] = self._beside(limit)
        return table, limits

    def _words(self, table: Mapping[str, Any], key: str, prefix: str) -> list[str]:
        words = table.get(key, [])
        if isinstance(words, list) and all(isinstance(word, str) and word for word in words):
            return words
        example = "models/old/*.onnx" if key == "exclude" else "WS101"
        self.problems.append(f'{prefix}{key}: expected a list such as ["{example}"]')
        return []

    def _options(self, check: Any) -> tuple[dict[str, Any], dict[str, dict[str, Limit]]]:
        """The table `check` with the limits that stand in tables of rules, and by code what else
        these tell the rules. Such a table selects its rule."""
        keys = check if isinstance(check, dict) else {}
        tables = {key: one for key, one in keys.items() if isinstance(one, dict)}
        if not tables:
            return {}, {}
        rules = {rule.name: rule for rule in BY_CODE.values() if rule.name in tables}
        rest, found = {key: one for key, one in check.items() if key not in rules}, {}
        for name, rule in rules.items():
            prefix, given = f"{self._prefix}check.{name}.", dict(tables[name])
            limit = given.pop("limit", rest.get(rule.option, rule.default))
            if limit is None:
                self.problems.append(f"{prefix}limit: is missing")
            else:
                rest[rule.option] = list(limit) if isinstance(limit, tuple) else limit
            report_unknown(given, rule.options, prefix, self.problems, ("limit",))
            told: dict[str, Limit] = {}
            for key in given.keys() & rule.options.keys():
                try:
                    told[key] = parse_limit(given[key], rule.options[key].unit)
                except ValueError as error:
                    self.problems.append(f"{prefix}{key}: {error}")
            found[rule.code] = told
        return rest, found

    def _references(self, policy: Policy) -> frozenset[str]:
        every = (policy.limits, *(entry.limits for entry in policy.models))
        found = (limits.get("equivalent-to") for limits in every)
        return frozenset(portable(one, policy.root) for one in found if isinstance(one, str))

    def _settings(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of `[check]` that say when it fails."""
        found = {}
        for key, value in table.items():
            if key in SETTINGS:
                try:
                    found[key.replace("-", "_")] = parse_setting(key, value)
                except ValueError as error:
                    self.problems.append(f"{self._prefix}check.{key}: {error}")
        return found

    def _models(self, models: Any) -> list[ModelEntry]:
        good = isinstance(models, list)
        entries: list[ModelEntry] = []
        for place, item in enumerate(models if good else ()):
            if isinstance(item, str) and item:
                entries.append(ModelEntry(self._beside(item), line=self._line(item)))
            elif isinstance(item, dict):
                entries.extend(self._entry(item, f"{self._prefix}models[{place}]."))
            else:
                good = False
        if not good:
            self.problems.append(
                f'{self._prefix}models: expected a list of paths, such as ["models/*.onnx"], '
                f"or tables [[{self._prefix}models]]"
            )
        return entries

    def _entry(self, table: Mapping[str, Any], prefix: str) -> list[ModelEntry]:
        report_unknown(table, _MODEL_KEYS, prefix, self.problems)
        _, limits = self._check(table, prefix, "a table of limits")
        reference = self._text(table, "reference", prefix)
        if reference is not None:
            limits["equivalent-to"] = self._beside(reference)
        samples = self._text(table, "samples", prefix)
        path = self._text(table, "path", prefix)
        if path is None:
            self.problems.append(f"{prefix}path: is missing, the path or glob of the models")
            return []
        shapes = self._shapes(table.get("input-shapes", {}), f"{prefix}input-shapes")
        samples = None if samples is None else self._beside(samples)
        return [ModelEntry(self._beside(path), limits, shapes, samples, self._line(path))]

    def _shapes(self, table: Any, prefix: str) -> dict[str, list[int | None]] | None:
        if not isinstance(table, dict):
            self.problems.append(
                f"{prefix}: expected a table such as {{ image = [1, 3, 224, 224] }}"
            )
            return None
        for name, sizes in table.items():
            good = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
            if not good:
                self.problems.append(f"{prefix}.{name}: expected a list of sizes")
        return dict(table) or None

    def _text(
        self, table: Mapping[str, Any], key: str, prefix: str, expected: str = "text"
    ) -> str | None:
        value = table.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self.problems.append(f"{prefix}{key}: expected {expected}")
        return None

    def _allow(self, tables: Any) -> list[Allow]:
        if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
            self.problems.append(f"{self._prefix}allow: expected tables [[{self._prefix}allow]]")
            return []
        allowed: list[Allow] = []
        for place, table in enumerate(tables):
            prefix = f"{self._prefix}allow[{place}]."
            report_unknown(table, _ALLOW_KEYS, prefix, self.problems)
            rule = self._text(table, "rule", prefix)
            reason = self._text(table, "reason", prefix)
            if rule is None or reason is None or not reason.strip():
                self.problems.append(f"{prefix[:-1]}: needs a rule and a reason")
                continue
            expires = table.get("expires")
            # A datetime is a date too, and compares with none.
            if expires is not None and type(expires) is not datetime.date:
                self.problems.append(f"{prefix}expires: expected a date such as 2027-01-31")
                continue
            model = self._text(table, "model", prefix)
            node = self._text(table, "node", prefix) or "*"
            where = "*" if model is None else self._portable(model)
            for code in find_codes([rule], f"{prefix}rule:", self.problems):
                allowed.append(Allow(code, reason, where, node, expires))
        return allowed

    def _beside(self, name: str) -> str:
        """A path in a policy file is meant relative to that file."""
        if "\0" in name:
            self.problems.append(f"{self._prefix}: the path {name[:80]!r} holds a NUL")
            name = name.replace("\0", "")
        return str(self._path.parent / name)

    def _portable(self, name: str) -> str:
        return portable(self._beside(name), self._path.parent)

    def _line(self, name: str) -> int | None:
        """The first line that holds the name in quotes; tomllib does not tell."""
        quoted = (f'"{name}"', f"'{name}'")
        for number, line in enumerate(self._lines, 1):
            if any(text in line for text in quoted):
                return number
        return None

    def _key_line(self, key: str) -> int | None:
        """The first line that gives a key a value."""
        form = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        return next((n for n, line in enumerate(self._lines, 1) if form.match(line)), None)
