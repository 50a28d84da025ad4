"""What the attributes and constant inputs of a node say, in one form for all opsets."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = [
    "axis_of",
    "constant_of",
    "given_axes",
    "integers",
    "new_axes",
    "permutation",
    "reduced_axes",
    "shape_window",
    "slice_bounds",
    "standard",
]

#: A tensor of more numbers than this is none that gives axes or sizes.
LONGEST = 64


def standard(node: ir.Node) -> bool:
    """Whether the node is an operator of ONNX itself."""
    return node.domain in ("", "ai.onnx")


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """What a constant integer tensor holds, flat; None where it is none, or long."""
    if value is None or value.is_graph_input():  # an initializer that is one may be overridden
        return None
    tensor, node = value.const_value, value.producer()
    if tensor is None and node is not None and node.op_type == "Constant" and standard(node):
        tensor = constant_of(node)
    if tensor is None or not tensor.dtype.is_integer() or tensor.size > LONGEST:
        return None
    return tuple(int(number) for number in np.ravel(tensor.numpy()))


def axis_of(node: ir.Node, default: int, rank: int, name: str = "axis") -> int:
    """An attribute that is an axis, counted from 0."""
    axis = node.attributes.get_int(name, default)
    return axis + rank if axis < 0 else axis


def constant_of(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant; None for one of strings or floats given as such."""
    attributes = node.attributes
    if (attribute := attributes.get("value")) is not None:
        return attribute.as_tensor()
    if (attribute := attributes.get("value_int")) is not None:
        return ir.tensor(np.array(attribute.as_int(), np.int64))
    if (attribute := attributes.get("value_ints")) is not None:
        return ir.tensor(np.array(attribute.as_ints(), np.int64))
    return None


def given_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes from the attribute or the second input, as given; None without constant ones."""
    if (attribute := node.attributes.get("axes")) is not None:
        return tuple(attribute.as_ints())
    return integers(node.inputs[1]) if len(node.inputs) > 1 else None


def reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Axes that a Reduce*, ArgMax or ArgMin works over; None where they are not fixed."""
    if node.op_type in ("ArgMax", "ArgMin"):
        return (axis_of(node, 0, rank),)
    axes = given_axes(node)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return None
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        return ()
    return tuple(axis % rank for axis in axes) if axes else tuple(range(rank))


def new_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Axes that an Unsqueeze of a tensor of ``rank`` axes adds, counted in its output."""
    axes = given_axes(node)
    return None if axes is None else tuple(axis % (rank + len(axes)) for axis in axes)


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Of a Transpose."""
    return tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))


def slice_bounds(node: ir.Node, rank: int) -> dict[int, slice] | None:
    """What a Slice with constant bounds takes of each axis; None where they are not constant."""
    operands = [integers(value) for value in node.inputs[1:] if value is not None]
    if len(operands) < 2 or any(numbers is None for numbers in operands):
        return None
    starts, ends = operands[0] or (), operands[1] or ()
    axes = (
        operands[2] if len(operands) > 2 and operands[2] is not None else tuple(range(len(starts)))
    )
    steps = operands[3] if len(operands) > 3 and operands[3] is not None else (1,) * len(starts)
    # Python's own slices clamp as ONNX does.
    return {
        axis % rank: slice(start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def shape_window(node: ir.Node) -> slice:
    """What a Shape gives of the axes."""
    end = node.attributes.get("end")
    return slice(node.attributes.get_int("start", 0), None if end is None else end.as_int())
