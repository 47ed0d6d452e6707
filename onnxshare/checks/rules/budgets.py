"""BG: how large and how expensive a model may be."""

from __future__ import annotations

from onnxshare.checks.limits import show
from onnxshare.checks.rule import Figure, Rule, Subject, advice, python, replace_head, sibling


def _protobuf_share(subject: Subject) -> float:
    # Imports onnx, which the list of rules does not need.
    from onnxshare.io.open_model_file import PROTOBUF_LIMIT

    return (subject.model.size or 0) / PROTOBUF_LIMIT


def _save_external(subject: Subject) -> str:
    split = sibling(subject.name, "external")
    return python(
        f"import onnx; onnx.save(onnx.load({subject.name!r}), {split!r}, "
        "save_as_external_data=True)"
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
        Figure(
            lambda subject: subject.inspection.model.bytes,
            lambda subject, size: f"{size} of model file and external data",
            replace_head,
            lambda subject: "a model from memory has no file",
        ),
        help="The largest file, external data included: 20MiB.",
        metric="file_bytes",
        short="The model is too large a file",
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
        Figure(
            lambda subject: subject.inspection.totals.params,
            lambda subject, count: f"{count} parameters",
            replace_head,
        ),
        help="The most parameters: 5000000 or 5M.",
        metric="params",
        short="The model has too many parameters",
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
        Figure(
            lambda subject: subject.inspection.totals.macs,
            lambda subject, count: f"{count} multiply-accumulates per sample",
            advice("inspect", "--sort", "macs"),
            lambda subject: "the number of multiply-accumulates is unknown",
        ),
        help="The most multiply-accumulates per sample: 1.2G.",
        metric="macs",
        short="The model needs too much arithmetic",
    ),
    Rule(
        "BG204",
        "activation-memory",
        "max-activation-memory",
        "bytes",
        None,
        "the largest sum of live activations in graph order, per sample, nothing reused in place",
        "In addition to the weights, the device must hold what is being computed.",
        "See `onnxshare inspect` for the sizes; a smaller input or an earlier stride lowers them.",
        Figure(
            lambda subject: subject.inspection.totals.peak_activation_bytes,
            lambda subject, size: f"{size} of activations live at once, per sample",
            advice("inspect"),
            lambda subject: "the peak of activation memory is unknown",
        ),
        help="The most activation memory per sample: 16MiB.",
        metric="peak_activation_bytes",
        short="The activations need too much memory",
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
        Figure(
            _protobuf_share,
            lambda subject, share: (
                f"the model file is {show(subject.model.size or 0, 'bytes')}, {share} of the 2 GiB "
                "that a protobuf can hold"
            ),
            _save_external,
        ),
        short="The model file is close to the 2 GiB that a protobuf can hold",
    ),
)
