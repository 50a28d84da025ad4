"""Work of a loop's step that would give the same at every step."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mmedge_export.partition.dataflow import owners
from mmedge_export.partition.flops import node_flops
from mmedge_export.passes.strip_metadata import SCOPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor

__all__ = ["LEAST_SHARE", "constant_work"]

#: Share of a step's operations from which a user is told.
LEAST_SHARE = 0.1

#: Operations for each element of the output from which a node counts. One with less costs what
#: reading its result costs (the scale of keys, which runtimes take into the product behind it).
LEAST_FLOPS = 8

_CONSTANTS, _OTHERS = "constants", "others"


def constant_work(
    model: ir.Model, shapes: Mapping[str, MeasuredTensor], constants: Sequence[str]
) -> str | None:
    """A remark on work that follows from ``constants`` alone; None where it is little.

    Args:
        model: of a step.
        shapes: of all its values.
        constants: inputs that stay the same from step to step.
    """
    groups = {
        _CONSTANTS: list(constants),
        _OTHERS: [str(v.name) for v in model.graph.inputs if v.name not in constants],
    }
    nodes, values = owners(model.graph, groups)
    flops = {node: node_flops(node, shapes, model.functions) for node in model.graph}
    repeated = {
        node: count
        for node, count in flops.items()
        if nodes[node] == {_CONSTANTS}
        and count >= LEAST_FLOPS * sum(shapes[str(v.name)].size for v in node.outputs if v.name)
    }
    total, again = sum(flops.values()), sum(repeated.values())
    if not again or again < LEAST_SHARE * total:
        return None
    most = max(repeated, key=repeated.__getitem__)
    scopes: list[str] = ast.literal_eval(most.metadata_props.get(SCOPES, "[]"))
    *_, module, _ = ("", "", *scopes)  # the last one is the operator
    place = module or f"{most.op_type} {most.outputs[0].name}"
    read = [
        name
        for name in constants
        if any(
            value.name == name and nodes[node] == values[value]
            for node in repeated
            for value in node.inputs
            if value is not None
        )
    ]
    return (
        f"{again / total:.0%} of a step's operations follow from {', '.join(read[:3])}"
        f"{' and others' if len(read) > 3 else ''} alone and are done again at every step, most "
        f"of them in {place}: have module compute them, once a call"
    )
