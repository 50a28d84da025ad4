"""The first tensor inside an exported graph that is not what the traced program makes of it.

torch's exporter gives the ONNX value that stands for a node of the traced program that node's name,
and graph optimisation keeps most of them. Running the program node by node in torch gives
references for these names; making them outputs of the graph gives what ONNX Runtime computes.
"""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge.spec import DTYPES, Array
from mmedge.tolerance import Difference, difference
from mmedge_export import graph as onnx_graph
from mmedge_export.adapter import NAME
from mmedge_export.locate import source_line
from mmedge_export.noise import quiet
from mmedge_export.passes.strip_metadata import SCOPES

if TYPE_CHECKING:
    import onnx_ir as ir

    from mmedge.spec import Tolerance
    from mmedge_export.graph import Graph
    from mmedge_export.parity import Case

__all__ = ["first_divergence"]

#: Values that become outputs at a time: bounds the memory, and stops soon after the first fault.
AT_ONCE = 64


class _Tape(torch.fx.Interpreter):
    """Runs a program and keeps the value of every operation that has one tensor as its value.

    What follows an ONNX operator that the network emits itself is left out: torch does not compute
    such operators, it only knows their shapes.
    """

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Array] = {}
        self.unknown: set[torch.fx.Node] = set()

    def run_node(self, n: torch.fx.Node) -> Any:  # noqa: ANN401
        """Run one node."""
        result = super().run_node(n)
        if n.op != "call_function":
            return result
        if str(n.target).startswith("onnx_symbolic.") or self.unknown & set(n.all_input_nodes):
            self.unknown.add(n)
        elif isinstance(result, torch.Tensor) and _dtype(result) in DTYPES:
            self.values[n.name] = result.detach().cpu().numpy().copy()
        return result


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def first_divergence(graph: Graph, case: Case, tolerance: Tolerance) -> str:
    """One sentence on the first tensor, in the program's order, that differs in ``case``.

    Args:
        graph: came from torch; its ``program`` is run by torch, its ``model`` by ONNX Runtime.
        case: inputs for which an output differs.
        tolerance: what counts as differing, for every tensor.
    """
    program = graph.program
    if program is None:
        return "The graph did not come from torch."
    module = program.module(check_guards=False)
    tape = _Tape(module)
    with quiet(), torch.no_grad():
        tape.run(*(torch.from_numpy(np.array(value)) for value in case.inputs.values()))
    values = {
        str(value.name): value for node in graph.model.graph for value in node.outputs if value.name
    }
    names = {n: graph.renamed.get(n, n) for n in tape.values if graph.renamed.get(n, n) in values}
    order = list(names)
    for start in range(0, len(order), AT_ONCE):
        chunk = order[start : start + AT_ONCE]
        got = _compute(graph.model, [values[names[node]] for node in chunk], case)
        for node in chunk:
            found = difference(got[names[node]], tape.values[node], tolerance)
            if not found.passes:
                return _describe(module, node, values[names[node]], found)
    return _nothing(graph, tape, case, tolerance)


def _compute(model: ir.Model, outputs: list[ir.Value], case: Case) -> dict[str, Array]:
    """Values of ``outputs``, which lie inside the graph, for the inputs of ``case``."""
    kept = list(model.graph.outputs)
    try:
        # All outputs stay: a graph whose consumers changed could be optimised in another way.
        model.graph.outputs.extend(value for value in outputs if value not in kept)
        with tempfile.TemporaryDirectory() as folder:
            files = onnx_graph.save({"bisect": model}, Path(folder))
            path = next(iter(files.values()))
            return onnx_graph.Runner(path, [str(value.name) for value in outputs])(case.inputs)
    finally:
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)


def _describe(module: torch.nn.Module, name: str, value: ir.Value, found: Difference) -> str:
    node = next(n for n in module.graph.nodes if n.name == name)  # type: ignore[union-attr]
    producer = value.producer()
    operator = producer.op_type if producer is not None else "?"
    scope = _scope(producer)
    line = source_line(node)
    return (
        f"The first tensor that differs is {value.name!r}, made by {operator} for {node.target}"
        f"{f' in module {scope!r}' if scope else ''}{f', {line}' if line else ''}: it {found}."
    )


def _scope(producer: ir.Node | None) -> str:
    scopes = ast.literal_eval(producer.metadata_props.get(SCOPES, "[]")) if producer else []
    return str(scopes[-2]).removeprefix(f"{NAME}.") if len(scopes) > 1 else ""


def _nothing(graph: Graph, tape: _Tape, case: Case, tolerance: Tolerance) -> str:
    """Why no inner tensor stood out."""
    if tape.unknown:
        first = next(iter(sorted(node.name for node in tape.unknown)))
        return (
            "All tensors that torch can compute agree; the network emits ONNX operators itself, "
            f"and what follows them ({first!r} and others) has no reference."
        )
    for program_name, name in graph.renamed.items():
        if program_name in tape.values and name in case.outputs:
            found = difference(tape.values[program_name], case.outputs[name], tolerance)
            if not found.passes:
                return (
                    f"The graph is what torch.export traced, but that is not the network: traced "
                    f"{name!r} {found}. The network's code takes another path for these "
                    "sizes, or keeps state between calls."
                )
    return (
        "No single tensor differs when it is looked at: ONNX Runtime's own optimisation of the "
        "whole graph makes the difference, or values that round apart."
    )
