"""What the analyser finds out: frozen, plain, and the shape of `inspect --format json`.

All counts are per sample (one row of the batch). Unknown is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from onnxshare.errors import UsageError
from onnxshare.support.dataclass_tools import Result, made, plain

if TYPE_CHECKING:
    from onnxshare.shapes.inference import Shape

#: Version of the JSON layout; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TensorInfo:
    """An input or output.

    Attributes:
        name: its name.
        dtype: the ONNX element type, such as `float32`; None if unknown.
        shape: its sizes, symbols by name and unknown ones as None; None without a rank.
    """

    name: str
    dtype: str | None
    shape: Shape | None


@dataclass(frozen=True)
class ModelInfo:
    """What identifies a model.

    Attributes:
        path: where it was read from; None for one from memory.
        bytes: of the model file, external data included if found.
        ir_version: version of the ONNX format.
        opsets: version by domain; "" is ai.onnx.
        producer: the exporter, as it names itself.
        inputs: what a caller gives.
        outputs: what it returns.
    """

    path: str | None
    bytes: int | None
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class Sharing:
    """The factors of a sharing ratio.

    Attributes:
        spatial: output positions of a convolution.
        temporal: steps of a recurrent cell, Scan or Loop.
        token: rows of a matrix product over a sequence.
        tied: nodes that use the same tensor.
    """

    spatial: int = 1
    temporal: int = 1
    token: int = 1
    tied: int = 1


class ReceptiveField(TypedDict):
    """What a position of a tensor sees of an input, per spatial axis.

    Attributes:
        size: how much.
        stride: how far the fields of neighbours are apart.
        start: where that of position 0 begins; negative in the padding.
    """

    size: list[int | float]
    stride: list[int | float]
    start: list[int | float]


@dataclass(frozen=True)
class NodeFacts:
    """One node of the graph, in graph order.

    Attributes:
        name: its name, made of its operator and its place where it has none.
        op_type, domain: its operator, and the operator's domain.
        inputs: the names of its inputs.
        outputs: its outputs.
        sharing: the factors of its sharing ratio.
        scope: where the node is: "" in the main graph, else the path of enclosing nodes.
        kind: conv, fc, recurrent, embedding, norm, elementwise, pool, layout or other.
        weights: names of the parameter tensors that the node uses.
        params: elements of those tensors, each counted here whatever else uses it; where several
            nodes use parts of one, its part (and with the first what none uses).
        params_new: only the tensors that no earlier node used, so that the column adds up.
        connections: uses of parameters per sample.
        sharing_ratio: connections / params; None without params.
        macs: multiply-accumulates per sample, bias not counted.
        flops: 2 · macs + element-wise work.
        unshared_params: weights of the locally connected layer of the same shape, no biases.
        dense_params: weights of an FC between the same input and output, no biases.
        receptive_field: size, stride and start per spatial axis, on the first image-like input
            that the node depends on, or None.
        receptive_field_note: why there is none ("whole input", "not an image" …), or a remark.
        receptive_fields: where several inputs are image-like: the field on each by name.
        param_bytes: bytes of the parameters it uses, as they are stored.
        activation_bytes: bytes per sample that it reads and writes, constants left out.
        arithmetic_intensity: FLOPs per byte that is moved; None where nothing is computed.
        bound_by: what takes its time on a machine that does 10 FLOPs per byte: weights,
            activations or arithmetic.
        module: where the source program had it, as exporters note it: `layer1/0/conv1`.
        memory_bytes: bytes per sample of all activations in memory while it runs (`Totals`); None
            in subgraphs, and where a size is unknown.
        counted: whether totals count its work; False in a branch of an If that is left out.
    """

    name: str
    op_type: str
    domain: str
    scope: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[str, ...]
    params: int
    params_new: int
    connections: int | None
    sharing_ratio: float | None
    sharing: Sharing
    macs: int | None
    flops: int | None
    unshared_params: int | None
    dense_params: int | None
    receptive_field: ReceptiveField | None
    receptive_field_note: str | None
    receptive_fields: dict[str, ReceptiveField | None]
    param_bytes: int
    activation_bytes: int | None
    arithmetic_intensity: float | None
    bound_by: str | None
    module: str = ""
    memory_bytes: int | None = None
    counted: bool = True

    @property
    def path(self) -> str:
        """Its name with the subgraph that it is in."""
        return f"{self.scope}/{self.name}" if self.scope else self.name


@dataclass(frozen=True)
class WeightFacts:
    """One stored parameter tensor and all its uses. What follows `sharing_ratio` is known only
    where hashes were requested.

    Attributes:
        name, dtype, shape: as it is stored.
        params: its elements.
        bytes: of them, as they are stored.
        used_by: names of the nodes that use it.
        connections: its uses per sample, in all of them; None if unknown.
        sharing_ratio: connections / params.
        same_as: the first tensor, in order of use, that holds the same.
        transposed_of: the first tensor that this one is a transpose of.
        hash: equal for equal type, dims and bytes, in this and in other models
            (`onnxshare.weights.content.Content`).
        uniform: whether all elements are the same bits, so that being equal means little.
        same_after: `dequantize` if the two are equal, or one the other's transpose, only as the
            real numbers they stand for; None if bit for bit.
        permutation: the order of axes in which `transposed_of`, transposed, is this tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    params: int
    bytes: int
    used_by: tuple[str, ...]
    connections: int | None
    sharing_ratio: float | None
    same_as: str | None = None
    transposed_of: str | None = None
    hash: str | None = None
    uniform: bool | None = None
    same_after: str | None = None
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class HeadLayer(Result):
    """One FC of a head.

    Attributes:
        node: its name.
        params: its parameters, bias included.
        in_features, out_features: how many values it reads and gives.
    """

    SHOWN = ("node", "params", "in=in_features", "out=out_features")

    node: str
    in_features: int
    out_features: int
    params: int


