"""Operators of the ONNX standard (https://onnx.ai/onnx/operators/), its previews included."""

from __future__ import annotations

from functools import partial

from onnxshare.analysis.operators.formulas import (
    attention,
    classical_ml,
    convolutions,
    elementwise,
    matrix_products,
    recurrent,
    signals,
)
from onnxshare.analysis.operators.formulas.matrix_products import matmul
from onnxshare.analysis.operators.operator import AttributeWeight, Operator

CONV = Operator("conv", "PPP", convolutions.convolution)
FC = Operator("fc", "PPP", matrix_products.gemm)
MATMUL = Operator("fc", "PPP", matmul)
RECURRENT = Operator("recurrent", "PPPPSPPP", recurrent.recurrent)
NORM = Operator("norm", "SPP", elementwise.normalization)
BATCH_NORM = Operator("norm", "SPPTT", elementwise.normalization)
ELEMENTWISE = Operator("elementwise", None, elementwise.elementwise)
ACTIVATION = Operator("elementwise", "", elementwise.elementwise)
SOFTMAX = Operator("elementwise", "", elementwise.softmax)
POOL = Operator("pool", "", elementwise.pooling)
GLOBAL_POOL = Operator("pool", "", elementwise.reduction)
REDUCTION = Operator("other", "", elementwise.reduction)
EMBEDDING = Operator("embedding", None, elementwise.embedding)
LAYOUT = Operator("layout", "", elementwise.nothing)
#: Operators on a data path into which a learned constant may be joined.
JOIN = Operator("layout", None, elementwise.join)
QUANTIZE = Operator("layout", "SQQ", elementwise.nothing)
CONTROL = Operator("other", "", elementwise.nothing)
#: Operators that make a fixed signal, such as a window.
SIGNAL = Operator("other", "", elementwise.nothing)
DATA_DEPENDENT = Operator("other", "", elementwise.data_dependent)
INTERPOLATION = Operator("other", "", elementwise.interpolation)
GRID_SAMPLE = Operator("other", "P", elementwise.grid_sample)
CAUSAL_CONV = Operator("conv", "PPPS", convolutions.convolution)
LINEAR_ATTENTION = Operator("other", "", recurrent.linear_attention, multiplies=True)
OPTIMISER = Operator("other", None, signals.optimiser)

_STANDARD: dict[str, Operator] = {
    "Conv": CONV,
    "ConvTranspose": Operator("conv", "PPP", convolutions.transposed_convolution),
    "DeformConv": Operator("conv", "PPSP", convolutions.deformable_convolution),
    "ConvInteger": Operator("conv", "PPQQ", partial(convolutions.convolution, bias=99)),
    "QLinearConv": Operator("conv", "PQQPQQQQP", convolutions.quantized_convolution),
    "CausalConvWithState": CAUSAL_CONV,
    "Gemm": FC,
    "MatMul": MATMUL,
    "MatMulInteger": Operator("fc", "PPQQ", matmul),
    "QLinearMatMul": Operator("fc", "PQQPQQQQ", partial(matmul, right=3)),
    "Einsum": Operator("fc", "P" * 8, matrix_products.einsum),
    "RNN GRU LSTM": RECURRENT,
    "LinearAttention": LINEAR_ATTENTION,
    "Attention": Operator("other", "PPPO", attention.attention, multiplies=True),
    "RotaryEmbedding": Operator("elementwise", "SPP", attention.rotary_embedding),
    "BatchNormalization": BATCH_NORM,
    "InstanceNormalization LayerNormalization GroupNormalization RMSNormalization": NORM,
    # ONNX Runtime writes this one into the standard's domain.
    "SimplifiedLayerNormalization": NORM,
    "PRelu": Operator("elementwise", "SP", elementwise.slope),
    "Gather GatherElements GatherND": EMBEDDING,
    "Add Sub Mul Div Pow Mod Sum Mean Max Min Where SwiGLU": ELEMENTWISE,
    "Relu LeakyRelu Elu Selu Celu ThresholdedRelu Sigmoid HardSigmoid HardSwish Swish Tanh "
    "Gelu Softplus Softsign Mish Erf Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round "
    "Clip Shrink Not And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf "
    "Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh BitShift BitwiseAnd BitwiseNot "
    "BitwiseOr BitwiseXor Affine ParametricSoftplus ScaledTanh": ACTIVATION,
    "MaxPool AveragePool LpPool MaxRoiPool RoiAlign MaxUnpool": POOL,
    "GlobalAveragePool GlobalMaxPool GlobalLpPool": GLOBAL_POOL,
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd LpNormalization "
    "MeanVarianceNormalization TopK": REDUCTION,
    "Softmax LogSoftmax Hardmax": SOFTMAX,
    "LRN": Operator("norm", "", elementwise.response_normalization),
    "Resize Upsample": INTERPOLATION,
    "GridSample": GRID_SAMPLE,
    "AffineGrid": Operator("other", "P", signals.affine_grid, multiplies=True),
    "Det": Operator("other", "", signals.determinant),
    "Col2Im": Operator("other", "", signals.columns_to_image),
    "DFT": Operator("other", "", signals.fourier_transform),
    "STFT": Operator("other", "SSO", signals.short_time_transform),
    "BlackmanWindow HammingWindow HannWindow MelWeightMatrix": SIGNAL,
    "NegativeLogLikelihoodLoss": Operator("other", "SSO", signals.loss),
    "SoftmaxCrossEntropyLoss": Operator("other", "SSO", signals.softmax_loss),
    "NonMaxSuppression ImageDecoder": DATA_DEPENDENT,
    "TfIdfVectorizer": Operator(
        "other", "", classical_ml.text_frequencies,
        attribute_weight=(AttributeWeight(("weights",)),)
    ),
    "Identity Cast CastLike BitCast Reshape Flatten Squeeze Unsqueeze Transpose Shape "
    "Size Constant ConstantOfShape Range NonZero OneHot "
    "EyeLike SequenceAt SequenceEmpty "
    "SequenceErase SequenceLength ConcatFromSequence "
    "OptionalGetElement OptionalHasElement Unique Bernoulli RandomNormal "
    "RandomNormalLike RandomUniform RandomUniformLike Multinomial StringConcat StringNormalizer "
    "StringSplit RegexFullMatch": LAYOUT,
    # These may pass on a weight that was not traced through them.
    "Dropout Tile DepthToSpace SpaceToDepth Compress ReverseSequence Trilu SplitToSequence "
    "Optional": Operator("layout", "O", elementwise.join),
    "SequenceConstruct": Operator("layout", "O" * 64, elementwise.join),
    "SequenceInsert": Operator("layout", "OO", elementwise.join),
    "Concat Split Slice Pad Expand ScatterElements ScatterND Scatter TensorScatter "
    "CenterCropPad": JOIN,
    "QuantizeLinear DequantizeLinear": QUANTIZE,
    "DynamicQuantizeLinear": Operator("layout", "", elementwise.elementwise),
    "If Loop Scan SequenceMap": CONTROL,
}  # fmt: skip

ROWS: dict[tuple[str, str], Operator] = {
    **{("", name): row for names, row in _STANDARD.items() for name in names.split()},
    ("ai.onnx.preview", "FlexAttention"): Operator(
        "other", "PPP", attention.flexible_attention, multiplies=True
    ),
    **{("ai.onnx.preview.training", name): OPTIMISER for name in ("Adagrad", "Adam", "Momentum")},
}
