"""What every operator does to its data, one row each: the standard's and ONNX Runtime's.

`TRAITS` is the one place where this is known; other modules ask it instead of listing operators.
An operator that it has no row for (a custom one) has the effect `UNKNOWN`, and answers no to every
question. To add an operator, name it in the row of those that do the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from onnxshare.support import plugins


class Effect(StrEnum):
    """What an operator makes of its data. Each operator has one."""

    #: Each element on its own (constants aside), in its place.
    ELEMENTWISE = "element-wise"
    #: The same elements, in the same order, in another shape.
    RESHAPE = "reshape"
    #: The same elements, each once, in another order.
    PERMUTATION = "permutation"
    #: A part of the elements, the rest cut off or masked.
    CUT = "cut"
    #: Elements that indices or conditions name.
    LOOKUP = "lookup"
    #: The elements several times, or with others around them.
    REPEAT = "repeat"
    #: Several tensors side by side.
    JOIN = "join"
    #: Elements written over others.
    SCATTER = "scatter"
    #: A weighted window that slides over positions.
    CONVOLUTION = "convolution"
    #: A window without weights that slides over positions, or regions.
    POOLING = "pooling"
    #: One number for all positions of a channel.
    GLOBAL_POOLING = "global pooling"
    #: One number for all elements along some axes.
    REDUCTION = "reduction"
    #: Each element by what all along some axes, or neighbouring channels, are.
    NORMALIZATION = "normalization"
    #: As that, and what comes out are shares of one or places: of classes, mostly.
    SOFTMAX = "softmax"
    #: Each element with those before it, or in the order of size.
    ORDERING = "ordering"
    #: Elements between those that are there.
    INTERPOLATION = "interpolation"
    #: A matrix product.
    PRODUCT = "product"
    #: A cell that steps along time.
    RECURRENT = "recurrent"
    #: Every position by every other.
    ATTENTION = "attention"
    #: Another linear algebra or signal transform.
    TRANSFORM = "transform"
    #: Random numbers.
    RANDOM = "random"
    #: Subgraphs.
    CONTROL_FLOW = "control flow"
    #: A tensor that is stored, or made of sizes alone.
    SOURCE = "source"
    #: The sizes of a tensor.
    SHAPE = "shape"
    #: Sequences, optional values and maps.
    CONTAINER = "container"
    #: Strings.
    TEXT = "text"
    #: A model of classical machine learning.
    ESTIMATOR = "estimator"
    #: A loss, or a step of training.
    TRAINING = "training"
    #: Boxes, places, copies between devices and whatever else.
    OTHER = "other"
    #: No row.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Traits:
    """A row of the table.

    Attributes:
        effect: what the operator makes of its data.
        data: the inputs that the data comes in by; None for all. Others are parameters.
        shape_inputs: the inputs whose values decide the shape of the result.
        carries: whether a stored weight that goes through it is the same weight still: the same
            numbers in another order, shape or type.
        views: whether what it makes of a stored weight is that weight: cut out, repeated, or joined
            with others.
        arithmetic: whether it is arithmetic of numbers in their places: Add, Sub, Mul, Div, Pow,
            Max, Min.
        linear: whether it is linear in each operand: Add, Sub, Mul, Div.
        hides: whether different data may give equal results: it saturates, rounds or picks.
        ignores_shift: whether a number that is added to all its data changes nothing.
        rounds: whether it rounds data to a few bits, as it runs.
        quantized: whether it computes with scales and zero points.
        steps: whether what it makes of numbers jumps, and does not move in between.
        selects: whether it compares, picks or cuts off numbers, and rounds none.
        shape_only: whether what it makes depends on sizes alone, on no element of the data.
    """

    effect: Effect
    data: tuple[int, ...] | None = None
    shape_inputs: tuple[int, ...] = ()
    carries: bool = False
    views: bool = False
    arithmetic: bool = False
    linear: bool = False
    hides: bool = False
    ignores_shift: bool = False
    rounds: bool = False
    quantized: bool = False
    steps: bool = False
    selects: bool = False
    shape_only: bool = False

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result follows from the elements in its place."""
        return self.effect is Effect.ELEMENTWISE

    @property
    def moves(self) -> bool:
        """Whether it moves elements: the result holds all of them, each once."""
        return self.effect in _MOVES

    @property
    def exact(self) -> bool:
        """Whether it rounds nothing."""
        return self.selects or self.effect in _EXACT

    @property
    def slides(self) -> bool:
        """Whether it moves a window over positions, or would if the window were not the map."""
        return self.effect in _SLIDES

    @property
    def along_axis(self) -> bool:
        """Whether an element of the result depends on everything along some axis."""
        return self.effect in _ALONG_AXIS


