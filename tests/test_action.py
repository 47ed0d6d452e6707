"""The GitHub Action, its steps run as scripts, and the pre-commit hook on a scratch repository."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.checks.pairs import lenet, small

#: Variables of the job beside the Action's own.
CHECKOUT: dict[str, str] = {}

#: Variables that say where GitHub is.
SERVICE: dict[str, str] = {}

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs bash")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a good and a bad model and a policy."""
    (tmp_path / "models").mkdir()
    onnx.save(small(), tmp_path / "models" / "good one.onnx")
    onnx.save(lenet(), tmp_path / "models" / "large.onnx")
    (tmp_path / "onnxshare.toml").write_text(
        '[check]\nmax-params = "1k"\n[[models]]\npath = "models/*.onnx"\n'
    )
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(tmp_path, *words)
    return tmp_path


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def environment(root: Path, **more: str) -> dict[str, str]:
    """This environment with the interpreter of the tests first, and this project's packages."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(root), **more}


def run_action(
    root: Path, repository: Path, **inputs: str
) -> tuple[list[int], str, dict[str, str], str]:
    """Run the Action's own steps: exit codes, what was printed, its outputs, the summary."""
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    known = {name: str(given.get("default", "")) for name, given in action["inputs"].items()}
    assert set(inputs) <= {name.replace("-", "_") for name in known}
    known |= {name.replace("_", "-"): value for name, value in inputs.items()}
    output, summary = repository / ".output", repository / ".summary"
    for file in (output, summary):
        file.write_text("")
    codes, printed = [], ""
    for step in action["runs"]["steps"]:
        if "run" not in step or step["name"] not in ("Check the models", "Comment", "Answer"):
            continue
        if step["name"] == "Comment" and known["comment"] != "true":
            continue
        said = dict(line.split("=", 1) for line in output.read_text().splitlines())
        variables = {name: fill(text, known, said) for name, text in step.get("env", {}).items()}
        variables |= {"GITHUB_ACTION_PATH": str(root), "GITHUB_OUTPUT": str(output)}
        variables |= {"GITHUB_STEP_SUMMARY": str(summary), **CHECKOUT, **SERVICE}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=repository,
            env=environment(root, **variables),
            capture_output=True,
            text=True,
            check=False,
        )
        codes.append(done.returncode)
        printed += done.stdout + done.stderr
    said = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return codes, printed, said, summary.read_text(encoding="utf-8")


