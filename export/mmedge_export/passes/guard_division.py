"""Keep integer divisions from ending the process."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.graph import is_external
from mmedge_export.onnx_graph.infer_shapes import InferShapesPass

__all__ = ["GuardDivisionPass"]

#: Types for which the processor traps when the smallest value is divided by -1.
TRAPPING = (ir.DataType.INT32, ir.DataType.INT64)


class GuardDivisionPass(ir.passes.InPlacePass):
    """Write ``Div`` and ``Mod`` of int32 and int64 so that no value of its inputs ends the process.

    The smallest integer divided by -1 has no result; the processor traps, and ONNX Runtime lets it
    (for ``Mod`` until 1.31). ``a / b`` becomes ``a / Where(b == -1, 1, b)``, negated where
    ``b == -1``, and ``a mod b`` the same without the sign: what it was for every other pair of
    values; the smallest integer is then its own negative. A division by a constant without -1, the
    usual one, stays as it is. A reader refuses what is not so (:mod:`mmedge.bundle.integers`).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        divisions = [node for node in model.graph.all_nodes() if _divides(node)]
        if any(_kind(node) is None for node in divisions):
            InferShapesPass()(model)
        number = 0
        for node in divisions:
            kind = _kind(node)
            if kind in TRAPPING and not _is_safe(node):
                _guard(node, kind, f"{node.outputs[0].name}_guard{number}")
                number += 1
        return ir.passes.PassResult(model, modified=number > 0)


def _divides(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return False
    if node.op_type == "Mod":
        rounding = node.attributes.get("fmod")
        return rounding is None or rounding.is_ref() or rounding.as_int() == 0
    return node.op_type == "Div"


def _kind(node: ir.Node) -> ir.DataType | None:
    """The type of a division: that of any of its tensors, since all have one."""
    values = [*node.inputs, *node.outputs]
    return next((v.dtype for v in values if v is not None and v.dtype is not None), None)


def _is_safe(node: ir.Node) -> bool:
    """Whether a constant rules the trap out, as the bundle's reader sees it."""
    if node.inputs[1] is None:
        return False
    divisor = ir.convenience.get_const_tensor(node.inputs[1])
    return divisor is not None and not is_external(divisor) and not (divisor.numpy() == -1).any()


def _guard(node: ir.Node, kind: ir.DataType, name: str) -> None:
    """Put the guarded division in the node's place."""
    dividend, divisor = node.inputs
    output, graph = node.outputs[0], node.graph
    if graph is None:
        return  # of no graph that could run
    nodes: list[ir.Node] = []

    def add(
        op: str,
        *inputs: ir.Value | None,
        dtype: ir.DataType = kind,
        shape: ir.Shape | None = output.shape,
        **attributes: ir.TensorProtocol,
    ) -> ir.Value:
        value = ir.Value(name=f"{name}_{len(nodes)}", type=ir.TensorType(dtype), shape=shape)
        step = ir.node(op, list(inputs), attributes, outputs=[value], name=f"make_{value.name}")
        step.metadata_props.update(node.metadata_props)
        nodes.append(step)
        return value

    def constant(number: int) -> ir.Value:
        return add("Constant", shape=ir.Shape([]), value=ir.tensor(np.array(number, kind.numpy())))

    beside = None if divisor is None else divisor.shape
    minus_one, one = constant(-1), constant(1)
    negative = add("Equal", divisor, minus_one, dtype=ir.DataType.BOOL, shape=beside)
    safe = add("Where", negative, one, divisor, shape=beside)
    result = add(node.op_type, dividend, safe)
    if node.op_type == "Div":
        result = add("Where", negative, add("Neg", result), result)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [output], [result])
