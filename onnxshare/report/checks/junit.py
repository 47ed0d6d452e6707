"""The report of `check` as JUnit XML: a suite per model, a test case per rule and node.

Form: the schema of the JUnit tasks of Apache Ant, which most CI systems read.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator

from junitparser import Error, Failure, JUnitXml, Properties, Skipped, TestCase, TestSuite

from onnxshare.checks.results import CheckReport, Finding, ModelReport
from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import BY_OPTION
from onnxshare.support.numbers import whole_number

#: What XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: CheckReport) -> str:
    """Findings that fail are failures, those that only warn are system output, silenced ones are
    skipped, and a model that could not be read is an error."""
    document = JUnitXml("onnxshare")
    for number, model in enumerate(report.models):
        document.add_testsuite(_suite(report, model, number))
    document.update_statistics()
    for name in ("tests", "failures", "errors", "skipped", "time", "name"):
        document._elem.attrib.pop(name, None)  # the schema knows them for suites only
    for suite in document:
        suite._elem.attrib.pop("skipped", None)
    text: bytes = document.tostring()
    return text.decode() + "\n"


def _suite(report: CheckReport, model: ModelReport, number: int) -> TestSuite:
    suite = TestSuite(_text(model.path))
    suite._elem.set("package", "onnxshare")
    suite._elem.set("id", str(number))
    suite.hostname = "localhost"
    suite.timestamp = _now().strftime("%Y-%m-%dT%H:%M:%S")
    suite.append(Properties())
    if model.error is not None:
        case = _case(model, "readable")
        case.result = [Error(_text(model.error), "unreadable")]
        suite.add_testcase(case)
    for option in model.limits:
        rule = BY_OPTION[option]
        for case in _judged(report, model, rule):
            suite.add_testcase(case)
    warnings = [_words(f) for f in model.findings if f not in report.errors]
    for name, text in (("system-out", "\n".join(warnings)), ("system-err", "")):
        element = suite._elem.makeelement(name, {})
        element.text = _text(text)
        suite._elem.append(element)
    return suite


def _judged(report: CheckReport, model: ModelReport, rule: Rule) -> Iterator[TestCase]:
    """A case for each node that a rule has a finding at, or for the model as a whole."""
    found: dict[str | None, list[Finding]] = {}
    for finding in (*model.findings, *(item.finding for item in model.silenced)):
        if finding.code == rule.code:
            found.setdefault(finding.node, []).append(finding)
    file, line = report.anchor(model, rule.code)
    for node, findings in (found or {None: []}).items():
        name = f"{rule.code} {rule.name}" + (f" at {node}" if node else "")
        case = _case(model, _text(name))
        failing = [finding for finding in findings if finding in report.errors]
        if failing:
            # The schema has room for one failure a case.
            failure = Failure(_text(failing[0].text), rule.code)
            failure.text = _text("\n".join([*map(_words, failing), f"at {file}:{line}"]))
            case.result = [failure]
        elif any(item.finding in findings for item in model.silenced):
            case.result = [Skipped()]
        yield case


def _case(model: ModelReport, name: str) -> TestCase:
    return TestCase(name, _text(model.path), 0.0)


def _words(finding: Finding) -> str:
    return f"{finding.code} {finding.where}{finding.text}\nfix: {finding.fix}"


def _text(words: str) -> str:
    return _FORBIDDEN.sub("\ufffd", words)


def _now() -> datetime.datetime:
    """The time, which SOURCE_DATE_EPOCH fixes for reports that must be equal byte for byte."""
    epoch = whole_number(os.environ.get("SOURCE_DATE_EPOCH", ""))
    if epoch is not None:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # beyond the year 9999
            return datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return datetime.datetime.now(datetime.UTC)