class HeadOffer(TypedDict, total=False):
    """What a rewrite would give of a head; or why it is refused, alone or with `nothing_to_do`.

    Attributes:
        exact: equal in real arithmetic.
        params_before, params_after: parameters of the nodes in question, then and now.
        detail: one phrase on what would be done.
        refused: the reason why not.
        nothing_to_do: true where that is because nothing is left to share.
    """

    exact: bool | None
    params_before: int
    params_after: int
    detail: str
    refused: str
    nothing_to_do: bool


@dataclass(frozen=True)
class HeadFacts:
    """A head: the FCs that follow a feature map.

    Attributes:
        nodes: its nodes, in graph order.
        feature_map: the tensor `[N, C, spatial…]` it starts from.
        channels: C.
        spatial: the spatial sizes.
        fcs: the FCs, in graph order.
        layout: the order of the flattened columns: NCHW, NHWC or permuted; mixed if the FCs
            differ, joined if they read several tensors, unknown if it was not followed.
        uniformity: share of the first FC's weight energy that is constant over space
            (1: GAP is exact; 1 / spatial positions: what random weights have); None if refused,
            unread, or if the map has one position.
        rewrites: per rewrite either what it would give or why it is refused.
    """

    nodes: tuple[str, ...]
    feature_map: str
    channels: int
    spatial: tuple[int, ...]
    fcs: tuple[HeadLayer, ...]
    layout: str
    uniformity: float | None
    rewrites: dict[str, HeadOffer] = field(default_factory=dict)


