"""The one table of operators: what each input is, and the formula for uses and arithmetic.

To add an operator, add a row. An operator that has none is reported as unknown with what it
holds: its work is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxshare.analysis import formulas
from onnxshare.analysis.work import FLOATS, Context, Work
from onnxshare.graph import STANDARD_DOMAINS, Stored

#: What a constant input counts as.
PARAM, STATISTIC, CONSTANT, QUANTIZATION, STRUCTURE = (
    "params",
    "statistics",
    "constants",
    "quantization",
    "structure",
)


@dataclass(frozen=True)
class Operator:
    """A row of the table.

    Attributes:
        kind: conv, fc, recurrent, embedding, norm, elementwise, pool, layout or other.
        roles: what a constant counts as, per input; inputs beyond the list are structure.
            None: element-wise, where several elements are parameters and one is a constant.
        work: the formula; None for an unknown operator.
    """

    kind: str
    roles: tuple[str, ...] | None
    work: Callable[[Context], Work] | None

    def role(self, position: int, stored: Stored, dtype: int | None) -> str:
        """What a constant counts as in an input, whose element type there is `dtype`."""
        if self.roles is None:
            if dtype not in FLOATS:
                return STRUCTURE
            return PARAM if stored.elements > 1 else CONSTANT
        return self.roles[position] if position < len(self.roles) else STRUCTURE


_WEIGHTED = (PARAM, PARAM, PARAM)
_Q = QUANTIZATION

CONV = Operator("conv", _WEIGHTED, formulas.convolution)
FC = Operator("fc", _WEIGHTED, formulas.gemm)
MATMUL = Operator("fc", _WEIGHTED, formulas.matmul)
RECURRENT = Operator(
    "recurrent",
    (PARAM, PARAM, PARAM, PARAM, STRUCTURE, PARAM, PARAM, PARAM),
    formulas.recurrent,
)
NORM = Operator("norm", (STRUCTURE, PARAM, PARAM), formulas.normalisation)
BATCH_NORM = Operator(
    "norm", (STRUCTURE, PARAM, PARAM, STATISTIC, STATISTIC), formulas.normalisation
)
ELEMENTWISE = Operator("elementwise", None, formulas.elementwise)
ACTIVATION = Operator("elementwise", (), formulas.elementwise)
POOL = Operator("pool", (), formulas.pooling)
GLOBAL_POOL = Operator("pool", (), formulas.reduction)
REDUCTION = Operator("other", (), formulas.reduction)
LAYOUT = Operator("layout", (), formulas.nothing)
#: Operators on a data path into which a learned constant may be joined.
JOIN = Operator("layout", None, formulas.join)
QUANTISE = Operator("layout", (STRUCTURE, _Q, _Q), formulas.nothing)
CONTROL = Operator("other", (), formulas.nothing)
UNKNOWN = Operator("other", None, None)


def _rows(operator: Operator, names: str) -> dict[tuple[str, str], Operator]:
    return {("", name): operator for name in names.split()}


def _contrib(operator: Operator, names: str) -> dict[tuple[str, str], Operator]:
    return {("com.microsoft", name): operator for name in names.split()}


TABLE: dict[tuple[str, str], Operator] = {
    **_rows(CONV, "Conv"),
    **_rows(Operator("conv", _WEIGHTED, formulas.transposed_convolution), "ConvTranspose"),
    **_rows(Operator("conv", (PARAM, PARAM, _Q, _Q), formulas.integer_convolution), "ConvInteger"),
    **_rows(
        Operator(
            "conv", (PARAM, _Q, _Q, PARAM, _Q, _Q, _Q, _Q, PARAM), formulas.quantised_convolution
        ),
        "QLinearConv",
    ),
    **_rows(FC, "Gemm"),
    **_rows(MATMUL, "MatMul"),
    **_rows(Operator("fc", (PARAM, PARAM, _Q, _Q), formulas.matmul), "MatMulInteger"),
    **_rows(
        Operator("fc", (PARAM, _Q, _Q, PARAM, _Q, _Q, _Q, _Q), formulas.quantised_matmul),
        "QLinearMatMul",
    ),
    **_rows(Operator("fc", (PARAM,) * 8, formulas.einsum), "Einsum"),
    **_rows(RECURRENT, "RNN GRU LSTM"),
    **_rows(BATCH_NORM, "BatchNormalization"),
    **_rows(NORM, "InstanceNormalization LayerNormalization GroupNormalization RMSNormalization"),
    **_rows(Operator("elementwise", (STRUCTURE, PARAM), formulas.slope), "PRelu"),
    **_rows(Operator("embedding", None, formulas.embedding), "Gather GatherElements GatherND"),
    **_rows(ELEMENTWISE, "Add Sub Mul Div Pow Mod Sum Mean Max Min Where"),
    **_rows(
        ACTIVATION,
        "Relu LeakyRelu Elu Selu Celu ThresholdedRelu Sigmoid HardSigmoid HardSwish Swish Tanh "
        "Gelu Softplus Softsign Mish Erf Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round "
        "Clip Shrink Not And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf "
        "Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh BitShift BitwiseAnd BitwiseNot "
        "BitwiseOr BitwiseXor",
    ),
    **_rows(POOL, "MaxPool AveragePool LpPool MaxRoiPool RoiAlign MaxUnpool"),
    **_rows(GLOBAL_POOL, "GlobalAveragePool GlobalMaxPool GlobalLpPool"),
    **_rows(
        REDUCTION,
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare ArgMax ArgMin CumSum CumProd LpNormalization "
        "MeanVarianceNormalization TopK",
    ),
    **_rows(Operator("elementwise", (), formulas.softmax), "Softmax LogSoftmax Hardmax"),
    **_rows(Operator("norm", (), formulas.response_normalisation), "LRN"),
    **_rows(
        LAYOUT,
        "Identity Cast CastLike Reshape Flatten Squeeze Unsqueeze Transpose Dropout Shape Size "
        "Constant ConstantOfShape Range Tile DepthToSpace SpaceToDepth NonZero OneHot Compress "
        "EyeLike ReverseSequence SequenceConstruct SequenceAt SequenceEmpty SequenceInsert "
        "SequenceErase SequenceLength SplitToSequence ConcatFromSequence Optional "
        "OptionalGetElement OptionalHasElement Trilu Unique Bernoulli RandomNormal "
        "RandomNormalLike RandomUniform RandomUniformLike Multinomial Resize Upsample",
    ),
    **_rows(JOIN, "Concat Split Slice Pad Expand ScatterElements ScatterND Scatter TensorScatter"),
    **_rows(QUANTISE, "QuantizeLinear DequantizeLinear"),
    **_rows(Operator("layout", (), formulas.elementwise), "DynamicQuantizeLinear"),
    **_rows(CONTROL, "If Loop Scan"),
    **_contrib(CONV, "FusedConv"),
    **_contrib(
        Operator("conv", _WEIGHTED, formulas.channels_last_convolution), "NhwcConv NhwcFusedConv"
    ),
    **_contrib(FC, "FusedGemm GemmFastGelu"),
    **_contrib(MATMUL, "FusedMatMul"),
    **_contrib(
        Operator("fc", (PARAM, _Q, _Q, PARAM, _Q, _Q, PARAM, _Q, _Q), formulas.quantised_gemm),
        "QGemm",
    ),
    **_contrib(
        Operator("fc", (PARAM, PARAM, _Q, _Q, PARAM), lambda c: formulas.matmul(c, bias=4)),
        "DynamicQuantizeMatMul",
    ),
    **_contrib(
        Operator("fc", (PARAM, PARAM, _Q, _Q, _Q, _Q, PARAM), lambda c: formulas.matmul(c, bias=6)),
        "MatMulIntegerToFloat",
    ),
    **_contrib(QUANTISE, "QuantizeLinear DequantizeLinear"),
    **_contrib(ACTIVATION, "Gelu QuickGelu"),
    **_contrib(
        Operator("elementwise", (STRUCTURE, PARAM), formulas.elementwise), "BiasGelu FastGelu"
    ),
}


def lookup(domain: str, op_type: str) -> Operator:
    """The row of an operator; `UNKNOWN` for one that has none."""
    return TABLE.get(("" if domain in STANDARD_DOMAINS else domain, op_type), UNKNOWN)
