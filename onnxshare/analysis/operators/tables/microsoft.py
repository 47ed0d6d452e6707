"""Operators that ONNX Runtime adds, in the domain com.microsoft
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from onnxshare.analysis.operators.attribute_weights import (
    packed_experts,
    packed_matrix,
    packed_rows,
)
from onnxshare.analysis.operators.formulas import (
    attention,
    convolutions,
    elementwise,
    matrix_products,
    recurrent,
    signals,
)
from onnxshare.analysis.operators.operator import (
    OPERAND,
    PARAM,
    QUANTISED_OPERAND,
    QUANTIZATION,
    STRUCTURE,
    Operator,
)
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
    QUANTISE,
    REDUCTION,
)

_S, _Q, _P = STRUCTURE, QUANTIZATION, PARAM
_QO = QUANTISED_OPERAND

_SKIP = Operator("norm", (_S, _S, _P, _P, _P), elementwise.skip_normalisation)
_FUSED_MATMUL = Operator("fc", (_P, _P), matrix_products.fused_matmul)
_QUANTISED_BINARY = Operator(
    "elementwise", (_QO, _Q, _Q, _QO, _Q, _Q, _Q, _Q), elementwise.quantised_elementwise
)

_CONTRIB: dict[str, Operator] = {
    "FusedConv": Operator("conv", (_P, _P, _P, OPERAND), convolutions.fused_convolution),
    "NhwcConv NhwcFusedConv": Operator(
        "conv", (_P, _P, _P, OPERAND), convolutions.channels_last_convolution
    ),
    "QLinearConv": Operator(
        "conv", (_P, _Q, _Q, _P, _Q, _Q, _Q, _Q, _P), convolutions.quantised_convolution
    ),
    "ConvTransposeWithDynamicPads": Operator(
        "conv", (_P, _P, _S, _P), convolutions.padded_transposed_convolution
    ),
    "CausalConvWithState": CAUSAL_CONV,
    "FusedGemm": FC,
    "GemmFastGelu": Operator("fc", (_P, _P, _P), matrix_products.activated_matmul),
    "GemmFloat8": Operator("fc", (_P, _P, _P, _Q, _Q, _Q), matrix_products.gemm),
    "QGemm": Operator("fc", (_P, _Q, _Q, _P, _Q, _Q, _P, _Q, _Q), matrix_products.quantised_gemm),
    "FusedMatMul FusedMatMulActivation TransposeMatMul": _FUSED_MATMUL,
    "MatMulInteger16": MATMUL,
    "DynamicQuantizeMatMul": Operator(
        "fc", (_P, _P, _Q, _Q, _P), matrix_products.dynamically_quantised_matmul
    ),
    "MatMulIntegerToFloat": Operator(
        "fc", (_P, _P, _Q, _Q, _Q, _Q, _P), matrix_products.integer_matmul_to_float
    ),
    "MatMulNBits": Operator(
        "fc", (_S, _P, _Q, _Q, _S, _P), matrix_products.block_matmul, unpack=packed_matrix
    ),
    "MatMulBnb4": Operator("fc", (_S, _P, _Q), matrix_products.block_matmul, unpack=packed_matrix),
    "QOrderedMatMul": Operator(
        "fc", (_P, _Q, _P, _Q, _Q, _P, _QO, _Q), matrix_products.ordered_matmul
    ),
    "CDist": Operator("other", (_P, _P), matrix_products.distances, multiplies=True),
    "MoE": Operator("fc", (_S, _S, _P, _P, _P, _P, _P, _P), matrix_products.experts),
    "QMoE": Operator(
        "fc",
        (_S, _S, _P, _Q, _P, _P, _Q, _P, _P, _Q, _P, _Q, _Q, _Q, _S, _Q, _Q, _Q, _Q, _Q),
        matrix_products.quantised_experts,
        unpack=packed_experts,
    ),
    "DynamicQuantizeLSTM": Operator(
        "recurrent", (_P, _P, _P, _P, _S, _P, _P, _P, _Q, _Q, _Q, _Q), recurrent.recurrent
    ),
    "LinearAttention": LINEAR_ATTENTION,
    "Attention": Operator(
        "fc", (_P, _P, _P, _S, _S, OPERAND), attention.projected_attention
    ),
    "QAttention": Operator(
        "fc", (_P, _P, _P, _Q, _Q, _S, _Q, _Q), attention.quantised_attention
    ),
    "MultiHeadAttention": Operator(
        "other", (_P, _P, _P, _P, _S, OPERAND), attention.multi_head_attention, multiplies=True
    ),
    "GroupQueryAttention": Operator(
        "other",
        (_P, _P, _P, _S, _S, _S, _S, _P, _P, _S, OPERAND, _P, _Q, _Q, _P, _P),
        attention.group_query_attention,
        multiplies=True,
    ),
    "RotaryEmbedding": Operator(
        "elementwise", (_S, _S, _P, _P), attention.contrib_rotary_embedding
    ),
    "EmbedLayerNormalization": Operator(
        "embedding", (_S, _S, _P, _P, _P, _P, _P), attention.embeddings
    ),
    "QEmbedLayerNormalization": Operator(
        "embedding", (_S, _S, _P, _P, _P, _P, _P, _S, *(_Q,) * 10), attention.embeddings
    ),
    "GatherBlockQuantized": Operator(
        "embedding", (_P, _S, _Q, _Q), elementwise.embedding, unpack=packed_rows
    ),
    "TorchEmbedding": EMBEDDING,
    "RelativePositionBias": Operator("embedding", (_P,), elementwise.embedding),
    "SkipLayerNormalization SkipSimplifiedLayerNormalization": _SKIP,
    "GroupNorm": Operator("norm", (_S, _P, _P), elementwise.group_normalisation),
    "SkipGroupNorm": Operator("norm", (_S, _P, _P, _S, _P), elementwise.group_normalisation),
    "QOrderedLayerNormalization": Operator(
        "norm", (_S, _Q, _P, _P, _Q), elementwise.ordered_normalisation
    ),
    "QuantizeLinear DequantizeLinear QuantizeWithOrder DequantizeWithOrder": QUANTISE,
    "Gelu QuickGelu QOrderedGelu": ACTIVATION,
    "QLinearSigmoid QLinearLeakyRelu": Operator(
        "elementwise", (_S, _Q, _Q, _Q, _Q), elementwise.quantised_elementwise
    ),
    "QLinearSoftmax": Operator("elementwise", (_S, _Q, _Q, _Q, _Q), elementwise.softmax),
    "BiasGelu FastGelu": Operator("elementwise", (_S, _P), elementwise.elementwise),
    "BiasSplitGelu": Operator("elementwise", (_S, _P), elementwise.split_activation),
    "BiasAdd BiasDropout BitmaskBiasDropout ComplexMul ComplexMulConj MulInteger": ELEMENTWISE,
    "BiasSoftmax": Operator("elementwise", (_S, OPERAND), elementwise.biased_softmax),
    "QLinearAdd QLinearMul": _QUANTISED_BINARY,
    "QLinearWhere": Operator(
        "elementwise", (_S, _QO, _Q, _Q, _QO, _Q, _Q, _Q, _Q), elementwise.quantised_elementwise
    ),
    "QLinearConcat": Operator("layout", (_Q, _Q, *((_QO, _Q, _Q) * 64)), elementwise.join),
    "QLinearAveragePool": Operator("pool", (_S, _Q, _Q, _Q, _Q), elementwise.pooling),
    "QLinearGlobalAveragePool": Operator("pool", (_S, _Q, _Q, _Q, _Q), elementwise.reduction),
    "QLinearReduceMean": Operator("other", (_S, _Q, _Q, _Q, _Q), elementwise.reduction),
    "NhwcMaxPool MaxpoolWithMask": POOL,
    "ReduceSumInteger IsAllFinite": REDUCTION,
    "Inverse": Operator("other", (), signals.determinant),
    "GridSample": GRID_SAMPLE,
    "ExpandDims Trilu Unique Range Tokenizer BitmaskDropout UnfoldTensor": LAYOUT,
    "GatherND": EMBEDDING,
    "Pad": JOIN,
}  # fmt: skip

ROWS: dict[tuple[str, str], Operator] = {
    ("com.microsoft", name): row for names, row in _CONTRIB.items() for name in names.split()
}
