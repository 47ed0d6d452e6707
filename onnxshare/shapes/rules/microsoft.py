"""Shapes of the operators that ONNX Runtime adds to the standard, as standard operators of the
same shapes (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).

An operator without a rule here, and an output that a rule leaves out, is unknown.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from onnx import TensorProto

from onnxshare.shapes.rules import microsoft_attention, microsoft_fused
from onnxshare.shapes.rules.substitute import Body, NoRule, Rule, applied, same

_WINDOW = ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode")


def _turned(body: Body, rank: int | None, op_type: str, *others: str, **attributes: Any) -> None:
    """The result of an operator that wants the channels second, for data of so many axes which has
    them last; None: they are."""
    data = body.input(0)
    if rank is not None:
        data = body.op("Transpose", data, perm=[0, rank - 1, *range(1, rank - 1)])
    result = body.op(op_type, data, *others, **attributes)
    if rank is not None:
        result = body.op("Transpose", result, perm=[0, *range(2, rank), 1])
    body.output(0, result)


def _convolution(body: Body, weight: int = 1, *, channels_last: bool = False) -> None:
    window = body.attributes("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    window["group"] = body.attribute("group", 1)
    rank = None
    if channels_last:
        kernel = body.attribute("kernel_shape", [])
        rank = len(kernel) + 2 if kernel else body.rank(weight)
    _turned(body, rank, "Conv", body.input(weight), **window)


def _quantized_convolution(body: Body) -> None:
    _convolution(body, 3, channels_last=bool(body.attribute("channels_last", 0)))


def _pool(body: Body, op_type: str, channels_last: bool | None = None) -> None:
    attributes = body.attributes(*_WINDOW)
    if "kernel_shape" not in attributes:
        raise NoRule
    if op_type == "AveragePool":
        attributes.pop("dilations", None)
    last = body.attribute("channels_last", 0) if channels_last is None else channels_last
    _turned(body, len(attributes["kernel_shape"]) + 2 if last else None, op_type, **attributes)


def _quantized_global_pool(body: Body) -> None:
    if body.attribute("channels_last", 0):
        raise NoRule  # which axes are spatial depends on the rank
    body.output(0, body.op("GlobalAveragePool", body.input(0)))


_MATMUL = applied("MatMul", 0, 1)


def _fused_matmul(body: Body) -> None:
    """transA and transB swap the last two axes; here the inner axis is summed up, which says where
    rows and columns are whatever the number of axes."""
    if body.attribute("transBatchA", 0) or body.attribute("transBatchB", 0):
        raise NoRule  # where the rows are depends on the number of axes
    turned = body.attribute("transA", 0), body.attribute("transB", 0)
    if turned == (0, 0):
        return _MATMUL(body)
    rows = body.sum(body.input(0), -2 if turned[0] else -1)
    columns = body.sum(body.input(1), -1 if turned[1] else -2)
    rows = body.op("Unsqueeze", rows, body.integers(-1))
    columns = body.op("Unsqueeze", columns, body.integers(-2))
    return body.output(0, body.op("MatMul", rows, columns))


def _lstm(body: Body) -> None:
    attributes = body.attributes("hidden_size", "direction", "layout")
    inputs = [body.input(position) for position in range(3)]
    body.outputs(body.ops(3, "LSTM", *inputs, **attributes))


def _skip_normalization(body: Body) -> None:
    """The result, the mean and deviation of each row, and the sum of the operands."""
    body.output(0, body.input(0))
    rows = body.op("ReduceMean", body.input(0), body.integers(-1))
    body.output(1, rows)
    body.output(2, rows)
    body.output(3, body.input(0))


def _quantized_concat(body: Body) -> None:
    parts = [body.input(position) for position in range(2, len(body.node.input), 3)]
    body.output(0, body.op("Concat", *parts, axis=body.attribute("axis")))


def _quantized_mean(body: Body) -> None:
    axes = body.attribute("axes", [])
    inputs = [body.input(0), *([body.integers(*axes)] if axes else [])]
    body.output(0, body.op("ReduceMean", *inputs, keepdims=body.attribute("keepdims", 1)))


def _quantize(body: Body) -> None:
    if body.has(2):
        return body.output(0, body.like(body.input(0), 2))
    return body.output(0, body.op("Cast", body.input(0), to=TensorProto.UINT8))


_RULES: dict[Rule, str] = {
    same(0): "Gelu QuickGelu BiasGelu FastGelu BiasSoftmax BiasAdd GroupNorm RotaryEmbedding MoE "
    "QMoE QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QOrderedGelu QOrderedLayerNormalization "
    "Inverse Trilu",
    same(0, 0): "SkipGroupNorm",
    _convolution: "FusedConv",
    partial(_convolution, channels_last=True): "NhwcConv NhwcFusedConv",
    _quantized_convolution: "QLinearConv",
    partial(_pool, op_type="MaxPool", channels_last=True): "NhwcMaxPool",
    partial(_pool, op_type="AveragePool"): "QLinearAveragePool",
    _quantized_global_pool: "QLinearGlobalAveragePool",
    lambda body: body.output(0, body.gemm()): "FusedGemm",
    lambda body: body.output(0, body.like(body.gemm(3), 8 if body.has(8) else 1)): "QGemm",
    applied("Gemm", 0, 1, transB=1): "CDist",
    _MATMUL: "GemmFastGelu DynamicQuantizeMatMul",
    applied("MatMul", 0, 1, like=2): "MatMulIntegerToFloat",
    applied("MatMul", 0, 1, to=TensorProto.INT32): "MatMulInteger16",
    _fused_matmul: "FusedMatMul TransposeMatMul FusedMatMulActivation SparseToDenseMatMul",
    partial(microsoft_fused.projections, columns=("N",)): "MatMulNBits MatMulBnb4",
    _lstm: "DynamicQuantizeLSTM AttnLSTM",
    microsoft_attention.attention: "Attention",
    partial(microsoft_attention.attention, past=8, like=3): "QAttention",
    microsoft_attention.multi_head_attention: "MultiHeadAttention",
    microsoft_attention.group_query_attention: "GroupQueryAttention",
    microsoft_attention.embeddings: "EmbedLayerNormalization",
    partial(microsoft_attention.embeddings, like=8): "QEmbedLayerNormalization",
    _skip_normalization: "SkipLayerNormalization SkipSimplifiedLayerNormalization",
    applied("Add", 0, 3): "QLinearAdd QLinearMul",
    applied("Add", 0, 2, to=TensorProto.INT32): "MulInteger",
    _quantized_concat: "QLinearConcat",
    _quantized_mean: "QLinearReduceMean",
    _quantize: "QuantizeLinear",
    applied("CastLike", 0, 1): "DequantizeLinear",
    applied("Where", 0, 1, 4): "QLinearWhere",
    applied("Gather", 0, 1): "TorchEmbedding",
    lambda body: body.output(0, body.ops(2, "Split", body.input(0), axis=-1, num_outputs=2)[0]): (
        "BiasSplitGelu"
    ),
}

#: With their channels in blocks, for one kind of processor.
_BLOCKED: dict[str, Rule] = {
    "Conv": _convolution,
    "MaxPool": partial(_pool, op_type="MaxPool", channels_last=False),
    "AveragePool": partial(_pool, op_type="AveragePool", channels_last=False),
    "GlobalAveragePool": applied("GlobalAveragePool", 0),
    "GlobalMaxPool": applied("GlobalMaxPool", 0),
}

#: (domain, operator) → the rule for its shapes. One of ONNX Runtime's is in the default domain,
#: and of two of the standard's own operators onnx infers nothing.
RULES: dict[tuple[str, str], Rule] = {
    **{("com.microsoft", name): rule for rule, names in _RULES.items() for name in names.split()},
    **microsoft_fused.RULES,
    **{("com.microsoft.nchwc", name): rule for name, rule in _BLOCKED.items()},
    ("", "SimplifiedLayerNormalization"): same(0),
    ("", "GroupNormalization"): same(0),
    ("", "MeanVarianceNormalization"): same(0),
}
