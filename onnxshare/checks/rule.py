"""What a rule is: it measures a model, checks that against a limit, and says what would help."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxshare.checks.limits import Unit, show
from onnxshare.support.option_text import option

if TYPE_CHECKING:
    from onnxshare.analysis.results import HeadFacts, Inspection
    from onnxshare.checks.metrics import Metrics
    from onnxshare.checks.results import Limit
    from onnxshare.comparison.results import Comparison
    from onnxshare.io.load import Model

#: What a rule needs beyond the plain inspection, which costs time: content hashes of the weights,
#: or ONNX Runtime.
Need = Literal["hashes", "runtime"]


@dataclass(frozen=True)
class Subject:
    """One model, as the rules see it.

    Attributes:
        name: its path, or `<model>`.
        inspection: what the analyser found.
        model: the model itself, its weights unread.
        compare: compares a reference model with this one; only called by rules that need it.
        loads: None if ONNX Runtime loads the model, else its words; only called by rules that
            need it.
        before: what the baseline says was measured of this model, or None.
        metrics: the same of the model as it is now.
        reference: the model that this one must be equivalent to, or None.
        selected: the codes of the rules that it is checked against.
        tolerant: whether `compare` allows an error, as other rules say.
        options: what the rule that judges is told besides its limit; see `Rule.options`.
    """

    name: str
    inspection: Inspection
    model: Model
    compare: Callable[[str], Comparison]
    loads: Callable[[], str | None]
    metrics: Metrics
    before: Mapping[str, int | float | None] | None = None
    reference: str | None = None
    selected: frozenset[str] = frozenset()
    tolerant: bool = False
    options: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one model.

    Attributes:
        message: what was measured, as text.
        measured: the value itself; None where it could not be judged.
        fix: the command that would help.
        node: the name of the node it is about; None: the whole model.
    """

    message: str
    measured: Limit | None
    fix: str
    node: str | None = None


@dataclass(frozen=True)
class Figure:
    """One number of a model, to be checked against a limit.

    Attributes:
        of: the number; None where it is unknown.
        words: the message about a model whose number is beyond the limit, given the number as
            text.
        remedy: the command that would help.
        unknown: why there is no number.
    """

    of: Callable[[Subject], float | None]
    words: Callable[[Subject, str], str]
    remedy: Callable[[Subject], str]
    unknown: Callable[[Subject], str] = lambda subject: ""