@dataclass(frozen=True)
class Totals(Result):
    """Sums over the model, per sample.

    Attributes:
        params: parameters, each tensor counted once.
        statistics: running means and variances.
        constants: single-element element-wise constants, and floating-point limits, scales and
            outputs that are stored as they stand.
        quantization: scales and zero points.
        unused: elements of constant tensors that nothing reads.
        other: stored floating-point elements whose use nobody can name: 0, or a warning says so.
        param_bytes: bytes of the parameters as they are stored.
        param_bytes_by_dtype: the same by element type.
        weight_bound_layers: nodes that are bound by reading their weights (`bound_by`).
        weight_bound_bytes: bytes of the parameters that those use, each tensor once.
        connections, sharing_ratio, macs, flops: as of nodes; None where a node's is unknown.
        weight_layers: nodes of kind conv, fc or recurrent that hold weights.
        fc_params: parameters used by FCs.
        fc_after_conv_params: parameters of the FCs in heads (after a feature map).
        peak_activation_bytes: largest sum of live activations in graph order.
        peak_activation_node: the node at which it is reached; None where the inputs are the most.
        dims: what the sums hold for: the sizes of symbols, and of axes without one (`image[2]`).
    """

    params: int
    statistics: int
    constants: int
    quantization: int
    unused: int
    other: int
    param_bytes: int
    param_bytes_by_dtype: dict[str, int]
    weight_bound_layers: int
    weight_bound_bytes: int
    connections: int | None
    sharing_ratio: float | None
    macs: int | None
    flops: int | None
    weight_layers: int
    fc_params: int
    fc_after_conv_params: int
    peak_activation_bytes: int | None
    peak_activation_node: str | None
    dims: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection(Result):
    """Everything that `inspect` reports about one model.

    Of a model that nobody else can change, one read from a file, the rows `nodes` and `weights`
    are worked out when they are first needed. `sizes` has a report for each of several sizes,
    where several were requested; the fields are then those of the first.

    Attributes:
        model: what identifies the model.
        totals: sums over it.
        nodes: its nodes, in graph order, those in subgraphs included.
        weights: its parameter tensors, in order of first use.
        heads: its FCs after feature maps, with what each rewrite would give.
        warnings: what is unknown, assumed or odd, as text.
    """

    #: Writes what a notebook shows: charts are made by code that builds on this.
    in_notebooks: ClassVar[Callable[[Inspection], str | None]] = lambda report: None

    model: ModelInfo
    totals: Totals
    nodes: tuple[NodeFacts, ...]
    weights: tuple[WeightFacts, ...]
    heads: tuple[HeadFacts, ...]
    warnings: tuple[str, ...]
    sizes: tuple[Inspection, ...] = ()

    @staticmethod
    def for_several_sizes(cases: Sequence[Inspection]) -> Inspection:
        """The report for the first of several sizes, with those for all of them as `sizes`."""
        first = cases[0]
        warnings = dict.fromkeys(words for case in cases for words in case.warnings)
        return replace(first, warnings=tuple(warnings), sizes=tuple(cases))

    @staticmethod
    def with_rows_later(
        model: ModelInfo,
        totals: Totals,
        heads: tuple[HeadFacts, ...],
        warnings: tuple[str, ...],
        later: dict[str, Callable[[], Any]],
    ) -> Inspection:
        """A report whose `nodes` and `weights` are made by `later` on first use."""
        given = {
            "model": model,
            "totals": totals,
            "heads": heads,
            "warnings": warnings,
            "sizes": (),
        }
        return made(Inspection, {**given, "_later": dict(later)})

    if not TYPE_CHECKING:  # the fields are declared above

        def __getattr__(self, name: str) -> Any:
            later = self.__dict__.get("_later", {})
            if name not in later:
                raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
            self.__dict__[name] = later[name]()
            later.pop(name, None)  # what it was made from is not kept
            return self.__dict__[name]

    @property
    def hashed(self) -> list[WeightFacts]:
        """The weights that were hashed; where hashes are requested, rows do not wait."""
        waiting = "weights" in self.__dict__.get("_later", {})
        return [] if waiting else [item for item in self.weights if item.hash]

    def __repr__(self) -> str:
        """One line, whatever the model's size."""
        return f"Inspection({self._summary()})"

    def _repr_html_(self) -> str | None:
        """What notebooks show; `onnxshare.api` says how."""
        return self.in_notebooks()

    def _summary(self) -> str:
        path, totals = self.model.path or "model", self.totals
        name = path if len(path) <= 100 else f"...{path[-97:]}"
        macs = "unknown" if totals.macs is None else f"{totals.macs:,}"
        counts = f"{len(self.nodes)} nodes, {len(self.heads)} heads, {len(self.warnings)} warnings"
        return f"{name!r}, {totals.params:,} parameters, {macs} MACs, {counts}"

    def to_dataframe(self) -> Any:
        """The nodes as a pandas frame, one row each; `params` counts a tensor with the first node
        that uses it, so that the column sums to the total.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_dataframe() needs pandas", "pip install pandas") from error
        rows = [{**plain(node), "params": node.params_new} for node in self.nodes]
        return pandas.DataFrame(rows)

    def __getstate__(self) -> dict[str, Any]:
        """The fields, rows included."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain types, laid out as `docs/reference/inspect.md` describes."""
        report = self.records()
        return {**report, "nodes": plain(self.nodes), "weights": plain(self.weights)}

    def records(self) -> dict[str, Any]:
        """The same, but for nodes and weights, which come as iterators over their dataclasses."""
        report: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for item in fields(self)[:-1]:
            found = getattr(self, item.name)
            report[item.name] = iter(found) if item.name in ("nodes", "weights") else plain(found)
        if self.sizes:
            report["sizes"] = [
                {"totals": plain(case.totals), "nodes": plain(case.nodes)} for case in self.sizes
            ]
        return report
