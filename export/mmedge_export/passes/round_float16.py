"""What a float16 graph computes, made visible on a processor without float16 arithmetic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["RoundFloat16Pass"]

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class RoundFloat16Pass(ir.passes.InPlacePass):
    """Turn a typed float16 graph into float32 with a rounding to float16 after every node.

    ONNX Runtime's CPU provider has few float16 kernels: it runs such nodes in float32 and drops the
    casts between them, so that an overflow or a lost bit never shows (1000 squared and back gives
    1000, not infinity). It keeps casts that a graph spells out. The result rounds where an engine
    stores float16, with sums in float32 as tensor cores do.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        modified = False
        for value in list(graph.initializers.values()):
            if value.dtype == HALF and value.const_value is not None:
                array = value.const_value.numpy().astype(np.float32)
                value.const_value = ir.tensor(array, name=value.name)
                value.dtype = FLOAT
                modified = True
        for node in list(graph):
            if node.op_type == "Cast" and node.attributes["to"].as_int() == HALF:
                node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
            if node.op_type == "ConstantOfShape" and "value" in node.attributes:
                filler = node.attributes["value"].as_tensor().numpy()
                if filler.dtype == np.float16:
                    tensor = ir.tensor(filler.astype(np.float32))
                    node.attributes["value"] = ir.AttrTensor("value", tensor)
            for value in node.outputs:
                if value.dtype == HALF:
                    value.dtype = FLOAT
                    _round(graph, node, value)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Replace ``value`` by itself rounded to float16, everywhere."""
    half = ir.Value(name=f"{value.name}_narrow", type=ir.TensorType(HALF), shape=value.shape)
    rounded_value = ir.Value(
        name=f"{value.name}_rounded", type=ir.TensorType(FLOAT), shape=value.shape
    )
    ir.convenience.replace_all_uses_with(value, rounded_value)
    down = ir.node("Cast", [value], {"to": int(HALF)}, outputs=[half], name=f"{half.name}_cast")
    up = ir.node(
        "Cast",
        [half],
        {"to": int(FLOAT)},
        outputs=[rounded_value],
        name=f"{rounded_value.name}_cast",
    )
    graph.insert_after(node, [down, up])