_MOVES = frozenset((Effect.RESHAPE, Effect.PERMUTATION))
_EXACT = _MOVES | {Effect.CUT, Effect.LOOKUP, Effect.REPEAT, Effect.JOIN, Effect.SHAPE}
_SLIDES = frozenset((Effect.CONVOLUTION, Effect.POOLING, Effect.GLOBAL_POOLING))
_ALONG_AXIS = frozenset(
    (
        Effect.GLOBAL_POOLING,
        Effect.REDUCTION,
        Effect.NORMALIZATION,
        Effect.SOFTMAX,
        Effect.ORDERING,
        Effect.PRODUCT,
        Effect.RECURRENT,
        Effect.ATTENTION,
        Effect.TRANSFORM,
    )
)

UNKNOWN = Traits(Effect.UNKNOWN)

_UNARY = Traits(Effect.ELEMENTWISE, (0,))
_SATURATING = Traits(Effect.ELEMENTWISE, (0,), hides=True)
_OPERANDS = Traits(Effect.ELEMENTWISE)
_SIGN = Traits(Effect.ELEMENTWISE, (0,), selects=True)
_CLIP = Traits(Effect.ELEMENTWISE, (0,), hides=True, selects=True)
_STEPS = Traits(Effect.ELEMENTWISE, (0,), hides=True, steps=True, selects=True)
_COMPARISON = Traits(Effect.ELEMENTWISE, hides=True, steps=True, selects=True)
_LOGIC = Traits(Effect.ELEMENTWISE, selects=True)
_ARITHMETIC = Traits(Effect.ELEMENTWISE, arithmetic=True)
_LINEAR = Traits(Effect.ELEMENTWISE, arithmetic=True, linear=True)
_CARRYING = Traits(Effect.ELEMENTWISE, (0,), carries=True, selects=True)
_QUANTIZE = Traits(Effect.ELEMENTWISE, (0,), rounds=True, quantized=True)
_DEQUANTIZE = Traits(Effect.ELEMENTWISE, (0,), carries=True, quantized=True)
_RESHAPE = Traits(Effect.RESHAPE, (0,), shape_inputs=(1,), carries=True)
_PERMUTATION = Traits(Effect.PERMUTATION, (0,), views=True)
_CUT = Traits(Effect.CUT, (0,))
_LOOKUP = Traits(Effect.LOOKUP, (0,))
_REPEAT = Traits(Effect.REPEAT, (0,), shape_inputs=(1,))
_JOIN = Traits(Effect.JOIN)
_SCATTER = Traits(Effect.SCATTER)
_CONVOLUTION = Traits(Effect.CONVOLUTION, (0,))
_QUANTIZED_CONVOLUTION = Traits(Effect.CONVOLUTION, (0,), quantized=True)
_POOLING = Traits(Effect.POOLING, (0,))
_LARGEST = Traits(Effect.POOLING, (0,), selects=True)
_GLOBAL_POOLING = Traits(Effect.GLOBAL_POOLING, (0,))
_REDUCTION = Traits(Effect.REDUCTION, (0,), shape_inputs=(1,))
_EXTREME = Traits(Effect.REDUCTION, (0,), shape_inputs=(1,), selects=True)
_BEST = replace(_EXTREME, shape_inputs=(), hides=True, steps=True, ignores_shift=True)
_NORMALIZATION = Traits(Effect.NORMALIZATION, (0,))
_CENTERING = Traits(Effect.NORMALIZATION, (0,), ignores_shift=True)
_SOFTMAX = Traits(Effect.SOFTMAX, (0,), hides=True, ignores_shift=True)
_INTERPOLATION = Traits(Effect.INTERPOLATION, (0,))
_PRODUCT = Traits(Effect.PRODUCT)
_QUANTIZED_PRODUCT = Traits(Effect.PRODUCT, quantized=True)
_ROUNDED_PRODUCT = Traits(Effect.PRODUCT, rounds=True, quantized=True)
_RECURRENT = Traits(Effect.RECURRENT, (0,))
_ATTENTION = Traits(Effect.ATTENTION)
_TRANSFORM = Traits(Effect.TRANSFORM, (0,))
_RANDOM = Traits(Effect.RANDOM)
_RANDOM_LIKE = Traits(Effect.RANDOM, shape_only=True)
_CONTROL_FLOW = Traits(Effect.CONTROL_FLOW)
_SOURCE = Traits(Effect.SOURCE)
_SHAPE = Traits(Effect.SHAPE, shape_only=True)
_CONTAINER = Traits(Effect.CONTAINER)
_TEXT = Traits(Effect.TEXT)
_ESTIMATOR = Traits(Effect.ESTIMATOR, (0,))
_TREES = replace(_ESTIMATOR, steps=True)
_TRAINING = Traits(Effect.TRAINING)
_OTHER = Traits(Effect.OTHER)

