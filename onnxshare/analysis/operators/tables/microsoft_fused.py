"""More operators of ONNX Runtime: fused layers of language models, packed batches, transforms, and
what its optimiser writes into files for one kind of processor
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from onnxshare.analysis.operators.attribute_weights import (
    packed_blob,
    packed_floats,
    packed_matrix,
    packed_projection,
)
from onnxshare.analysis.operators.formulas import (
    attention,
    convolutions,
    elementwise,
    matrix_products,
    microsoft_fused,
)
from onnxshare.analysis.operators.operator import (
    OPERAND,
    PARAM,
    QUANTIZATION,
    STRUCTURE,
    AttributeWeight,
    Operator,
)
from onnxshare.analysis.operators.tables.standard import (
    ACTIVATION,
    BATCH_NORM,
    CONTROL,
    DATA_DEPENDENT,
    ELEMENTWISE,
    GLOBAL_POOL,
    GRID_SAMPLE,
    INTERPOLATION,
    LAYOUT,
    NORM,
    POOL,
)

_S, _Q, _P = STRUCTURE, QUANTIZATION, PARAM


def _unknown(*roles: str, kind: str = "other") -> Operator:
    """An operator whose work follows from data, and what it holds."""
    return Operator(kind, roles, microsoft_fused.depends_on_data, multiplies=True)


_CONTRIB: dict[str, Operator] = {
    "AttnLSTM": Operator(
        "recurrent",
        (_P, _P, _P, _P, _S, _P, _P, _P, _P, _P, _P, _P, _S, _P),
        microsoft_fused.attention_lstm,
    ),
    "BranchwiseRMSNorm": Operator("norm", (_S, _P), microsoft_fused.branch_normalisation),
    "GatedRMSNorm": Operator("norm", (_S, _P), microsoft_fused.gated_normalisation),
    "CropAndResize": Operator("other", (), microsoft_fused.crop_and_resize),
    "DecoderMaskedSelfAttention": Operator(
        "fc", (_P, _P, _P, _S, _S, OPERAND), attention.projected_attention
    ),
    "DecoderMaskedMultiHeadAttention": Operator(
        "other",
        (_P, _P, _P, _S, OPERAND, _S, _S, _S, _S, _S, _P),
        microsoft_fused.masked_attention,
        multiplies=True,
    ),
    "QOrderedAttention": Operator(
        "fc",
        (_S, *(_Q,) * 4, _P, _P, _P, *(_Q,) * 3, _P, _P, _P, *(_Q,) * 3, _S, _S, OPERAND),
        microsoft_fused.ordered_attention,
    ),
    "DynamicTimeWarping": Operator("other", (), microsoft_fused.time_warping),
    "EngramGate": Operator(
        "other", (_S, _S, _S, _P, _P, _P), microsoft_fused.engram_gate, multiplies=True
    ),
    "GatedAdd": ELEMENTWISE,
    "ScaledSiLU SampleOp": ACTIVATION,
    "GatedDeltaNet": Operator(
        "other", (_S, _S, _S, _S, _S, _S, _P, _P, _P), microsoft_fused.gated_delta, multiplies=True
    ),
    "GatedRelativePositionBias": Operator(
        "fc", (_S, _P, _P, _P, _P, _P), microsoft_fused.relative_position
    ),
    "GemmaRotaryEmbedding": Operator("elementwise", (), microsoft_fused.two_rotary_embeddings),
    "MRotaryEmbedding": Operator(
        "elementwise", (_S, _S, _P, _P), attention.contrib_rotary_embedding
    ),
    "HyperConnectionPostMix": Operator(
        "other", (_S, _S, _P, _P), microsoft_fused.mix_streams, multiplies=True
    ),
    "HyperConnectionPreMix": Operator(
        "other", (_S, _P), microsoft_fused.reduce_streams, multiplies=True
    ),
    "LinearAttentionGate": Operator("elementwise", (_S, _P, _P), microsoft_fused.decay_gate),
    "Rfft Irfft": Operator("other", (), microsoft_fused.real_transform),
    "MatMulBlockQuantizedFp4Weight": Operator(
        "fc", (_S, _P, _Q, _Q, _Q, _P), microsoft_fused.scaled_matmul, unpack=packed_floats
    ),
    "MatMulBlockQuantizedFp8Weight": Operator(
        "fc", (_S, _P, _Q, _Q, _P), microsoft_fused.scaled_float8_matmul
    ),
    "MatMulFpQ4": Operator("fc", (_S, _P), matrix_products.matmul, unpack=packed_blob),
    "MatMulNBitsMlp": Operator(
        "fc",
        (_S, _S, _P, _P, _Q, _P, _P, _Q, _P),
        microsoft_fused.projections,
        unpack=packed_matrix,
    ),
    "MatMulNBitsQkv": Operator(
        "fc",
        (_S, _S, _P, _P, _Q, _P, _P, _Q, _P, _P, _Q, _P),
        microsoft_fused.projections,
        unpack=packed_projection,
    ),
    "SparseToDenseMatMul": Operator("fc", (_P, _P), matrix_products.fused_matmul),
    "VarlenCausalConvWithState": Operator(
        "conv", (_S, _P, _S, _P), microsoft_fused.packed_convolution
    ),
    "NGramHashMapping VarlenNGramHashMapping NGramRepeatBlock MurmurHash3 BifurcationDetector":
        DATA_DEPENDENT,
    "RemovePadding RestorePadding": LAYOUT,
    "BeamSearch GreedySearch Sampling WhisperBeamSearch": CONTROL,
    # Which caches are used, how long sequences and which tokens attend to all others is data.
    "DecoderAttention": _unknown(_S, _S, _P, _P, _P, kind="fc"),
    "LongformerAttention": _unknown(_S, _P, _P, _S, _P, _P, kind="fc"),
    "QOrderedLongformerAttention": _unknown(
        _S, _Q, _P, _Q, _P, _Q, _Q, _S, _P, _Q, _P, _Q, _S, _Q, kind="fc"
    ),
    "PackedAttention": _unknown(_S, _P, _P, _S, _S, OPERAND, kind="fc"),
    "PackedMultiHeadAttention": _unknown(_S, _S, _S, _P, _S, _S, OPERAND),
    "PagedAttention": _unknown(*(_S,) * 8, _P, _P, _S, _P, _P, _P, _Q, _Q),
    "SparsePagedAttention": _unknown(*(_S,) * 14, _P, _P, _P, _P, _P, _Q, _Q),
    "SparseAttention": _unknown(*(_S,) * 9, _P, _P),
    "DynamicSparseAttention": _unknown(*(_S,) * 11, _P, _P, _S, _P, _P, _P),
    "SparseAttentionIndexer": _unknown(_S, _S, _P, _P, _P, _P, _S, _S, _S, _P),
    "PackedSparseAttentionIndexer": _unknown(_S, _S, _P, _P, _P, _P, _S, _S, _S, _P),
    "WordConvEmbedding": _unknown(_S, _P, _P, _P, kind="embedding"),
}  # fmt: skip

_ACTIVATED_CONV = Operator("conv", (_P, _P, _P, OPERAND), convolutions.fused_convolution)

#: Channels in blocks, as ONNX Runtime's optimiser lays them out for a CPU.
_BLOCKED: dict[str, Operator] = {
    "Conv": _ACTIVATED_CONV,
    "MaxPool AveragePool": POOL,
    "GlobalAveragePool GlobalMaxPool": GLOBAL_POOL,
    "ReorderInput ReorderOutput": LAYOUT,
    "Upsample": INTERPOLATION,
}

#: Operators of the standard with the channels last, as some of its providers take them.
_CHANNELS_LAST: dict[str, Operator] = {
    "Conv": Operator("conv", (_P, _P, _P), convolutions.channels_last_convolution),
    "QLinearConv": Operator(
        "conv", (_P, _Q, _Q, _P, _Q, _Q, _Q, _Q, _P), convolutions.channels_last_quantised
    ),
    "ConvTranspose": Operator(
        "conv", (_P, _P, _P), convolutions.channels_last_transposed
    ),
    "MaxPool AveragePool LpPool MaxUnpool": POOL,
    "QLinearAveragePool": Operator("pool", (_S, _Q, _Q, _Q, _Q), elementwise.pooling),
    "GlobalAveragePool GlobalMaxPool GlobalLpPool": GLOBAL_POOL,
    "BatchNormalization": BATCH_NORM,
    "InstanceNormalization": NORM,
    "LRN": Operator("norm", (), elementwise.response_normalisation),
    "GridSample": GRID_SAMPLE,
    "Resize": INTERPOLATION,
    "DepthToSpace SpaceToDepth": LAYOUT,
}  # fmt: skip

#: In the standard's domain, but of ONNX Runtime: what was in files of before ONNX 1.0, and copies
#: between devices.
_OLD: dict[str, Operator] = {
    "ImageScaler": Operator(
        "elementwise", (), microsoft_fused.scaled_image,
        attribute_weight=(AttributeWeight(("bias",)),)
    ),
    "Scale": ACTIVATION,
    "Crop DynamicSlice GivenTensorFill MemcpyFromHost MemcpyToHost": LAYOUT,
    "EfficientNMS_TRT": DATA_DEPENDENT,
}  # fmt: skip

ROWS: dict[tuple[str, str], Operator] = {
    (domain, name): row
    for domain, rows in (
        ("com.microsoft", _CONTRIB),
        ("com.microsoft.nchwc", _BLOCKED),
        ("com.ms.internal.nhwc", _CHANNELS_LAST),
        ("", _OLD),
    )
    for names, row in rows.items()
    for name in names.split()
}
