"""Saves that fail or are killed at any point harm no input and leave nothing broken to be seen."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.errors import OutputError
from onnxshare.io.load import load
from onnxshare.io.save import save_model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX processes and files")


def model(seed: int) -> onnx.ModelProto:
    """Two weights of 40 kB, which the reader leaves in the file, and a small one."""
    random = np.random.default_rng(seed)
    sizes = {"a": (100, 100), "b": (100, 100), "c": (100,)}
    weights = [
        numpy_helper.from_array(random.standard_normal(size).astype(np.float32), name)
        for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Gemm", ["h", "b", "c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 100]) for name in "xy")
    graph = helper.make_graph(nodes, f"seed {seed}", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(path: Path) -> list[bytes]:
    """The graph's name and all weights, as onnx itself reads them."""
    graph = onnx.load(path).graph
    return [graph.name.encode(), *(tensor.raw_data for tensor in graph.initializer)]


class Stage:
    """A folder with an input (embedded or a pair) and an output that is in the way, or not."""

    def __init__(self, folder: Path, external: bool, before: str) -> None:
        self.folder, self.external, self.before = folder, external, before
        self.source, self.target = folder / "in.onnx", folder / "out.onnx"
        self._store(model(1), self.source, external)
        if before != "nothing":
            self._store(model(2), self.target, before == "pair")
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.new = values(self.source)
        self.old = None if before == "nothing" else values(self.target)

    def _store(self, proto: onnx.ModelProto, path: Path, external: bool) -> None:
        more: dict[str, Any] = {}
        if external:
            more = {"save_as_external_data": True, "location": f"{path.name}.data"}
        onnx.save(proto, path, **more)

    def save(self) -> int:
        return save_model(load(self.source), self.target, force=self.before != "nothing")

    def reset(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        for name, data in self.files.items():
            (self.folder / name).write_bytes(data)

    def check_untouched(self) -> None:
        """After an error: every file is as it was, and there is no other."""
        assert {path.name: path.read_bytes() for path in self.folder.iterdir()} == self.files

    def check_whole(self) -> bool:
        """After a kill: the input is as it was, the output the old or the new one, whole.
        Returns whether it is the new one."""
        for name, data in self.files.items():
            if name.startswith("in."):
                assert (self.folder / name).read_bytes() == data, name
        whole = {"in.onnx", "in.onnx.data", "out.onnx"}
        for path in self.folder.iterdir():
            if path.name in whole or path.name.startswith("."):
                continue
            # A data file whose model did not come, or that it no longer needs: whole all the same.
            data = path.read_bytes()
            assert any(weight in data for weight in (self.new[1], (self.old or self.new)[1]))
            assert any(weight in data for weight in (self.new[2], (self.old or self.new)[2]))
        if not self.target.exists():
            assert self.old is None
            return False
        found = values(self.target)
        assert found in (self.old, self.new)
        load(self.target).proto  # noqa: B018 (nor do we refuse it)
        for tensor in (loaded := load(self.target)).skeleton.graph.initializer:
            loaded.read(tensor)
        return found == self.new


STAGES = [
    pytest.param(external, before, id=f"{'pair' if external else 'embedded'} over {before}")
    for external in (False, True)
    for before in ("nothing", "embedded", "pair")
]


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    folder = tmp_path / "stage"
    folder.mkdir()
    return Stage(folder, *request.param)


class Failing:
    """A file that takes only so many bytes."""

    def __init__(self, file: IO[bytes], room: list[int]) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes | memoryview) -> int:
        fits = min(len(data), self._room[0])
        self._room[0] -= fits
        self._file.write(data[:fits])
        self._file.flush()
        if fits < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.mark.parametrize("stage", [param.values for param in STAGES], indirect=True)
def test_write_errors_after_any_number_of_bytes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = stage.save()
    stage.reset()
    room = [0]
    real: Callable[..., Any] = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *a, **k: Failing(real(*a, **k), room))
    near = {0, 1, 40_000, 80_000, 80_001, total - 1}
    for size in sorted(near | {round(total * part / 60) for part in range(60)}):
        room[0] = size
        with pytest.raises(OutputError, match="cannot be written: No space left on device"):
            stage.save()
        stage.check_untouched()
    room[0] = total
    assert stage.save() == total
    assert values(stage.target) == stage.new


#: What a save asks the system for; all that concerns files goes through these.
CALLS = ("open", "fdopen", "fsync", "link", "replace", "unlink", "close", "fstat")


def killed(save: Callable[[], object], step: int) -> bool:
    """Save in a process of its own that is gone, without cleaning up, after so many calls; whether
    it came to its end before."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    count = 0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            result = real(*arguments, **options)
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    try:
        for name in CALLS:
            setattr(os, name, watched(getattr(os, name)))
        save()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("stage", [param.values for param in STAGES], indirect=True)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_any_step(stage: Stage) -> None:
    """Killed after the nth call that concerns files, for every n: nothing is broken, and the next
    save leaves nothing behind."""
    seen: list[bool] = []
    for step in range(1, 100):
        done = killed(stage.save, step)
        seen.append(stage.check_whole())
        save_model(load(stage.source), stage.target, force=True)
        assert values(stage.target) == stage.new
        named = {stage.target.name, *load(stage.target).external_files()}
        inputs = {name for name in stage.files if name.startswith("in.")}
        assert {path.name for path in stage.folder.iterdir()} == named | inputs, step
        if done:
            break
        stage.reset()
    else:
        pytest.fail("the save never ended")
    # Some kills left the old state, later ones the new one, and never the other way round.
    assert len(seen) > 6
    assert seen == sorted(seen)
    assert not seen[0]
    assert seen[-1]


LIMITED = """
import resource, sys
from pathlib import Path
from onnxshare.errors import OutputError
from onnxshare.io.load import load
from onnxshare.io.save import save_model

model, target = load(sys.argv[1]), Path(sys.argv[2])
for size in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        save_model(model, target, force=True)
    except OutputError as error:
        print(error)
"""


@pytest.mark.parametrize("stage", [param.values for param in STAGES], indirect=True)
def test_files_that_may_not_grow(stage: Stage) -> None:
    """The kernel itself refuses to write beyond a size."""
    sizes = [str(size) for size in (0, 1, 100, 4096, 39_999, 40_001, 79_000)]
    words = [sys.executable, "-c", LIMITED, str(stage.source), str(stage.target), *sizes]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == len(sizes)
    assert all("cannot be written: File too large" in line for line in lines)
    stage.check_untouched()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk(small_disk: Path, external: bool) -> None:
    stage = Stage(small_disk, external, "pair" if external else "embedded")
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "ballast").write_bytes(bytes(room - 60_000))
    stage.files["ballast"] = bytes(room - 60_000)
    with pytest.raises(OutputError, match=r"out\.onnx.* No space left on device; nothing was"):
        stage.save()
    stage.check_untouched()
    (small_disk / "ballast").unlink()
    stage.save()
    assert values(stage.target) == stage.new
