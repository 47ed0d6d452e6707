"""What other systems run of this repository: workflows, the GitLab component, the container."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from onnxshare.api import check

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs bash")

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_what_github_takes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow: dict[str, Any] = yaml.safe_load(text)
    for name, job in workflow["jobs"].items():
        needed = job.get("needs", name)
        assert {needed} <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            script = step.get("run", "")
            if os.name != "nt" and script:
                done = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
                assert done.returncode == 0, script
    linter = shutil.which("actionlint")
    if linter:
        done = subprocess.run([linter, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_our_own_models_are_checked_by_our_own_action(root: Path) -> None:
    """With inputs that the Action has, and a policy that our models keep."""
    workflow = yaml.safe_load((root / ".github/workflows/models.yml").read_text(encoding="utf-8"))
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["check"]["steps"]
    (used,) = [step["with"] for step in steps if step.get("uses") == "./"]
    assert set(used) <= set(action["inputs"])
    report = check([], policy=root / used["policy"])
    assert report.passed, report.headline
    assert not report.notes
    for model in report.models:  # without ONNX Runtime
        assert not {"loads", "equivalent-to"} & set(model.limits)


def component(root: Path, **inputs: str) -> dict[str, Any]:
    """The job of the GitLab component, with inputs put in as GitLab does."""
    header, _, body = (
        (root / "templates/check.yml").read_text(encoding="utf-8").partition("\n---\n")
    )
    known = yaml.safe_load(header)["spec"]["inputs"]
    given = {name: str(one["default"]).lower() for name, one in known.items() if "default" in one}
    given |= {name.replace("_", "-"): text for name, text in inputs.items()}
    assert set(given) == set(known), "an input without a default must be given"

    def value(found: re.Match[str]) -> str:
        return given[found[1]]

    job: dict[str, Any] = yaml.safe_load(re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", value, body))
    return job["onnxshare-check"]  # type: ignore[no-any-return]


@POSIX
@pytest.mark.parametrize(
    ("inputs", "base", "options"),
    [
        ({}, "", ""),
        ({}, "abc", "--baseline-ref abc "),
        ({"compare_with_base": "false"}, "abc", ""),
        ({"arguments": "--jobs 2 --fail-on warning"}, "abc", "--baseline-ref abc --jobs 2 "),
    ],
)
def test_the_script_of_the_gitlab_component(
    root: Path, tmp_path: Path, inputs: dict[str, str], base: str, options: str
) -> None:
    """With a Python that notes what it is asked for, in place of one that installs for minutes."""
    job = component(root, package="onnxshare @ git+https://example.org/x@abc", **inputs)
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; '
        'cp "$0" "$3/bin/onnxshare"; fi\n'
    )
    fake.chmod(0o755)
    variables = {name: str(text) for name, text in job["variables"].items()}
    variables |= {"PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}"}
    variables |= {"TMPDIR": str(tmp_path), "CI_MERGE_REQUEST_DIFF_BASE_SHA": base}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, installed, checked = (tmp_path / "asked").read_text().splitlines()
    assert installed == "-I -m pip install -q onnxshare @ git+https://example.org/x@abc"
    assert checked.startswith(f"check --config onnxshare.toml {options}")
    written = re.findall(r"--report (\w+)=(\S+)", checked)
    reports = job["artifacts"]["reports"]
    assert dict(written) == {"gitlab": reports["codequality"], "junit": reports["junit"]}


def steps(root: Path) -> list[tuple[str, str]]:
    """The instructions of the container file."""
    text = (root / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line]


def test_the_container_file(root: Path) -> None:
    """It copies what is there and nothing else, and what runs in it is no administrator."""
    found = steps(root)
    words = [word for word, _ in found]
    assert words.count("FROM") == 2
    assert words.index("USER") > words.index("RUN")
    ignored = (root / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    sources = [
        name
        for word, text in found
        if word == "COPY" and not text.startswith("--from")
        for name in text.split()[:-1]
    ]
    for name in sources:
        assert (root / name).exists()
    assert sorted(sources) == sorted(kept)
    for word, text in found:
        if word == "RUN" and os.name != "nt":
            done = subprocess.run(["bash", "-n"], input=text, text=True, check=False)
            assert done.returncode == 0, text
        if word == "RUN" and " install " in text and "pip" in text:
            assert "--require-hashes" in text or "--no-index" in text
    linter = shutil.which("hadolint")
    if linter:
        path = root / "Containerfile"
        done = subprocess.run([linter, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_container_file_copies_all_that_is_built(root: Path) -> None:
    """The package that is built of the files that are copied is whole."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = " ".join(text for word, text in steps(root) if word == "COPY")
    needed = [*wheel["packages"], "pyproject.toml", project["project"]["readme"]]
    needed += project["project"]["license-files"]
    assert [name for name in needed if not re.search(rf"\b{re.escape(name)}\b", copied)] == []
