"""Floating-point operations of single operators, from the sizes of their tensors.

What is counted, for one run:

- A multiply-add is two operations. A dot product of length K is 2 K, with or without a bias: K
  products and K - 1 sums, and the bias is one more. Padded zeros count, as kernels compute them.
- Any other arithmetic is one operation for each element that it yields, a transcendental function
  too; reductions and sorts are one for each element that they take; operations on integers count
  alike. An operator that is not known counts as arithmetic.
- Moving, selecting, casting and making data is none.
- Operators that stand for several steps count :data:`PER_ELEMENT` for each element.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir

    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor

__all__ = ["PER_ELEMENT", "is_segmented_attention", "op_flops"]

#: Operations for each element of the first output.
PER_ELEMENT = {
    "BatchNormalization": 2,  # in inference: one scale and one shift
    "GroupNormalization": 7,  # sum; subtract; square, sum; divide; scale, shift
    "InstanceNormalization": 7,
    "LayerNormalization": 7,
    "LogSoftmax": 5,
    "LpNormalization": 3,  # power, sum, divide
    "MeanVarianceNormalization": 5,  # sum; subtract; square, sum; divide
    "RMSNormalization": 4,  # square, sum, divide, scale
    "RotaryEmbedding": 3,  # two products, one sum
    "Softmax": 5,  # maximum, subtract, exponential, sum, divide
}

#: Of a recurrent operator, for each element of its state and step, beside the matrix products:
#: the activations, and what joins the gates.
_RECURRENT = {"LSTM": 9, "GRU": 8, "RNN": 1}

_MOVES = frozenset(
    [
        "Bernoulli", "BitCast", "Cast", "CastLike", "CenterCropPad", "Col2Im", "Compress",
        "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape", "DepthToSpace",
        "Dropout", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "MaxUnpool", "NonZero", "OneHot", "Optional", "OptionalGetElement",
        "OptionalHasElement", "Pad", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike", "Range", "Reshape", "ReverseSequence", "Scatter",
        "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
        "SequenceErase", "SequenceInsert", "SequenceLength", "Shape", "Size", "Slice",
        "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "TensorScatter", "Tile",
        "Transpose", "Trilu", "Unsqueeze", "Upsample",
    ]
)  # fmt: skip
_REDUCTIONS = frozenset(
    [
        "ArgMax", "ArgMin", "CumProd", "CumSum", "GlobalAveragePool", "GlobalLpPool",
        "GlobalMaxPool", "NonMaxSuppression", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "TopK", "Unique",
    ]
)  # fmt: skip
#: Values of each axis that an interpolated element is made of.
_TAPS = {"linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}


class _Operands:
    """A node's attributes and the sizes of its tensors.

    Raises:
        ExportError: when a tensor is asked for that has no entry.
    """

    def __init__(self, node: ir.Node, shapes: Mapping[str, MeasuredTensor]) -> None:
        self.node, self._shapes = node, shapes

    def has(self, index: int) -> bool:
        """Whether there is an input; optional ones may be left out."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return value is not None and bool(value.name)

    def input_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input."""
        return self._shape(self.node.inputs[index])

    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output that is there."""
        return self._shape(next((v for v in self.node.outputs if v.name), None))

    @property
    def size(self) -> int:
        """Number of elements of that output."""
        return math.prod(self.output_shape())

    def number(self, name: str, default: int) -> int:
        """An attribute."""
        return self.node.attributes.get_int(name, default)

    def text(self, name: str, default: str) -> str:
        """An attribute."""
        return self.node.attributes.get_string(name, default)

    def _shape(self, value: ir.Value | None) -> tuple[int, ...]:
        name = "" if value is None else str(value.name)
        if name not in self._shapes:
            raise ExportError(
                f"operations of {self.node.op_type} {self.node.name!r} cannot be counted: "
                f"nothing is known of the size of {name!r}; measure the graph that holds the node"
            )
        return self._shapes[name].shape


def op_flops(node: ir.Node, shapes: Mapping[str, MeasuredTensor]) -> int:
    """Operations of one run of a node that holds no other nodes.

    ``SegmentedAttention<M>`` of the domain ``mmedge`` counts as the attention that it stands for:
    inputs are q [B, H, Lq, D], M keys [B, H, L, D] and M values [B, H, L, Dv].

    Raises:
        ExportError: a tensor that the count needs has no entry in ``shapes``.
    """
    op = _Operands(node, shapes)
    if is_segmented_attention(node):
        return _segmented_attention(op)
    if node.domain not in ("", "ai.onnx"):
        return op.size
    kind = node.op_type
    if kind in _MOVES or kind.startswith("Sequence"):
        return 0
    if kind in _REDUCTIONS:
        return math.prod(op.input_shape())
    if kind in _RULES:
        return _RULES[kind](op)
    return PER_ELEMENT.get(kind, 1) * op.size


# Operators with a formula of their own


def _matmul(op: _Operands) -> int:
    return 2 * op.size * op.input_shape()[-1]


def _gemm(op: _Operands) -> int:
    return 2 * op.size * op.input_shape()[0 if op.number("transA", 0) else 1]


def _conv(weight: int) -> Callable[[_Operands], int]:
    # Weights are [channels out, channels in of one group, kernel ...].
    return lambda op: 2 * op.size * math.prod(op.input_shape(weight)[1:])


