"""The public names: there, typed where they are made, and free until they are used."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import onnxshare
import onnxshare.errors
import onnxshare.rewrites
import rewrites
import rewrites.fc_to_gap


def test_importing_onnxshare_imports_nothing_else() -> None:
    script = "import onnxshare, sys; print(sorted(n for n in sys.modules if n[:4] in NAMES))"
    script = f"NAMES = ('onnx', 'rewr', 'nump', 'type', 'rich'); {script}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    wanted = {"onnxshare", "onnxshare.errors", "onnxshare.version"}
    ours = {name for name in eval(ran.stdout) if name != "types" and name != "typing"}
    assert ours == wanted


@pytest.mark.parametrize("name", onnxshare.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(onnxshare, name) is not None


@pytest.mark.parametrize(
    "name", "UsageError ModelError ModelFileError SamplesError RewriteError RuntimeFailure".split()
)
def test_errors_are_of_one_kind(name: str) -> None:
    error = getattr(onnxshare, name)
    assert error is getattr(onnxshare.errors, name)
    assert issubclass(error, onnxshare.OnnxShareError)


def test_the_alias_is_the_package_whichever_way_it_is_asked_for() -> None:
    assert onnxshare.rewrites is rewrites is sys.modules["onnxshare.rewrites"]
    for line in (
        "import onnxshare; a = onnxshare.rewrites.FcToGap",
        "import onnxshare.rewrites; a = onnxshare.rewrites.FcToGap",
        "from onnxshare.rewrites import FcToGap as a",
        "from onnxshare import rewrites as r; a = r.FcToGap",
        "from onnxshare.rewrites.fc_to_gap import FcToGap as a",
    ):
        script = f"{line}; from rewrites.fc_to_gap import FcToGap; assert a is FcToGap, a"
        subprocess.run([sys.executable, "-c", script], check=True)


def test_a_module_below_the_alias_is_not_loaded_twice() -> None:
    from onnxshare.rewrites.fc_to_gap import FcToGap  # type: ignore[import-not-found]

    assert FcToGap is rewrites.fc_to_gap.FcToGap
    with pytest.raises(ModuleNotFoundError, match=r"rewrites\.nothing"):
        __import__("onnxshare.rewrites.nothing")


@pytest.mark.parametrize("name", rewrites.__all__)
def test_the_package_exports_what_a_plugin_needs(name: str) -> None:
    assert getattr(rewrites, name) is not None


@pytest.mark.parametrize("name", "inspect rewrite compare diff family check load".split())
def test_the_examples_in_docstrings_run(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(root / "models")
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(
        getattr(onnxshare, name).__doc__, {"onnxshare": onnxshare}, name, None, None
    )
    assert example.examples
    told: list[str] = []
    assert doctest.DocTestRunner().run(example, out=told.append).failed == 0, "".join(told)
