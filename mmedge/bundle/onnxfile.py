"""What an ONNX graph reaches for beyond itself, and what it asks of the runtime that runs it.

ONNX Runtime opens whatever file a tensor's external data names, calls whatever code is registered
for a node's domain, and is ended by some of what it takes. So a graph is checked before it sees it:
operators and their attributes (:mod:`mmedge.bundle.operators`), integer divisions
(:mod:`mmedge.bundle.integers`), places of weights.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from posixpath import dirname, join
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from mmedge.bundle.integers import Scope, division_fault
from mmedge.bundle.onnxgraph import MAX_NODES, read_model
from mmedge.bundle.operators import DOMAINS, NEEDS_ELEMENTS, NEWEST, node_fault
from mmedge.bundle.protobuf import WireError
from mmedge.errors import BundleError
from mmedge.schema import DIGEST, MANIFEST, SIGNATURE, path_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle.onnxgraph import (
        KnownParts,
        ParsedFunction,
        ParsedGraph,
        ParsedModel,
        ParsedNode,
        ParsedTensor,
    )

__all__ = ["OWN_DOMAIN", "SUFFIX", "GraphFile", "check_graph"]

#: Operators of mmedge's own domain must come with their body as a model-local function.
OWN_DOMAIN: Final = "mmedge"

#: A graph's file has it: some runtimes choose a reader by it.
SUFFIX: Final = ".onnx"

#: An ORT-format file carries this at bytes 4 to 8. ONNX Runtime would read such a file by another
#: parser than this module does.
_ORT_MAGIC: Final = b"ORTM"


class GraphFile(NamedTuple):
    """What a graph that passed reaches for.

    Attributes:
        weights: paths in the bundle of the weight files that it uses.
        spans: the parts of these files that it uses: path, first byte, and byte after the last.
        functions: how often it calls each function of mmedge's own domain.
        needs_elements: operators in it that end the process when a tensor that they take has no
            elements.
    """

    weights: tuple[str, ...] = ()
    functions: Mapping[str, int] = MappingProxyType({})
    needs_elements: tuple[str, ...] = ()
    spans: frozenset[tuple[str, int, int]] = frozenset()


def check_graph(
    data: memoryview,
    name: str,
    sizes: Mapping[str, int],
    where: str,
    known_parts: KnownParts | None = None,
) -> GraphFile:
    """Check the graph ``name`` of a bundle and return what it reaches for.

    Args:
        data: the graph file's bytes.
        name: its path in the bundle; weight locations are relative to its folder.
        sizes: bytes of every file of the bundle by path.
        where: what an error names as the place.
        known_parts: see :func:`mmedge.bundle.onnxgraph.read_model`.

    Raises:
        BundleError: not an ONNX graph, an operator or attribute that is not allowed, or weights
            that lie outside the bundle.
    """
    if not name.endswith(SUFFIX):
        raise BundleError(f"{where}: a graph's name must end in {SUFFIX}; export the bundle again")
    if bytes(data[4:8]) == _ORT_MAGIC:
        raise BundleError(f"{where}: an ORT-format file, expected an ONNX graph; export it as ONNX")
    try:
        model = read_model(data, known_parts)
    except WireError as error:
        raise BundleError(
            f"{where}: not an ONNX graph: {error}; export the bundle again"
        ) from error
    if model.opsets.get("", 1) > NEWEST:
        raise BundleError(
            f"{where}: operators of version {model.opsets['']}, expected at most {NEWEST}; "
            "upgrade mmedge"
        )
    check = _Check(model, where)
    check.run()
    spans = frozenset(_weights(tensor, name, sizes, where) for tensor in model.external)
    return GraphFile(
        tuple(sorted({file for file, _, _ in spans})),
        dict(check.called),
        tuple(sorted(check.needs_elements)),
        spans,
    )


def _weights(
    tensor: ParsedTensor, name: str, sizes: Mapping[str, int], where: str
) -> tuple[str, int, int]:
    """The bundle's file that one tensor's external data names, its first byte, and its end."""
    entries = tensor.external
    location = entries.get("location", "")
    fault = path_fault(location)
    file = join(dirname(name), location)
    if fault is None and (file not in sizes or file in {MANIFEST, DIGEST, SIGNATURE}):
        fault = f"{location!r} is not a file of the bundle that its manifest lists"
    if fault:
        raise BundleError(f"{where}: external data outside the bundle: {fault}")
    span = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in span):
        raise BundleError(f"{where}: external data in {location!r}: no whole numbers: {span}")
    offset, length = map(int, span)
    if offset + length > sizes[file]:
        raise BundleError(f"{where}: external data past the end of {location!r}: {span}")
    # Numbers of 4 bits lie two in a byte.
    if prod(tensor.shape) > 2 * (length or sizes[file] - offset):
        raise BundleError(
            f"{where}: constant {tensor.name!r} of shape {list(tensor.shape)} has less data in "
            f"{location!r}"
        )
    return file, offset, offset + length if length else sizes[file]


class _Check:
    """One pass over a file's nodes, bodies and functions."""

    def __init__(self, model: ParsedModel, where: str) -> None:
        self._model = model
        self._where = where
        self.called: Counter[str] = Counter()
        self.needs_elements: set[str] = set()
        self._nodes = 0
        #: Nodes of each function, and of all calls so far.
        self._sizes: dict[str, int] = {}
        self._expanded = 0
        self._called_so: dict[tuple[str, tuple[bool, ...], int], tuple[bool, ...]] = {}

    def run(self) -> None:
        """Check all of it."""
        for (domain, op), body in self._model.functions.items():
            size = self._function(body)
            if domain == OWN_DOMAIN:
                self._sizes[op] = size
        self._nodes = 0
        self._graph(self._model.graph, Scope(), in_function=False)
        self._check_count()

    def _function(self, function: ParsedFunction) -> int:
        """Check a function's body, of whose inputs nothing is known; how many nodes it has."""
        if function.domain in DOMAINS:
            raise BundleError(
                f"{self._where}: a model-local function takes the name of operator "
                f"{function.op!r} of domain {function.domain!r}"
            )
        self._nodes = 0
        scope = Scope()
        for node in function.nodes:
            scope.add(node, self._node(node, scope, in_function=True))
        return self._nodes

    def _graph(self, graph: ParsedGraph, scope: Scope, *, in_function: bool) -> list[bool]:
        """Check a graph; of each of its outputs whether it may be an int32 or int64."""
        scope.enter(graph)
        for node in graph.nodes:
            scope.add(node, self._node(node, scope, in_function=in_function))
        return [scope.may_be_integer(name) for name in graph.outputs]

    def _node(self, node: ParsedNode, scope: Scope, *, in_function: bool) -> dict[str, bool] | None:
        """Check a node and its bodies; of its results what its bodies tell, if it has any."""
        self._nodes += 1
        self._check_operator(node, in_function=in_function)
        fault = node_fault(node, scope)
        if fault is None and node.op in {"Div", "Mod"} and not node.domain:
            fault = division_fault(node, scope)
        if fault is not None:
            raise BundleError(
                f"{self._where}: operator {node.op!r} that makes "
                f"{', '.join(map(repr, node.outputs[:4]))}: {fault}; export the bundle again"
            )
        if (node.domain, node.op) in NEEDS_ELEMENTS:
            self.needs_elements.add(node.op)
        function = self._model.functions.get((node.domain, node.op))
        if function is not None:
            if any(attribute.graphs for attribute in node.attributes.values()):
                # Its operators would be called in a place where nothing is known of them.
                raise BundleError(f"{self._where}: a call of function {node.op!r} passes a graph")
            return self._results(function, node, scope)
        bodies = [
            self._graph(body, Scope(scope), in_function=in_function)
            for attribute in node.attributes.values()
            for body in attribute.graphs
        ]
        if not bodies:
            return None
        # The outputs of a loop's body begin with its condition.
        skipped = 1 if node.op == "Loop" else 0
        return {
            name: any(index + skipped >= len(body) or body[index + skipped] for body in bodies)
            for index, name in enumerate(node.outputs)
        }

    def _results(self, function: ParsedFunction, node: ParsedNode, scope: Scope) -> dict[str, bool]:
        """Of a function's results, where it is called so, whether each may be int32 or int64."""
        integer_inputs = tuple(scope.may_be_integer(name) for name in node.inputs)
        call = function.op, integer_inputs, len(node.outputs)
        integer_results = self._called_so.get(call)
        if integer_results is None:
            body_scope = Scope()
            body_scope.integers.update(zip(function.inputs, integer_inputs, strict=False))
            for body_node in function.nodes:
                body_scope.add(body_node)
            # A function may have more results than a call takes.
            results = function.outputs[: len(node.outputs)]
            integer_results = tuple(body_scope.may_be_integer(name) for name in results)
            self._called_so[call] = integer_results
        return dict(zip(node.outputs, integer_results, strict=False))

    def _check_count(self) -> None:
        if self._nodes + self._expanded > MAX_NODES:
            raise BundleError(
                f"{self._where}: more than {MAX_NODES} nodes with the bodies of functions in their "
                "places"
            )

    def _check_operator(self, node: ParsedNode, *, in_function: bool) -> None:
        call = node.domain, node.op
        if call in self._model.functions and in_function:
            # Bodies that call bodies could call themselves, or expand without end.
            raise BundleError(f"{self._where}: a model-local function calls function {node.op!r}")
        if call in self._model.functions and node.domain == OWN_DOMAIN:
            self.called[node.op] += 1
            self._expanded += self._sizes[node.op]
            self._check_count()  # before the body is gone through once more for this call
            return
        operators = DOMAINS.get(node.domain)
        if operators is not None and node.op in operators:
            return
        expected = (
            f"expected domain {', '.join(map(repr, sorted(DOMAINS)))}, or {OWN_DOMAIN!r} with a "
            "model-local function as its body"
            if operators is None
            else "docs/reference/bundle.md says which are allowed"
        )
        raise BundleError(
            f"{self._where}: operator {node.op!r} of domain {node.domain!r} is not known; "
            f"{expected}"
        )
