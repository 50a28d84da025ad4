"""torch to ONNX: one graph of the whole network, with the names and dimensions of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

# Networks ask torch.onnx.is_in_onnx_export() which form to take; torch.export alone answers no, and
# torch.onnx.export of a module answers yes but silently fixes a dynamic dimension that it cannot
# keep. So the program is captured here, with the answer that torch.onnx.export would give.
from torch.onnx._internal.exporter._flags import set_onnx_exporting_flag

from mmedge.errors import ExportError
from mmedge_export import feeds
from mmedge_export.adapter import NAME, Adapter
from mmedge_export.advice import explain
from mmedge_export.attention_standard import decompose
from mmedge_export.graph import Graph
from mmedge_export.guards import VIOLATED, watching
from mmedge_export.locate import failing_node
from mmedge_export.network import Network
from mmedge_export.noise import quiet
from mmedge_export.passes.name_boundary import NameBoundaryPass
from mmedge_export.passes.strip_metadata import StripMetadataPass

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge_export.source import Model

__all__ = ["OPSET", "trace"]

#: The operator of :mod:`mmedge_export.attention`, which need not be imported.
SEGMENTED = "mmedge::segmented_attention"

#: Default version of the ONNX operators: TensorRT 10.3, the one of JetPack 6, takes no later one.
OPSET = 20

Program = torch.export.ExportedProgram


def trace(model: Model, *, opset: int | None = None) -> Graph:
    """Trace a torch model in evaluation mode.

    A dynamic dimension of size 1 in the example is traced at size 2 (torch takes sizes 0 and 1 for
    constants) by repeating the example along it; only operations are recorded, no values.

    Args:
        model: its module must be in evaluation mode.
        opset: version of the ONNX operators; None: :data:`OPSET`.

    Raises:
        ExportError: the module cannot be traced. The message names the module and source line, and
            what to do; the exporter's exception is the cause.
    """
    opset = OPSET if opset is None else opset
    network = Network(model)
    adapter = Adapter(network.module, list(model.inputs), model.outputs)
    dimensions = model.dimensions()
    sizes = {symbol: 2 for symbol, limits in dimensions.items() if limits.opt == 1}
    fixed = [symbol for symbol in sizes if dimensions[symbol].max == 1]
    if fixed:
        raise ExportError(
            f"dims allows only size 1 for {', '.join(fixed)}; a dimension of one size is not "
            "dynamic: leave it out of Input.dynamic"
        )
    values = tuple(network.tensors(feeds.resize(model, feeds.example(model), sizes)).values())
    shapes = _dynamic_shapes(model)

    def capture() -> Program:
        # Guards that hold for every size, but that torch cannot prove to (1 % (1 + n // 160) != 0
        # of a reshape), would refuse sound networks. Deferred, they are left to the parity check,
        # which runs the graph at the ends of every dimension's range.
        return torch.export.export(
            adapter,
            values,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )

    with quiet(), torch.no_grad():
        program = _in_standard_operators(_capture(network.module, model, capture))
        onnx_program = _convert(network.module, program, shapes, opset)
    graph = onnx_program.model
    if graph.opset_imports[""] != opset:
        raise ExportError(
            f"opset {opset} was asked for, but torch's exporter could only reach opset "
            f"{graph.opset_imports['']} with this network; ask for that one or a later one"
        )
    naming = NameBoundaryPass(tuple(model.inputs), tuple(model.outputs))
    naming(graph)
    StripMetadataPass(NAME)(graph)
    return Graph(graph, onnx_program.exported_program, naming.renamed)


def _dynamic_shapes(model: Model) -> dict[str, Any]:
    """For the adapter's ``*values``: axis -> dimension, the same object for the same name."""
    dims = {
        symbol: torch.export.Dim(symbol, min=limits.min, max=limits.max)
        for symbol, limits in model.dimensions().items()
    }
    axes = [
        {axis: dims[symbol] for axis, symbol in value.dynamic.items()}
        for value in model.inputs.values()
    ]
    return {"values": tuple(axes)}


def _capture(module: torch.nn.Module, model: Model, capture: Callable[[], Program]) -> Program:
    capture = set_onnx_exporting_flag(capture)
    try:
        return capture()
    except ExportError:
        raise
    except Exception as error:  # whatever the network's code and the tracer raise
        place = None
        if VIOLATED.search(str(error)):
            # The exception comes after tracing: trace again and watch where the sizes are fixed.
            with watching(module, model) as guards:
                try:
                    capture()
                except Exception:  # noqa: BLE001 - the same one again
                    place = guards.culprit(str(error))
        raise explain(module, error, "torch cannot trace the network", place=place) from error


def _in_standard_operators(program: Program) -> Program:
    """Segmented attention as what ONNX has; the passes find it again."""
    found = {
        node.target
        for node in program.graph.nodes
        if getattr(node.target, "name", str)() == SEGMENTED
    }
    return program.run_decompositions(dict.fromkeys(found, decompose)) if found else program


def _convert(
    module: torch.nn.Module, program: Program, shapes: dict[str, Any], opset: int
) -> torch.onnx.ONNXProgram:
    try:
        converted = torch.onnx.export(
            program, (), opset_version=opset, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    except Exception as error:  # the exporter's errors have no public base
        node = failing_node(error)
        raise explain(module, error, "the traced network has no ONNX form", node=node) from error
    if converted is None:
        raise ExportError(
            "torch's exporter returned nothing; it does so only for files: report this"
        )
    return converted
