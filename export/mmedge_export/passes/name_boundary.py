"""Give a graph's inputs and outputs their names, whatever else in it bears them already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["NameBoundaryPass"]


class NameBoundaryPass(ir.passes.InPlacePass):
    """Rename the inputs and outputs of a graph, in their order.

    A value inside the graph that has one of the names gets another. An output that is an input, an
    initializer or another output of the graph as well gets an Identity of its own, because one
    value cannot have two names.

    Args:
        inputs: a name for each input.
        outputs: a name for each output; none may also be in ``inputs``.
    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._inputs, self._outputs = inputs, outputs
        #: The name each value had before -> the name it was given, where it got another.
        self.renamed: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in ``model``."""
        graph = model.graph
        _part_outputs(graph)
        self.renamed.clear()
        boundary_names = {*self._inputs, *self._outputs}
        boundary = {id(value) for value in (*graph.inputs, *graph.outputs)}
        names = {value.name for value in _values(graph)} | boundary_names
        for value in list(_values(graph)):
            if id(value) not in boundary and value.name in boundary_names:
                old, value.name = str(value.name), _free(f"{value.name}.inner", names)
                self.renamed[old] = value.name
        # In two steps: an input may have the name that another input is to get.
        pairs = [
            *zip(graph.inputs, self._inputs, strict=True),
            *zip(graph.outputs, self._outputs, strict=True),
        ]
        self.renamed.update((str(value.name), name) for value, name in pairs)
        for index, (value, _) in enumerate(pairs):
            value.name = _free(f"boundary.{index}", names)
        for value, name in pairs:
            value.name = name
        return ir.passes.PassResult(model, modified=True)


def _part_outputs(graph: ir.Graph) -> None:
    output_ids: set[int] = set()
    for index, value in enumerate(list(graph.outputs)):
        if value.producer() is not None and id(value) not in output_ids:
            output_ids.add(id(value))
            continue
        copy = ir.node("Identity", [value], name=f"node_output_{index}")
        copy.outputs[0].name = f"output_{index}_of_{value.name}"
        copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
        graph.append(copy)
        graph.outputs[index] = copy.outputs[0]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from (value for value in node.outputs if value.name)
        for attribute in node.attributes.values():
            if isinstance(attribute.value, ir.Graph):
                yield from attribute.value.inputs
                yield from attribute.value.initializers.values()


def _free(name: str, names: set[str | None]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name
