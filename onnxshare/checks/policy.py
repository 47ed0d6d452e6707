"""The policy: what is checked against what, and how options change it."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxshare.checks.limits import parse_limit
from onnxshare.checks.results import Limit, Severity
from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import BY_CODE, BY_OPTION, LISTS, RULES, SETTINGS
from onnxshare.errors import UsageError, hint
from onnxshare.support.option_text import option

if TYPE_CHECKING:
    from onnxshare.shapes.inference import InputShapes


@dataclass(frozen=True)
class ModelEntry:
    """Models that a policy names, and what is special about them.

    Attributes:
        path: a path, folder or glob, relative to the current folder.
        limits: put over the policy's; False switches a rule off.
        input_shapes: sizes for symbolic inputs, or None.
        samples: inputs for the rules that run models, or None.
        line: the line of the policy file that names the path, from 1; None if there is no file.
    """

    path: str
    limits: Mapping[str, Limit] = field(default_factory=dict)
    input_shapes: InputShapes | None = None
    samples: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Allow:
    """Findings that are known and accepted.

    Attributes:
        rule: the code of the rule.
        reason: why they are; never empty.
        model: a glob of paths of models, or a folder, relative to the policy file's folder.
        node: a pattern of node names; findings about the whole model match `*` only.
        expires: the last day on which it holds, or None.
    """

    rule: str
    reason: str
    model: str = "*"
    node: str = "*"
    expires: datetime.date | None = None


@dataclass(frozen=True)
class Policy:
    """What a policy file says.

    Attributes:
        limits: the selected rules: option name to limit. Paths in it are relative to the
            current folder, whatever folder the file is in.
        models: the models to check, with what is special about them.
        path: the file, or None where there is none.
        warn: codes of the rules that only warn.
        allow: findings that do not count.
        baseline: the baseline file that is compared with, or None.
        exclude: globs of paths, or folders, as of `Allow.model`: models that neither a folder nor a
            glob stands for.
        fail_on: whether findings that only warn fail the check too.
        max_findings: how many findings that fail may be there before the check fails.
        references: the reference models that the file names, by their names in baselines: neither a
            folder nor a glob stands for them.
        options: by the code of a rule what it is told besides its limit.
        lines: by the option of each limit of `[check]` its line in the file, from 1.
        searched: the files that would have come before `path`, and are not there.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    models: tuple[ModelEntry, ...] = ()
    path: Path | None = None
    warn: frozenset[str] = frozenset()
    allow: tuple[Allow, ...] = ()
    baseline: Path | None = None
    exclude: tuple[str, ...] = ()
    fail_on: Severity = "error"
    max_findings: int = 0
    references: frozenset[str] = frozenset()
    options: Mapping[str, Mapping[str, Limit]] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    searched: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def root(self) -> Path:
        """The folder that names of models are relative to: the file's, else the current one."""
        return Path() if self.path is None else self.path.parent

    def with_options(
        self,
        options: Mapping[str, object],
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        warn: Sequence[str] = (),
    ) -> Policy:
        """Return this policy with options put over its limits, and over those of its entries; None
        leaves one as it is.

        Args:
            options: option name (`max-params`) to what the user gave.
            select: codes or names of rules to add, with their default limit where none is set, or
                families (`WS`), of which those rules are added that have a limit.
            ignore: codes or names of rules to leave out.
            warn: codes or names of rules that only warn.

        Raises:
            UsageError: a value is not what its rule needs, or there is no such rule; every one
                is named.
        """
        problems: list[str] = []
        given = {name: value for name, value in options.items() if value is not None}
        report_unknown(given, BY_OPTION, option("--"), problems)
        parsed = read_limits(given, option("--"), problems)
        limits = {**self.limits, **parsed}
        over = {BY_OPTION[name].code for name in parsed}
        switched_on: set[str] = set()
        for word in select:
            for code in find_codes([word], option("--select"), problems):
                rule = BY_CODE[code]
                if limits.get(rule.option, False) is not False:
                    switched_on.add(rule.option)
                elif rule.default is not None:
                    switched_on.add(rule.option)
                    limits[rule.option] = rule.default
                elif word != code[:2]:  # of a family, those that need a limit are left out
                    limit = option(f"--{rule.option}")
                    problems.append(f"{option('--select')} {code}: needs a limit, give {limit}")
        out = set(find_codes(ignore, option("--ignore"), problems))
        quiet = find_codes(warn, option("--warn"), problems)
        fail_on(problems, "")
        return replace(
            self,
            limits=_without(limits, out),
            models=tuple(_entry(entry, out | over, switched_on) for entry in self.models),
            warn=self.warn | set(quiet),
        )

    def limits_for(self, entries: Iterable[ModelEntry]) -> dict[str, Limit]:
        """The rules for a model that these entries name, in the order of their codes."""
        merged = dict(self.limits)
        for entry in entries:
            merged.update(entry.limits)
        return ordered(merged)


