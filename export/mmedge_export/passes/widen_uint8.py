"""Let uint8 inputs be moved before they are cast."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["WidenUint8Pass"]

UINT8, WIDE = ir.DataType.UINT8, ir.DataType.INT32

#: Ops that only move values, whatever their dtype. Pad is none: its filler has a dtype too.
MOVERS = frozenset(
    [
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
        *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ]
)


class WidenUint8Pass(ir.passes.InPlacePass):
    """Cast uint8 inputs of the graph to int32 at once, where they are moved before their own cast.

    TensorRT can do nothing with uint8 but cast it, while networks often permute a frame first. The
    result is exactly the same: int32 holds every uint8, and the network's own cast follows. A graph
    that computes in uint8 is left as it is, for TensorRT's parser to name the node.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        starts = [value for value in graph.inputs if value.dtype == UINT8]
        uint8_values = _reachable(graph, starts)
        if not uint8_values:
            return ir.passes.PassResult(model, modified=False)
        for start in starts:
            users = [(user, at) for user, at in start.uses() if user.op_type != "Cast"]
            if not users:
                continue
            cast = ir.Value(name=f"{start.name}_int32", type=ir.TensorType(WIDE), shape=start.shape)
            graph.insert_before(
                graph[0],
                ir.node(
                    "Cast", [start], {"to": int(WIDE)}, outputs=[cast], name=f"cast_{cast.name}"
                ),
            )
            for user, at in users:
                user.replace_input_with(at, cast)
        for value in uint8_values:
            value.dtype = WIDE
        return ir.passes.PassResult(model, modified=True)


def _reachable(graph: ir.Graph, starts: list[ir.Value]) -> list[ir.Value]:
    """Values that movers make of ``starts``; empty when something else reads a uint8."""
    uint8_values = set(starts)
    for node in graph:
        operands = [value for value in node.inputs if value is not None and value.dtype == UINT8]
        if not operands or node.op_type == "Cast":
            continue
        if node.op_type not in MOVERS or any(value not in uint8_values for value in operands):
            return []
        if any(value.is_graph_output() for value in node.outputs):
            return []
        uint8_values.update(node.outputs)
    return [value for value in uint8_values if value not in starts]