Rows = tuple[tuple[str, Traits], ...]

_STANDARD: Rows = (
    (
        "Acos Acosh Asin Asinh Atan Cos Cosh Reciprocal Sin Sinh Tan Shrink Affine "
        "IsInf IsNaN BitwiseNot ImageScaler Scale",
        _UNARY,
    ),
    (
        "Atanh Celu Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish ParametricSoftplus "
        "ScaledTanh Selu Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu",
        _SATURATING,
    ),
    ("Abs Neg", _SIGN),
    ("Clip Not Relu", _CLIP),
    ("Ceil Floor Round Sign", _STEPS),
    ("Identity CastLike", _CARRYING),
    ("Cast", Traits(Effect.ELEMENTWISE, (0,), carries=True, hides=True, selects=True)),
    ("BatchNormalization BitCast", _UNARY),
    ("Dropout", Traits(Effect.ELEMENTWISE, (0,), views=True, selects=True)),
    ("QuantizeLinear", _QUANTIZE),
    ("DequantizeLinear", _DEQUANTIZE),
    ("Add Sub Mul Div", _LINEAR),
    ("Pow", _ARITHMETIC),
    ("Max Min", Traits(Effect.ELEMENTWISE, arithmetic=True, selects=True)),
    ("And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor Where", _LOGIC),
    ("Mean Mod PRelu Sum SwiGLU", _OPERANDS),
    ("Equal Greater GreaterOrEqual Less LessOrEqual", _COMPARISON),
    ("Flatten", Traits(Effect.RESHAPE, (0,), carries=True)),
    ("Reshape Squeeze Unsqueeze", _RESHAPE),
    ("Transpose", Traits(Effect.PERMUTATION, (0,), carries=True)),
    ("DepthToSpace SpaceToDepth", _PERMUTATION),
    ("ReverseSequence", Traits(Effect.PERMUTATION, (0,))),
    ("Slice", Traits(Effect.CUT, (0,), shape_inputs=(1, 2, 3, 4), views=True)),
    ("Split", Traits(Effect.CUT, (0,), shape_inputs=(1,), views=True)),
    ("Trilu", Traits(Effect.CUT, (0,), views=True)),
    ("Crop DynamicSlice", _CUT),
    ("Gather", Traits(Effect.LOOKUP, (0,), views=True)),
    ("GatherElements GatherND", _LOOKUP),
    ("Compress", Traits(Effect.LOOKUP, (0,), shape_inputs=(1,))),
    ("Unique", Traits(Effect.LOOKUP, (0,), shape_inputs=(0,))),
    ("OneHot", _REPEAT),
    ("Expand Tile", Traits(Effect.REPEAT, (0,), shape_inputs=(1,), views=True)),
    ("Pad", Traits(Effect.REPEAT, (0,), shape_inputs=(1, 3))),
    ("CenterCropPad", _REPEAT),
    ("Concat", Traits(Effect.JOIN, views=True)),
    ("Scatter ScatterElements ScatterND TensorScatter", _SCATTER),
    ("Conv ConvTranspose DeformConv CausalConvWithState", _CONVOLUTION),
    ("QLinearConv", _QUANTIZED_CONVOLUTION),
    ("ConvInteger", Traits(Effect.CONVOLUTION, (0,), rounds=True, quantized=True)),
    ("AveragePool LpPool", _POOLING),
    ("MaxPool MaxRoiPool", _LARGEST),
    ("MaxUnpool", Traits(Effect.REPEAT, (0,), shape_inputs=(2,))),
    ("GlobalAveragePool GlobalLpPool GlobalMaxPool", _GLOBAL_POOLING),
    (
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum "
        "ReduceSumSquare",
        _REDUCTION,
    ),
    ("ReduceMax ReduceMin", _EXTREME),
    ("ArgMax ArgMin", _BEST),
    ("LRN LpNormalization RMSNormalization SimplifiedLayerNormalization", _NORMALIZATION),
    (
        "GroupNormalization InstanceNormalization LayerNormalization MeanVarianceNormalization",
        _CENTERING,
    ),
    ("DynamicQuantizeLinear", Traits(Effect.NORMALIZATION, (0,), rounds=True, quantized=True)),
    ("Softmax LogSoftmax Hardmax", _SOFTMAX),
    ("TopK", Traits(Effect.ORDERING, (0,), shape_inputs=(1,), hides=True, selects=True)),
    ("CumProd CumSum", Traits(Effect.ORDERING, (0,))),
    ("Resize", Traits(Effect.INTERPOLATION, (0,), shape_inputs=(2, 3))),
    ("Upsample", Traits(Effect.INTERPOLATION, (0,), shape_inputs=(1,))),
    ("GridSample RoiAlign PyramidROIAlign_TRT", _INTERPOLATION),
    ("MultilevelCropAndResize_TRT", _INTERPOLATION),
    ("Einsum Gemm MatMul", _PRODUCT),
    ("QLinearMatMul", _QUANTIZED_PRODUCT),
    ("MatMulInteger", _ROUNDED_PRODUCT),
    ("GRU GRUUnit LSTM RNN", _RECURRENT),
    ("Attention DisentangledAttention_TRT LinearAttention", _ATTENTION),
    ("RotaryEmbedding Det", _TRANSFORM),
    ("AffineGrid", Traits(Effect.TRANSFORM, (0,), shape_inputs=(1,))),
    ("Col2Im DFT", Traits(Effect.TRANSFORM, (0,), shape_inputs=(1, 2))),
    ("STFT", Traits(Effect.TRANSFORM, (0,), shape_inputs=(1, 3))),
    ("Bernoulli Multinomial RandomNormal RandomUniform", _RANDOM),
    ("RandomNormalLike RandomUniformLike", _RANDOM_LIKE),
    ("If Loop Scan SequenceMap", _CONTROL_FLOW),
    ("Constant GivenTensorFill", _SOURCE),
    ("BlackmanWindow HammingWindow HannWindow", Traits(Effect.SOURCE, shape_inputs=(0,))),
    ("MelWeightMatrix", Traits(Effect.SOURCE, shape_inputs=(0, 1))),
    ("Range", Traits(Effect.SOURCE, shape_inputs=(0, 1, 2))),
    ("ConstantOfShape", Traits(Effect.SOURCE, shape_inputs=(0,), shape_only=True)),
    ("EyeLike", Traits(Effect.SOURCE, shape_only=True)),
    ("Shape Size", _SHAPE),
    (
        "ConcatFromSequence OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceLength SplitToSequence",
        _CONTAINER,
    ),
    ("Optional OptionalGetElement", Traits(Effect.CONTAINER, carries=True)),
    ("RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer", _TEXT),
    ("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", _TRAINING),
    ("EfficientNMS_TRT ImageDecoder MemcpyFromHost MemcpyToHost", _OTHER),
    ("NonMaxSuppression", Traits(Effect.OTHER, shape_inputs=(0, 1, 2, 3, 4))),
    ("NonZero", Traits(Effect.OTHER, shape_inputs=(0,))),
)

