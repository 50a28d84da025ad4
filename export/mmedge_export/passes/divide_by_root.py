"""Division by a square root as one division."""

from __future__ import annotations

import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.onnx_graph.rewrite import producer, remove_unused, replace_node

__all__ = ["DivideByRootPass"]


class DivideByRootPass(ir.passes.InPlacePass):
    """Write ``x * Reciprocal(Sqrt(y))`` as ``x / Sqrt(y)``.

    torch's exporter writes normalization by the root of the mean square in the first form. Runtimes
    fuse the second one into a single operator, and it rounds once less.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; a reciprocal that is left without a use is removed."""
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.op_type != "Mul" or not standard(node):
                continue
            for at in (1, 0):
                reciprocal = producer(node.inputs[at], "Reciprocal")
                if reciprocal is None or producer(reciprocal.inputs[0], "Sqrt") is None:
                    continue
                replace_node(node, "Div", [node.inputs[1 - at], reciprocal.inputs[0]])
                remove_unused([reciprocal])
                modified = True
                break
        return ir.passes.PassResult(model, modified=modified)
