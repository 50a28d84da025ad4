"""Let reshapes copy the sizes that they keep, in place of computing them.

Exporters compute every dynamic size of a reshape from the shape of some network input, often of
another sensor's. Reshape has a sign for a size that stays where it is (0) and one for what is left
over (-1). With these, most reshapes need no size from anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.onnx_graph.rewrite import register
from mmedge_export.onnx_graph.size import Size

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SimplifyReshapesPass"]


class SimplifyReshapesPass(ir.passes.InPlacePass):
    """Give every Reshape of the main graph a constant target where its shapes are known by name.

    The graph needs shapes (shape inference); nodes that are left without a use stay.

    Args:
        may_be_empty: names of dimensions that may be 0. What is left over is not defined beside
            such a size.
    """

    def __init__(self, may_be_empty: Collection[str] = ()) -> None:
        super().__init__()
        self._may_be_empty = frozenset(may_be_empty)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run on ``model``."""
        modified = False
        constants: dict[tuple[int, ...], ir.Value] = {}
        for node in model.graph:
            if node.op_type != "Reshape" or not standard(node):
                continue
            target = node.inputs[1]
            if target is None or target.is_initializer():
                continue
            sizes = self._target(node)
            if sizes is None:
                continue
            if sizes not in constants:
                constants[sizes] = _constant(model.graph, sizes)
            node.replace_input_with(1, constants[sizes])
            node.attributes.pop("allowzero", None)
            modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _target(self, node: ir.Node) -> tuple[int, ...] | None:
        """The constant target that says the same; None where there is none."""
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None or result.shape is None:
            return None
        sizes: list[int] = []
        copies_empty = False
        for axis, size in enumerate(result.shape):
            if isinstance(size, int):
                if size == 0:
                    return None
                sizes.append(size)
            elif size.value is not None and axis < len(source.shape) and source.shape[axis] == size:
                sizes.append(0)
                copies_empty |= self._is_empty_somewhere(size.value)
            else:
                sizes.append(-1)
        if sizes.count(-1) > 1 or (copies_empty and -1 in sizes):
            return None
        return tuple(sizes)

    def _is_empty_somewhere(self, text: str) -> bool:
        """Whether a size may be 0: none of its terms, all of them positive, is at least 1."""
        terms = Size.of(text).terms
        return any(factor < 0 for _, factor in terms) or not any(
            self._may_be_empty.isdisjoint(names) for names, _ in terms
        )


def _constant(graph: ir.Graph, sizes: tuple[int, ...]) -> ir.Value:
    text = "_".join("n" if size == -1 else str(size) for size in sizes)
    return register(graph, f"target_{text}", np.array(sizes, np.int64))
