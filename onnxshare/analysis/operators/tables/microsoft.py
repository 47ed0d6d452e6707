"""Operators that ONNX Runtime adds, in the domain com.microsoft
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from functools import partial

from onnxshare.analysis.operators.attribute_weights import (
    packed_experts,
    packed_matrix,
    packed_rows,
)
from onnxshare.analysis.operators.formulas import attention, elementwise, recurrent, signals
from onnxshare.analysis.operators.formulas.convolutions import (
    channels_last,
    fused_convolution,
    quantized_convolution,
    transposed_convolution,
)
from onnxshare.analysis.operators.formulas.elementwise import quantized_elementwise
from onnxshare.analysis.operators.formulas.matrix_products import (
    experts,
    fused_matmul,
    gemm,
    matmul,
)
from onnxshare.analysis.operators.operator import Operator
from onnxshare.analysis.operators.tables.standard import (
    ACTIVATION,
    CAUSAL_CONV,
    ELEMENTWISE,
    EMBEDDING,
    FC,
    GRID_SAMPLE,
    JOIN,
    LAYOUT,
    LINEAR_ATTENTION,
    MATMUL,
    POOL,
    QUANTIZE,
    REDUCTION,
)

#: Of the sum of several inputs and a bias.
_FOUR = partial(elementwise.normalization, slots=(1, 2, 3, 4))

_CONTRIB: dict[str, Operator] = {
    "FusedConv": Operator("conv", "PPPO", fused_convolution),
    "NhwcConv NhwcFusedConv": Operator("conv", "PPPO", channels_last(fused_convolution)),
    "QLinearConv": Operator("conv", "PQQPQQQQP", quantized_convolution),
    "ConvTransposeWithDynamicPads": Operator(
        "conv", "PPSP", partial(transposed_convolution, bias=3)
    ),
    "CausalConvWithState": CAUSAL_CONV,
    "FusedGemm": FC,
    "GemmFastGelu": Operator("fc", "PPP", partial(matmul, bias=2)),
    "GemmFloat8": Operator("fc", "PPPQQQ", gemm),
    "QGemm": Operator("fc", "PQQPQQPQQ", partial(gemm, right=3, bias=6)),
    "FusedMatMul FusedMatMulActivation TransposeMatMul": Operator("fc", "PP", fused_matmul),
    "MatMulInteger16": MATMUL,
    "DynamicQuantizeMatMul": Operator("fc", "PPQQP", partial(matmul, bias=4)),
    "MatMulIntegerToFloat": Operator("fc", "PPQQQQP", partial(matmul, bias=6)),
    "MatMulNBits": Operator("fc", "SPQQSP", partial(matmul, bias=5), unpack=packed_matrix),
    "MatMulBnb4": Operator("fc", "SPQ", partial(matmul, bias=5), unpack=packed_matrix),
    "QOrderedMatMul": Operator("fc", "PQPQQPXQ", partial(matmul, right=2, bias=5)),
    "CDist": Operator("other", "PP", matmul, multiplies=True),
    "MoE": Operator("fc", "SSPPPPPP", experts),
    "QMoE": Operator(
        "fc",
        "SSPQPPQPPQPQQQSQQQQQ",
        partial(experts, first=4, second=7, third=10),
        unpack=packed_experts,
    ),
    "DynamicQuantizeLSTM": Operator("recurrent", "PPPPSPPPQQQQ", recurrent.recurrent),
    "LinearAttention": LINEAR_ATTENTION,
    "Attention": Operator("fc", "PPPSSO", attention.projected_attention),
    "QAttention": Operator(
        "fc", "PPPQQSQQ", partial(attention.projected_attention, past=8, bias=99)
    ),
    "MultiHeadAttention": Operator(
        "other", "PPPPSO", attention.multi_head_attention, multiplies=True
    ),
    "GroupQueryAttention": Operator(
        "other", "PPPSSSSPPSOPQQPP", attention.group_query_attention, multiplies=True
    ),
    "RotaryEmbedding": Operator(
        "elementwise", "SSPP", partial(attention.rotary_embedding, tables=(2, 3))
    ),
    "EmbedLayerNormalization": Operator("embedding", "SSPPPPP", attention.embeddings),
    "QEmbedLayerNormalization": Operator("embedding", "SSPPPPPSQQQQQQQQQQ", attention.embeddings),
    "GatherBlockQuantized": Operator(
        "embedding", "PSQQ", elementwise.embedding, unpack=packed_rows
    ),
    "TorchEmbedding": EMBEDDING,
    "RelativePositionBias": Operator("embedding", "P", elementwise.embedding),
    "SkipLayerNormalization SkipSimplifiedLayerNormalization": Operator("norm", "SSPPP", _FOUR),
    "GroupNorm": Operator("norm", "SPP", _FOUR),
    "SkipGroupNorm": Operator("norm", "SPPSP", _FOUR),
    "QOrderedLayerNormalization": Operator(
        "norm", "SQPPQ", partial(elementwise.normalization, slots=(2, 3))
    ),
    "QuantizeLinear DequantizeLinear QuantizeWithOrder DequantizeWithOrder": QUANTIZE,
    "Gelu QuickGelu QOrderedGelu": ACTIVATION,
    "QLinearSigmoid QLinearLeakyRelu": Operator("elementwise", "SQQQQ", quantized_elementwise),
    "QLinearSoftmax": Operator("elementwise", "SQQQQ", elementwise.softmax),
    "BiasGelu FastGelu": Operator("elementwise", "SP", elementwise.elementwise),
    "BiasSplitGelu": Operator("elementwise", "SP", elementwise.split_activation),
    "BiasAdd BiasDropout BitmaskBiasDropout ComplexMul ComplexMulConj MulInteger": ELEMENTWISE,
    "BiasSoftmax": Operator("elementwise", "SO", elementwise.biased_softmax),
    "QLinearAdd QLinearMul": Operator("elementwise", "XQQXQQQQ", quantized_elementwise),
    "QLinearWhere": Operator("elementwise", "SXQQXQQQQ", quantized_elementwise),
    "QLinearConcat": Operator("layout", "QQ" + "XQQ" * 64, elementwise.join),
    "QLinearAveragePool": Operator("pool", "SQQQQ", elementwise.pooling),
    "QLinearGlobalAveragePool": Operator("pool", "SQQQQ", elementwise.reduction),
    "QLinearReduceMean": Operator("other", "SQQQQ", elementwise.reduction),
    "NhwcMaxPool MaxpoolWithMask": POOL,
    "ReduceSumInteger IsAllFinite": REDUCTION,
    "Inverse": Operator("other", "", signals.determinant),
    "GridSample": GRID_SAMPLE,
    "ExpandDims Trilu Unique Range Tokenizer BitmaskDropout UnfoldTensor": LAYOUT,
    "GatherND": EMBEDDING,
    "Pad": JOIN,
}  # fmt: skip

ROWS: dict[tuple[str, str], Operator] = {
    ("com.microsoft", name): row for names, row in _CONTRIB.items() for name in names.split()
}
