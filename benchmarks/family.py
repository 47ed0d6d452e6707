"""What families cost on disk, in memory, to load and to run, against models that are stored apart.

Three families: four classifiers on one trunk of convolutions and on one of matrices (64 MB each),
an encoder and a decoder that share an embedding and their layers, and the children of an
architecture search (`models/enas`). Each is written by `onnxshare.write_family` and opened by
`onnxshare.family_sessions`; each row of memory and loading is a process of its own. PSS is what
Linux counts of a process, pages that several share in parts (/proc/self/smaps_rollup). Latencies
are pairs of CPU times in turn, and the median of their ratios.

Run: python benchmarks/family.py [FOLDER]

Another folder is needed where the temporary one lies in memory: its files would count as such.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxshare

MODELS = Path(__file__).resolve().parents[1] / "models"
BATCHES, PAIRS = (1, 8, 32), 15

#: How sessions are opened: `separate` by their original files, as ONNX Runtime does by itself, or
#: without copies; the family with shared weights, or with copies.
WAYS = ("separate", "separate, no copies", "family", "family, prepack=True")

Nodes = list[onnx.NodeProto]
Weights = dict[str, np.ndarray[Any, Any]]


def save(path: Path, nodes: Nodes, weights: Weights, shape: list[int | str], kind: int = 1) -> None:
    """Write a model of one input `x` and one output `y`, its weights embedded."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def matrices(random: np.random.Generator, name: str, count: int) -> tuple[Nodes, Weights]:
    """Layers of 1024 × 1024 from `x` on, 4 MB each."""
    nodes: Nodes = []
    weights: Weights = {}
    last = "x"
    for i in range(count):
        weights[f"{name}{i}"] = random.standard_normal((1024, 1024)).astype(np.float32) / 32
        nodes.append(helper.make_node("MatMul", [last, f"{name}{i}"], [f"m{name}{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{name}{i}"], [last := f"r{name}{i}"]))
    return nodes, weights


