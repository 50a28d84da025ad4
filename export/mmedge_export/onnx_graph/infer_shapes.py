"""Shape inference that goes on where a node is not known."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

__all__ = ["InferShapesPass"]

#: Ops that yield sequences or optionals, and ops that yield what they are given.
_CONTAINERS = frozenset({
    "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceMap", "SplitToSequence",
})  # fmt: skip
_PASSING = frozenset(["Identity", "If", "Loop", "OptionalGetElement", "Scan"])


class InferShapesPass(ir.passes.InPlacePass):
    """Infer shapes and dtypes by ONNX's rules, of as many values as can be.

    Not strictly: a node that inference does not know must not hide the sizes of all others. What
    may be a sequence or an optional has no type afterwards, since onnx-ir takes what is inferred of
    one for a tensor of its elements; ONNX Runtime finds its type by itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run on ``model``."""
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        if any(node.op_type in _CONTAINERS for node in nodes):
            for node in nodes:
                if node.op_type in _CONTAINERS | _PASSING:
                    for value in node.outputs:
                        if not value.is_graph_output():
                            value.type = value.shape = None
        return ir.passes.PassResult(model, modified=True)
