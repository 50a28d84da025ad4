"""An ONNX file as plain objects: nodes, attributes, constants; weights are stepped over.

The runtime does without the ``onnx`` package. The tables are those of onnx.proto (IR version 14);
a field that is not in them is refused, since another reader might make something of it. The module
is long, since the tables, what is made of them and their reader are one format.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final, TypeVar

from mmedge.bundle.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    MAX_FIELDS,
    REPEATED,
    SKIPPED,
    VARINT,
    WireError,
    WireReader,
    signed,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_NODES",
    "MAX_VALUES",
    "KnownParts",
    "ParsedAttribute",
    "ParsedFunction",
    "ParsedGraph",
    "ParsedModel",
    "ParsedNode",
    "ParsedTensor",
    "read_model",
]

#: Messages inside messages, nodes with their bodies written out, names of tensors: far above any
#: real network.
MAX_DEPTH, MAX_NODES, MAX_NAMES = 48, 100_000, 1_000_000

#: Bytes of the largest node or constant that is looked up among those that were read.
MAX_KNOWN: Final = 4096

#: Elements of the largest constant whose values are looked at.
MAX_VALUES: Final = 4096

# Wire types of a field, a bit for each, in capitals where it is repeated; s is a text or message
# that is stepped over. A repeated number may be packed or not.
_v, _b, _f = 1 << VARINT, 1 << BYTES, 1 << FIXED32
_B = _b | 1 << REPEATED
_s, _S = _b | 1 << SKIPPED, _B | 1 << SKIPPED
_V, _F, _D = _v | _B, _f | _B, 1 << FIXED64 | _B

_MODEL: Final = table({
    1: _v, 2: _s, 3: _s, 4: _s, 5: _v, 6: _s, 7: _b, 8: _B, 14: _S, 20: _B, 25: _B, 26: _S,
})  # fmt: skip
_GRAPH: Final = table({
    1: _B, 2: _s, 5: _B, 10: _s, 11: _B, 12: _B, 13: _S, 14: _S, 15: _B, 16: _S,
})  # fmt: skip
_NODE: Final = table({
    1: _B, 2: _B, 3: _s, 4: _b, 5: _B, 6: _s, 7: _b, 8: _b, 9: _S, 10: _S,
})  # fmt: skip
_ATTRIBUTE: Final = table({
    1: _b, 2: _f, 3: _v, 4: _s, 5: _b, 6: _b, 7: _F, 8: _V, 9: _S, 10: _B, 11: _B, 13: _s, 14: _s,
    15: _S, 20: _v, 21: _b, 22: _b, 23: _B,
})  # fmt: skip
_TENSOR: Final = table({
    1: _V, 2: _v, 3: _b, 4: _F, 5: _V, 6: _B, 7: _V, 8: _b, 9: _b, 10: _D, 11: _V, 12: _s, 13: _B,
    14: _v, 16: _S,
})  # fmt: skip
_FUNCTION: Final = table({
    1: _b, 4: _B, 5: _B, 6: _S, 7: _B, 8: _s, 9: _S, 10: _b, 11: _B, 12: _S, 13: _b, 14: _S,
})  # fmt: skip
_VALUE: Final = table({1: _b, 2: _b, 3: _s, 4: _S})
_TYPE: Final = table({1: _b, 4: _b, 5: _b, 6: _b, 7: _b, 8: _b, 9: _b})
_TENSOR_TYPE: Final = table({1: _v, 2: _b})
_SHAPE: Final = table({1: _B})
_OPSET: Final = table({1: _b, 2: _v})
_ENTRY: Final = table({1: _b, 2: _b})

#: An enumeration's value is the lower 32 bits of its varint.
_INT32: Final = 0xFFFF_FFFF

#: Keys of a tensor's external data (onnx.proto, ``external_data``).
_EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})


# Plain classes, since making dataclasses would take more of an import than all else here.


class ParsedTensor:
    """A constant.

    Attributes:
        name: of it; empty inside an attribute.
        kind: TensorProto.DataType.
        shape: its sizes.
        external: entries of its external data; empty where it is in the file.
        values: of a small int32 or int64 constant in the file; None: not looked at.
    """

    __slots__ = ("_asked", "external", "kind", "name", "shape", "values")

    def __init__(
        self, kind: int = 0, shape: tuple[int, ...] = (), values: tuple[int, ...] | None = None
    ) -> None:
        self.name = ""
        self.kind = kind
        self.shape = shape
        self.external: dict[str, str] = {}
        self.values = values
        self._asked: tuple[int, int] | None = None

    def asked(self) -> tuple[int, int]:
        """What its values ask for as sizes of at least 1: multiplied, and the largest alone."""
        if self._asked is None:  # once, for any number of nodes that take it
            sizes = [max(1, abs(size)) for size in self.values or ()]
            self._asked = prod(sizes), max(sizes, default=1)
        return self._asked


class ParsedAttribute:
    """An attribute of a node; of its value what a check may look at.

    Attributes:
        integers: of ``i`` or ``ints``.
        tensor: of ``t``.
        graphs: of ``g`` or ``graphs``.
        reference: the attribute of the function that it takes its value from; empty: of none.
    """

    __slots__ = ("graphs", "integers", "reference", "tensor")

    def __init__(self) -> None:
        self.integers: tuple[int, ...] = ()
        self.tensor: ParsedTensor | None = None
        self.graphs: tuple[ParsedGraph, ...] = ()
        self.reference = ""


class ParsedNode:
    """An operator's call. A domain ``ai.onnx`` is the empty one."""

    __slots__ = ("attributes", "domain", "inputs", "op", "outputs")

    def __init__(
        self,
        op: str,
        domain: str,
        inputs: list[str],
        outputs: list[str],
        attributes: dict[str, ParsedAttribute],
    ) -> None:
        self.op, self.domain = op, domain
        self.inputs, self.outputs = inputs, outputs
        self.attributes = attributes


