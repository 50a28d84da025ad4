"""A rule of the exporter's optimizer that costs the square of a graph's nodes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxscript.rewriter.rules.common import slice_split_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

__all__ = ["tried_at_slices"]


@contextmanager
def tried_at_slices() -> Iterator[None]:
    """The rule that makes a Split of two Slices is tried at Slices alone.

    It has two outputs, so onnxscript (0.5.3 to 0.7.2) lists all nodes of the graph before it looks
    at the one where it is tried, and it is tried at every node: 2 of the 12 seconds that torch's
    exporter takes for CLIP ViT-B/32. At another node it never applies.
    """
    try_rewrite = slice_split_rule.try_rewrite

    def try_at_slice(model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:  # noqa: ANN401
        if node.op_type != "Slice":
            return None
        return try_rewrite(model, graph, node, **options)

    slice_split_rule.try_rewrite = try_at_slice
    try:
        yield
    finally:
        del slice_split_rule.try_rewrite
