"""Row-wise work that is told the shape to make: what each part of it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.read_node import integers
from mmedge_export.onnx_graph.size import ONE
from mmedge_export.partition.parts import RowwisePlan

if TYPE_CHECKING:
    import onnx_ir as ir

    from mmedge_export.onnx_graph.infer_sizes import Shape
    from mmedge_export.onnx_graph.size import Size
    from mmedge_export.partition.graph_builder import GraphBuilder
    from mmedge_export.partition.parts import ConcatParts

__all__ = ["RULES"]


def _reshape(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    """Of a Reshape or Flatten."""
    before, after = builder.shape(node.inputs[0]), builder.shape(node.outputs[0])
    if before is None or after is None or any(size.number == 0 for size in after):
        return None
    reshaped = parts.reshaped(before, after)
    if reshaped is None or not builder.joinable(reshaped):
        return None
    axis = reshaped.axis
    regroups = (reshaped.sizes, reshaped.rounds) != (parts.sizes, parts.rounds)
    if node.op_type == "Flatten":
        return RowwisePlan(reshaped, axis, (parts,), regroups=regroups)
    target = node.inputs[1]
    if target is None or target in builder.parts:
        return None
    numbers = integers(target)
    if numbers is not None and numbers[axis] == -1 and not regroups:
        return RowwisePlan(reshaped, axis, (parts, target))
    targets = []
    for at in range(len(parts.sizes)):
        sizes = _target(after, axis, reshaped.length(at) if regroups else None)
        if not builder.reachable(parts, sizes, target):
            return None
        targets.append(sizes)
    return RowwisePlan(reshaped, axis, (parts, target), tuple(targets), regroups=regroups)


def _target(after: Shape, axis: int, length: Size | None) -> tuple[Size | None, ...]:
    """A shape with ``length`` along ``axis``, and one size open where one is no number."""
    sizes = [length if at == axis else size for at, size in enumerate(after)]
    unknown = [at for at, size in enumerate(sizes) if size is not None and size.number is None]
    if length is not None and unknown:
        sizes[axis if axis in unknown else unknown[0]] = None
    return tuple(sizes)


def _expand(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    input_shape, output_shape, target = (
        builder.shape(node.inputs[0]),
        builder.shape(node.outputs[0]),
        node.inputs[1],
    )
    target_sizes = builder.sizes.content(target)
    if input_shape is None or output_shape is None or target is None or target_sizes is None:
        return None
    end = len(input_shape) - parts.axis  # the axis counted from the end
    axis = len(output_shape) - end
    if len(target_sizes) >= end and target_sizes[-end] not in (ONE, input_shape[parts.axis]):
        return None
    if len(target_sizes) >= end:
        target_sizes = tuple(
            ONE if at == len(target_sizes) - end else s for at, s in enumerate(target_sizes)
        )
    if not builder.reachable(parts, target_sizes, target):
        return None
    return RowwisePlan(parts, axis, (parts, target), (target_sizes,) * len(parts.sizes))


def _resize(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    """Of a Resize that leaves the axis of the parts as it is."""
    shape, attributes = builder.shape(node.inputs[0]), node.attributes
    mode = attributes.get_string("coordinate_transformation_mode", "half_pixel")
    policy = attributes.get_string("keep_aspect_ratio_policy", "stretch")
    shared = [value for value in node.inputs[1:] if value is not None]
    if shape is None or mode == "tf_crop_and_resize" or policy != "stretch":
        return None
    if any(value in builder.parts or builder.owners.of(value) for value in shared):
        return None
    axes = [axis % len(shape) for axis in attributes.get_ints("axes", tuple(range(len(shape))))]
    inputs = (parts, *node.inputs[1:])
    if parts.axis not in axes:
        return RowwisePlan(parts, parts.axis, inputs)
    place = axes.index(parts.axis)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        sizes = builder.sizes.content(node.inputs[3])
        if sizes is None or sizes[place] != shape[parts.axis]:
            return None
        target = tuple(None if at == place else size for at, size in enumerate(sizes))
        if not builder.reachable(parts, target, node.inputs[3]):
            return None
        targets = (target,) * len(parts.sizes)
        return RowwisePlan(parts, parts.axis, inputs, targets, target_at=3)
    scales = builder.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if scales is None or scales.size != len(axes) or scales.numpy()[place] != 1:
        return None
    return RowwisePlan(parts, parts.axis, inputs)


def _pad(node: ir.Node, parts: ConcatParts, builder: GraphBuilder) -> RowwisePlan | None:
    """Of a Pad that adds no rows."""
    shape = builder.shape(node.inputs[0])
    pads = integers(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = None if given is None else integers(given)
    fixed = all(builder.owners.fixed(value) for value in node.inputs[1:] if value is not None)
    if shape is None or pads is None or not fixed or (given is not None and axes is None):
        return None
    places = [axis % len(shape) for axis in axes or range(len(shape))]
    added = dict(zip(places, zip(pads, pads[len(places) :], strict=False), strict=False))
    if len(pads) != 2 * len(places) or added.get(parts.axis, (0, 0)) != (0, 0):
        return None
    return RowwisePlan(parts, parts.axis, (parts, *node.inputs[1:]))


#: By operator; the first input is in parts, and is the only one.
RULES = {
    "Expand": _expand,
    "Flatten": _reshape,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
}
