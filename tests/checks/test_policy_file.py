from __future__ import annotations

from pathlib import Path

import pytest

from onnxshare.checks.policy import Policy
from onnxshare.checks.policy_file import find_policy, read_policy
from onnxshare.errors import UsageError

GOOD = """
models = ["models/*.onnx", "other.onnx"]
[check]
equivalent-to = "ref.onnx"
max-params = "5M"
max-fc-share = "95%"
min-sharing-ratio = 2.5
max-macs = 1_200_000_000
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problem_of(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_policy(path)
    return str(caught.value)


def test_reads_every_key_with_paths_beside_the_file(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path / "onnxshare.toml", GOOD))
    assert policy.limits == {
        "max-fc-share": 0.95,
        "min-sharing-ratio": 2.5,
        "max-params": 5_000_000,
        "max-macs": 1_200_000_000,
        "equivalent-to": str(tmp_path / "ref.onnx"),
    }
    assert [entry.path for entry in policy.models] == [
        str(tmp_path / "models" / "*.onnx"),
        str(tmp_path / "other.onnx"),
    ]
    assert [entry.line for entry in policy.models] == [2, 2]
    assert policy.path == tmp_path / "onnxshare.toml"


def test_paths_stay_short_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "onnxshare.toml", GOOD)
    monkeypatch.chdir(tmp_path)
    policy = find_policy()
    assert [entry.path for entry in policy.models] == [str(Path("models/*.onnx")), "other.onnx"]
    assert policy.limits["equivalent-to"] == "ref.onnx"


def test_own_file_comes_before_pyproject(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.onnxshare.check]\nmax-params = 1\n")
    assert find_policy(tmp_path).limits == {"max-params": 1}
    write(tmp_path / "onnxshare.toml", "[check]\nmax-params = 2\n")
    assert find_policy(tmp_path).limits == {"max-params": 2}


def test_no_policy_is_an_empty_one(tmp_path: Path) -> None:
    assert find_policy(tmp_path) == Policy()
    write(tmp_path / "pyproject.toml", "[project]\nname = 'x'\n[tool.ruff]\n")
    assert find_policy(tmp_path) == Policy()
    assert "[tool.onnxshare]" in problem_of(tmp_path / "pyproject.toml")


def test_every_error_is_named_at_once_with_its_key(tmp_path: Path) -> None:
    text = """
model = ["a.onnx"]
models = "b.onnx"
[check]
max-parms = 3
max-macs = "5Q"
min-sharing-ratio = -1
zzz = 1
"""
    message = problem_of(write(tmp_path / "onnxshare.toml", text))
    assert message.startswith(f"{tmp_path / 'onnxshare.toml'}: 6 errors: ")
    for part in (
        "model: unknown key, did you mean models?",
        "models: expected a list of paths",
        "check.max-parms: unknown key, did you mean max-params?",
        "check.max-macs: expected a whole number",
        "check.min-sharing-ratio: expected a number",
        "check.zzz: unknown key, the keys are max-fc-share, ",
    ):
        assert part in message
    assert "\n" not in message


def test_keys_in_pyproject_are_named_in_full(tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", "[tool.onnxshare]\nmodels = [1]\ncheck = 3\n")
    message = problem_of(path)
    assert "tool.onnxshare.models: expected a list" in message
    assert "tool.onnxshare.check: expected a table, [tool.onnxshare.check]" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[check\n", "is not valid TOML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "onnxshare.toml"
    path.write_bytes(content)
    message = problem_of(path)
    assert str(path) in message
    assert part in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in problem_of(tmp_path / "none.toml")
    assert "is not a regular file" in problem_of(tmp_path)


def test_a_tool_entry_that_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool]\nonnxshare = 3\n")
    with pytest.raises(UsageError, match=r"tool\.onnxshare: expected a table"):
        find_policy(tmp_path)


def test_options_come_before_the_file(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path / "onnxshare.toml", GOOD))
    merged = policy.with_options({"max-params": "1k", "max-macs": None, "equivalent-to": "b.onnx"})
    assert merged.limits["max-params"] == 1000
    assert merged.limits["max-macs"] == 1_200_000_000
    assert merged.limits["equivalent-to"] == "b.onnx"
    assert merged.models == policy.models
    assert policy.limits["max-params"] == 5_000_000


def test_every_bad_option_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        Policy().with_options({"max-params": "many", "max-fc-share": "200%"})
    assert "max-params: expected" in str(caught.value)
    assert "max-fc-share: expected" in str(caught.value)


def test_the_nearest_policy_up_to_the_root_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "repository" / "a" / "b"
    below.mkdir(parents=True)
    write(tmp_path / "onnxshare.toml", "[check]\nmax-params = 1\n")
    monkeypatch.chdir(below)
    assert find_policy() == Policy()  # no repository: this folder alone
    root = tmp_path / "repository"
    (root / ".git").mkdir()
    assert find_policy() == Policy()  # what is above a repository is not of it
    write(root / "pyproject.toml", '[tool.onnxshare]\nmodels = ["m/*.onnx"]\n')
    policy = find_policy()
    assert policy.path == Path("../../pyproject.toml")
    assert [entry.path for entry in policy.models] == [str(Path("../../m/*.onnx"))]
    assert policy.root.resolve() == root
    write(tmp_path / "repository" / "a" / "pyproject.toml", "[tool.ruff]\n")  # says nothing of us
    assert find_policy().path == Path("../../pyproject.toml")
    write(tmp_path / "repository" / "a" / "onnxshare.toml", GOOD)
    assert find_policy().path == Path("../onnxshare.toml")
    # Any of these, once it is there, would change what is checked.
    searched = ["onnxshare.toml", "pyproject.toml"]
    assert [path.as_posix() for path in find_policy().searched] == searched


@pytest.mark.parametrize(
    ("check", "part"),
    [
        ('fail-on = "never"', "check.fail-on: expected 'error' or 'warning', not 'never'"),
        ("max-findings = -1", "check.max-findings: expected a whole number"),
        ('max-params = "baseline + lots"', "or 'baseline + 2%', not 'baseline + lots'"),
        ('max-duplicate-bytes = "baseline"', "check.max-duplicate-bytes: expected a size"),
    ],
)
def test_when_it_fails_is_said_rightly(tmp_path: Path, check: str, part: str) -> None:
    assert part in problem_of(write(tmp_path / "onnxshare.toml", f"[check]\n{check}\n"))


def test_settings_and_lines(tmp_path: Path) -> None:
    text = """exclude = ["old", "x/*.onnx"]
[check]
fail-on = "warning"
"max-params" = "baseline+2.5 %"
max-findings = "1k"
[[models]]
path = "a.onnx"
reference = "r/b.onnx"
"""
    policy = read_policy(write(tmp_path / "onnxshare.toml", text))
    assert (policy.fail_on, policy.max_findings) == ("warning", 1000)
    assert policy.limits == {"max-params": "baseline + 2.5%"}
    assert policy.lines == {"max-params": 4}
    assert policy.exclude == ("old", "x/*.onnx")
    assert policy.references == {"r/b.onnx"}
