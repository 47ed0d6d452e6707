"""More operators of ONNX Runtime: fused layers of language models, packed batches, transforms, and
what its optimiser writes into files for one kind of processor
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""

from __future__ import annotations

from functools import partial

from onnxshare.analysis.operators.attribute_weights import (
    packed_blob,
    packed_floats,
    packed_matrix,
    packed_projection,
)
from onnxshare.analysis.operators.formulas import attention, convolutions, elementwise
from onnxshare.analysis.operators.formulas import microsoft_fused as fused
from onnxshare.analysis.operators.formulas.convolutions import channels_last
from onnxshare.analysis.operators.formulas.matrix_products import fused_matmul, matmul
from onnxshare.analysis.operators.operator import AttributeWeight, Operator
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


def _unknown(roles: str, kind: str = "other") -> Operator:
    """An operator whose work follows from data, and what it holds."""
    return Operator(kind, roles, fused.depends_on_data, multiplies=True)


_CONTRIB: dict[str, Operator] = {
    "AttnLSTM": Operator("recurrent", "PPPPSPPPPPPPSP", fused.attention_lstm),
    "BranchwiseRMSNorm": Operator("norm", "SP", partial(elementwise.normalization, slots=(1,))),
    "GatedRMSNorm": Operator("norm", "SP", fused.gated_normalization),
    "CropAndResize": Operator("other", "", fused.crop_and_resize),
    "DecoderMaskedSelfAttention": Operator("fc", "PPPSSO", attention.projected_attention),
    "DecoderMaskedMultiHeadAttention": Operator(
        "other", "PPPSOSSSSSP", fused.masked_attention, multiplies=True
    ),
    "QOrderedAttention": Operator("fc", "SQQQQPPPQQQPPPQQQSSO", fused.ordered_attention),
    "DynamicTimeWarping": Operator("other", "", fused.time_warping),
    "EngramGate": Operator("other", "SSSPPP", fused.engram_gate, multiplies=True),
    "GatedAdd": ELEMENTWISE,
    "ScaledSiLU SampleOp": ACTIVATION,
    "GatedDeltaNet": Operator("other", "SSSSSSPPP", fused.gated_delta, multiplies=True),
    "GatedRelativePositionBias": Operator("fc", "SPPPPP", fused.relative_position),
    "GemmaRotaryEmbedding": Operator("elementwise", "", fused.two_rotary_embeddings),
    "MRotaryEmbedding": Operator(
        "elementwise", "SSPP", partial(attention.rotary_embedding, tables=(2, 3))
    ),
    "HyperConnectionPostMix": Operator("other", "SSPP", fused.mix_streams, multiplies=True),
    "HyperConnectionPreMix": Operator("other", "SP", fused.reduce_streams, multiplies=True),
    "LinearAttentionGate": Operator("elementwise", "SPP", fused.decay_gate),
    "Rfft Irfft": Operator("other", "", fused.real_transform),
    "MatMulBlockQuantizedFp4Weight": Operator(
        "fc", "SPQQQP", partial(matmul, bias=5), unpack=packed_floats
    ),
    "MatMulBlockQuantizedFp8Weight": Operator("fc", "SPQQP", partial(matmul, bias=4)),
    "MatMulFpQ4": Operator("fc", "SP", matmul, unpack=packed_blob),
    "MatMulNBitsMlp": Operator("fc", "SSPPQPPQP", fused.projections, unpack=packed_matrix),
    "MatMulNBitsQkv": Operator("fc", "SSPPQPPQPPQP", fused.projections, unpack=packed_projection),
    "SparseToDenseMatMul": Operator("fc", "PP", fused_matmul),
    "VarlenCausalConvWithState": Operator("conv", "SPSP", fused.packed_convolution),
    "NGramHashMapping VarlenNGramHashMapping NGramRepeatBlock MurmurHash3 BifurcationDetector":
        DATA_DEPENDENT,
    "RemovePadding RestorePadding": LAYOUT,
    "BeamSearch GreedySearch Sampling WhisperBeamSearch": CONTROL,
    # Which caches are used, how long sequences and which tokens attend to all others is data.
    "DecoderAttention": _unknown("SSPPP", kind="fc"),
    "LongformerAttention": _unknown("SPPSPP", kind="fc"),
    "QOrderedLongformerAttention": _unknown("SQPQPQQSPQPQSQ", kind="fc"),
    "PackedAttention": _unknown("SPPSSO", kind="fc"),
    "PackedMultiHeadAttention": _unknown("SSSPSSO"),
    "PagedAttention": _unknown("SSSSSSSSPPSPPPQQ"),
    "SparsePagedAttention": _unknown("SSSSSSSSSSSSSSPPPPPQQ"),
    "SparseAttention": _unknown("SSSSSSSSSPP"),
    "DynamicSparseAttention": _unknown("SSSSSSSSSSSPPSPPP"),
    "SparseAttentionIndexer": _unknown("SSPPPPSSSP"),
    "PackedSparseAttentionIndexer": _unknown("SSPPPPSSSP"),
    "WordConvEmbedding": _unknown("SPPP", kind="embedding"),
}  # fmt: skip

_ACTIVATED_CONV = Operator("conv", "PPPO", convolutions.fused_convolution)

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
    "Conv": Operator("conv", "PPP", channels_last(convolutions.fused_convolution)),
    "QLinearConv": Operator(
        "conv", "PQQPQQQQP", channels_last(partial(convolutions.convolution, weight=3, bias=8))
    ),
    "ConvTranspose": Operator("conv", "PPP", channels_last(convolutions.transposed_convolution)),
    "MaxPool AveragePool LpPool MaxUnpool": POOL,
    "QLinearAveragePool": Operator("pool", "SQQQQ", elementwise.pooling),
    "GlobalAveragePool GlobalMaxPool GlobalLpPool": GLOBAL_POOL,
    "BatchNormalization": BATCH_NORM,
    "InstanceNormalization": NORM,
    "LRN": Operator("norm", "", elementwise.response_normalization),
    "GridSample": GRID_SAMPLE,
    "Resize": INTERPOLATION,
    "DepthToSpace SpaceToDepth": LAYOUT,
}  # fmt: skip

#: In the standard's domain, but of ONNX Runtime: what was in files of before ONNX 1.0, and copies
#: between devices.
_OLD: dict[str, Operator] = {
    "ImageScaler": Operator(
        "elementwise", "", fused.scaled_image, attribute_weight=(AttributeWeight(("bias",)),)
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
