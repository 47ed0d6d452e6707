"""The one table of what operators do to receptive fields. An operator that has no row is not
followed: the field behind it is null, with its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from onnxshare.analysis import mixing, rearranging, resampling, sliding
from onnxshare.analysis.layout import UNARY
from onnxshare.analysis.places import State, Step
from onnxshare.graph.index import Node

Rule = Callable[[Step], State | list[State]]

SAME = rearranging.elementwise


def _rows(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_WINDOWS: dict[str, Rule] = {
    **_rows(sliding.convolution, "Conv ConvInteger"),
    **_rows(partial(sliding.convolution, weight=3), "QLinearConv"),
    **_rows(sliding.transposed_convolution, "ConvTranspose"),
    **_rows(sliding.pooling, "MaxPool AveragePool LpPool"),
    **_rows(sliding.global_pooling, "GlobalAveragePool GlobalMaxPool GlobalLpPool"),
}

STANDARD: dict[str, Rule] = {
    **_WINDOWS,
    **dict.fromkeys(UNARY - {"Clip"}, SAME),
    **_rows(
        SAME,
        "Add Sub Mul Div Pow Mod Sum Mean Max Min Where PRelu Clip Not And Or Xor Equal Greater "
        "GreaterOrEqual Less LessOrEqual IsNaN IsInf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh "
        "Acosh Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
    ),
    **_rows(rearranging.kept, "CastLike LRN Dropout"),
    **_rows(mixing.normalised, "BatchNormalization QuantizeLinear DequantizeLinear"),
    **_rows(mixing.everything, "DynamicQuantizeLinear"),
    **_rows(
        mixing.along_axis,
        "InstanceNormalization GroupNormalization LayerNormalization RMSNormalization "
        "MeanVarianceNormalization LpNormalization Softmax LogSoftmax Hardmax",
    ),
    **_rows(
        mixing.reduced,
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin",
    ),
    **_rows(mixing.product, "MatMul MatMulInteger"),
    **_rows(partial(mixing.product, right=3), "QLinearMatMul"),
    **_rows(mixing.fully_connected, "Gemm"),
    **_rows(mixing.gathered, "Gather"),
    **_rows(rearranging.transposed, "Transpose"),
    **_rows(rearranging.squeezed, "Squeeze"),
    **_rows(rearranging.unsqueezed, "Unsqueeze"),
    **_rows(rearranging.flattened, "Flatten"),
    **_rows(rearranging.reshaped, "Reshape"),
    **_rows(rearranging.expanded, "Expand"),
    **_rows(resampling.resize, "Resize Upsample"),
    **_rows(resampling.cut, "Slice"),
    **_rows(resampling.pad, "Pad"),
    **_rows(resampling.split, "Split"),
    **_rows(resampling.concatenated, "Concat"),
    **_rows(resampling.space_to_depth, "SpaceToDepth DepthToSpace"),
}

_CHANNELS_LAST = partial(sliding.convolution, channels_last=True, added=(3,))

_CONTRIB: dict[str, Rule] = {
    **_rows(partial(sliding.convolution, added=(3,)), "FusedConv"),
    **_rows(_CHANNELS_LAST, "NhwcConv NhwcFusedConv"),
    **_rows(sliding.pooling, "NhwcMaxPool QLinearAveragePool"),
    **_rows(sliding.global_pooling, "QLinearGlobalAveragePool"),
    **_rows(SAME, "Gelu QuickGelu FastGelu BiasGelu QLinearAdd QLinearMul"),
    **_rows(mixing.normalised, "QuantizeLinear DequantizeLinear QLinearSigmoid QLinearLeakyRelu"),
    **_rows(resampling.concatenated, "QLinearConcat"),
    **_rows(mixing.product, "MatMulIntegerToFloat"),
    **_rows(mixing.fully_connected, "FusedGemm QGemm"),
}

#: Operators that slide a window, or would if its size were known.
SLIDING = frozenset(_WINDOWS) | frozenset(
    "FusedConv NhwcConv NhwcFusedConv NhwcMaxPool QLinearAveragePool "
    "QLinearGlobalAveragePool".split()
)

#: What these give depends on the shape of what they read, not on its elements.
SHAPE_ONLY = frozenset(
    "Shape Size ConstantOfShape EyeLike RandomNormalLike RandomUniformLike".split()
)


def rule_of(node: Node) -> Rule | None:
    """The row of a node's operator, if it has one."""
    if node.standard:
        return STANDARD.get(node.op_type)
    return _CONTRIB.get(node.op_type) if node.domain == "com.microsoft" else None