_CLASSICAL_ML: Rows = (
    ("Binarizer Imputer Scaler", _UNARY),
    ("ArrayFeatureExtractor LabelEncoder CategoryMapper OneHotEncoder", _LOOKUP),
    ("CastMap DictVectorizer ZipMap", _CONTAINER),
    ("FeatureVectorizer", _JOIN),
    ("Normalizer", _NORMALIZATION),
    ("LinearClassifier LinearRegressor SVMClassifier SVMRegressor", _ESTIMATOR),
    ("TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor", _TREES),
)

_MICROSOFT: Rows = (
    ("Gelu QuickGelu ScaledSiLU", _SATURATING),
    ("BiasGelu FastGelu", _SATURATING),
    ("BiasAdd BiasDropout BitmaskBiasDropout", _UNARY),
    ("GatedAdd", _OPERANDS),
    ("MulInteger", Traits(Effect.ELEMENTWISE, (0, 2), quantized=True)),
    ("BitmaskDropout SampleOp", _UNARY),
    ("QLinearLeakyRelu QLinearSigmoid QOrderedGelu", Traits(
        Effect.ELEMENTWISE, (0,), hides=True, quantized=True
    )),
    ("QLinearAdd QLinearMul", Traits(Effect.ELEMENTWISE, (0, 3), arithmetic=True, quantized=True)),
    ("QLinearWhere", Traits(Effect.ELEMENTWISE, (0, 1, 4), quantized=True)),
    ("QuantizeLinear QuantizeWithOrder QuantizeBFP", _QUANTIZE),
    ("DequantizeLinear", _DEQUANTIZE),
    ("DequantizeWithOrder DequantizeBFP", Traits(Effect.ELEMENTWISE, (0,), quantized=True)),
    ("ExpandDims", Traits(Effect.RESHAPE, (0,), shape_inputs=(1,))),
    ("Trilu", _CUT),
    ("GatherND Unique TorchEmbedding RelativePositionBias", _LOOKUP),
    ("GatherBlockQuantized", Traits(Effect.LOOKUP, (0,), quantized=True)),
    ("Pad", _REPEAT),
    ("RemovePadding RestorePadding UnfoldTensor", Traits(Effect.REPEAT, (0,))),
    ("QLinearConcat", Traits(Effect.JOIN, quantized=True)),
    (
        "CausalConvWithState ConvTransposeWithDynamicPads FusedConv NhwcConv NhwcFusedConv "
        "VarlenCausalConvWithState WordConvEmbedding",
        _CONVOLUTION,
    ),
    ("QLinearConv", _QUANTIZED_CONVOLUTION),
    ("MaxpoolWithMask NhwcMaxPool", _POOLING),
    ("QLinearAveragePool", Traits(Effect.POOLING, (0,), quantized=True)),
    ("QLinearGlobalAveragePool", Traits(Effect.GLOBAL_POOLING, (0,), quantized=True)),
    ("IsAllFinite ReduceSumInteger", _REDUCTION),
    ("QLinearReduceMean", Traits(Effect.REDUCTION, (0,), quantized=True)),
    (
        "BranchwiseRMSNorm GatedRMSNorm GroupNorm SkipGroupNorm SkipLayerNormalization "
        "SkipSimplifiedLayerNormalization EngramGate",
        Traits(Effect.NORMALIZATION),
    ),
    ("QOrderedLayerNormalization", Traits(Effect.NORMALIZATION, (0,), quantized=True)),
    ("BiasSoftmax", Traits(Effect.SOFTMAX, hides=True)),
    ("QLinearSoftmax", Traits(Effect.SOFTMAX, (0,), hides=True, quantized=True)),
    ("BiasSplitGelu HyperConnectionPostMix HyperConnectionPreMix LinearAttentionGate", _TRANSFORM),
    ("ComplexMul ComplexMulConj Inverse Irfft Rfft", _TRANSFORM),
    ("GemmaRotaryEmbedding MRotaryEmbedding RotaryEmbedding", _TRANSFORM),
    ("CropAndResize GridSample", _INTERPOLATION),
    (
        "CDist FusedGemm FusedMatMul FusedMatMulActivation GatedRelativePositionBias GemmFastGelu "
        "MoE SparseToDenseMatMul TransposeMatMul",
        _PRODUCT,
    ),
    (
        "GemmFloat8 MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 "
        "MatMulFpQ4 MatMulInteger16 MatMulNBits MatMulNBitsMlp MatMulNBitsQkv QMoE QOrderedMatMul",
        _QUANTIZED_PRODUCT,
    ),
    ("DynamicQuantizeMatMul MatMulIntegerToFloat QGemm", _ROUNDED_PRODUCT),
    ("AttnLSTM GatedDeltaNet", _RECURRENT),
    ("DynamicQuantizeLSTM", Traits(Effect.RECURRENT, (0,), rounds=True, quantized=True)),
    (
        "Attention DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention "
        "DynamicSparseAttention GroupQueryAttention LinearAttention LongformerAttention "
        "MultiHeadAttention PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer "
        "PagedAttention SparseAttention SparseAttentionIndexer SparsePagedAttention",
        _ATTENTION,
    ),
    ("QAttention", Traits(Effect.ATTENTION, rounds=True, quantized=True)),
    (
        "QOrderedAttention QOrderedLongformerAttention",
        Traits(Effect.ATTENTION, quantized=True),
    ),
    ("EmbedLayerNormalization", Traits(Effect.NORMALIZATION)),
    ("QEmbedLayerNormalization", Traits(Effect.NORMALIZATION, quantized=True)),
    ("Range", Traits(Effect.SOURCE, shape_inputs=(0, 1, 2))),
    ("BeamSearch GreedySearch Sampling WhisperBeamSearch", _CONTROL_FLOW),
    ("MurmurHash3 NGramHashMapping Tokenizer VarlenNGramHashMapping", _TEXT),
    ("BifurcationDetector DynamicTimeWarping EPContext NGramRepeatBlock Snpe", _OTHER),
)  # fmt: skip

