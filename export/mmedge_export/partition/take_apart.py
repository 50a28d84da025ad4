"""What takes one part out of a concatenation reads that part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.read_node import axis_of, integers, standard
from mmedge_export.onnx_graph.size import ONE, Size, total

if TYPE_CHECKING:
    import onnx_ir as ir

    from mmedge_export.partition.graph_builder import GraphBuilder
    from mmedge_export.partition.parts import ConcatParts

__all__ = ["take_apart"]

#: A Slice that ends beyond this ends where its axis does.
ENDLESS = 2**31 - 1


def take_apart(node: ir.Node, builder: GraphBuilder) -> list[ir.Value]:
    """Let what reads the outputs of a Split, Slice or Gather at borders of parts read the parts.

    Args:
        node: what may be one; its outputs are unused afterwards.
        builder: its point is ``node``.

    Returns:
        what is read now, for each output in use; nothing where no output is one modality's own.
    """
    value = node.inputs[0] if node.inputs else None
    parts = builder.parts.get(value) if value is not None else None
    windows = None if parts is None else _windows(node, parts, builder)
    if parts is None or windows is None:
        return []
    outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    owners = [frozenset[str]().union(*parts.owners[windows[value]]) for value in outputs]
    if not any(len(owner) == 1 for owner in owners):
        return []
    return [_stand_in(value, node, parts, windows[value], builder) for value in outputs]


def _stand_in(
    value: ir.Value, node: ir.Node, parts: ConcatParts, window: slice, builder: GraphBuilder
) -> ir.Value:
    leaves = tuple(leaf for part in parts.values[window] for leaf in part)
    part = builder.join(leaves, parts.axis)
    shape = builder.shape(value)
    output = [(f"{value.name}_part", value.dtype, shape)]
    if shape is not None and len(shape) < len(builder.sizes.shapes[part]):
        axes = builder.integers([parts.axis])
        part = builder.add("Squeeze", [part, axes], output, like=node).outputs[0]
    elif value.is_graph_output():
        part = builder.add("Identity", [part], output).outputs[0]
    if value.is_graph_output():
        builder.stand_in(value, part)
    else:
        value.replace_all_uses_with(part)
    return part


def _windows(
    node: ir.Node, parts: ConcatParts, builder: GraphBuilder
) -> dict[ir.Value, slice] | None:
    """Which parts each output in use is; None where one is anything else."""
    if not standard(node) or parts.rounds != ONE:
        return None
    rule = {"Gather": _gathered, "Slice": _sliced, "Split": _split}.get(node.op_type)
    spans = None if rule is None else rule(node, parts, builder)
    if spans is None:
        return None
    borders = [Size(), *parts.ends]
    windows = {}
    for value, (start, end) in zip(node.outputs, spans, strict=True):
        if not (value.uses() or value.is_graph_output()):
            continue
        if start not in borders or end not in borders:
            return None
        window = slice(borders.index(start), borders.index(end))
        if window.start >= window.stop:
            return None
        windows[value] = window
    return windows


def _split(
    node: ir.Node, parts: ConcatParts, builder: GraphBuilder
) -> list[tuple[Size, Size]] | None:
    shapes = [builder.shape(value) for value in (node.inputs[0], *node.outputs)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or axis_of(node, 0, len(known[0])) != parts.axis:
        return None
    sizes = [shape[parts.axis] for shape in known[1:]]
    if total(sizes) != parts.ends[-1]:
        return None
    ends = [total(sizes[: at + 1]) for at in range(len(sizes))]
    return list(zip([Size(), *ends[:-1]], ends, strict=True))


def _gathered(
    node: ir.Node, parts: ConcatParts, builder: GraphBuilder
) -> list[tuple[Size, Size]] | None:
    """Of a Gather of one row."""
    shape, indices = builder.shape(node.inputs[0]), integers(node.inputs[1])
    count = parts.ends[-1].number
    if shape is None or axis_of(node, 0, len(shape)) != parts.axis:
        return None
    if indices is None or len(indices) != 1 or count is None:
        return None
    if builder.shape(node.inputs[1]) not in ((), (ONE,)) or not -count <= indices[0] < count:
        return None
    at = indices[0] % count
    return [(Size.of(at), Size.of(at + 1))]


def _sliced(
    node: ir.Node, parts: ConcatParts, builder: GraphBuilder
) -> list[tuple[Size, Size]] | None:
    """Of a Slice along the axis alone, row by row."""
    shape = builder.shape(node.inputs[0])
    given: list[ir.Value | None] = [*node.inputs[1:], None, None][:4]
    starts, ends = builder.sizes.content(given[0]), builder.sizes.content(given[1])
    axes = (0,) if given[2] is None else integers(given[2])
    steps = (1,) if given[3] is None else integers(given[3])
    if shape is None or starts is None or ends is None or axes is None or steps != (1,):
        return None
    if len(axes) != 1 or axes[0] % len(shape) != parts.axis or len(starts) != 1:
        return None
    return [(_border(starts[0], parts), _border(ends[0], parts))]


def _border(size: Size, parts: ConcatParts) -> Size:
    """Where a bound of a Slice is, counted from the first row."""
    number, whole = size.number, parts.ends[-1]
    if number is not None and number < 0:
        return whole + size
    return whole if number is not None and number >= ENDLESS else size