def convolutions(random: np.random.Generator) -> tuple[Nodes, Weights]:
    """28 convolutions of 256 channels from `x` on, 2.4 MB each, and pooling."""
    nodes: Nodes = []
    weights: Weights = {}
    last = "x"
    for i in range(28):
        weights[f"c{i}"] = random.standard_normal((256, 256, 3, 3)).astype(np.float32) / 48
        nodes.append(helper.make_node("Conv", [last, f"c{i}"], [f"y{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [last := f"r{i}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    return nodes, weights


def classifiers(folder: Path, trunk: tuple[Nodes, Weights], shape: list[int | str]) -> None:
    """Four models with one trunk and a head of ten classes each."""
    random = np.random.default_rng(1)
    nodes, weights = trunk
    last = nodes[-1].output[0]
    for name in "abcd":
        width = 256 if last == "features" else 1024
        head = {f"head_{name}": random.standard_normal((width, 10)).astype(np.float32)}
        end = helper.make_node("MatMul", [last, f"head_{name}"], ["y"])
        save(folder / f"{name}.onnx", [*nodes, end], {**weights, **head}, shape)


def pair(folder: Path) -> None:
    """An encoder and a decoder: both look tokens up in one table (33 MB) and use its layers; the
    decoder multiplies with it again, transposed when it runs."""
    random = np.random.default_rng(2)
    table = {"table": random.standard_normal((8192, 1024)).astype(np.float32) / 32}
    nodes, weights = matrices(random, "shared", 8)
    look = helper.make_node("Gather", ["table", "x"], ["embedded"])
    nodes[0].input[0] = "embedded"
    ends: dict[str, Nodes] = {
        "encoder": [helper.make_node("Identity", [nodes[-1].output[0]], ["y"])],
        "decoder": [
            helper.make_node("Gemm", ["rows", "table"], ["y"], transB=1),
        ],
    }
    ends["decoder"].insert(0, helper.make_node("Reshape", [nodes[-1].output[0], "flat"], ["rows"]))
    flat = {"flat": np.array([-1, 1024])}
    for name, end in ends.items():
        more = flat if name == "decoder" else {}
        all_weights = {**table, **weights, **more}
        save(
            folder / f"{name}.onnx", [look, *nodes, *end], all_weights, ["n", 8], TensorProto.INT64
        )


def enas(folder: Path) -> None:
    for path in sorted((MODELS / "enas").glob("*.onnx")):
        (folder / path.name).write_bytes(path.read_bytes())


FAMILIES: dict[str, Callable[[Path], None]] = {
    "four classifiers, convolutions": lambda folder: classifiers(
        folder, convolutions(np.random.default_rng(0)), ["n", 256, 7, 7]
    ),
    "four classifiers, matrices": lambda folder: classifiers(
        folder, matrices(np.random.default_rng(0), "w", 16), ["n", 1024]
    ),
    "encoder and decoder": pair,
    "architecture search (5)": enas,
}


def open_all(folder: Path, way: str) -> dict[str, Callable[[], Any]]:
    """What opens each model of a family in one of the ways."""
    import onnxruntime

    def single(options: Any) -> None:
        options.intra_op_num_threads = 1

    def separate(path: Path) -> Any:
        options = onnxruntime.SessionOptions()
        single(options)
        if way.endswith("no copies"):
            level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.graph_optimization_level = level
            options.add_session_config_entry("session.disable_prepacking", "1")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def shared(path: Path) -> Any:
        prepack = way.endswith("True")
        where = folder / "family"
        found = onnxshare.family_sessions(where, [path.stem], prepack=prepack, configure=single)
        return found[path.stem]

    opener = separate if way.startswith("separate") else shared
    return {path.stem: lambda path=path: opener(path) for path in sorted(folder.glob("*.onnx"))}


def pss() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def feed(session: Any, batch: int) -> dict[str, Any]:
    value = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else batch for size in value.shape]
    random = np.random.default_rng(3)
    if value.type == "tensor(int64)":
        return {value.name: random.integers(0, 8192, shape)}
    return {value.name: random.standard_normal(shape).astype(np.float32)}


def child(folder: Path, way: str) -> None:
    """Open all models of a family one after the other, run each once, and say what each took."""
    import onnxruntime  # noqa: F401

    sessions, before = [], pss()
    for opener in open_all(folder, way).values():
        start = time.process_time()
        sessions.append(opener())
        spent = time.process_time() - start
        sessions[-1].run(None, feed(sessions[-1], 1))
        after = pss()
        print(after - before, spent)
        before = after


def memory(folder: Path, way: str) -> str:
    command = [sys.executable, __file__, "child", str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    first, *others = found
    further = sum(bytes_ for bytes_, _ in others) / len(others)
    loaded = statistics.median(spent for _, spent in others)
    return f"{first[0] / 1e6:.1f} MB | {further / 1e6:.1f} MB | {1e3 * loaded:.1f} ms"


def latencies(folder: Path) -> Iterator[str]:
    """Per batch, the CPU time of the family's first model over that of separate sessions."""
    opened = {way: next(iter(open_all(folder, way).values()))() for way in WAYS}
    for batch in BATCHES:
        feeds = feed(opened["separate"], batch)
        values = {way: session.run(None, feeds) for way, session in opened.items()}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(PAIRS):
            for way, session in opened.items():
                start = time.process_time()
                session.run(None, feeds)
                times[way].append(time.process_time() - start)
        cells = []
        for way, base in zip(WAYS[2:], ("separate, no copies", "separate"), strict=True):
            pairs = zip(times[way], times["separate"], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            same = all(map(np.array_equal, values[way], values[base]))
            cells.append(f"{ratio:.2f} | {'yes' if same else 'NO'}")
        plain = statistics.median(times["separate"])
        yield f"{batch} | {1e3 * plain:.2f} ms | {' | '.join(cells)}"


def unique_bytes(folder: Path) -> int:
    """Bytes of all different initializers of the originals, by onnx alone."""
    found = {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path).graph.initializer:
            data = numpy_helper.to_array(tensor).tobytes()
            found[data] = len(data)
    return sum(found.values())


def main(place: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        folders = {}
        print("| family | originals | written | of the different weights |\n|---|---:|---:|---:|")
        for family, build in FAMILIES.items():
            folder = folders[family] = Path(name, str(len(folders)))
            folder.mkdir()
            build(folder)
            found = onnxshare.write_family(sorted(folder.glob("*.onnx")), folder / "family")
            written = sum(path.stat().st_size for path in (folder / "family").iterdir())
            share = written / unique_bytes(folder)
            before = found.bytes_before
            print(f"| {family} | {before / 1e6:.2f} MB | {written / 1e6:.2f} MB | {share:.3f} |")
        print("\n| family | sessions | PSS of the first | of each further | to load |")
        print("|---|---|---:|---:|---:|")
        for family, folder in folders.items():
            for way in WAYS:
                print(f"| {family} | {way} | {memory(folder, way)} |", flush=True)
        print("\n| family | batch | separate | family | bit-equal | prepack=True | bit-equal |")
        print("|---|---:|---:|---:|---|---:|---|")
        for family, folder in folders.items():
            for line in latencies(folder):
                print(f"| {family} | {line} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), sys.argv[3])
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
