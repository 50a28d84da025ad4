"""What operators ask of the values of their inputs: indices within a table, axes, sizes, scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.infer_shapes import InferShapesPass

__all__ = ["Uses", "Wanted"]

#: Operators that pass integers on unchanged, or change their type or shape only.
_PASSES = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)

#: What an operator asks of an input: a range with both ends, or the values themselves.
Wanted = tuple[float, float] | np.ndarray[Any, np.dtype[Any]] | None


class Uses:
    """What the operators of a graph ask of its inputs, at given shapes of the inputs."""

    def __init__(
        self,
        model: ir.Model,
        shapes: Mapping[str, tuple[int, ...]],
        output_shapes: Sequence[ir.Shape | None],
    ) -> None:
        """``shapes`` are those of the inputs, ``output_shapes`` what the file says of outputs."""
        model = model.clone()
        for value in model.graph.inputs:
            value.shape = ir.Shape(shapes[str(value.name)])
        for value, shape in zip(model.graph.outputs, output_shapes, strict=True):
            if value.shape is None or not value.shape.is_static():
                value.shape = shape
        InferShapesPass()(model)
        self._inputs = {str(value.name): value for value in model.graph.inputs}

    def of(self, value: ir.Value, shape: tuple[int, ...]) -> Wanted:
        """What is asked of an input of the graph."""
        return self._of(self._inputs[str(value.name)], math.prod(shape), set())

    def _of(self, value: ir.Value, count: int, visited_ids: set[int]) -> Wanted:
        if id(value) in visited_ids:
            return None
        visited_ids.add(id(value))
        low, high = -math.inf, math.inf
        for node, position in value.uses():
            rule = _RULES.get((node.op_type, position)) or _RULES.get((node.op_type, -1))
            bounds = rule(_Use(node, position, count)) if rule is not None else None
            passes = node.op_type in _PASSES and (position == 0 or node.op_type == "Concat")
            if bounds is None and passes and node.outputs:
                bounds = self._of(node.outputs[0], count, visited_ids)
            if isinstance(bounds, np.ndarray):
                if bounds.size == count:
                    return bounds
            elif bounds is not None:
                low, high = max(low, bounds[0]), min(high, bounds[1])
        return None if low == -math.inf else (low, high)


@dataclass(frozen=True)
class _Use:
    """An input of a node whose values are wanted: ``count`` of them."""

    node: ir.Node
    position: int
    count: int

    def shape(self, index: int) -> list[int] | None:
        """Sizes of an input where all are known."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return _static(value)

    def result(self) -> list[int] | None:
        """Sizes of the first output where all are known."""
        return _static(self.node.outputs[0])

    def axis(self, default: int = 0) -> int:
        """The attribute ``axis``."""
        return self.node.attributes.get_int("axis", default)

    def constant(self, index: int) -> list[int] | None:
        """An input's integers where it is a constant."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else [int(n) for n in np.ravel(tensor.numpy())]


def _static(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return [int(size) for size in value.shape.numpy()]


Rule = Callable[[_Use], Wanted]


def _all(number: float) -> Rule:
    return lambda use: np.full(use.count, number)


def _between(low: float, high: float) -> Rule:
    return lambda _: (low, high)


def _counting(use: _Use) -> Wanted:
    return np.arange(use.count)


def _along(axis_default: int) -> Rule:
    """Indices along the axis of the first input."""

    def rule(use: _Use) -> Wanted:
        shape = use.shape(0)
        if not shape:
            return (0, 0)
        return (0, shape[use.axis(axis_default) % len(shape)] - 1)

    return rule


def _anywhere(use: _Use) -> Wanted:
    """Indices along whichever axes."""
    shape = use.shape(0)
    return (0, max(min(shape) - 1, 0)) if shape else (0, 0)


def _rows(axis: int) -> Rule:
    """From 1 to the size of one axis of the first input."""

    def rule(use: _Use) -> Wanted:
        shape = use.shape(0)
        return (1, shape[axis]) if shape and axis < len(shape) else (1, 1)

    return rule


def _target(use: _Use) -> Wanted:
    """Sizes that make the output as the file says, else such as are always possible."""
    result = use.result()
    if result is not None and len(result) == use.count:
        return np.array(result)
    shape = use.shape(0)
    if use.node.op_type == "Reshape":
        return np.array([1] * (use.count - 1) + [-1])
    if use.node.op_type in ("Resize", "CenterCropPad") and shape and len(shape) == use.count:
        return np.array(shape)
    return np.ones(use.count)


def _sizes(use: _Use) -> Wanted:
    """Sizes of a constant."""
    result = use.result()
    return np.array(result if result and len(result) == use.count else [2] * use.count)


def _repeats(use: _Use) -> Wanted:
    shape, result = use.shape(0), use.result()
    if shape and result and len(shape) == len(result) == use.count and all(shape):
        return np.array([b // a for a, b in zip(shape, result, strict=True)])
    return np.ones(use.count)


def _unit_axes(use: _Use) -> Wanted:
    shape = use.shape(0) or []
    units = [axis for axis, size in enumerate(shape) if size == 1]
    return np.array(units[: use.count]) if len(units) >= use.count else None


def _ends(use: _Use) -> Wanted:
    shape, axes = use.shape(0), use.constant(3)
    if not shape:
        return None
    axes = axes or list(range(use.count))
    return np.array([shape[axis] if axis < len(shape) else 1 for axis in axes[: use.count]])


def _parts(use: _Use) -> Wanted:
    shape = use.shape(0)
    if not shape or use.count < 1:
        return None
    along = shape[use.axis() % len(shape)]
    part = along // use.count
    return np.array([part] * (use.count - 1) + [along - part * (use.count - 1)])


def _scales(use: _Use) -> Wanted:
    shape, result = use.shape(0), use.result()
    if shape and result and len(shape) == len(result) == use.count and all(shape):
        return np.array([b / a for a, b in zip(shape, result, strict=True)])
    return np.ones(use.count)


def _most(use: _Use) -> Wanted:
    """How many of an axis."""
    result = use.result()
    return np.full(use.count, result[use.axis(-1)] if result else 1)


def _classes(use: _Use) -> Wanted:
    shape = use.shape(0)
    return (0, shape[1] - 1) if shape and len(shape) > 1 else (0, 0)


def _divisors(use: _Use) -> Wanted:
    value = use.node.inputs[use.position]
    return (1, 3) if value is None or value.dtype is None or value.dtype.is_integer() else None


def _window(number: float) -> Rule:
    return _all(number)


def _affine(use: _Use) -> Wanted:
    result, theta = use.result(), use.shape(0)
    rows = theta[0] if theta else 1
    if result and len(result) == use.count:  # [N, H, W, 2] or [N, D, H, W, 3]
        return np.array([rows, 1, *result[1:-1]])
    return np.array([rows, 1, *[4] * (use.count - 2)])


def _index_of_input(index: int, axis: int = 0) -> Rule:
    """Indices along one axis of another input."""

    def rule(use: _Use) -> Wanted:
        shape = use.shape(index)
        return (0, max(shape[axis] - 1, 0)) if shape else (0, 0)

    return rule


#: (operator, position of the input, or -1 for any) -> what it asks.
_RULES: dict[tuple[str, int], Rule] = {
    ("AffineGrid", 1): _affine,
    ("Attention", 6): _index_of_input(1, 2),
    ("BatchNormalization", 4): _between(0.5, 1.5),
    ("BitShift", 1): _between(0, 3),
    ("BlackmanWindow", 0): _window(10),
    ("CenterCropPad", 1): _target,
    ("ConstantOfShape", 0): _sizes,
    ("CumProd", 1): _all(0),
    ("CumSum", 1): _all(0),
    ("DFT", 1): _rows(1),
    ("DFT", 2): _all(1),
    ("DequantizeLinear", 1): _between(0.01, 0.1),
    ("Div", 1): _divisors,
    ("Dropout", 1): _all(0),
    ("Dropout", 2): _all(0),
    ("Expand", 1): _target,
    ("Gather", 1): _along(0),
    ("GatherElements", 1): _along(0),
    ("GatherND", 1): _anywhere,
    ("HammingWindow", 0): _window(10),
    ("HannWindow", 0): _window(10),
    ("Loop", 0): _all(3),
    ("MaxUnpool", 1): _anywhere,
    ("MelWeightMatrix", 0): _all(8),
    ("MelWeightMatrix", 1): _all(16),
    ("MelWeightMatrix", 2): _all(8192),
    ("MelWeightMatrix", 3): _all(0),
    ("MelWeightMatrix", 4): _all(4096),
    ("Mod", 1): _divisors,
    ("NegativeLogLikelihoodLoss", 1): _classes,
    ("NonMaxSuppression", 2): _all(3),
    ("NonMaxSuppression", 3): _all(0.5),
    ("NonMaxSuppression", 4): _all(0),
    ("OneHot", 1): _all(5),
    ("OneHot", 0): _between(0, 4),
    ("Pad", 1): _all(0),
    ("Pad", 3): _counting,
    ("QLinearConv", 1): _between(0.01, 0.1),
    ("QLinearConv", 4): _between(0.01, 0.1),
    ("QLinearConv", 6): _between(0.01, 0.1),
    ("QLinearMatMul", 1): _between(0.01, 0.1),
    ("QLinearMatMul", 4): _between(0.01, 0.1),
    ("QLinearMatMul", 6): _between(0.01, 0.1),
    ("QuantizeLinear", 1): _between(0.01, 0.1),
    ("Range", 0): _all(0),
    ("Range", 1): _all(5),
    ("Range", 2): _all(1),
    ("Reshape", 1): _target,
    ("Resize", 2): _scales,
    ("Resize", 3): _target,
    ("ReverseSequence", 1): _rows(0),
    ("RoiAlign", 2): _index_of_input(0),
    ("RotaryEmbedding", 3): _index_of_input(1),
    ("Scatter", 1): _along(0),
    ("ScatterElements", 1): _along(0),
    ("ScatterND", 1): _anywhere,
    ("SequenceAt", 1): _all(0),
    ("SequenceErase", 1): _all(0),
    ("SequenceInsert", 2): _all(0),
    ("Slice", 1): _all(0),
    ("Slice", 2): _ends,
    ("Slice", 3): _counting,
    ("Slice", 4): _all(1),
    ("SoftmaxCrossEntropyLoss", 1): _classes,
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _all(1),
    ("Squeeze", 1): _unit_axes,
    ("TensorScatter", 2): _all(0),
    ("Tile", 1): _repeats,
    ("TopK", 1): _most,
    ("Trilu", 1): _all(0),
    ("Unsqueeze", 1): _counting,
    ("Upsample", 1): _scales,
    **{(op, 4): _rows(0) for op in ("GRU", "LSTM", "RNN")},
    **{
        (f"Reduce{kind}", 1): _counting
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")
    },
    ("ReduceSumSquare", 1): _counting,
}
