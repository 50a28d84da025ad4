"""One name for each dynamic size of a graph, wherever it occurs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.infer_shapes import InferShapesPass
from mmedge_export.onnx_graph.infer_sizes import infer_sizes
from mmedge_export.onnx_graph.size import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NameSizesPass"]

#: How ONNX's shape inference names what it could not infer, each time anew.
UNKNOWN = "unk__"


class NameSizesPass(ir.passes.InPlacePass):
    """Infer shapes, and write each dynamic size of the main graph in one way.

    ``1 + s//2`` and ``(s//2) + 1`` are the same text afterwards, and a size that ONNX's shape
    inference gave a name of its own has the name of the dimension that it is, if that can be told.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run on ``model``."""
        InferShapesPass()(model)
        for value in _values(model.graph):
            if value.shape is not None:
                value.shape = ir.Shape([_canonical(size) for size in value.shape])
        sizes = infer_sizes(model.graph)
        for value in _values(model.graph):
            inferred_shape = sizes.shape(value)
            if inferred_shape is None or value.is_graph_input():
                continue
            if value.shape is None or len(value.shape) != len(inferred_shape):
                value.shape = ir.Shape([_plain(size) for size in inferred_shape])
                continue
            value.shape = ir.Shape(
                [
                    _plain(size) if not isinstance(old, int) and old.value is None else old
                    for old, size in zip(value.shape, inferred_shape, strict=True)
                ]
            )
        return ir.passes.PassResult(model, modified=True)


def _canonical(size: object) -> int | str | None:
    if isinstance(size, int):
        return size
    text = getattr(size, "value", None)
    if text is None or text.startswith(UNKNOWN):
        return None
    return _plain(Size.of(text))


def _plain(size: Size) -> int | str:
    return str(size) if size.number is None else size.number


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
