"""Take out of a graph what only the machine that traced it can use."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["CLASSES", "NAMESPACE", "SCOPES", "StripMetadataPass"]

#: What torch's exporter writes on a node: the qualified names of the modules around it, outermost
#: first, their classes, and both in one text. Both lists end with the operator.
SCOPES, CLASSES, NAMESPACE = (
    "pkg.torch.onnx.name_scopes",
    "pkg.torch.onnx.class_hierarchy",
    "namespace",
)


class StripMetadataPass(ir.passes.InPlacePass):
    """Keep each node's module scope and drop all other metadata and doc strings.

    Stack traces hold absolute paths of the machine and lines of its source. The scopes stay: a
    profile of the graph can be read by module with them.

    Args:
        adapter: name of the module that the network was wrapped in for tracing; its scope and its
            part of initializer names are taken out.
    """

    def __init__(self, adapter: str) -> None:
        super().__init__()
        self._prefix = f"{adapter}."

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Strip ``model``."""
        model.metadata_props.clear()
        model.doc_string = None
        for holder in _holders(model):
            holder.metadata_props.clear()
            holder.doc_string = None
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in graphs:
            for node in ir.traversal.RecursiveGraphIterator(graph):
                node.doc_string = None
                self._strip(node.metadata_props)
        names = {str(value.name) for value in _values(model.graph)}
        for value in list(model.graph.initializers.values()):
            name = str(value.name).removeprefix(self._prefix)
            if name not in names:
                names.add(name)
                value.name = name
                if value.const_value is not None:
                    value.const_value.name = name
        return ir.passes.PassResult(model, modified=True)

    def _strip(self, metadata: MutableMapping[str, str]) -> None:
        scopes, classes = (_read_list(metadata.get(key, "[]")) for key in (SCOPES, CLASSES))
        metadata.clear()
        # Two scopes that are no module of the network's: the adapter, and at the end the operator.
        if len(scopes) != len(classes) or len(scopes) < 2:
            return
        scopes = ["", *(scope.removeprefix(self._prefix) for scope in scopes[2:])]
        classes = classes[1:]
        metadata[SCOPES], metadata[CLASSES] = repr(scopes), repr(classes)
        metadata[NAMESPACE] = "/".join(
            f"{scope}: {kind}" for scope, kind in zip(scopes, classes, strict=True)
        )


def _read_list(text: str) -> list[str]:
    """A list of texts as ``repr`` writes it."""
    if '"' in text or "\\" in text:
        values: list[str] = ast.literal_eval(text)
        return values
    # Python's parser takes a twentieth of the time of an export.
    return text[2:-2].split("', '") if len(text) > 2 else []


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values that have a name in a graph, or in one inside it."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs


def _holders(model: ir.Model) -> Iterator[ir.Graph | ir.Function | ir.Value]:
    """Graphs, functions and values: everything besides nodes that carries metadata."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield graph
        yield from graph.inputs
        if isinstance(graph, ir.Graph):
            yield from graph.initializers.values()
        for node in ir.traversal.RecursiveGraphIterator(graph):
            yield from node.outputs
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.Graph):
                    yield attribute.value
                    yield from attribute.value.inputs
                    yield from attribute.value.initializers.values()
