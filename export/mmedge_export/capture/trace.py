"""torch to ONNX: one graph of the whole network, with the names and dimensions of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import torch

# A private door, for which torch has no public one. Networks ask torch.onnx.is_in_onnx_export()
# which form to take, and torch.export alone answers no. torch.onnx.export of a module answers yes,
# but does not refuse what torch.export refuses: of an nn.GRU with dynamic time it makes a graph
# whose output states the example's time (measured with torch 2.13.0 and 2.14.1). So the program is
# captured here, with the answer that torch.onnx.export would give.
from torch.onnx._internal.exporter._flags import set_onnx_exporting_flag

from mmedge.bundle.operators import NEWEST
from mmedge.errors import ExportError
from mmedge_export.capture import locate, probe_inputs
from mmedge_export.capture.adapter import NAME, Adapter
from mmedge_export.capture.advice import explain
from mmedge_export.capture.captured_graph import CapturedGraph
from mmedge_export.capture.decomposition import decomposed_where_needed
from mmedge_export.capture.locate import failing_node
from mmedge_export.capture.network import TorchNetwork
from mmedge_export.capture.operator_registry import registry_made_once
from mmedge_export.capture.relations import RelationRecorder, recording
from mmedge_export.capture.rewrite_rules import tried_at_their_operators
from mmedge_export.capture.standard_operators import in_standard_operators
from mmedge_export.capture.tensor_lengths import dynamic_lengths
from mmedge_export.capture.type_promotion import promoted_by_known_types
from mmedge_export.noise import quiet
from mmedge_export.passes.name_boundary import NameBoundaryPass
from mmedge_export.passes.order_weights import OrderWeightsPass
from mmedge_export.passes.strip_metadata import StripMetadataPass

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge_export.model import Model

__all__ = ["OPSET", "trace"]

#: Default version of the ONNX operators: TensorRT 10.3, the one of JetPack 6, takes no later one.
OPSET = 20

Program = torch.export.ExportedProgram


def trace(model: Model, *, opset: int | None = None) -> CapturedGraph:
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
    newest = min(onnx.defs.onnx_opset_version(), NEWEST)
    if opset > newest:
        raise ExportError(
            f"opset {opset} was asked for; the newest that the installed onnx "
            f"{onnx.__version__} and this mmedge know is {newest}: ask for {OPSET} to {newest}"
        )
    network = TorchNetwork(model)
    adapter = Adapter(network.module, list(model.inputs), model.outputs)
    dimensions = model.dimensions()
    sizes = {symbol: 2 for symbol, limits in dimensions.items() if limits.opt == 1}
    fixed_symbols = [symbol for symbol in sizes if dimensions[symbol].max == 1]
    if fixed_symbols:
        raise ExportError(
            f"dims allows only size 1 for {', '.join(fixed_symbols)}; a dimension of one size is "
            "not dynamic: leave it out of Input.dynamic"
        )
    values = tuple(
        network.tensors(probe_inputs.resize(model, probe_inputs.example(model), sizes)).values()
    )
    shapes = _dynamic_shapes(model)

    recorder = RelationRecorder(network.module, model)

    def capture() -> Program:
        # What torch cannot prove of sizes it would refuse, sound networks too. Deferred, it is
        # recorded, and settled by :mod:`mmedge_export.capture.limits`.
        return torch.export.export(
            adapter,
            values,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )

    with quiet(), torch.no_grad(), recording(recorder), dynamic_lengths(network.module):
        captured = _capture(network.module, recorder, capture)
        program, checks = in_standard_operators(network.module, captured, opset)
        onnx_program = _convert(network.module, program, shapes, opset)
    # Only now operators that write in place are told apart from what they write to.
    _refuse_state(network.module, onnx_program.exported_program)
    graph = onnx_program.model
    reached_opset = graph.opset_imports[""]
    if reached_opset != opset:
        raise ExportError(
            f"opset {opset} was asked for, but torch's exporter could only reach opset "
            f"{reached_opset} with this network; ask for {reached_opset}, or {OPSET}, the default"
        )
    naming = NameBoundaryPass(tuple(model.inputs), tuple(model.outputs))
    naming(graph)
    StripMetadataPass(NAME)(graph)
    OrderWeightsPass()(graph)
    return CapturedGraph(
        graph,
        onnx_program.exported_program,
        naming.renamed,
        tuple(recorder.relations()),
        tuple(checks),
    )


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


def _capture(
    module: torch.nn.Module, recorder: RelationRecorder, capture: Callable[[], Program]
) -> Program:
    try:
        return set_onnx_exporting_flag(capture)()
    except ExportError:
        raise
    except Exception as error:  # whatever the network's code and the tracer raise
        place = (
            recorder.culprit(str(error))
            or locate.of_exception(module, error)
            or recorder.last_branch()
        )
        raise explain(module, error, "torch cannot trace the network", place=place) from error


def _refuse_state(module: torch.nn.Module, program: Program | None) -> None:
    """Raise ExportError where an output follows from a buffer that a call changes."""
    if program is None:
        return
    signature = program.graph_signature
    outputs = set(signature.user_outputs)
    buffer_nodes = {buffer: name for name, buffer in signature.inputs_to_buffers.items()}
    nodes = {node.name: node for node in program.graph.nodes}
    for buffer in signature.buffers_to_mutate.values():
        reached_nodes, waiting = set(), [nodes[buffer_nodes[buffer]]]
        while waiting:
            node = waiting.pop()
            for user in node.users:
                if user not in reached_nodes and user.op != "output":
                    reached_nodes.add(user)
                    waiting.append(user)
        if outputs & {node.name for node in reached_nodes}:
            path, _, name = buffer.removeprefix(f"{NAME}.").rpartition(".")
            owner = module.get_submodule(path)
            where = f"module {path!r} ({type(owner).__name__})" if path else type(owner).__name__
            raise ExportError(
                f"the network keeps state between calls: a call changes buffer {name!r} of "
                f"{where}, and answers follow from it\n  What to do: take it as an input, return "
                "the new one as an output and name the two in Model(state={...}), or do without it "
                "in evaluation mode"
            )


def _convert(
    module: torch.nn.Module, program: Program, shapes: dict[str, Any], opset: int
) -> torch.onnx.ONNXProgram:
    try:
        with (
            tried_at_their_operators(),
            registry_made_once(),
            decomposed_where_needed(),
            promoted_by_known_types(),
        ):
            onnx_program = torch.onnx.export(
                program, (), opset_version=opset, dynamic_shapes=shapes, dynamo=True, verbose=False
            )
    except Exception as error:  # the exporter's errors have no public base
        node = failing_node(error)
        raise explain(module, error, "the traced network has no ONNX form", node=node) from error
    if onnx_program is None:
        raise ExportError(
            "torch's exporter returned nothing; it does so only for files: report this"
        )
    return onnx_program