#: Channels in blocks, as ONNX Runtime's optimizer lays them out for a CPU.
_BLOCKED: Rows = (
    ("Conv", _CONVOLUTION),
    ("AveragePool MaxPool", _POOLING),
    ("GlobalAveragePool GlobalMaxPool", _GLOBAL_POOLING),
    ("ReorderInput ReorderOutput", _PERMUTATION),
    ("Upsample", _INTERPOLATION),
)

#: Operators of the standard with the channels last.
_CHANNELS_LAST: Rows = (
    ("Conv ConvTranspose", _CONVOLUTION),
    ("QLinearConv QLinearConvTranspose", _QUANTIZED_CONVOLUTION),
    ("AveragePool LpPool MaxPool", _POOLING),
    ("QLinearAveragePool", Traits(Effect.POOLING, (0,), quantized=True)),
    ("MaxUnpool", Traits(Effect.REPEAT, (0,))),
    ("GlobalAveragePool GlobalLpPool GlobalMaxPool", _GLOBAL_POOLING),
    ("BatchNormalization", _UNARY),
    ("InstanceNormalization", _CENTERING),
    ("LRN", _NORMALIZATION),
    ("GridSample Resize", _INTERPOLATION),
    ("DepthToSpace SpaceToDepth", _PERMUTATION),
)


