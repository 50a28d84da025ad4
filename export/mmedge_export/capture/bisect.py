"""Tensors inside an exported graph that are not what the traced program makes of them.

torch's exporter gives the ONNX value that stands for a node of the traced program that node's name,
and graph optimisation keeps most of them. Running the program node by node in torch gives
references for these names; making them outputs of the graph gives what ONNX Runtime computes.

:func:`first_divergence` says where a difference of an output begins. :class:`OperatorCheck` looks
for one that no output shows: an argmax, a comparison or a saturated output answers the same though
an operator before it computes something else.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge.spec import DTYPES, Array
from mmedge.tolerance import Difference, difference
from mmedge_export.capture.adapter import NAME
from mmedge_export.capture.guard_attention import is_guarded
from mmedge_export.capture.locate import source_line
from mmedge_export.noise import quiet
from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.passes.strip_metadata import SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

    from mmedge.spec import Tolerance
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.case import ParityCase

__all__ = ["OperatorCheck", "first_divergence"]

#: Values that are computed at first, and bytes of those that are each time later: it bounds the
#: memory, and stops soon after the first fault. Each time the whole graph is run.
_AT_ONCE, _AT_ONCE_BYTES = 64, 256 << 20

#: Operators that sort, and the place of ``dim`` among their arguments.
_DIM_OF = {torch.ops.aten.topk.default: 2, torch.ops.aten.sort.default: 1}

#: Operators whose values nobody may rely on.
_UNSPECIFIED = ("aten.empty", "aten.new_empty", "aten.empty_like")


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
            self.note(n, result.detach().cpu().numpy())
        return result

    def note(self, n: torch.fx.Node, value: Array) -> None:
        """Keep what an operation gave, whatever later ones write to it."""
        self.values[n.name] = value.copy()


def _is_tensor(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return (
        node.op == "call_function" and isinstance(value, torch.Tensor) and _dtype(value) in DTYPES
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class _Apart(_Tape):
    """Runs a program and gives each operation what the *graph* made of the ones before it.

    So no difference is carried on: what differs is an operation that gets the same inputs in both.
    """

    def __init__(
        self, module: torch.fx.GraphModule, graph_values: _GraphValues, tolerance: Tolerance
    ) -> None:
        super().__init__(module)
        self.inner, self.tolerance = graph_values, tolerance
        self.wrong: tuple[str, Difference] | None = None

    def note(self, n: torch.fx.Node, value: Array) -> None:
        """Keep what an operation gave: it is compared before the next one runs."""
        self.values[n.name] = value

    def run_node(self, n: torch.fx.Node) -> Any:  # noqa: ANN401
        """Run one node, unless one was wrong before."""
        result = super().run_node(n)
        reference = self.values.pop(n.name, None)
        if self.wrong or n.name not in self.inner.names:
            return result
        if str(n.target).startswith(_UNSPECIFIED) or is_guarded(n):
            return result
        graph_value = torch.from_numpy(np.asarray(self.inner[n.name]))
        self.unknown.discard(n)
        if reference is None:  # no reference in torch
            return graph_value
        if _near(graph_value, torch.from_numpy(reference), self.tolerance.atol):
            return graph_value
        deviation = difference(graph_value.numpy(), reference, self.tolerance)
        if not deviation.passes and not self._ties(n, graph_value, result):
            self.wrong = n.name, deviation
        return graph_value

    def _ties(self, n: torch.fx.Node, graph_value: torch.Tensor, torch_value: torch.Tensor) -> bool:
        """Whether both are places of equal elements, whose order a sort leaves open."""
        source = n.args[0] if n.target is operator.getitem else None
        if not isinstance(source, torch.fx.Node) or source.target not in _DIM_OF:
            return False
        args, _ = self.fetch_args_kwargs_from_env(source)
        place = _DIM_OF[source.target]
        dim = args[place] if len(args) > place else -1
        if (
            graph_value.dtype != torch.int64
            or graph_value.shape != torch_value.shape
            or not graph_value.ndim
        ):
            return False
        elements = (args[0].take_along_dim(indices, dim) for indices in (graph_value, torch_value))
        return torch.equal(*elements)


def _near(value: torch.Tensor, reference: torch.Tensor, atol: float) -> bool:
    """Whether floats differ by no more than ``atol`` anywhere, so that they pass at any scale."""
    return (
        value.dtype == reference.dtype
        and value.shape == reference.shape
        and value.is_floating_point()
        and value.numel() > 0
        and bool((value - reference).abs().max() <= atol)
    )


class _GraphValues:
    """What ONNX Runtime makes of the values inside a graph that have a name in its program.

    Args:
        graph: came from torch.
        nodes: the program's, in their order.
    """

    def __init__(self, graph: CapturedGraph, nodes: Iterable[str]) -> None:
        values = {
            str(value.name): value
            for node in graph.model.graph
            for value in node.outputs
            if value.name
        }
        names = {node: graph.renamed.get(node, node) for node in nodes}
        self.names = {node: name for node, name in names.items() if name in values}
        self.values = values
        self._order = list(self.names)
        self._place = {node: place for place, node in enumerate(self._order)}
        self._runner = Runner(MemoryGraph.of(graph.model), list(self.names.values()))

    def begin(self, case: ParityCase) -> None:
        """Take the values of ``case`` from here on."""
        self._case = case
        self._results: dict[str, Array] = {}
        self._count = _AT_ONCE

    def __getitem__(self, node: str) -> Array:
        """The value of a node of the program, which is asked for once, in the program's order."""
        if node not in self._results:
            place = self._place[node]
            chunk = self._order[place : place + self._count]
            results = self._runner(self._case.inputs, [self.names[name] for name in chunk])
            self._results = {name: results[self.names[name]] for name in chunk}
            used = sum(value.nbytes for value in self._results.values())
            self._count = max(len(chunk) * _AT_ONCE_BYTES // max(used, 1), _AT_ONCE)
        return self._results.pop(node)


def first_divergence(graph: CapturedGraph, case: ParityCase, tolerance: Tolerance) -> str:
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
    _run(tape, case)
    values = _GraphValues(graph, tape.values)
    values.begin(case)
    for node in values.names:
        deviation = difference(values[node], tape.values[node], tolerance)
        if not deviation.passes:
            text = _describe(module, node, values, deviation)
            return f"The first tensor that differs is {text}."
    return _nothing(graph, tape, case, tolerance)


class OperatorCheck:
    """Every operator of a graph on its own, given what the graph made of those before it.

    So rounding does not add up. What the graph optimised away is tried with what follows it.

    Args:
        graph: its ``program`` is run by torch, its ``model`` by ONNX Runtime.
        program: that of ``graph``, which came from torch.
    """

    def __init__(self, graph: CapturedGraph, program: torch.export.ExportedProgram) -> None:
        self._module = program.module(check_guards=False)
        nodes = [node.name for node in self._module.graph.nodes if _is_tensor(node)]
        self._values = _GraphValues(graph, nodes)

    def wrong(self, case: ParityCase, tolerance: Tolerance) -> str:
        """Which operation is the first to differ in ``case``.

        Returns:
            Name, operator, place in the user's code and difference of its value; empty where none
            differs.
        """
        self._values.begin(case)
        tape = _Apart(self._module, self._values, tolerance)
        _run(tape, case)
        return (
            _describe(self._module, tape.wrong[0], self._values, tape.wrong[1])
            if tape.wrong
            else ""
        )


def _run(tape: _Tape, case: ParityCase) -> None:
    with quiet(), torch.no_grad():
        tape.run(*(torch.from_numpy(np.array(value)) for value in case.inputs.values()))


def _describe(
    module: torch.nn.Module, name: str, values: _GraphValues, deviation: Difference
) -> str:
    node = next(n for n in module.graph.nodes if n.name == name)  # type: ignore[union-attr]
    value = values.values[values.names[name]]
    producer = value.producer()
    kind = producer.op_type if producer is not None else "?"
    scope = _scope(producer)
    line = source_line(node)
    return (
        f"{value.name!r}, made by {kind} for {node.target}"
        f"{f' in module {scope!r}' if scope else ''}{f', {line}' if line else ''}: it {deviation}"
    )


def _scope(producer: ir.Node | None) -> str:
    scopes = ast.literal_eval(producer.metadata_props.get(SCOPES, "[]")) if producer else []
    return str(scopes[-2]).removeprefix(f"{NAME}.") if len(scopes) > 1 else ""


def _nothing(graph: CapturedGraph, tape: _Tape, case: ParityCase, tolerance: Tolerance) -> str:
    """Why no inner tensor stood out."""
    if tape.unknown:
        first = next(iter(sorted(node.name for node in tape.unknown)))
        return (
            "All tensors that torch can compute agree; the network emits ONNX operators itself, "
            f"and what follows them ({first!r} and others) has no reference."
        )
    for program_name, name in graph.renamed.items():
        if program_name in tape.values and name in case.outputs:
            deviation = difference(tape.values[program_name], case.outputs[name], tolerance)
            if not deviation.passes:
                return (
                    f"The graph is what torch.export traced, but that is not the network: traced "
                    f"{name!r} {deviation}. The network's code takes another path for these "
                    "sizes, or keeps state between calls."
                )
    return (
        "No single tensor differs when it is looked at: ONNX Runtime's own optimisation of the "
        "whole graph makes the difference, or values that round apart."
    )