def fill(text: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    """Put values in for `${{ … }}`; what GitHub's event would say stays empty."""

    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name.startswith("inputs."):
            return inputs[name.removeprefix("inputs.")]
        if name.startswith("steps.check.outputs."):
            return outputs.get(name.removeprefix("steps.check.outputs."), "")
        if name == "github.token":
            return "secret"
        assert name.startswith("github.event."), name
        return "7" if name == "github.event.pull_request.number" else "HEAD"

    return re.sub(r"\$\{\{(.+?)\}\}", value, str(text))


def test_a_release_builds_checks_and_attests_what_it_publishes(root: Path) -> None:
    text = (root / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs: dict[str, Any] = yaml.safe_load(text)["jobs"]
    steps = " ".join(str(step) for step in jobs["build"]["steps"])
    for part in (".ci/run", "-m build", "twine check --strict"):
        assert part in steps
    assert "attest-build-provenance" in str(jobs["attest"]["steps"])
    assert (jobs["attest"]["needs"], jobs["publish"]["needs"]) == ("build", "attest")
    for name in ("attest", "publish"):  # what signs runs no code
        assert "run" not in {key for step in jobs[name]["steps"] for key in step}


def test_pages_promise_no_release(root: Path) -> None:
    """`pip install onnxshare`, and tags, when they exist: docs/releasing.md."""
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if page.name != "releasing.md":
            assert not re.search(r"pip install onnxshare|onnxshare@v\d|rev: v\d", text), page


@POSIX
def test_the_action_publishes_and_then_answers(root: Path, repository: Path) -> None:
    codes, printed, said, summary = run_action(root, repository, sarif="check.sarif")
    assert codes == [0, 1]  # checking went through; the answer is no
    assert said == {"exit-code": "1"}
    verdict, error = printed.splitlines()[:2]
    assert verdict == "::notice title=onnxshare::failed: 2 models checked, 1 finding"
    assert error.startswith("::error file=onnxshare.toml,line=4,title=BG202 params::models/large")
    assert "61,590 parameters" in printed
    assert "| ❌ | models/large.onnx |" in summary
    document = json.loads((repository / "check.sarif").read_text(encoding="utf-8"))
    (result,) = document["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "onnxshare.toml"
    assert place["region"]["startLine"] == 4
    assert not list(repository.glob("*.onnxshare"))


class GitHub(BaseHTTPRequestHandler):
    """What GitHub says of the comments of pull request 7, and does with them."""

    comments: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[list[str]] = []
    refuses: ClassVar[bool] = False

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        GitHub.asked.append(f"{self.command} {path}")
        assert self.headers["Authorization"] == "Bearer secret"
        length = int(self.headers.get("Content-Length") or 0)
        given = json.loads(self.rfile.read(length)) if length else {}
        if GitHub.refuses and self.command != "GET":
            self.send_error(403, "Resource not accessible by integration")
            return
        found: Any = given
        if self.command == "GET":
            page = int(query.rpartition("=")[2])
            found = GitHub.comments[100 * (page - 1) : 100 * page]
        elif self.command == "POST":
            GitHub.comments.append({"id": 900, "user": {"type": "Bot"}, **given})
        else:
            number = int(path.rpartition("/")[2])
            next(one for one in GitHub.comments if one["id"] == number).update(given)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[GitHub]]:
    """A service at an address of this machine, which the Action is told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    variables = {"GITHUB_API_URL": address, "GITHUB_REPOSITORY": "o/r", "no_proxy": "127.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setitem(SERVICE, name, value)
    mark = "<!-- onnxshare check onnxshare.toml -->"
    # A person who quotes the mark, and more comments than fit on a page.
    GitHub.comments = [{"id": 1, "user": {"type": "User"}, "body": f"{mark} mine"}]
    GitHub.comments += [{"id": n, "user": {"type": "Bot"}, "body": "x"} for n in range(2, 102)]
    GitHub.asked, GitHub.refuses = [], False
    yield GitHub
    server.shutdown()
    server.server_close()


@POSIX
def test_a_comment_is_written_once_and_then_updated(
    root: Path, repository: Path, github: type[GitHub]
) -> None:
    inputs = {"comment": "true", "compare_with_base": "true"}
    codes, printed, _, _ = run_action(root, repository, **inputs, arguments="--max-params 100k")
    assert codes == [0, 0, 0], printed
    comments = "/repos/o/r/issues/7/comments"
    assert github.asked == [f"GET {comments}", f"GET {comments}", f"POST {comments}"]
    assert github.comments[-1]["body"].splitlines()[1].startswith("## ✅ onnxshare passed: ")
    # The next push makes a model larger.
    onnx.save(lenet(), repository / "models" / "good one.onnx")
    github.asked.clear()
    codes, _, _, _ = run_action(root, repository, **inputs)
    assert codes == [0, 0, 1]
    assert github.asked[-1] == "PATCH /repos/o/r/issues/comments/900"
    body = github.comments[-1]["body"]
    assert body.startswith("<!-- onnxshare check onnxshare.toml -->\n## ❌ onnxshare failed: ")
    assert "| models/good one.onnx | Parameters | 150 | 61,590 | +40960.0% |" in body
    assert github.comments[0]["body"].endswith("mine")


@POSIX
def test_where_no_comment_may_be_written_the_check_still_answers(
    root: Path, repository: Path, github: type[GitHub]
) -> None:
    github.refuses = True
    codes, printed, _, _ = run_action(root, repository, comment="true")
    assert codes == [0, 0, 1]
    assert "::warning title=onnxshare::no comment in the pull request: HTTP Error 403" in printed
    assert "secret" not in printed


def test_nothing_is_compared_with_where_a_branch_began_nowhere(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def call(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setenv("ONNXSHARE_ACTION_CHANGED_ONLY", "true")
    monkeypatch.setenv("ONNXSHARE_ACTION_COMPARE_WITH_BASE", "true")
    check = runpy.run_path(str(root / "action" / "check.py"))["main"]
    for base, words in (("0" * 40, []), ("abc", ["--changed-since", "abc"]), ("", ["HEAD~1"])):
        monkeypatch.setenv("ONNXSHARE_ACTION_BASE", base)
        assert check() == 0
        assert (words[-1:] or ["github"]) == [ran[-1][ran[-1].index("--") - 1]]


@POSIX
@pytest.mark.parametrize(
    ("inputs", "code", "part"),
    [
        ({"paths": "models/good one.onnx"}, 0, ""),
        ({"paths": "models/good one.onnx\nmodels/large.onnx"}, 1, "large.onnx"),
        ({"paths": "models", "arguments": "--max-params 100k"}, 0, ""),
        ({"changed-only": "true"}, 0, "no model changed since HEAD"),
        ({"policy": "none.toml"}, 2, "none.toml: no such file"),
        ({"paths": "$(touch pwned); `touch pwned`"}, 2, "no such file"),
        ({"paths": "--help"}, 2, "no such file"),
    ],
)
def test_the_inputs_of_the_action(
    root: Path, repository: Path, inputs: dict[str, str], code: int, part: str
) -> None:
    given = {name.replace("-", "_"): value for name, value in inputs.items()}
    codes, printed, _, _ = run_action(root, repository, **given)
    assert codes == [0, code], printed
    assert part in printed
    assert not (repository / "pwned").exists()


@pytest.mark.parametrize("runtime", ["none", "cpu", "gpu"])
def test_what_the_action_installs(root: Path, runtime: str) -> None:
    """Its own version, and requirements of which each has the version of the pins, and hashes."""
    install = runpy.run_path(str(root / "action" / "install.py"))
    (*_, pinned), (*options, folder) = install["commands"](runtime, "")
    assert Path(folder) == root
    # What is kept is named by the pins, so that new ones are downloaded.
    assert hashlib.sha256(Path(pinned).read_bytes()).hexdigest()[:32] in install["key"](runtime)
    assert {"--no-deps", "--no-index"} <= set(options)
    (*_, named) = install["commands"](runtime, "==0.1.0")[0]
    assert named == {"none": "onnxshare==0.1.0"}.get(runtime, f"onnxshare[{runtime}]==0.1.0")
    text = Path(pinned).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split("--hash=sha256:") for line in text.splitlines()]
    found = {Requirement(words[0].strip()) for words in lines}
    assert all(len(words) > 1 and len(words[-1].strip()) == 64 for words in lines)
    constraints = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {Requirement(line) for line in constraints if line and line[0] != "#"}
    build = {Requirement("hatchling==1.33.0")}
    versions = {(canonicalize_name(pin.name), str(pin.specifier)) for pin in pins | build}
    names = {canonicalize_name(one.name) for one in found}
    extra = {(canonicalize_name(one.name), str(one.specifier)) for one in found} - versions
    assert {name for name, _ in extra} <= {"tomlkit", "trove-classifiers"}, (
        "needed by the build alone"
    )
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += project["project"]["optional-dependencies"].get(runtime, [])
    assert {canonicalize_name(Requirement(line).name) for line in wanted} <= names


@POSIX
def test_no_variable_leads_python_into_the_checkout(
    root: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxshare", "sitecustomize", "usercustomize", "onnx", "numpy", "shlex", "pip"):
        (repository / f"{name}.py").write_text("open('ran', 'w').write(__name__)\n")
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE"):
        monkeypatch.setitem(CHECKOUT, name, "onnxshare.py" if "START" in name else ".")
    codes, printed, _, _ = run_action(root, repository, paths="models/large.onnx")
    assert codes == [0, 1], printed
    assert not (repository / "ran").exists()


def test_every_input_is_used_and_described(root: Path) -> None:
    action: dict[str, Any] = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    text = json.dumps(action["runs"])
    for name, given in action["inputs"].items():
        assert f"inputs.{name}" in text
        assert given["description"].endswith(".") or given["description"].endswith("nothing.")
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "text from outside never becomes a script"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            "models/a.onnx models/a.onnx.data a.onnx_data weights.bin a.weights",
            True,
        ),
        ("onnxshare.toml sub/onnxshare.toml pyproject.toml onnxshare-baseline.json x/s.npz", True),
        ("notes.txt onnx.py package.json my_onnxshare.tomlx README.md", False),
    ],
)
def test_which_files_the_hook_looks_at(root: Path, names: str, wanted: bool) -> None:
    """All models of the policy are checked then, whichever file changed."""
    (hook,) = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["pass_filenames"] is False
    for name in names.split():
        assert bool(re.search(hook["files"], name)) is wanted, name


@POSIX
@pytest.mark.parametrize(
    ("name", "code", "part"),
    [("models/good one.onnx", 1, "BG202"), ("notes.txt", 0, "no files to check")],
)
def test_the_hook_of_pre_commit(
    root: Path, repository: Path, tmp_path: Path, name: str, code: int, part: str
) -> None:
    hooks = repository / ".hooks"
    hooks.mkdir()
    text = (root / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    # The command of this environment instead of one that is installed anew, which takes minutes.
    assert "language: python" in text
    (hooks / ".pre-commit-hooks.yaml").write_text(text.replace(": python", ": system"))
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "hooks"]):
        git(hooks, *words)
    bin_folder = tmp_path / ".bin"
    bin_folder.mkdir()
    script = bin_folder / "onnxshare"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxshare "$@"\n')
    script.chmod(0o755)
    variables = environment(root, PRE_COMMIT_HOME=str(tmp_path / ".cache"))
    variables["PATH"] = f"{bin_folder}{os.pathsep}{variables['PATH']}"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pre_commit",
            "try-repo",
            str(hooks),
            "onnxshare-check",
            "--files",
            name,
        ],
        cwd=repository,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert part in done.stdout