def _conv_transpose(op: _Operands) -> int:
    # Weights are [channels in, channels out of one group, kernel ...]: each input goes to all.
    return 2 * math.prod(op.input_shape()) * math.prod(op.input_shape(1)[1:])


def _einsum(op: _Operands) -> int:
    """All indices in one nest of loops: exact for two operands, the naive way for more."""
    terms, arrow, result = op.text("equation", "").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms.split(",")):
        shape = op.input_shape(index)
        before, dots, after = term.partition("...")
        broadcast_axes = len(shape) - len(before) - len(after) if dots else 0
        # Broadcast axes align at their end.
        names = [*before, *(f"...{axis}" for axis in range(broadcast_axes, 0, -1)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    letters = terms.replace(",", "").replace(".", "")
    result_indices = set(result) if arrow else {c for c in letters if letters.count(c) == 1}
    has_sum = any(name not in result_indices for name in sizes if not name.startswith("..."))
    return math.prod(sizes.values()) * (terms.count(",") + int(has_sum))


def _attention(op: _Operands) -> int:
    query, key, value = op.input_shape(0), op.input_shape(1), op.input_shape(2)
    if len(query) == 4:
        batch, heads, rows, depth = query
        columns, width = key[2], value[3]
    else:
        batch, rows, heads = *query[:2], op.number("q_num_heads", 1)
        columns, depth = key[1], query[2] // heads
        width = value[2] // op.number("kv_num_heads", 1)
    if op.has(4):  # past keys
        columns += op.input_shape(4)[2]
    return _scores(batch * heads * rows * columns, depth, width)


def is_segmented_attention(node: ir.Node) -> bool:
    """Whether a node is attention over several segments."""
    return node.domain == "mmedge" and node.op_type.startswith("SegmentedAttention")


def _segmented_attention(op: _Operands) -> int:
    match = re.fullmatch(r"SegmentedAttention([1-9]\d*)(Biased|Guarded)?", op.node.op_type)
    segments = int(match[1]) if match else 0
    if match is None or len(op.node.inputs) < 1 + 2 * segments:
        raise ExportError(
            f"{op.node.op_type} {op.node.name!r} has {len(op.node.inputs)} inputs; expected "
            "SegmentedAttention<M>, followed by Biased, Guarded or nothing, on q, M keys and M "
            "values"
        )
    batch, heads, rows, depth = op.input_shape()
    columns = sum(op.input_shape(1 + index)[2] for index in range(segments))
    scores = batch * heads * rows * columns
    bias_flops = scores if match[2] else 0
    return _scores(scores, depth, op.input_shape(1 + segments)[3]) + bias_flops


def _scores(count: int, depth: int, width: int) -> int:
    """Attention: ``count`` scores over ``depth``, their softmax, and sums of ``width`` values."""
    return count * (2 * depth + PER_ELEMENT["Softmax"] + 2 * width)


def _recurrent(op: _Operands) -> int:
    """Every step of the longest sequence."""
    steps = math.prod(op.input_shape()[:2])  # length and batch, in either layout
    directions, _, hidden = op.input_shape(2)
    products = 2 * (math.prod(op.input_shape(1)) + math.prod(op.input_shape(2)))
    return steps * (products + _RECURRENT[op.node.op_type] * directions * hidden)


def _variadic(op: _Operands) -> int:
    return max(len(op.node.inputs) - 1, 1) * op.size


def _pool(op: _Operands) -> int:
    return op.size * math.prod(op.node.attributes.get_ints("kernel_shape", ()))


def _resize(op: _Operands) -> int:
    resized = sum(a != b for a, b in zip(op.input_shape(), op.output_shape(), strict=True))
    return _interpolate(op, resized, "nearest")


def _interpolate(op: _Operands, axes: int, default: str) -> int:
    taps = _TAPS.get(op.text("mode", default))
    return 0 if taps is None or not axes else 2 * op.size * taps**axes


def _transforms(count: int, length: int) -> int:
    """Fourier transforms by the fast algorithm: 5 n log2 n each, as FFT benchmarks count them."""
    return round(5 * count * length * math.log2(length)) if length > 1 else 0


def _dft(op: _Operands) -> int:
    # The axis is an input since opset 20; one that is no constant is taken to be its default.
    axis = op.number("axis", 1)
    if op.has(2):
        axis_value = op.node.inputs[2]
        axis = (
            -2
            if axis_value is None or axis_value.const_value is None
            else int(axis_value.const_value.numpy())
        )
    length = op.input_shape()[axis]
    return _transforms(math.prod(op.input_shape()[:-1]) // max(length, 1), length)


def _stft(op: _Operands) -> int:
    """Of each frame: the window and a transform."""
    out = op.output_shape()
    if op.has(2):
        length = op.input_shape(2)[0]
    else:
        length = 2 * (out[2] - 1) if op.number("onesided", 1) else out[2]
    frames = out[0] * out[1]
    return frames * length + _transforms(frames, length)


_RULES: dict[str, Callable[[_Operands], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Attention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Max": _variadic,
    "Mean": _variadic,
    "Min": _variadic,
    "Sum": _variadic,
    "AveragePool": _pool,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Resize": _resize,
    "GridSample": lambda op: _interpolate(op, len(op.input_shape()) - 2, "linear"),
    "DFT": _dft,
    "STFT": _stft,
}
