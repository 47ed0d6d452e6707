"""What a scan finds: a row per model, and groups of models that hold the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnxshare.analysis.results import Inspection
from onnxshare.support.dataclass_tools import Result


@dataclass(frozen=True)
class ScanRow(Result):
    """One model. Unknown is None, never 0; a model that cannot be read has an error alone.

    Attributes:
        path: the path or address.
        bytes: of the model file, external data included where it is there.
        weight_bytes: of its parameters, as they are stored.
        params, macs, sharing_ratio, peak_activation_bytes: as of `inspect`'s totals.
        fc_share: parameters used by fully connected layers / all parameters, 0 to 1.
        fc_after_conv_share: those of FCs after a feature map / all parameters.
        heads: how many heads there are.
        opset: the opset of ai.onnx.
        producer: the exporter, as it names itself.
        structure_hash: equal for equal graphs and types and shapes of weights, whatever the names.
        weights_hash: equal for equal weights in any order; None where weights were not read.
        weight_bytes_by_dtype: bytes of parameters by element type.
        warnings: how many warnings `inspect` has.
        error: why it could not be read; None if it could.
        tensors: by hash of a stored weight its bytes; None where weights were not read.
        data: the files of its external data.
    """

    SHOWN = (
        *("path", "bytes", "weight_bytes", "params", "macs", "sharing_ratio", "fc_share"),
        *("fc_after_conv_share", "heads", "peak_activation_bytes", "opset", "producer"),
        *("structure_hash", "weights_hash", "weight_bytes_by_dtype", "warnings", "error"),
    )

    path: str
    bytes: int | None = None
    weight_bytes: int | None = None
    params: int | None = None
    macs: int | None = None
    sharing_ratio: float | None = None
    fc_share: float | None = None
    fc_after_conv_share: float | None = None
    heads: int | None = None
    peak_activation_bytes: int | None = None
    opset: int | None = None
    producer: str | None = None
    structure_hash: str | None = None
    weights_hash: str | None = None
    weight_bytes_by_dtype: Mapping[str, int] = field(default_factory=dict)
    warnings: int | None = None
    error: str | None = None
    tensors: Mapping[str, int] | None = None
    data: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, report: Inspection, structure: str) -> ScanRow:
        """The row of a model that was inspected; with hashes if that was requested."""
        totals, model = report.totals, report.model
        share = 1 / totals.params if totals.params else 0.0
        hashed = [item for item in report.weights if item.hash] if totals.params else []
        tensors = {item.hash or "": item.bytes for item in hashed}
        return cls(
            path,
            model.bytes,
            totals.param_bytes,
            totals.params,
            totals.macs,
            totals.sharing_ratio,
            totals.fc_params * share,
            totals.fc_after_conv_params * share,
            len(report.heads),
            totals.peak_activation_bytes,
            model.opsets.get("", model.opsets.get("ai.onnx")),
            model.producer or None,
            structure,
            _digest(item.hash or "" for item in hashed) if hashed else None,
            totals.param_bytes_by_dtype,
            len(report.warnings),
            None,
            tensors if hashed else None,
        )


def _digest(hashes: Iterable[str]) -> str:
    text = "\n".join(sorted(hashes))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class WeightGroup(Result):
    """Models that hold equal weights, directly or through one another.

    Attributes:
        models: their paths, sorted.
        unique_bytes: of their weights, each different tensor once.
        stored_bytes: of their weights as they are stored now.
    """

    models: tuple[str, ...]
    unique_bytes: int
    stored_bytes: int

    @property
    def times(self) -> float:
        """How many times over the weights are held."""
        return self.stored_bytes / self.unique_bytes if self.unique_bytes else 1.0
