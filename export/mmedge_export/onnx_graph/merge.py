"""The graphs of a network's stages as one graph."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Stage

__all__ = ["merge"]


def merge(
    stages: Sequence[Stage],
    graphs: Mapping[str, tuple[Path, str]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    folder: str,
) -> ir.Model:
    """One graph that computes what the stages compute one after another, on the same weight files.

    What is inside a stage is named after it, so that names of several do not clash.

    Args:
        stages: in order.
        graphs: by stage, its file and the path that it has in the bundle.
        inputs: of the network, in order.
        outputs: of the network, in order.
        folder: of the bundle that the merged graph will lie in; weights lie there or below.

    Raises:
        ExportError: the stages are of several versions of one operator set, or have weights
            elsewhere.
    """
    values: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    functions: dict[ir.OperatorIdentifier, ir.Function] = {}
    opsets: dict[str, int] = {}
    version = 0
    for stage in stages:
        path, place = graphs[stage.name]
        model = ir.load(path)
        graph = model.graph
        for domain, opset in graph.opset_imports.items():
            if opsets.setdefault(domain, opset) != opset:
                raise ExportError(
                    f"stage {stage.name!r} has version {opset} of the operators "
                    f"{domain or 'ai.onnx'!r}, others have {opsets[domain]}"
                )
        version = max(version, model.ir_version)
        functions |= model.functions
        boundary_names = {value.name for value in (*graph.inputs, *graph.outputs)}
        prefix = f"{stage.name}/"
        for value in list(graph.inputs):
            value_before = values.setdefault(str(value.name), value)
            if value_before is not value:
                ir.convenience.replace_all_uses_with(
                    value, value_before, replace_graph_outputs=True
                )
        for value in list(graph.initializers.values()):
            del graph.initializers[str(value.name)]
            value.name = f"{prefix}{value.name}"
            value.const_value = _relocate_weight(
                value.const_value, posixpath.dirname(place), folder
            )
            initializers.append(value)
        for node in graph.all_nodes():
            # A name is unique, or there is none.
            node.name = f"{prefix}{node.name}" if node.name else None
            for value in node.outputs:
                if value.name and value.name not in boundary_names:
                    value.name = f"{prefix}{value.name}"
        values |= {str(value.name): value for value in graph.outputs}
        stage_nodes = list(graph)
        graph.inputs.clear()
        graph.outputs.clear()
        graph.remove(stage_nodes)
        nodes += stage_nodes
    merged_graph = ir.Graph(
        [values[name] for name in inputs],
        [values[name] for name in outputs],
        nodes=nodes,
        initializers=initializers,
        opset_imports=opsets,
        name="model",
    )
    return ir.Model(
        merged_graph, ir_version=version, producer_name="mmedge", functions=list(functions.values())
    )


def _relocate_weight(
    tensor: ir.TensorProtocol | None, before: str, folder: str
) -> ir.TensorProtocol | None:
    """A weight as a graph in ``folder`` names it, whose own graph lay in the folder ``before``."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    location = posixpath.relpath(posixpath.join(before, tensor.location), folder)
    if location.startswith(".."):
        raise ExportError(f"weights in {before}/{tensor.location}, outside of {folder}")
    return ir.ExternalTensor(
        location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir="",
    )
