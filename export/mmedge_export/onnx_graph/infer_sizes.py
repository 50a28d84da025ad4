"""Symbolic shapes of a graph's values, and what its tensors of sizes hold.

Exporters leave dimensions open that their own ``Shape`` and ``Concat`` nodes fix (the transposed
keys of a decomposed attention, for instance); what is computed here follows those through. Names
of dimensions are believed: two dimensions of one name have one size.

It is long, since each operator has a rule of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import (
    axis_of,
    constant_of,
    given_axes,
    integers,
    new_axes,
    permutation,
    reduced_axes,
    shape_window,
    slice_bounds,
    standard,
)
from mmedge_export.onnx_graph.size import ONE, Size, product, total

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BROADCAST", "SAME", "SAMPLES", "Shape", "SymbolicSizes", "infer_sizes"]

Shape = tuple[Size, ...]

#: A tensor of more sizes than this is none that shapes a tensor.
LONGEST = 64

#: Ops whose output has the shape of their first input.
SAME = frozenset(
    [
        *("Abs", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf"),
        *("Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "IsInf"),
        *("IsNaN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization"),
        *("Mish", "Neg", "Not", "RMSNormalization", "Reciprocal", "Relu", "Round", "Selu"),
        *("Shrink", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish"),
        *("BatchNormalization", "Tan", "Tanh", "ThresholdedRelu", "CumSum", "Trilu"),
    ]
)

#: Ops of several inputs, element by element, that broadcast.
BROADCAST = frozenset(
    [
        *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
        *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or"),
        *("PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    ]
)

#: Ops that treat each sample of a batch, axis 0 of their first input, alike.
SAMPLES = frozenset(
    [
        *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace"),
        *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "LRN"),
        *("InstanceNormalization", "LpPool", "MaxPool", "SpaceToDepth"),
    ]
)


class SymbolicSizes:
    """Shapes of values, and contents of integer tensors of at most one axis."""

    def __init__(self) -> None:
        self.shapes: dict[ir.Value, Shape] = {}
        self.contents: dict[ir.Value, Shape] = {}

    def shape(self, value: ir.Value | None) -> Shape | None:
        """None where the rank is unknown, or the value was made after inference."""
        return None if value is None else self.shapes.get(value)

    def content(self, value: ir.Value | None) -> Shape | None:
        """What an integer tensor holds; a scalar is one size. None where that is unknown."""
        if value is None:
            return None
        if value not in self.contents and (numbers := integers(value)) is not None:
            return tuple(Size.of(number) for number in numbers)
        return self.contents.get(value)


def infer_sizes(graph: ir.Graph) -> SymbolicSizes:
    """Shapes of all values of ``graph`` proper, its subgraphs left out."""
    sizes = SymbolicSizes()
    for value in (*graph.inputs, *graph.initializers.values()):
        _enter(sizes, value, None)
    for node in graph:
        shape = _shape(node, sizes) if standard(node) else None
        outputs = shape if isinstance(shape, list) else [shape]
        for index, value in enumerate(node.outputs):
            _enter(sizes, value, outputs[index] if index < len(outputs) else None)
        content = _content(node, sizes) if standard(node) else None
        if content is not None and len(content) <= LONGEST:
            sizes.contents[node.outputs[0]] = content
    return sizes


def _enter(sizes: SymbolicSizes, value: ir.Value, shape: Shape | None) -> None:
    """Take what was found, what the file states where that says more, and fresh dimensions."""
    declared_shape = value.shape
    if declared_shape is None and value.const_value is not None:
        declared_shape = ir.Shape(value.const_value.shape.numpy())
    if shape is None:
        if declared_shape is None:
            return
        shape = tuple(
            Size.of(size if isinstance(size, int) else size.value or f"{value.name}:{axis}")
            for axis, size in enumerate(declared_shape)
        )
    elif declared_shape is not None and len(declared_shape) == len(shape):
        pairs = zip(shape, declared_shape, strict=True)
        shape = tuple(_better(size, declared_size) for size, declared_size in pairs)
    sizes.shapes[value] = shape


def _better(size: Size, declared_size: int | ir.SymbolicDim) -> Size:
    """A stated number, or a stated name for what has none but that of the value it was met in."""
    if isinstance(declared_size, int):
        return Size.of(declared_size)
    is_placeholder = any(":" in name for names, _ in size.terms for name in names)
    return (
        Size.of(declared_size.value) if is_placeholder and declared_size.value is not None else size
    )


def _broadcast(shapes: Sequence[Shape]) -> Shape | None:
    rank = max(map(len, shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        here = [shape[axis] for shape in shapes if len(shape) >= -axis]
        not_one = [size for size in here if size != ONE] or [ONE]
        static_sizes = [size for size in not_one if size.number is not None]
        if len(set(not_one)) > 1 and not static_sizes:
            return None  # either of them may be 1
        result.append(static_sizes[0] if static_sizes else not_one[0])
    return tuple(result)


def _shape(node: ir.Node, sizes: SymbolicSizes) -> Shape | list[Shape | None] | None:
    input_shapes = [sizes.shape(value) for value in node.inputs if value is not None]
    shapes = [shape for shape in input_shapes if shape is not None]
    if node.op_type == "Constant":
        tensor = constant_of(node)
        return None if tensor is None else tuple(Size.of(size) for size in tensor.shape.numpy())
    if not shapes or len(shapes) < len(input_shapes):
        return None
    if node.op_type in SAME:
        return shapes[0]
    if node.op_type in BROADCAST:
        return _broadcast(shapes)
    if node.op_type.startswith("Reduce") or node.op_type in ("ArgMax", "ArgMin"):
        return _reduce(node, shapes[0])
    rule = RULES.get(node.op_type)
    return rule(node, shapes, sizes) if rule else None


def _reduce(node: ir.Node, shape: Shape) -> Shape | None:
    axes = reduced_axes(node, len(shape))
    if axes is None:
        return None
    if node.attributes.get_int("keepdims", 1):
        return tuple(ONE if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _matmul(_node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape | None:
    left, right = shapes
    if len(right) < 2:
        return left[:-1]
    if len(left) < 2:
        return right[:-2] + right[-1:]
    batch = _broadcast([left[:-2], right[:-2]])
    return None if batch is None else (*batch, left[-2], right[-1])


def _gemm(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    row = shapes[0][1 if node.attributes.get_int("transA", 0) else 0]
    return row, shapes[1][0 if node.attributes.get_int("transB", 0) else 1]


def _transpose(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    return tuple(shapes[0][axis] for axis in permutation(node, len(shapes[0])))


def _concat(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    axis = axis_of(node, 0, len(shapes[0]))
    along = total(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], along, *shapes[0][axis + 1 :])


def _reshape(node: ir.Node, shapes: list[Shape], sizes: SymbolicSizes) -> Shape | None:
    target = sizes.content(node.inputs[1])
    if target is None:
        return None
    copies = not node.attributes.get_int("allowzero", 0)
    result = [
        shapes[0][axis] if copies and size.number == 0 and axis < len(shapes[0]) else size
        for axis, size in enumerate(target)
    ]
    for axis, size in enumerate(result):
        if size.number == -1:
            rest = product(other for other in result if other.number != -1)
            quotient = product(shapes[0]).over(rest)
            result[axis] = quotient or Size.of(f"{node.outputs[0].name}:{axis}")
    return tuple(result)


def _expand(node: ir.Node, shapes: list[Shape], sizes: SymbolicSizes) -> Shape | None:
    target = sizes.content(node.inputs[1])
    return None if target is None else _broadcast([shapes[0], target])


def _flatten(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    axis = axis_of(node, 1, len(shapes[0]))
    return product(shapes[0][:axis]), product(shapes[0][axis:])


def _resize(node: ir.Node, shapes: list[Shape], sizes: SymbolicSizes) -> Shape | None:
    inputs = [*node.inputs, None, None][:4]
    result = list(shapes[0])
    axes = [a % len(result) for a in node.attributes.get_ints("axes", tuple(range(len(result))))]
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if inputs[3] is not None:
        content = sizes.content(inputs[3])
        for axis, size in zip(axes, content or (), strict=False):
            result[axis] = size
        return None if content is None else tuple(result)
    scales = None if inputs[2] is None else inputs[2].const_value
    for axis, scale in zip(axes, () if scales is None else scales.numpy(), strict=False):
        number = result[axis].number
        if scale != 1:
            name = f"{node.outputs[0].name}:{axis}"
            result[axis] = Size.of(name if number is None else math.floor(number * scale))
    return None if scales is None else tuple(result)


def _pad(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape | None:
    pads, rank = integers(node.inputs[1]), len(shapes[0])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = tuple(range(rank)) if given is None else integers(given)
    if pads is None or axes is None:
        return None
    result = list(shapes[0])
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        result[axis] = result[axis] + Size.of(before) + Size.of(after)
    return tuple(result)


def _samples(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    """As many samples come out as went in; the file may state the other sizes."""
    name = node.outputs[0].name
    return shapes[0][0], *(Size.of(f"{name}:{axis}") for axis in range(1, len(shapes[0])))


def _unsqueeze(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape | None:
    axes = new_axes(node, len(shapes[0]))
    if axes is None:
        return None
    rest = iter(shapes[0])
    return tuple(ONE if axis in axes else next(rest) for axis in range(len(shapes[0]) + len(axes)))


def _squeeze(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape | None:
    axes = given_axes(node)
    if axes is None:
        return None
    gone = {axis % len(shapes[0]) for axis in axes}
    return tuple(size for axis, size in enumerate(shapes[0]) if axis not in gone)


def _gather(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    axis = axis_of(node, 0, len(shapes[0]))
    return shapes[0][:axis] + shapes[1] + shapes[0][axis + 1 :]


def _slice(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape | None:
    bounds = slice_bounds(node, len(shapes[0]))
    if bounds is None:
        return None
    result = list(shapes[0])
    for axis, window in bounds.items():
        number = result[axis].number
        if number is not None:
            result[axis] = Size.of(len(range(number)[window]))
        else:
            result[axis] = Size.of(f"{node.outputs[0].name}:{axis}")
    return tuple(result)


def _split(node: ir.Node, shapes: list[Shape], sizes: SymbolicSizes) -> list[Shape | None]:
    axis = axis_of(node, 0, len(shapes[0]))
    content = sizes.content(node.inputs[1]) if len(node.inputs) > 1 else None
    along, count = shapes[0][axis].number, len(node.outputs)
    if content is None and along is not None and len(node.inputs) < 2:
        chunk = math.ceil(along / count)
        content = tuple(Size.of(min(chunk, along - chunk * i)) for i in range(count))
    if content is None:
        content = tuple(Size.of(f"{value.name}:{axis}") for value in node.outputs)
    return [(*shapes[0][:axis], size, *shapes[0][axis + 1 :]) for size in content]


def _shape_of(node: ir.Node, shapes: list[Shape], _: SymbolicSizes) -> Shape:
    return (Size.of(len(shapes[0][shape_window(node)])),)


RULES: dict[
    str, Callable[[ir.Node, list[Shape], SymbolicSizes], Shape | list[Shape | None] | None]
] = {
    "Attention": _samples,
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape_of,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(SAMPLES, _samples),
}


def _content(node: ir.Node, sizes: SymbolicSizes) -> Shape | None:
    """What an integer output of at most one axis holds."""
    value = node.outputs[0] if node.outputs else None
    shape = sizes.shape(value)
    if value is None or shape is None or len(shape) > 1:
        return None
    if node.op_type == "Shape":
        source = sizes.shape(node.inputs[0])
        return None if source is None else source[shape_window(node)]
    if node.op_type == "Constant":
        return None  # read where it is asked for
    input_contents = [sizes.content(operand) for operand in node.inputs if operand is not None]
    first = input_contents[0] if input_contents else None
    if first is None:
        return None
    if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        is_integer = value.dtype is None or value.dtype.is_integer()
        return first if is_integer else None
    if node.op_type == "ReduceProd":
        return (product(first),)
    if node.op_type == "ReduceSum":
        return (total(first),)
    if node.op_type == "Gather":
        indices = integers(node.inputs[1])
        fits = indices is not None and all(-len(first) <= at < len(first) for at in indices)
        return tuple(first[at] for at in indices) if fits and indices is not None else None
    if node.op_type == "Slice":
        bounds = slice_bounds(node, 1)
        return None if bounds is None else first[bounds[0]]
    contents = [content for content in input_contents if content is not None]
    if len(contents) < len(input_contents):
        return None
    if node.op_type == "Concat":
        return tuple(size for content in contents for size in content)
    if node.op_type in ("Add", "Sub", "Mul", "Div") and len(contents) == 2:
        return _arithmetic(node.op_type, *contents)
    return None


def _arithmetic(op: str, left: Shape, right: Shape) -> Shape | None:
    count = max(len(left), len(right))
    if not {len(left), len(right)} <= {1, count}:
        return None
    sizes = []
    for a, b in zip(left * (count // len(left)), right * (count // len(right)), strict=True):
        result = {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": None}[op]
        if op == "Div":
            result = a.floor(b)
        if result is None:
            return None
        sizes.append(result)
    return tuple(sizes)
