"""A value seen through the transposes and scalar factors that it was made with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING

import numpy as np

from mmedge_export.onnx_graph.read_node import axis_of, permutation, standard

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from mmedge_export.partition.graph_builder import GraphBuilder

__all__ = ["View", "scalar", "scaling", "swap_last"]


@dataclass(frozen=True)
class View:
    """``scale * value``, whose axis ``perm[i]`` is axis ``i``."""

    value: ir.Value
    perm: tuple[int, ...]
    scale: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether no axis is moved."""
        return self.perm == tuple(range(len(self.perm)))

    def inward(self, builder: GraphBuilder, *, factors: bool) -> Iterator[View]:
        """This view and the same through ever less of what made it.

        Args:
            builder: knows shapes and constants.
            factors: look through scalar factors too.
        """
        view: View | None = self
        while view is not None and (factors or view.scale == self.scale):
            yield view
            view = _behind(view, builder)

    def parts(self, axis: int, builder: GraphBuilder, *, factors: bool) -> tuple[View, ...] | None:
        """Of each part of a Concat along ``axis`` the view; None where there is no such Concat.

        The view of a part is the outermost that moves no axis, without its factors, or the
        innermost where all views move one.
        """
        for view in self.inward(builder, factors=factors):
            node = view.value.producer()
            if node is None or not standard(node) or node.op_type != "Concat":
                continue
            if view.perm[axis] == axis_of(node, 0, len(view.perm)):
                parts = [replace(view, value=value) for value in node.inputs if value is not None]
                return tuple(_simplest(part, builder, factors=factors) for part in parts)
        return None


def _simplest(view: View, builder: GraphBuilder, *, factors: bool) -> View:
    views = list(view.inward(builder, factors=factors))
    plain = list(takewhile(lambda v: v.plain, dropwhile(lambda v: not v.plain, views)))
    return plain[-1] if plain else views[-1]


def _behind(view: View, builder: GraphBuilder) -> View | None:
    """The same through the node that makes its value; None where that does more."""
    node = view.value.producer()
    if node is None or not standard(node) or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Identity":
        return replace(view, value=node.inputs[0])
    if node.op_type == "Transpose":
        perm = permutation(node, len(view.perm))
        return replace(view, value=node.inputs[0], perm=tuple(perm[at] for at in view.perm))
    if node.op_type == "Reshape":
        value = _folded_transpose(node, builder)
        swap = swap_last(len(view.perm))
        perm = tuple(swap[at] for at in view.perm)
        return None if value is None else replace(view, value=value, perm=perm)
    factor = scaling(node, builder)
    return None if factor is None else View(factor[0], view.perm, view.scale * factor[1])


def swap_last(rank: int) -> tuple[int, ...]:
    """The permutation that swaps the last two axes."""
    return (*range(rank - 2), rank - 1, rank - 2)


def scalar(value: ir.Value | None, builder: GraphBuilder) -> float | None:
    """The one number of a constant float tensor; None for anything else."""
    tensor = None if value is None else builder.constant(value)
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_floating_point():
        return None
    return float(np.ravel(tensor.numpy())[0])


def scaling(node: ir.Node, builder: GraphBuilder) -> tuple[ir.Value, float] | None:
    """What a Mul or Div by a scalar scales, and the factor."""
    if node.op_type not in ("Mul", "Div") or not standard(node):
        return None
    shapes = [builder.shape(value) for value in node.inputs]
    for at in (1, 0) if node.op_type == "Mul" else (1,):
        factor, value = scalar(node.inputs[at], builder), node.inputs[1 - at]
        here, other = shapes[at], shapes[1 - at]
        # A factor with more axes than what it scales adds axes.
        if factor is None or value is None or here is None or other is None:
            continue
        if len(here) <= len(other) and (node.op_type == "Mul" or factor):
            return value, factor if node.op_type == "Mul" else 1.0 / factor
    return None


def _folded_transpose(node: ir.Node, builder: GraphBuilder) -> ir.Value | None:
    """``x`` where the node is the last of Reshape, Transpose, Reshape that swap its last two axes.

    Exporters swap the last two axes of keys like this: to three axes, swap, and back.
    """
    middle = node.inputs[0].producer() if node.inputs[0] is not None else None
    if middle is None or middle.op_type != "Transpose" or not standard(middle):
        return None
    first = middle.inputs[0].producer() if middle.inputs[0] is not None else None
    if first is None or first.op_type != "Reshape" or not standard(first):
        return None
    input_shape, output_shape = builder.shape(first.inputs[0]), builder.shape(node.outputs[0])
    flat = builder.shape(first.outputs[0])
    if (
        input_shape is None
        or output_shape is None
        or flat is None
        or len(input_shape) < 3
        or len(flat) != 3
    ):
        return None
    swaps = permutation(middle, 3) == (0, 2, 1) and flat[1:] == input_shape[-2:]
    keeps_sizes = output_shape == (*input_shape[:-2], input_shape[-1], input_shape[-2])
    return first.inputs[0] if swaps and keeps_sizes else None
