"""BG: how large and how expensive a model may be."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshare.checks.limits import show
from onnxshare.checks.rule import (
    Problem,
    Rule,
    Subject,
    beside,
    command,
    python,
    replace_head,
    unknown,
)


def _max_params(subject: Subject, limit: int) -> Iterator[Problem]:
    params = subject.inspection.totals.params
    if params > limit:
        yield Problem(f"{params:,} parameters", params, replace_head(subject))


def _max_macs(subject: Subject, limit: int) -> Iterator[Problem]:
    macs = subject.inspection.totals.macs
    if macs is None:
        yield unknown(subject, "the number of multiply-accumulates is unknown")
    elif macs > limit:
        yield Problem(
            f"{macs:,} multiply-accumulates per sample",
            macs,
            command("inspect", subject.name, "--sort", "macs"),
        )


def _max_file_size(subject: Subject, limit: int) -> Iterator[Problem]:
    size = subject.inspection.model.bytes
    if size is None:
        yield unknown(subject, "a model from memory has no file")
    elif size > limit:
        yield Problem(
            f"{show(size, 'bytes', beside=limit)} of model file and external data",
            size,
            replace_head(subject),
        )


def _max_activation(subject: Subject, limit: int) -> Iterator[Problem]:
    peak = subject.inspection.totals.peak_activation_bytes
    if peak is None:
        yield unknown(subject, "the peak of activation memory is unknown")
    elif peak > limit:
        yield Problem(
            f"{show(peak, 'bytes', beside=limit)} of activations live at once, per sample",
            peak,
            command("inspect", subject.name),
        )


def _max_protobuf(subject: Subject, limit: float) -> Iterator[Problem]:
    from onnxshare.io.open_model_file import (
        PROTOBUF_LIMIT,  # imports onnx; the list of rules does not
    )

    size = subject.model.size or 0
    share = size / PROTOBUF_LIMIT
    if share > limit:
        split = beside(subject.name, "external")
        script = (
            f"import onnx; onnx.save(onnx.load({subject.name!r}), {split!r}, "
            "save_as_external_data=True)"
        )
        yield Problem(
            f"the model file is {show(size, 'bytes')}, {show(share, 'share', beside=limit)} of the "
            "2 GiB that a protobuf can hold",
            share,
            python(script),
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "BG201",
        "file-size",
        "max-file-size",
        "bytes",
        None,
        "bytes of the model file and of the external data files it names",
        "It is what is downloaded, and what a device must have room for.",
        "Rewrite the head, merge equal tensors (`onnxshare rewrite --share`), or store the weights "
        "in fewer bits.",
        _max_file_size,
    ),
    Rule(
        "BG202",
        "params",
        "max-params",
        "count",
        None,
        "parameters, each stored once",
        "Parameters are what is downloaded, stored and read.",
        "Rewrite the head, merge equal tensors (`onnxshare rewrite --share`), or train a smaller "
        "network.",
        _max_params,
    ),
    Rule(
        "BG203",
        "macs",
        "max-macs",
        "count",
        None,
        "multiply-accumulates per sample, bias not counted",
        "Arithmetic is what a small processor runs out of first.",
        "See `onnxshare inspect --sort macs` for the layers that need most.",
        _max_macs,
    ),
    Rule(
        "BG204",
        "activation-memory",
        "max-activation-memory",
        "bytes",
        None,
        "the largest sum of live activations in graph order, per sample, nothing reused in place",
        "Beside the weights, the device must hold what is being computed.",
        "See `onnxshare inspect` for the sizes; a smaller input or an earlier stride lowers them.",
        _max_activation,
    ),
    Rule(
        "BG205",
        "near-2-gib",
        "max-protobuf-share",
        "share",
        0.9,
        "bytes of the model file, external data left out / 2 GiB",
        "A protobuf of 2 GiB or more can be neither written nor read; the next, slightly larger "
        "version of the model fails in the exporter or on the device.",
        "Save the weights as external data.",
        _max_protobuf,
    ),
)