def parse_setting(key: str, value: object) -> Any:
    """What one of `SETTINGS` says.

    Raises:
        ValueError: it does not fit.
    """
    if key == "max-findings":
        return parse_limit(value, "count")
    if value in ("error", "warning"):
        return value
    raise ValueError(f"expected 'error' or 'warning', not {value!r}")


def ordered(limits: Mapping[str, Limit]) -> dict[str, Limit]:
    """The limits in the order of the rules, without those that are switched off."""
    own = [rule.option for rule in RULES]
    others = sorted(limits.keys() - set(own), key=lambda name: BY_OPTION[name].code)
    return {name: limits[name] for name in own + others if limits.get(name, False) is not False}


def _without(limits: Mapping[str, Limit], codes: set[str]) -> dict[str, Limit]:
    return {name: value for name, value in limits.items() if BY_OPTION[name].code not in codes}


def _entry(entry: ModelEntry, codes: set[str], switched_on: set[str]) -> ModelEntry:
    """An entry without what options say: rules left out or limited, and those switched on."""
    limits = {
        name: value
        for name, value in _without(entry.limits, codes).items()
        if value is not False or name not in switched_on
    }
    return replace(entry, limits=limits)


def read_limits(values: Mapping[str, object], prefix: str, problems: list[str]) -> dict[str, Limit]:
    """Parse the limits among `values`; what is none of them is left to `report_unknown`. Each value
    that is not a limit adds a line to `problems`, with `prefix`, such as `--`, before its name."""
    limits: dict[str, Limit] = {}
    own = [rule.option for rule in RULES]
    others = [name for name in values if name not in own and name not in (*LISTS, *SETTINGS)]
    for rule in filter(None, map(BY_OPTION.get, own + others)):
        value = values.get(rule.option)
        if value is None:
            continue
        if value is False:
            limits[rule.option] = False
            continue
        try:
            limits[rule.option] = parse_limit(value, rule.unit, relative=bool(rule.metric))
        except ValueError as error:
            problems.append(f"{prefix}{rule.option}: {error}")
    return limits


def find_codes(words: Iterable[str], where: str, problems: list[str]) -> list[str]:
    """The codes that codes, families (`WS`) or names of rules stand for."""
    codes: list[str] = []
    for word in words:
        found = _meant(word, RULES) or _meant(word, BY_CODE.values())
        codes.extend(found)
        if not found:
            names = [*BY_CODE, *(rule.name for rule in BY_CODE.values())]
            problems.append(f"{where} {word}: no such rule, {hint(word, names, 'rules')}")
    return codes


def _meant(word: str, rules: Iterable[Rule]) -> list[str]:
    return [rule.code for rule in rules if word in (rule.code, rule.code[:2], rule.name)]


def report_unknown(
    table: Mapping[str, object],
    known: Collection[str],
    prefix: str,
    problems: list[str],
    more: Sequence[str] = (),
) -> None:
    """Add a line for each key that is in neither collection, with the one that may have been
    meant."""
    for key in table:
        if key not in more and key not in known:
            problems.append(f"{prefix}{key}: unknown key, {hint(key, [*known, *more], 'keys')}")


def fail_on(problems: list[str], start: str) -> None:
    """Raise all problems as one.

    Raises:
        UsageError: there are some.
    """
    if problems:
        count = f"{len(problems)} errors: " if len(problems) > 1 else ""
        raise UsageError(f"{start}{count}{'; '.join(problems)}")