@dataclass(frozen=True)
class Option:
    """What a rule can be told besides its limit, in the policy's table `[check.NAME]` of the rule's
    name.

    Attributes:
        unit: what it is, as of a limit.
        default: what counts where nothing is said.
        about: what it means, in a few words.
    """

    unit: Unit
    default: Limit
    about: str


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        code: stable, never used again for something else.
        name: what a finding is called.
        option: the key in `[check]`, and with `--` the option of the command.
        unit: what its limit is, which decides how it is read and shown.
        default: the limit where the rule is selected by its code alone; None: one must be given.
        measures: exactly what is measured, in one sentence.
        why: why it matters in deployment.
        fix: how to fix a finding.
        judge: the number that is checked against the limit, which must not be above it, or below it
            where the option begins with `min-`; or a function that yields what is wrong with a
            model under a limit.
        needs: what it needs that costs time.
        help: what `onnxshare check --help` says of the option; where empty, the limit is given by
            `--limit` or in a policy file.
        metric: the field of `Metrics` that is checked against the limit; where there is one, the
            limit may be relative to what it was: `baseline + 2%`.
        short: what is wrong with a model that has a finding, in a few words.
        options: what it can be told besides the limit; `Subject.options` has it when it judges.
    """

    code: str
    name: str
    option: str
    unit: Unit
    default: Limit | None
    measures: str
    why: str
    fix: str
    judge: Figure | Callable[[Subject, Any], Iterable[Problem]]
    needs: frozenset[Need] = field(default_factory=frozenset)
    help: str = ""
    metric: str = ""
    short: str = ""
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)

    def settings(self, given: Mapping[str, Limit]) -> dict[str, Limit]:
        """Its options: those given, and the defaults of the others."""
        return {**{name: option.default for name, option in self.options.items()}, **given}

    def problems(self, subject: Subject, limit: Any) -> Iterable[Problem]:
        """What is wrong with a model under a limit."""
        figure = self.judge
        if not isinstance(figure, Figure):
            return figure(subject, limit)
        value = figure.of(subject)
        if value is None:
            return [unknown(subject, figure.unknown(subject))]
        if value >= limit if self.option.startswith("min-") else value <= limit:
            return []
        words = figure.words(subject, show(value, self.unit, near=limit))
        return [Problem(words, value, figure.remedy(subject))]

    def bound(self, limit: Limit, measured: Limit | None = None) -> str:
        """The limit as text: `at most 5,000,000`, `at least 10`; empty for a rule without one,
        and where the message names it."""
        if self.unit in ("flag", "model", "target"):
            return ""
        text = show(limit, self.unit, near=measured)
        if self.option.startswith("min-"):
            return f"at least {text}"
        return f"at most {text}" if self.option.startswith("max-") else text


def unknown(subject: Subject, what: str) -> Problem:
    """An unknown value is never a silent pass."""
    open_inputs = [
        value.name
        for value in subject.inspection.model.inputs
        if value.shape is None or any(not isinstance(size, int) for size in value.shape[1:])
    ]
    if not open_inputs:
        warnings = subject.inspection.warnings
        why = f" ({warnings[-1]})" if warnings else ""  # the last one sums up what is unknown
        return Problem(f"cannot be judged: {what}{why}", None, command("inspect", subject.name))
    names = ", ".join(f"'{name}'" for name in open_inputs)
    sizes = [word for name in open_inputs for word in ("--input-shape", f"{name}:SIZES")]
    return Problem(
        f"cannot be judged: {what}; it may depend on the sizes of {names}, which the policy's "
        f"`input-shapes` or {option('--input-shape')} set",
        None,
        command("inspect", subject.name, *sizes),
    )


def command(verb: str, *arguments: str) -> str:
    """An onnxshare command line that can be pasted into a shell; a path may be its first argument
    only."""
    words = list(arguments)
    if words and words[0].startswith("-") and words[0] != "-":
        words[0] = f"./{words[0]}"  # else it would be an option
    return " ".join(["onnxshare", verb, *map(quoted, words)])


def advice(verb: str, *arguments: str) -> Callable[[Subject], str]:
    """The same for whatever model is judged."""
    return lambda subject: command(verb, subject.name, *arguments)


def python(script: str) -> str:
    """A command line that runs a line of Python and can be pasted into a shell."""
    return f"python -c {quoted(script)}"


def quoted(word: str) -> str:
    """A word as the system's shell takes it."""
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline([word])
    return shlex.quote(word)


def sibling(name: str, word: str) -> str:
    """The path of a new version of a model: `a.onnx` becomes `a.word.onnx`."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}.{word}.onnx"))


def replace_head(subject: Subject) -> str:
    """The rewrite that removes most weights, if some head allows it; else where they are."""
    offers = [_gap_offer(head) for head in subject.inspection.heads]
    if "exact" in offers:
        return command("rewrite", subject.name, "--fc-to-gap")
    if "approximate" in offers:
        search = ("--method", "auto", "--keep", "99%", "--samples", "FILE")
        return command("rewrite", subject.name, "--fc-to-gap", *search)
    return command("inspect", subject.name, "--sort", "params")


def _gap_offer(head: HeadFacts) -> str | None:
    offer = head.rewrites.get("fc-to-gap")
    if offer is None or offer.get("refused"):
        return None
    return "exact" if offer.get("exact") else "approximate"
