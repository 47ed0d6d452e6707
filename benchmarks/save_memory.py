"""Peak memory of rewriting and saving a model with 4.6 GB of external weights.

The model is made on the spot: convolutions whose weights lie in a sparse file, then an FC head of
401 MB after the last feature map, which `fc-to-conv` turns into a convolution. It comes in two
forms: with the head's weights in the order of the map, where they need not be moved, and after a
Transpose (channels last), where every weight moves. Each row is a process of its own, and its
peak is what Linux counted (VmHWM: all pages in memory, those of mapped files included).

Run: python benchmarks/save_memory.py [FOLDER] [--run-them]

It needs 10 GB of disk in FOLDER, or in the temporary folder. With --run-them the rewrite is also
validated, which runs both models in ONNX Runtime and needs as much memory as that takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

CHANNELS, SIDE, CLASSES = 2048, 7, 1000
BLOCKS = 28  # of 2048 · 2048 · 3 · 3 weights: 151 MB each
DATA = "weights.bin"
FORMS = ("in order", "channels last")
STEPS = {
    "imports alone (the floor)": "import onnx, onnxshare, onnxshare.io.load, rewrites.run",
    "inspect": "import onnxshare; onnxshare.inspect({model!r})",
    "rewrite and save": (
        "import onnxshare; "
        "r = onnxshare.rewrite({model!r}, ['fc-to-conv'], validate=False); "
        "assert r.changes; r.save({out!r})"
    ),
}
VALIDATED = (
    "import onnxshare; r = onnxshare.rewrite({model!r}, ['fc-to-conv'], provider='cpu'); "
    "print(r.validation.verdict, file=sys.stderr); assert r.changes"
)


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--run-them"]
    with tempfile.TemporaryDirectory(dir=words[0] if words else None) as folder:
        print("| head | process | peak memory | time |")
        print("|---|---|---:|---:|")
        for form in FORMS:
            model, out = Path(folder, f"{form}.onnx"), Path(folder, "rewritten.onnx")
            build(model, form)
            for name, code in STEPS.items():
                report(f"{form} | {name}", code.format(model=str(model), out=str(out)))
            assert unharmed(model, out)
            written = out.with_name(f"{out.name}.data")
            assert written.stat().st_size >= Path(folder, DATA).stat().st_size
            written.unlink()
            out.unlink()
            if "--run-them" in sys.argv:
                report(f"{form} | rewrite and validate", VALIDATED.format(model=str(model)))


def build(path: Path, form: str) -> None:
    """Write the model and, unless it is there, its data file."""
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    end, last = 0, "image"
    for block in range(BLOCKS):
        end = reserve(weights, f"w{block}", (CHANNELS, CHANNELS, 3, 3), end)
        nodes.append(helper.make_node("Conv", [last, f"w{block}"], [f"c{block}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{block}"], [f"r{block}"]))
        last = f"r{block}"
    if form == "channels last":
        nodes.append(helper.make_node("Transpose", [last], ["last"], perm=[0, 2, 3, 1]))
        last = "last"
    end = reserve(weights, "fc.w", (CLASSES, CHANNELS * SIDE * SIDE), end)
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.w"], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(proto.SerializeToString())
    if not path.with_name(DATA).exists():
        fill(path.with_name(DATA), weights, end)


def fill(path: Path, weights: list[onnx.TensorProto], end: int) -> None:
    """Weights that are not zero: the first ones of each convolution, and the whole head."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.truncate(end)
        for tensor in weights:
            file.seek(int(tensor.external_data[1].value))
            file.write((random.standard_normal(2**16) / 100).astype(np.float32).tobytes())
        file.seek(int(weights[-1].external_data[1].value))
        for _ in range(CLASSES):
            row = random.standard_normal(CHANNELS * SIDE * SIDE) / 300
            file.write(row.astype(np.float32).tobytes())


def reserve(weights: list[onnx.TensorProto], name: str, dims: tuple[int, ...], start: int) -> int:
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL
    )
    length = int(np.prod(dims)) * 4
    for key, value in (("location", DATA), ("offset", start), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    weights.append(tensor)
    return start + length


def report(name: str, code: str) -> None:
    """Run code in a process of its own and print its peak memory and time."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    tail = (
        "\nlines = open('/proc/self/status').read().splitlines()"
        "\nprint(next(line for line in lines if line.startswith('VmHWM')).split()[1])"
    )
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}{tail}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        print(
            f"| {name} | exit {done.returncode}: {done.stderr.strip()[-300:]} | {seconds:.1f} s |"
        )
        return
    peak = int(done.stdout.split()[-1]) * 1024
    words = done.stderr.strip().splitlines()[-1:] if done.stderr.strip() else []
    print(f"| {' — '.join([name, *words])} | {peak / 1e6:.0f} MB | {seconds:.1f} s |", flush=True)


def unharmed(model: Path, out: Path) -> bool:
    """Whether the weights that the rewrite did not touch are the same in both models."""
    import onnxshare

    before, after = onnxshare.load(model), onnxshare.load(out)
    ours = {tensor.name: tensor for tensor in after.skeleton.graph.initializer}
    untouched = [t for t in before.skeleton.graph.initializer if t.name in ours]
    return len(untouched) >= BLOCKS and all(
        np.array_equal(before.read(tensor), after.read(ours[tensor.name])) for tensor in untouched
    )


if __name__ == "__main__":
    main()