def _table(**groups: Rows) -> dict[tuple[str, str], Traits]:
    """All rows by domain and operator.

    Raises:
        ValueError: an operator has two rows.
    """
    table: dict[tuple[str, str], Traits] = {}
    for domain, rows in groups.items():
        for names, traits in rows:
            for name in names.split():
                if (domain, name) in table:
                    raise ValueError(f"{domain or 'the standard'} has {name} twice")
                table[domain, name] = traits
    return table


#: (domain, operator) → its row. The domain of the standard is "".
TRAITS = MappingProxyType(
    _table(
        **{
            "": _STANDARD,
            "ai.onnx.ml": _CLASSICAL_ML,
            "ai.onnx.preview": (("FlexAttention", _ATTENTION),),
            "ai.onnx.preview.training": (("Adagrad Adam Gradient Momentum", _TRAINING),),
            "com.microsoft": _MICROSOFT,
            "com.microsoft.nchwc": _BLOCKED,
            "com.ms.internal.nhwc": _CHANNELS_LAST,
        }
    )
)


class Named(Protocol):
    """A node: `Node`, `Operation`, or a NodeProto."""

    @property
    def domain(self) -> str:
        """The operator's domain, as the node gives it."""

    @property
    def op_type(self) -> str:
        """The operator's name."""


def operators_where(holds: Callable[[Traits], object]) -> frozenset[str]:
    """The names, of any domain, of the operators for whose row something holds: for loops over
    all nodes, which look at the row only of the few that these names leave."""
    return frozenset(name for (_, name), traits in TRAITS.items() if holds(traits))


def traits_of(node: Named) -> Traits:
    """The row of a node's operator, of an installed package where this table has none; `UNKNOWN`
    for one that nobody knows."""
    domain = node.domain
    if domain in ("", "ai.onnx"):
        return TRAITS.get(("", node.op_type), UNKNOWN)
    row = TRAITS.get((domain, node.op_type))
    if row is None:
        custom = plugins.operators(domain).get(node.op_type)
        row = UNKNOWN if custom is None else custom.traits
    return row
