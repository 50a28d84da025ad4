"""The operators that a bundle may call, and what ONNX Runtime must not be given with them.

ONNX Runtime ends the process (SIGFPE, SIGSEGV, an exception across threads) for some attributes and
constants that its checks let through. The tables are of ONNX up to :data:`NEWEST` and of what was
tried on ONNX Runtime 1.32 with mutated attributes, constants and shapes; an operator or version
that is not in them is refused. ``tests/runtime/bundle/test_operators.py`` holds them against the
schemas of the ``onnx`` package, and tries the rules in child processes.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.bundle.onnxgraph import ParsedNode, ParsedTensor

__all__ = [
    "DOMAINS", "FIRST", "NEEDS_ELEMENTS", "NEWEST", "NO_INTEGERS", "SAME", "TYPED", "Values",
    "node_fault",
]  # fmt: skip

#: Newest version of the standard operators that the tables hold.
NEWEST: Final = 28

# Operators whose results are never int32 or int64, whatever they take.
_FLOAT: Final = """
Acos Acosh AffineGrid And Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
CausalConvWithState Ceil Celu Conv ConvTranspose Cos Cosh DFT DeformConv DequantizeLinear Det
Dropout DynamicQuantizeLinear Elu Equal Exp Floor GRU Gelu GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax
InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
LinearAttention Log LogSoftmax LpNormalization LpPool MaxRoiPool MaxUnpool Mean
MeanVarianceNormalization Mish NegativeLogLikelihoodLoss Not OptionalHasElement Or QLinearConv
QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Reciprocal RoiAlign RotaryEmbedding Round STFT Selu Sigmoid Sin Sinh Softmax
SoftmaxCrossEntropyLoss Softplus Softsign Sqrt Sum SwiGLU Swish Tan Tanh ThresholdedRelu Xor
"""

# Operators whose every result is of the type of their first, second or third input.
_SAME: Final = (
    """
    Abs Add BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Clip Col2Im Compress
    Concat CumProd CumSum DepthToSpace Div Einsum Erf Expand Flatten Gather GatherElements GatherND
    Gemm GridSample Identity MatMul Max Min Mod Mul Neg PRelu Pad Pow Range ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize ReverseSequence Scatter ScatterElements ScatterND Shrink Sign Slice
    SpaceToDepth Split Squeeze Sub TensorScatter Tile Transpose Trilu Unsqueeze Upsample
    """,
    "CastLike Where",
    "OneHot",
)

# Operators whose results may be int32 or int64, or sequences; also those with bodies.
_OTHER: Final = """
ArgMax ArgMin Bernoulli BitCast BlackmanWindow Cast ConcatFromSequence Constant ConstantOfShape
ConvInteger EyeLike HammingWindow HannWindow If Loop MatMulInteger MaxPool MelWeightMatrix
Multinomial NonMaxSuppression NonZero Optional OptionalGetElement Scan SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap Shape Size SplitToSequence
TopK Unique
"""

# Those of ONNX Runtime's own domain: what it and its quantiser make of networks. All give floats,
# booleans or integers of at most 16 bits.
_MICROSOFT: Final = """
Attention BiasGelu BiasSoftmax DequantizeLinear DynamicQuantizeLSTM FastGelu
FusedConv FusedMatMul GatherBlockQuantized Gelu GroupQueryAttention MatMulBnb4 MatMulIntegerToFloat
MatMulNBits MoE MultiHeadAttention NhwcMaxPool QAttention QGemm QLinearAdd
QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearMul QMoE QuantizeLinear QuickGelu
RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul
"""

# Those of classical machine learning, without strings and maps.
_ML: Final = """
ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier
LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
TreeEnsembleClassifier TreeEnsembleRegressor
"""

#: Operators by domain that a bundle may call. Those of mmedge's own domain come with their bodies.
DOMAINS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(" ".join((_FLOAT, *_SAME, _OTHER)).split()),
    "ai.onnx.ml": frozenset(_ML.split()),
    "com.microsoft": frozenset(_MICROSOFT.split()),
}

#: (domain, operator) of those whose results are never int32 or int64.
NO_INTEGERS: Final = frozenset(
    {("", op) for op in _FLOAT.split()} | {("com.microsoft", op) for op in _MICROSOFT.split()}
)

#: Operator -> index of the input whose type all its results have.
SAME: Final[Mapping[str, int]] = {
    op: index for index, ops in enumerate(_SAME) for op in ops.split()
}

#: Operator of several results -> index of the input whose type the first has; None: of none, and it
#: is no int32 or int64.
FIRST: Final[Mapping[str, int | None]] = {"MaxPool": None, "TopK": 0, "Unique": 0}

#: Operator -> attribute that holds its results' type, and the type without it; None: its first
#: input's.
TYPED: Final[Mapping[str, tuple[str, int | None]]] = {
    "Bernoulli": ("dtype", None),
    "BitCast": ("to", None),
    "BlackmanWindow": ("output_datatype", 1),
    "Cast": ("to", None),
    "EyeLike": ("dtype", None),
    "HammingWindow": ("output_datatype", 1),
    "HannWindow": ("output_datatype", 1),
    "MelWeightMatrix": ("output_datatype", 1),
}

#: (domain, operator) of those that end the process when a tensor that they take has no elements.
NEEDS_ELEMENTS: Final = frozenset({
    ("", "ConvTranspose"), ("", "DFT"), ("", "GRU"), ("", "LSTM"), ("", "STFT"),
    ("com.microsoft", "DynamicQuantizeLSTM"), ("com.microsoft", "RotaryEmbedding"),
})  # fmt: skip

#: Largest number of elements that constants may ask for, and of a kernel along one axis.
MAX_MADE, MAX_KERNEL = 1 << 28, 1 << 16

# Attributes that hold any integer: values of a constant, and "to the end" in old slices.
_ANY_INTEGER: Final = frozenset({
    ("Constant", "value_int"), ("Constant", "value_ints"), ("Slice", "starts"), ("Slice", "ends"),
})  # fmt: skip


class Values(Protocol):
    """What is known of tensors where a node stands."""

    def constant(self, name: str) -> ParsedTensor | None:
        """The constant of that name; None: it is computed or comes from outside."""

    def has_rank(self, name: str) -> bool:
        """Whether a tensor surely has an axis."""


def node_fault(node: ParsedNode, values: Values) -> str | None:
    """Why ONNX Runtime must not be given this node; None where nothing speaks against it."""
    for name, attribute in node.attributes.items():
        integers = attribute.integers
        if (
            integers
            and (min(integers) < -(1 << 31) or max(integers) >= 1 << 31)
            and (node.domain or (node.op, name) not in _ANY_INTEGER)
        ):
            return f"attribute {name!r} beyond 32 bits"
    rule = _RULES.get((node.domain, node.op))
    return rule(node, values) if rule is not None else None


def _input(node: ParsedNode, index: int) -> str:
    return node.inputs[index] if index < len(node.inputs) else ""


def _at_least(**least: int) -> Callable[[ParsedNode, Values], str | None]:
    """A rule: these attributes stand in the node itself, and are no less."""

    def fault(node: ParsedNode, _: Values) -> str | None:
        for name, limit in least.items():
            attribute = node.attributes.get(name)
            if attribute is None:
                continue
            if attribute.reference or min(attribute.integers, default=0) < limit:
                return f"attribute {name!r} of less than {limit}"
        return None

    return fault


def _kernel(node: ParsedNode, _: Values) -> str | None:
    attribute = node.attributes.get("kernel_shape")
    if attribute is None:
        return None
    sizes = attribute.integers
    if attribute.reference or not all(1 <= size <= MAX_KERNEL for size in sizes):
        return f"a kernel of size {list(sizes)[:8]}, expected 1 to {MAX_KERNEL} along each axis"
    return None


def _limit_elements(
    index: int, *, factors: bool = True
) -> Callable[[ParsedNode, Values], str | None]:
    """A rule: a constant size asks for no more than :data:`MAX_MADE` elements.

    Args:
        index: of the input that holds sizes.
        factors: whether they are multiplied; False: each counts alone.
    """

    def fault(node: ParsedNode, values: Values) -> str | None:
        constant = values.constant(_input(node, index))
        if constant is None:
            return None
        size = constant.asked()[0 if factors else 1]
        return (
            f"a constant asks for {size} elements, at most {MAX_MADE}" if size > MAX_MADE else None
        )

    return fault


def _range(node: ParsedNode, values: Values) -> str | None:
    ends = [values.constant(_input(node, index)) for index in range(3)]
    start, limit, step = (end.values[0] if end and end.values else None for end in ends)
    if start is None or limit is None or not step:
        return None
    size = abs(limit - start) // abs(step)
    return f"a constant asks for {size} elements, at most {MAX_MADE}" if size > MAX_MADE else None


def _random(node: ParsedNode, _: Values) -> str | None:
    shape = node.attributes.get("shape")
    if shape is not None and shape.reference:
        return "a shape that the function's caller chooses"
    size = prod(max(1, size) for size in shape.integers) if shape is not None else 0
    return f"asks for {size} elements, at most {MAX_MADE}" if size > MAX_MADE else None


def _constant(node: ParsedNode, _: Values) -> str | None:
    """Two readers might take another one of several."""
    return None if len(node.attributes) == 1 else f"{len(node.attributes)} values"


def _unique(node: ParsedNode, _: Values) -> str | None:
    if "axis" in node.attributes:
        return "attribute 'axis', with which ONNX Runtime ends the process on an empty tensor"
    return None


def _dft(node: ParsedNode, values: Values) -> str | None:
    if not values.has_rank(_input(node, 0)):
        return "input 0 may be a scalar, on which ONNX Runtime ends the process"
    return None


def _stft(node: ParsedNode, values: Values) -> str | None:
    """Its frames have a step and a length that are known, and no less than 1."""
    window, length = _input(node, 2), _input(node, 3)
    sizes: list[int] = []
    for name in filter(None, (_input(node, 1), window, length)):
        constant = values.constant(name)
        if constant is None:
            return "the step or length of its frames is not constant"
        if name == window:
            sizes.append(prod(constant.shape))
        else:
            sizes += constant.values or (0,)
    if len(sizes) < 2 or min(sizes) < 1:
        return "frames without step or length, with which ONNX Runtime ends the process"
    return None


_HEADS: Final = _at_least(num_heads=1)

_RULES: Final[Mapping[tuple[str, str], Callable[[ParsedNode, Values], str | None]]] = {
    ("", "AveragePool"): _kernel,
    ("", "BlackmanWindow"): _limit_elements(0),
    ("", "Constant"): _constant,
    ("", "ConstantOfShape"): _limit_elements(0),
    ("", "Conv"): _kernel,
    ("", "ConvTranspose"): _kernel,
    ("", "DFT"): _dft,
    ("", "Expand"): _limit_elements(1),
    ("", "GatherND"): _at_least(batch_dims=0),
    ("", "HammingWindow"): _limit_elements(0),
    ("", "HannWindow"): _limit_elements(0),
    ("", "LpPool"): _kernel,
    ("", "MaxPool"): _kernel,
    ("", "OneHot"): _limit_elements(1),
    ("", "Pad"): _limit_elements(1, factors=False),
    ("", "RandomNormal"): _random,
    ("", "RandomUniform"): _random,
    ("", "Range"): _range,
    ("", "Resize"): _limit_elements(3),
    ("", "STFT"): _stft,
    ("", "Tile"): _limit_elements(1),
    ("", "Unique"): _unique,
    ("com.microsoft", "Attention"): _HEADS,
    ("com.microsoft", "FusedConv"): _kernel,
    ("com.microsoft", "GatherBlockQuantized"): _at_least(block_size=16),
    ("com.microsoft", "GroupQueryAttention"): _at_least(num_heads=1, kv_num_heads=1),
    ("com.microsoft", "MatMulBnb4"): _at_least(K=1, N=1, block_size=16),
    ("com.microsoft", "MatMulNBits"): _at_least(K=1, N=1, bits=1, block_size=16),
    ("com.microsoft", "MultiHeadAttention"): _HEADS,
    ("com.microsoft", "NhwcMaxPool"): _kernel,
    ("com.microsoft", "QAttention"): _HEADS,
    ("com.microsoft", "RotaryEmbedding"): _at_least(num_heads=0, rotary_embedding_dim=0),
}
