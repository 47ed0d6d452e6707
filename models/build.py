"""Trains the three nets, exports each both ways, measures the files, writes the README's table.

``python models/build.py --data FOLDER``; the README says what must be installed.
``--validate`` trains on 6,000 of the 7,000 training images, prints the accuracy on the
other 1,000 and writes nothing: for trying out a recipe without looking at the test images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import data
import nets
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import onnxscript
import torch
from torch import Tensor, nn

README = data.HERE / "README.md"
BEGIN, END = "<!-- written by build.py: begin -->", "<!-- written by build.py: end -->"
TRACE = "pkg.torch.onnx.stack_trace"
BATCH, WEIGHT_DECAY, SHIFT = 100, 1e-2, 1
SEED = 2024
TOLERANCE = 1e-4
VALIDATION = 1_000


@dataclass(frozen=True)
class Net:
    """One network and what it is trained with."""

    make: Callable[[], nn.Sequential]
    epochs: int
    learning_rate: float
    about: str

    @property
    def name(self) -> str:
        return self.make.__name__


NETS = (
    Net(nets.lenet5, 60, 1e-2, "LeNet-5, common variant: 2 convolutions, 3 fully connected layers"),
    Net(nets.vgg_small, 30, 5e-3, "VGG style: 3 convolutions, 3 fully connected layers"),
    Net(nets.gap_net, 60, 1e-2, "3 convolutions, 1×1 convolution, global average pooling"),
)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors every second image or so and shifts each by up to one pixel."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    padded = nn.functional.pad(torch.where(mirrored, images.flip(3), images), [SHIFT] * 4)
    shift = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    picked: Tensor = padded[
        torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]
    ]
    return picked[:, None]


def train(net: Net, part: data.Part) -> nn.Sequential:
    """Trains from a fixed seed with AdamW and a one-cycle schedule."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    model = net.make().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = net.epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, net.learning_rate, steps)
    for _ in range(net.epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            optimizer.zero_grad()
            logits = model(augment(images[rows], generator))
            torch.autograd.backward(nn.functional.cross_entropy(logits, labels[rows]))
            optimizer.step()
            schedule.step()
    return model.eval()


def forward(model: nn.Sequential, images: data.Images) -> npt.NDArray[np.float32]:
    """What PyTorch computes."""
    with torch.no_grad():
        parts = [model(part) for part in torch.split(torch.from_numpy(images), 250)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def export_torchscript(model: nn.Sequential, path: Path) -> None:
    """Writes what the TorchScript exporter makes of the model."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, data.SIZE, data.SIZE),),
        str(path),
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def export_dynamo(model: nn.Sequential, path: Path) -> None:
    """Writes what the dynamo exporter makes of the model, without its stack traces."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, data.SIZE, data.SIZE),),
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key != TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(proto, path)


EXPORTERS = (
    ("TorchScript", "-torchscript", export_torchscript),
    ("dynamo", "", export_dynamo),
)


def run(path: Path, images: data.Images) -> npt.NDArray[np.float32]:
    """What ONNX Runtime computes on the CPU."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    starts = range(0, len(images), 250)
    parts = [session.run(["logits"], {"image": images[i : i + 250]})[0] for i in starts]
    return np.concatenate(parts)


def verify(path: Path, model: nn.Sequential, images: data.Images) -> None:
    """Fails unless the file is valid, names no path of this machine and agrees with PyTorch."""
    onnx.checker.check_model(path, full_check=True)
    content = path.read_bytes()
    for word in ("site-packages", sys.prefix, str(Path.home()), str(data.HERE), os.getcwd()):
        if len(word) > 1 and word.encode() in content:
            raise SystemExit(f"{path.name} contains {word}")
    for batch in (1, 7):
        part = images[:batch]
        error = float(np.abs(run(path, part) - forward(model, part)).max())
        if error > TOLERANCE:
            raise SystemExit(f"{path.name} differs from PyTorch by {error} at batch {batch}")


def accuracy(logits: npt.NDArray[np.float32], labels: data.Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def publish(path: Path, folder: Path) -> Path:
    """Moves a finished file into the folder, replacing the older one in one step."""
    target = folder / path.name
    staged = folder / f".{path.name}.new"
    staged.write_bytes(path.read_bytes())
    staged.replace(target)
    return target


def build(net: Net, split: data.Split) -> Iterator[str]:
    """Trains, exports and measures one net; yields its rows of the table, then its time."""
    start = time.perf_counter()
    model = train(net, split.train)
    seconds = time.perf_counter() - start
    count = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        for exporter, suffix, export in EXPORTERS:
            path = Path(folder) / f"{net.name}{suffix}.onnx"
            export(model, path)
            verify(path, model, split.calibration.images)
            right = accuracy(run(path, split.test.images), split.test.labels)
            size = publish(path, data.HERE).stat().st_size
            yield (
                f"| `{path.name}` | {net.about} | {exporter} | trained here | Apache-2.0 "
                f"| {count:,} | {size:,} | {right:.2%} |"
            )
    yield f"`{net.name}` {seconds:.0f} s ({net.epochs} epochs)"


def table(split: data.Split) -> str:
    """Builds everything; returns the Markdown between the markers."""
    data.write(split)
    rows, times = [], []
    for net in NETS:
        *files, timing = build(net, split)
        rows += files
        times.append(timing)
        print(*files, timing, sep="\n", flush=True)
    for name, about in (
        ("calibration.npz", f"`image`: {data.CALIBRATION:,} images without labels"),
        ("test.npz", f"`image`, `labels`: {data.TEST:,} images and their classes"),
    ):
        size = (data.HERE / name).stat().st_size
        rows.append(f"| `{name}` | {about} | | Fashion-MNIST, Zalando | MIT | | {size:,} | |")
    versions = (
        f"torch {torch.__version__.split('+')[0]}, onnxscript {onnxscript.__version__}, "
        f"onnx {onnx.__version__}, onnxruntime {ort.__version__} and numpy {np.__version__}"
    )
    return "\n".join(
        (
            "| File | What it is | Exporter | Origin | Licence "
            "| Parameters | Bytes | Test accuracy |",
            "|---|---|---|---|---|---:|---:|---:|",
            *rows,
            "",
            f"Training time on {torch.get_num_threads()} CPU threads: {', '.join(times)}. "
            f"Made with {versions}.",
        )
    )


def write_readme(text: str) -> None:
    """Replaces what stands between the two markers."""
    old = README.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README.name} lacks the markers {BEGIN} and {END}")
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def validate(part: data.Part) -> None:
    """Trains on all but the last 1,000 training images and prints the accuracy on these."""
    held_out = part[data.TRAIN - VALIDATION :]
    for net in NETS:
        model = train(net, part[: data.TRAIN - VALIDATION])
        right = accuracy(forward(model, held_out.images), held_out.labels)
        print(f"{net.name}: {right:.2%} of {VALIDATION:,} validation images", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export and measure the models.")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's t10k IDX files")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--validate", action="store_true", help="try the recipe, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    split = data.load(options.data)
    if options.validate:
        validate(split.train)
    else:
        write_readme(table(split))


if __name__ == "__main__":
    main()
