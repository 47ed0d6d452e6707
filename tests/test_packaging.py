"""What an installation brings: one ONNX Runtime if it is asked for, and pinned versions."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PLATFORMS = {
    "linux-x86_64": ("linux", "x86_64", "Linux", "posix", "onnxruntime-gpu"),
    "linux-aarch64": ("linux", "aarch64", "Linux", "posix", "onnxruntime"),
    "windows-amd64": ("win32", "AMD64", "Windows", "nt", "onnxruntime-gpu"),
    "windows-arm64": ("win32", "ARM64", "Windows", "nt", "onnxruntime"),
    "macos-arm64": ("darwin", "arm64", "Darwin", "posix", "onnxruntime"),
    "macos-x86_64": ("darwin", "x86_64", "Darwin", "posix", "onnxruntime"),
}
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    with (root / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.fixture(scope="module")
def pins(root: Path) -> list[Requirement]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def environment(platform: str) -> dict[str, str]:
    system, machine, name, os_name, _ = PLATFORMS[platform]
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "sys_platform": system,
        "platform_machine": machine,
        "platform_system": name,
        "os_name": os_name,
        "extra": "",
    }


def runtimes(requirements: list[Requirement], platform: str) -> list[str]:
    where = environment(platform)
    return [
        canonicalize_name(requirement.name)
        for requirement in requirements
        if canonicalize_name(requirement.name) in RUNTIMES
        and (requirement.marker is None or requirement.marker.evaluate(where))
    ]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_exactly_one_runtime_everywhere(
    platform: str, project: dict[str, Any], pins: list[Requirement]
) -> None:
    expected = [PLATFORMS[platform][-1]]
    extras = project["project"]["optional-dependencies"]
    base = [Requirement(line) for line in project["project"]["dependencies"]]
    assert runtimes(base, platform) == []
    assert runtimes([Requirement(line) for line in extras["gpu"]], platform) == expected
    assert runtimes([Requirement(line) for line in extras["cpu"]], platform) == ["onnxruntime"]
    assert any(line.startswith("onnxshare[gpu,") for line in extras["dev"])
    assert runtimes(pins, platform) == sorted(RUNTIMES), "each extra is pinned"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_cuda_extra_never_adds_the_other_runtime(
    platform: str, project: dict[str, Any]
) -> None:
    extra = [Requirement(line) for line in project["project"]["optional-dependencies"]["cuda"]]
    assert set(runtimes(extra, platform)) <= {PLATFORMS[platform][-1]}
    assert {name for requirement in extra for name in requirement.extras} == {"cuda", "cudnn"}


def requirements_of(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # not an environment that was made from the pins


def test_no_other_package_brings_a_runtime(pins: list[Requirement]) -> None:
    looked_at = 0
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        for line in requirements_of(pin.name):
            looked_at += 1
            assert canonicalize_name(Requirement(line).name) not in RUNTIMES, f"{pin.name}: {line}"
    assert looked_at > 20


def test_only_one_runtime_is_installed() -> None:
    installed = {canonicalize_name(d.name) for d in importlib.metadata.distributions()}
    assert len(installed & RUNTIMES) == 1


def test_constraints_name_versions_and_nothing_else(root: Path) -> None:
    line_form = re.compile(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*(; .+)?")
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert not line or line.startswith("#") or line_form.fullmatch(line), line
        assert "://" not in line


def test_every_dependency_is_pinned_within_its_range(
    project: dict[str, Any], pins: list[Requirement]
) -> None:
    pinned = {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins
    }
    assert len(pinned) == len(pins), "a name is pinned twice"
    table = project["project"]
    extras = table["optional-dependencies"]
    lines = [*table["dependencies"], *extras["gpu"], *extras["dev"]]
    for requirement in map(Requirement, lines):
        if requirement.name == "onnxshare":  # its own extra
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement


def test_every_dependency_of_a_dependency_is_pinned(pins: list[Requirement]) -> None:
    pinned = {canonicalize_name(pin.name) for pin in pins}
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        for line in requirements_of(pin.name):
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in pinned, f"{pin.name} needs {line}"


def test_both_packages_ship_and_are_typed(root: Path, project: dict[str, Any]) -> None:
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["onnxshare", "rewrites"]
    for package in packages:
        assert (root / package / "__init__.py").is_file()
        assert (root / package / "py.typed").is_file()


def test_workflows_run_what_is_pinned(root: Path) -> None:
    """Actions by commit, tools by hash; no text from outside in a script, no right to write but
    where something is signed."""
    for path in sorted((root / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}, path
        for name, job in workflow["jobs"].items():
            steps = job["steps"]
            for step in steps:
                used = step.get("uses", "./")  # the commit's own Action
                assert used == "./" or re.search(r"@[0-9a-f]{40}$", used), step
                assert "${{" not in step.get("run", ""), step
            if set(job.get("permissions", {}).values()) & {"write"}:
                ours = [step for step in steps if "run" in step or step.get("uses") == "./"]
                assert not ours, f"{name} may write, and runs code"
    text = (root / ".github" / "package-requirements.txt").read_text(encoding="utf-8")
    for line in text.replace("\\\n", "").splitlines():
        assert "--hash=sha256:" in line


def test_the_console_script() -> None:
    try:
        distribution = importlib.metadata.distribution("onnxshare")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("onnxshare is not installed, only on the path")
    (script,) = distribution.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("onnxshare", "onnxshare.cli.main:main")
    from onnxshare.cli.main import main

    assert script.load() is main


def test_the_version_is_the_changelog_s_latest(root: Path) -> None:
    from onnxshare.version import __version__

    headings = re.findall(
        r"^## \[?([0-9][^\] ]*)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == __version__
