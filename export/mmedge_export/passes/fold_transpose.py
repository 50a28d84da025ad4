"""Transposed weights as weights."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["FoldTransposePass"]


class FoldTransposePass(ir.passes.InPlacePass):
    """Store constants the way they are used, where a Transpose turns them at every run.

    A graph keeps such a Transpose where stages share the weights. The product behind it would else
    not be seen to have constant weights.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        modified = False
        for node in list(graph):
            value = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
            if value is None or not value.is_initializer() or value.is_graph_input():
                continue
            old = node.outputs[0]
            if value.const_value is None or old.is_graph_output():
                continue
            order = node.attributes.get("perm")
            array = value.const_value.numpy()
            array = array.transpose(tuple(order.as_ints()) if order is not None else None)
            name = str(old.name)
            old.name = f"{name}_transposed"
            tensor = ir.tensor(array.copy(), name=name)
            dtype, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
            new = ir.Value(name=name, type=dtype, shape=shape, const_value=tensor)
            graph.register_initializer(new)
            ir.convenience.replace_all_uses_with(old, new)
            graph.remove(node, safe=True)
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[str(value.name)]
            modified = True
        return ir.passes.PassResult(model, modified=modified)
