"""What reports make of odd names and words; every rule and format is in tests/checks."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from onnxshare.checks.metrics import Metrics
from onnxshare.checks.results import CheckReport, Finding, Limit, ModelReport, Severity, Silenced
from onnxshare.checks.rules import BY_CODE
from onnxshare.report.checks import FORMATS, render
from tests.checks.formats import READERS

ODD = "a|b`c%d:e,f\r\n<script>]]>&\x1b[31m\x00\udcff*_é.onnx"
FINDING = Finding(
    "WS104", "convolution-form", ODD, f"says {ODD}", 0.5, True, "", f"run '{ODD}'", f"node {ODD}"
)
WARNING = replace(FINDING, code="WS101", severity="warning", node=None, bound="at most 50%")
METRICS = Metrics(10, 0.5, None, 100, 1_000)


def report(*models: ModelReport, policy: str | None = None) -> CheckReport:
    return CheckReport({}, models, policy, (f"stale {ODD}",), (f"note {ODD}",))


EVERYTHING = report(
    ModelReport(
        ODD,
        (WARNING, FINDING, FINDING),
        (Silenced(replace(FINDING, code="WS108"), "allow", f"because {ODD}"),),
        {"max-fc-share": 0.5, "convolution-form": True, "size-locked": True},
        METRICS,
        line=7,
        before={"params": 8, "macs": 100},
    ),
    ModelReport("bad.onnx", error=f"bad.onnx: {ODD}"),
    policy=f"dir {ODD}.toml",
)


@pytest.mark.parametrize("name", FORMATS)
def test_odd_names_break_no_format(name: str) -> None:
    text = render(EVERYTHING, name)
    text.encode()  # no lone surrogates
    assert "\x1b" not in text
    assert "\x00" not in text
    codes = READERS[name](text)
    assert "WS104" in codes
    assert "WS108" not in codes


def test_github_escapes_and_puts_errors_first() -> None:
    lines = render(EVERYTHING, "github").splitlines()
    kinds = ["::notice", *["::error"] * 3, "::warning", *["::notice"] * 3]
    assert [line.split()[0] for line in lines] == kinds
    assert lines[0].startswith("::notice title=onnxshare::failed: 1 model checked, 3 findings")
    assert lines[2].startswith("::error file=dir a|b`c%25d%3Ae%2Cf%0D%0A<script>")
    assert ",line=7,title=WS104 convolution-form::" in lines[2]


def test_sarif_holds_what_is_silenced_and_what_failed() -> None:
    (run,) = json.loads(render(EVERYTHING, "sarif"))["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert notes[0]["message"]["text"].startswith("bad.onnx: ")
    silenced = [result for result in run["results"] if "suppressions" in result]
    assert [result["ruleId"] for result in silenced] == ["WS108"]
    assert silenced[0]["suppressions"][0]["justification"].startswith("because ")
    (found, _) = [result for result in run["results"] if result["ruleId"] == "WS104"][:2]
    assert found["locations"][0]["logicalLocations"][0]["name"].startswith("node ")
    assert found["partialFingerprints"] == {
        "onnxshare/v1": FINDING.fingerprint,
        "primaryLocationLineHash": FINDING.fingerprint,
    }


def test_a_fingerprint_is_that_of_rule_model_and_node() -> None:
    changed = replace(FINDING, message="other", measured=9, limit=3, fix="", severity="warning")
    assert changed.fingerprint == FINDING.fingerprint
    for other in (
        replace(FINDING, code="x"),
        replace(FINDING, model="x"),
        replace(FINDING, node="x"),
    ):
        assert other.fingerprint != FINDING.fingerprint
    # Worked out with sha256sum: a fingerprint must never change from version to version.
    plain = replace(FINDING, code="WS101", model="m.onnx", node=None)
    assert plain.fingerprint == "a60fee22a6b01c2276f1e6ffd3032c22"


def test_markdown_shows_what_changed() -> None:
    rows = render(EVERYTHING, "markdown").splitlines()
    (row,) = [row for row in rows if row.startswith("| ❌ | a\\|b")]
    assert "| 10 | 50% | – | 100 |" in row
    assert rows[0].startswith(
        "## ❌ onnxshare failed: 1 model checked, 3 findings (1 only warns), "
    )
    (row,) = [row for row in rows if "| Parameters | 8 |" in row]
    assert row.endswith("| Parameters | 8 | 10 | +25.0% |")


@pytest.mark.parametrize("name", ["json", "gitlab", "sarif"])
def test_no_number_that_json_does_not_know(name: str) -> None:
    odd = report(ModelReport("m", (replace(FINDING, measured=math.nan, limit=math.inf),)))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(render(odd, name), parse_constant=refuse)


def test_the_line_of_the_policy_only_where_there_is_one() -> None:
    model = ModelReport("m.onnx", line=3)
    assert report(model, policy="p.toml").anchor(model) == ("p.toml", 3)
    assert report(replace(model, line=None), policy="p.toml").anchor(replace(model, line=None)) == (
        "m.onnx",
        1,
    )
    assert report(model).anchor(model) == ("m.onnx", 1)


def test_absolute_paths_are_file_addresses(tmp_path: Path) -> None:
    path = tmp_path / "my net.onnx"
    text = render(report(ModelReport(str(path), (replace(FINDING, model=str(path)),))), "sarif")
    place = json.loads(text)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == path.as_uri()


def test_junit_skips_what_is_silenced() -> None:
    silenced = Silenced(FINDING, "allow", "known")
    limits: dict[str, Limit] = {BY_CODE[FINDING.code].option: True, "max-params": 1}
    model = ModelReport(FINDING.model, silenced=(silenced,), limits=limits)
    suite = ElementTree.fromstring(render(report(model), "junit"))
    cases = {case.attrib["name"][:5]: case for case in suite.iter("testcase")}
    assert [name for name, case in cases.items() if case.find("skipped") is not None] == ["WS104"]
    assert suite.find(".//failure") is None


def test_junit_has_a_case_for_each_node() -> None:
    found = [replace(FINDING, model="m.onnx", node=name) for name in ("a", "b", "a")]
    limits: dict[str, Limit] = {"convolution-form": True, "size-locked": True}
    whole = CheckReport({}, (ModelReport("m.onnx", tuple(found), limits=limits),), "p.toml")
    suite = ElementTree.fromstring(render(replace(whole, lines={"WS104": 9}), "junit"))
    cases = {case.attrib["name"]: case.find("failure") for case in suite.iter("testcase")}
    names = ["WS104 convolution-form at a", "WS104 convolution-form at b", "WS108 size-locked"]
    assert list(cases) == names
    first, _, kept = cases.values()
    assert first is not None
    assert kept is None
    assert str(first.text).endswith("\nat p.toml:9")


def test_sarif_says_of_each_rule_what_is_wrong_and_where_its_page_is() -> None:
    (run,) = json.loads(render(report(), "sarif"))["runs"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    assert set(rules) == set(BY_CODE)
    assert rules["WS101"]["shortDescription"]["text"] == (
        "Fully connected layers hold most parameters."
    )
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    for code, rule in rules.items():
        assert f"\n### {code} " in page
        anchor = rule["helpUri"].rpartition("/docs/rules.md#")[2]
        assert f"\n### {code} {anchor.removeprefix(code.lower() + '-')}\n" in page


def test_a_comment_is_cut_before_it_is_too_long() -> None:
    node = "n" * 90
    many = [replace(FINDING, model="m.onnx", message="x" * 60, node=node, fix="y" * 90)] * 500
    text = render(report(ModelReport("m.onnx", tuple(many)), policy="a b/p.toml"), "comment")
    assert len(text) < 65_536
    assert text.startswith("<!-- onnxshare check a%20b/p.toml -->\n## ❌ onnxshare failed: ")
    assert text.endswith(
        "**The rest is cut: a comment has no room for it. The job's log has all of it.**\n"
    )
    rows = [line for line in text.splitlines() if line.startswith("| WS104")]
    assert 100 < len(rows) < 500
    assert all(row.endswith(" |") for row in rows)
    silenced = tuple(Silenced(finding, "allow", "z" * 90) for finding in many)
    text = render(report(ModelReport("m.onnx", silenced=silenced)), "comment")
    assert text.count("<details>") == text.count("</details>") == 1


def test_rows_of_what_was_measured() -> None:
    now = ModelReport("m.onnx", (WARNING,), metrics=METRICS, before={"params": 8})
    unread = ModelReport("bad.onnx", error="is damaged")
    header, row, last = render(report(now, unread), "csv").splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert (cells["params"], cells["params_before"], cells["macs_before"]) == ("10", "8", "")
    assert (cells["findings"], cells["failing"], cells["sharing_ratio"]) == ("1", "0", "")
    assert last.endswith(",is damaged")
    first, _ = map(json.loads, render(report(now, unread), "jsonl").splitlines())
    assert list(first) == header.split(",")
    assert first["sharing_ratio"] is None


@pytest.mark.parametrize(
    ("fail_on", "most", "code"), [("error", 0, 1), ("error", 1, 0), ("warning", 1, 1)]
)
def test_when_it_fails(fail_on: Severity, most: int, code: int) -> None:
    model = ModelReport("m.onnx", (FINDING, WARNING), metrics=METRICS)
    whole = replace(report(model), fail_on=fail_on, max_findings=most)
    assert (whole.exit_code, whole.headline[:6]) == (code, "failed" if code else "passed")