class ParsedGraph:
    """A graph or the body of a branch or loop.

    ``inputs`` maps names to TensorProto.DataType (0: not said) and rank (None: not said).
    """

    __slots__ = ("constants", "inputs", "nodes", "outputs")

    def __init__(self) -> None:
        self.nodes: list[ParsedNode] = []
        self.constants: dict[str, ParsedTensor] = {}
        self.inputs: dict[str, tuple[int, int | None]] = {}
        self.outputs: list[str] = []


class ParsedFunction:
    """A model-local function."""

    __slots__ = ("domain", "inputs", "nodes", "op", "outputs")

    def __init__(self) -> None:
        self.domain = self.op = ""
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.nodes: list[ParsedNode] = []


class ParsedModel:
    """A file.

    Attributes:
        graph: the outermost.
        functions: by domain and operator.
        external: every tensor with external data.
        opsets: version of the operators by domain.
    """

    __slots__ = ("external", "functions", "graph", "opsets")

    def __init__(
        self,
        graph: ParsedGraph,
        functions: dict[tuple[str, str], ParsedFunction],
        external: list[ParsedTensor],
        opsets: dict[str, int],
    ) -> None:
        self.graph, self.functions = graph, functions
        self.external, self.opsets = external, opsets


T = TypeVar("T")
#: What was read of some bytes, the fields and names in it, and its tensors with external data.
_Known = tuple[T, int, int, list[ParsedTensor]]


class KnownParts:
    """Nodes, attributes and constants by their bytes, without bodies.

    Much stands in a file more than once, and the graphs of a bundle's plans are cut from one
    network: what was read once need not be read again. What is in it is not written to.
    """

    __slots__ = ("attributes", "nodes", "tensors")

    def __init__(self) -> None:
        self.attributes: dict[bytes, _Known[tuple[str, ParsedAttribute]]] = {}
        self.nodes: dict[bytes, _Known[ParsedNode]] = {}
        self.tensors: dict[bytes, _Known[ParsedTensor]] = {}


