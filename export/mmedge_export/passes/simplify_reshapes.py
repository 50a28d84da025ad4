"""Let reshapes copy the sizes that they keep, in place of computing them.

Exporters compute every dynamic size of a reshape from the shape of some network input, often of
another sensor's. Reshape has a sign for a size that stays where it is (0) and one for what is left
over (-1). With these, most reshapes need no size from anywhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["SimplifyReshapesPass"]


class SimplifyReshapesPass(ir.passes.InPlacePass):
    """Give every Reshape of the main graph a constant target where its shapes are known by name.

    The graph needs shapes (shape inference); nodes that are left without a use stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run on ``model``."""
        modified = False
        constants: dict[tuple[int, ...], ir.Value] = {}
        for node in model.graph:
            if node.op_type != "Reshape" or node.domain:
                continue
            target = node.inputs[1]
            sizes = _target(node)
            if sizes is None or target is None or target.is_initializer():
                continue
            if sizes not in constants:
                constants[sizes] = _constant(model.graph, sizes)
            node.replace_input_with(1, constants[sizes])
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _target(node: ir.Node) -> tuple[int, ...] | None:
    """The constant target that says the same; None where there is none."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        return None
    if node.attributes.get_int("allowzero", 0):
        return None
    sizes: list[int] = []
    for axis, size in enumerate(result.shape):
        if isinstance(size, int):
            if size == 0:
                return None
            sizes.append(size)
        elif size.value is not None and axis < len(source.shape) and source.shape[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
    return None if sizes.count(-1) > 1 else tuple(sizes)


def _constant(graph: ir.Graph, sizes: tuple[int, ...]) -> ir.Value:
    text = "_".join("n" if size == -1 else str(size) for size in sizes)
    name = f"target_{text}"
    names = {str(value.name) for node in graph for value in node.outputs}
    names |= {str(value.name) for value in graph.inputs} | set(graph.initializers)
    while name in names:
        name += "_"
    value = ir.Value(
        name=name,
        shape=ir.Shape([len(sizes)]),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.array(sizes, np.int64)),
    )
    graph.register_initializer(value)
    return value
