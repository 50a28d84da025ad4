"""Attention's scale on the queries alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge_export.onnx_graph.read_node import constant_of, standard

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ScaleQueriesPass"]


class ScaleQueriesPass(ir.passes.InPlacePass):
    """Write ``(q * a) @ (transpose(k) * b)`` as ``(q * (a * b)) @ transpose(k)``.

    torch's exporter puts the root of the scale on both sides. Queries are fewer than keys in a step
    of a decoder, and a runtime can then take the Transpose into the product: OpenVINO 2026.4 scaled
    and transposed all keys anew in each step, a fifth of the time of whisper-tiny's.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; products that are left without a use are removed."""
        modified = False
        for node in list(model.graph):
            if node.op_type != "MatMul" or not standard(node):
                continue
            keys, key_scale = _scaled(node.inputs[1])
            producer = None if keys is None else keys.producer()
            if key_scale is None or producer is None or producer.op_type != "Transpose":
                continue
            queries, query_scale = _scaled(node.inputs[0])
            scale = key_scale if query_scale is None else query_scale * key_scale
            constant = ir.Value(
                name=f"{node.outputs[0].name}_scale",
                type=ir.TensorType(ir.DataType.from_numpy(scale.dtype)),
                shape=ir.Shape([]),
                const_value=ir.tensor(scale),
            )
            model.graph.register_initializer(constant)
            # Values have names of their own, nodes may have none.
            name = f"{node.outputs[0].name}_queries"
            product = ir.node("Mul", [queries, constant], name=name)
            product.outputs[0].name = name
            product.metadata_props.update(node.metadata_props)
            model.graph.insert_before(node, product)
            old = node.inputs
            node.replace_input_with(0, product.outputs[0])
            node.replace_input_with(1, keys)
            for value in old:
                mul = None if value is None else value.producer()
                if mul is not None and mul.op_type == "Mul" and not _is_used(mul.outputs[0]):
                    model.graph.remove(mul, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, np.ndarray | None]:
    """What is multiplied by a constant scalar, and that scalar; the value itself and None else."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Mul" and standard(node):
        for at in (1, 0):
            scalar = _scalar(node.inputs[at])
            if scalar is not None:
                return node.inputs[1 - at], scalar
    return value, None


def _scalar(value: ir.Value | None) -> np.ndarray | None:
    """A constant of one element and no axis longer than that; None where it is another value."""
    if value is None or value.is_graph_input():
        return None
    tensor, node = value.const_value, value.producer()
    if tensor is None and node is not None and node.op_type == "Constant" and standard(node):
        tensor = constant_of(node)
    if tensor is None or tensor.size != 1 or len(tensor.shape) > 1:
        return None
    return tensor.numpy().reshape(())


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