def read_model(data: memoryview, known_parts: KnownParts | None = None) -> ParsedModel:
    """Read a serialised ModelProto.

    Args:
        data: its bytes.
        known_parts: of files that were read before; what is read is added.

    Raises:
        WireError: it is none, holds what is refused, or more than any real network.
    """
    return _ModelReader(data, known_parts or KnownParts()).model()


class _ModelReader(WireReader):
    """One pass over a file."""

    def __init__(self, data: memoryview, known_parts: KnownParts) -> None:
        super().__init__(data)
        self._known = known_parts
        self._nodes = self._names = self._bodies = 0
        self._external: list[ParsedTensor] = []

    def model(self) -> ParsedModel:
        """The whole file."""
        if not len(self.data):
            raise WireError("an empty file")
        graph: ParsedGraph | None = None
        functions: dict[tuple[str, str], ParsedFunction] = {}
        opsets: dict[str, int] = {}
        has_version = False
        for number, begin, stop in self.fields(0, len(self.data), _MODEL):
            if number == 7:
                graph = self._graph(begin, stop, 1)
            elif number == 20:
                raise WireError("a training graph, which nothing here runs")
            elif number == 25:
                function = self._function(begin, stop)
                if (function.domain, function.op) in functions:
                    raise WireError(f"function {function.op!r} given twice")
                functions[function.domain, function.op] = function
            elif number == 8:
                domain, version = self._opset(begin, stop)
                if domain in opsets:
                    raise WireError(f"operators of domain {domain!r} imported twice")
                opsets[domain] = version
            elif number == 1:
                has_version = True
        if graph is None:
            raise WireError("a file without a graph")
        if not has_version:
            raise WireError("a file without an IR version")
        if self._left < 0:  # of messages around others it is counted when they end
            raise WireError(f"more than {MAX_FIELDS} fields")
        return ParsedModel(graph, functions, self._external, opsets)

    def _opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, begin, stop in self.fields(start, end, _OPSET):
            if number == 1:
                domain = self.text(begin, stop)
            else:
                version = signed(begin)
        return "" if domain == "ai.onnx" else domain, version

    def _graph(self, start: int, end: int, depth: int) -> ParsedGraph:
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH} messages")
        self._bodies += 1
        graph = ParsedGraph()
        for number, begin, stop in self.fields(start, end, _GRAPH):
            if number == 1:
                graph.nodes.append(self._counted_node(begin, stop, depth + 1))
            elif number == 5:
                tensor = self._once(self._known.tensors, self._tensor, begin, stop, depth)
                if tensor.name in graph.constants:
                    raise WireError(f"constant {tensor.name!r} given twice")
                graph.constants[tensor.name] = tensor
                self._count_names(1)
            elif number == 11:
                name, kind = self._value(begin, stop)
                graph.inputs[name] = kind
                self._count_names(1)
            elif number == 12:
                graph.outputs.append(self._value(begin, stop)[0])
                self._count_names(1)
            elif number == 15:
                raise WireError("a sparse constant; write it dense")
        return graph

    def _function(self, start: int, end: int) -> ParsedFunction:
        function = ParsedFunction()
        for number, begin, stop in self.fields(start, end, _FUNCTION):
            if number == 1:
                function.op = self.text(begin, stop)
            elif number == 10:
                function.domain = self.text(begin, stop)
            elif number == 4:
                function.inputs.append(self.text(begin, stop))
            elif number == 5:
                function.outputs.append(self.text(begin, stop))
            elif number == 7:
                function.nodes.append(self._counted_node(begin, stop, 2))
            elif number == 11:
                # What a body takes by reference could be anything, a graph too.
                raise WireError(f"a default of an attribute of function {function.op!r}")
            elif number == 13 and begin != stop:
                raise WireError("an overload of a function")
        return function

    def _counted_node(self, start: int, end: int, depth: int) -> ParsedNode:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise WireError(f"more than {MAX_NODES} nodes")
        return self._once(self._known.nodes, self._node, start, end, depth)

    def _once(
        self,
        known: dict[bytes, _Known[T]],
        read: Callable[[int, int, int], T],
        start: int,
        end: int,
        depth: int,
    ) -> T:
        """What ``read`` makes of these bytes, unless they have been read."""
        if end - start > MAX_KNOWN:
            return read(start, end, depth)
        key = bytes(self.data[start:end])
        before = known.get(key)
        if before is not None:
            part, fields, names, external = before
            # All counts as if it were read again.
            self._left -= fields
            if self._left < 0:
                raise WireError(f"more than {MAX_FIELDS} fields")
            self._count_names(names)
            self._external += external
            return part
        left, names, index, bodies = self._left, self._names, len(self._external), self._bodies
        part = read(start, end, depth)
        if self._bodies == bodies:  # how deep bodies may lie depends on the place
            known[key] = part, left - self._left, self._names - names, self._external[index:]
        return part

    def _node(self, start: int, end: int, depth: int) -> ParsedNode:
        op = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, ParsedAttribute] = {}
        for number, begin, stop in self.fields(start, end, _NODE):
            if number == 1:
                inputs.append(self.text(begin, stop))
            elif number == 2:
                outputs.append(self.text(begin, stop))
            elif number == 4:
                op = self.text(begin, stop)
            elif number == 5:
                name, attribute = self._once(
                    self._known.attributes, self._attribute, begin, stop, depth + 1
                )
                if name in attributes:
                    raise WireError(f"attribute {name!r} of {op!r} given twice")
                attributes[name] = attribute
            elif number == 7:
                domain = self.text(begin, stop)
            elif number == 8 and begin != stop:
                raise WireError(f"an overload of {op!r}")
        self._count_names(len(inputs) + len(outputs))
        domain = "" if domain == "ai.onnx" else domain
        return ParsedNode(op, domain, inputs, outputs, attributes)

    def _count_names(self, count: int) -> None:
        self._names += count
        if self._names > MAX_NAMES:
            raise WireError(f"more than {MAX_NAMES} names of tensors")

    def _attribute(self, start: int, end: int, depth: int) -> tuple[str, ParsedAttribute]:
        name, of = "", 0
        attribute = ParsedAttribute()
        integers: list[int] = []
        graphs: list[ParsedGraph] = []
        for number, begin, stop in self.fields(start, end, _ATTRIBUTE):
            if number == 1:
                name = self.text(begin, stop)
            elif number in (3, 8):
                if integers and number != of:
                    raise WireError(f"attribute {name!r} with one integer and several")
                of = number
                self._integers(integers, begin, stop)
            elif number == 5:
                attribute.tensor = self._tensor(begin, stop, depth)
            elif number == 10:
                self._tensor(begin, stop, depth)  # for its external data
            elif number in (6, 11):
                graphs.append(self._graph(begin, stop, depth + 1))
            elif number == 21:
                attribute.reference = self.text(begin, stop)
            elif number in (22, 23):
                raise WireError("a sparse constant; write it dense")
        attribute.integers, attribute.graphs = tuple(integers), tuple(graphs)
        return name, attribute

    def _integers(self, integers: list[int], begin: int, stop: int) -> None:
        """Add numbers, packed or not, the first :data:`MAX_VALUES` and one more."""
        for value in (begin,) if stop < 0 else self.varints(begin, stop):
            if len(integers) > MAX_VALUES:
                return
            integers.append(signed(value))

    def _tensor(self, start: int, end: int, _depth: int) -> ParsedTensor:
        tensor = ParsedTensor()
        shape: list[int] = []
        values: list[int] = []
        raw_span: tuple[int, int] | None = None
        data_bytes = location = 0  # bytes of data in the file; where the data is said to lie
        for number, begin, stop in self.fields(start, end, _TENSOR):
            if number == 1:
                self._integers(shape, begin, stop)
            elif number == 2:
                tensor.kind = begin & _INT32
            elif number == 8:
                tensor.name = self.text(begin, stop)
            elif number == 9:
                raw_span = begin, stop
                data_bytes += stop - begin
            elif number == 13:
                self._external_entry(tensor, begin, stop)
            elif number == 14:
                location = begin & _INT32
            elif number in (4, 5, 6, 7, 10, 11):
                data_bytes += max(1, stop - begin) if stop >= 0 else 8
                if number in (5, 7):
                    self._integers(values, begin, stop)
            elif number == 3:
                raise WireError("a constant in segments")
        tensor.shape = tuple(shape)
        self._check_size(tensor, data_bytes, location)
        if tensor.external:
            self._external.append(tensor)
        elif tensor.kind in (6, 7) and prod(shape) <= MAX_VALUES:
            tensor.values = self._unpack(tensor.kind, raw_span, values)
        return tensor

    def _external_entry(self, tensor: ParsedTensor, start: int, end: int) -> None:
        key = value = ""
        for number, begin, stop in self.fields(start, end, _ENTRY):
            if number == 1:
                key = self.text(begin, stop)
            else:
                value = self.text(begin, stop)
        if key not in _EXTERNAL_KEYS or key in tensor.external:
            raise WireError(f"external data with unknown or repeated {key!r}")
        tensor.external[key] = value

    def _check_size(self, tensor: ParsedTensor, data_bytes: int, location: int) -> None:
        """A reader makes room by the shape before it looks for the data."""
        if len(tensor.shape) > 64 or any(not 0 <= size < 1 << 40 for size in tensor.shape):
            raise WireError(f"constant {tensor.name!r} of shape {list(tensor.shape[:8])}")
        if location not in (0, 1) or bool(tensor.external) != (location == 1):
            raise WireError(f"constant {tensor.name!r} that is said to lie elsewhere, and does not")
        if tensor.external:
            return
        # Numbers of 4 bits lie two in a byte.
        if prod(tensor.shape) > 2 * data_bytes:
            raise WireError(
                f"constant {tensor.name!r} of shape {list(tensor.shape)} with {data_bytes} bytes "
                "of data"
            )

    def _unpack(
        self, kind: int, raw_span: tuple[int, int] | None, values: list[int]
    ) -> tuple[int, ...] | None:
        width = 4 if kind == 6 else 8
        if raw_span is None:
            # As protobuf does: a varint may have more bits than the number that it stands for.
            half = 1 << (8 * width - 1)
            return tuple((value + half) % (2 * half) - half for value in values)
        data = bytes(self.data[raw_span[0] : raw_span[1]])
        if len(data) % width or len(data) > width * MAX_VALUES:
            return None
        return tuple(
            int.from_bytes(data[at : at + width], "little", signed=True)
            for at in range(0, len(data), width)
        )

    def _value(self, start: int, end: int) -> tuple[str, tuple[int, int | None]]:
        """Name, element type and rank of an input or output."""
        name = ""
        kind, rank = 0, None
        for number, begin, stop in self.fields(start, end, _VALUE):
            if number == 1:
                name = self.text(begin, stop)
            elif number == 2:
                for type_number, type_begin, type_stop in self.fields(begin, stop, _TYPE):
                    if type_number == 1:
                        kind, rank = self._tensor_type(type_begin, type_stop)
        return name, (kind, rank)

    def _tensor_type(self, start: int, end: int) -> tuple[int, int | None]:
        kind, rank = 0, None
        for number, begin, stop in self.fields(start, end, _TENSOR_TYPE):
            if number == 1:
                kind = begin & _INT32
            else:
                rank = sum(1 for _ in self.fields(begin, stop, _SHAPE))
        return kind, rank
