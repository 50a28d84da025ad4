"""Make attention masks representable in float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["MASK", "ClampMasksPass"]

#: What stands for "never attend". ``exp`` of it is 0 in float32 and float16, it is exact in
#: float16, and two of them may be added (a causal and a padding mask) without overflow.
MASK = -8192.0

#: Ops that a mask passes through on its way to a softmax.
CARRIERS = frozenset(
    [
        *("Add", "And", "Cast", "Concat", "Expand", "Gather", "Identity", "Max", "Min", "Mul"),
        *("Reshape", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Trilu"),
        *("Unsqueeze", "Where"),
    ]
)

#: Ops in which a score of :data:`MASK` or less becomes a weight of 0, and the input it enters by.
SINKS = {"Softmax": 0, "LogSoftmax": 0, "Attention": 3}


class ClampMasksPass(ir.passes.InPlacePass):
    """Replace constants far below zero by :data:`MASK` where all they do is mask a softmax.

    Graphs mask with -1e9, -3.4e38 and the like, which float16 cannot hold, and two of which it
    cannot add. A constant qualifies when every finite element is 0 or positive below 1e4 or at most
    :data:`MASK`, and every path from it goes through :data:`CARRIERS` to a softmax. Minus infinity
    stays: float16 has it, and a comparison with it stays what it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clamp in place."""
        modified = False
        for value in list(model.graph.initializers.values()):
            if value.const_value is None or value.dtype != ir.DataType.FLOAT:
                continue
            array = value.const_value.numpy()
            finite = array[np.isfinite(array)]
            low = finite <= MASK
            if not low.any() or np.abs(finite[~low]).max(initial=0.0) >= -MASK:
                continue
            if not _only_masks(value):
                continue
            values = np.where(np.isfinite(array), np.maximum(array, np.float32(MASK)), array)
            value.const_value = ir.tensor(values.astype(np.float32), name=value.name)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _meets_infinity(node: ir.Node, index: int) -> bool:
    """Whether a mask is held against minus infinity, which no clamped number is."""
    if node.op_type != "Equal" or node.domain not in ("", "ai.onnx"):
        return False
    other = node.inputs[1 - index]
    constant = None if other is None else ir.convenience.get_const_tensor(other)
    return constant is not None and bool(np.all(constant.numpy() == -np.inf))


def _only_masks(value: ir.Value) -> bool:
    """Whether every path from ``value`` ends in a softmax."""
    visited_values: set[ir.Value] = set()
    waiting = [value]
    ends = 0
    while waiting:
        current = waiting.pop()
        if current in visited_values:
            continue
        visited_values.add(current)
        if current.is_graph_output():
            return False
        for node, index in current.uses():
            if node.op_type in SINKS:
                if SINKS[node.op_type] != index:
                    return False
                ends += 1
            elif _meets_infinity(node, index):
                continue
            elif node.op_type in CARRIERS and node.domain in ("", "ai.onnx"):
                waiting.extend(node.outputs)
            else:
                return False
    return ends > 0
