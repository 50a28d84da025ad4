"""What an ONNX graph reaches for beyond itself: operators of other domains, and files.

ONNX Runtime opens whatever file a tensor's external data names and calls whatever code is
registered for a node's domain, so both are checked before it sees the graph. The runtime does not
need the ``onnx`` package for that: this module walks protobuf's wire format
(protobuf.dev/programming-guides/encoding) along the few fields of ``onnx.proto`` that matter, in
pure Python, over a mapped file; it steps over weights without touching their pages.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from posixpath import dirname, join
from typing import TYPE_CHECKING, Final

from mmedge.errors import BundleError
from mmedge.schema import path_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DOMAINS", "GraphFile", "check_graph", "fields"]

#: Operator domains that ONNX Runtime itself implements and that a bundle may use. Operators of
#: mmedge's own domain must come with their body as a model-local function.
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
OWN_DOMAIN: Final = "mmedge"

#: Operators of those domains that make a runtime open further files or run opaque binaries.
REFUSED: Final = frozenset({("com.microsoft", "EPContext")})

#: Fields of one graph file, and messages inside messages: far above any real network, and few
#: seconds of work.
MAX_FIELDS, MAX_DEPTH = 4_000_000, 48

#: An ORT-format file carries this at bytes 4 to 8. ONNX Runtime would read such a file by another
#: parser than this module does.
_ORT_MAGIC: Final = b"ORTM"

#: message -> field number -> message inside it, from onnx.proto (IR version 13).
_INNER: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "entry": {},
}  # fmt: skip

#: message -> field number -> name of a string in it that is wanted.
_STRINGS: Final[Mapping[str, Mapping[int, str]]] = {
    "node": {4: "op", 7: "domain"},
    "function": {1: "op", 10: "domain"},
    "entry": {1: "key", 2: "value"},
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a graph that passed reaches for.

    Attributes:
        weights: paths in the bundle of the weight files that it uses.
        functions: how often it calls each function of mmedge's own domain.
    """

    weights: tuple[str, ...] = ()
    functions: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Found:
    """Collected over one file."""

    nodes: Counter[tuple[str, str]] = field(default_factory=Counter)
    inside_functions: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: list[dict[str, str]] = field(default_factory=list)


def check_graph(data: memoryview, name: str, sizes: Mapping[str, int], where: str) -> GraphFile:
    """Check the graph ``name`` of a bundle and return what it reaches for.

    Args:
        data: the graph file's bytes.
        name: its path in the bundle; weight locations are relative to its folder.
        sizes: bytes of every file of the bundle by path.
        where: what an error names as the place.

    Raises:
        BundleError: not an ONNX graph, an operator domain that is not known, or weights that lie
            outside the bundle.
    """
    if bytes(data[4:8]) == _ORT_MAGIC:
        raise BundleError(f"{where}: an ORT-format file, expected an ONNX graph; export it as ONNX")
    try:
        found = _Walk(data).run()
    except _WireError as error:
        raise BundleError(
            f"{where}: not an ONNX graph: {error}; export the bundle again"
        ) from error
    own = {function for function in found.functions if function[0] == OWN_DOMAIN}
    for domain, op in sorted(found.nodes.keys() | found.inside_functions):
        if (domain, op) in REFUSED or (domain not in DOMAINS and (domain, op) not in own):
            raise BundleError(
                f"{where}: operator {op!r} of domain {domain!r} is not known; expected domain "
                f"{', '.join(map(repr, sorted(DOMAINS)))}, or {OWN_DOMAIN!r} with a model-local "
                "function as its body"
            )
    if nested := sorted(found.inside_functions & found.functions):
        # Bodies that call bodies could call themselves, or expand without end.
        raise BundleError(f"{where}: a model-local function calls function {nested[0][1]!r}")
    return GraphFile(
        tuple(sorted({_weights(entries, name, sizes, where) for entries in found.external})),
        {op: count for (domain, op), count in found.nodes.items() if domain == OWN_DOMAIN},
    )


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field (string, bytes, message) of a message.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    for number, begin, stop in _Walk(message).lengths(0, len(message)):
        yield number, message[begin:stop]


def _weights(entries: Mapping[str, str], name: str, sizes: Mapping[str, int], where: str) -> str:
    """The bundle's file that one tensor's external data names."""
    location = entries.get("location", "")
    fault = path_fault(location)
    if fault is None and join(dirname(name), location) not in sizes:
        fault = f"{location!r} is not a file of the bundle"
    if fault:
        raise BundleError(f"{where}: external data outside the bundle: {fault}")
    file = join(dirname(name), location)
    span = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in span):
        raise BundleError(f"{where}: external data in {location!r}: no whole numbers: {span}")
    if sum(map(int, span)) > sizes[file]:
        raise BundleError(f"{where}: external data past the end of {location!r}: {span}")
    return file


class _WireError(ValueError):
    """The bytes are not protobuf, or more of it than any graph needs."""


class _Walk:
    """One pass over a serialised ModelProto."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._fields = 0
        self._found = _Found()

    def run(self) -> _Found:
        if not len(self._data):
            raise _WireError("an empty file")
        self._message("model", 0, len(self._data), 0, in_function=False)
        return self._found

    def _message(
        self, kind: str, start: int, end: int, depth: int, *, in_function: bool
    ) -> dict[str, str]:
        """Walk one message and everything of interest inside; the wanted strings of it."""
        if depth > MAX_DEPTH:
            raise _WireError(f"nested deeper than {MAX_DEPTH} messages")
        inner, wanted = _INNER[kind], _STRINGS.get(kind, {})
        in_function = in_function or kind == "function"
        strings: dict[str, str] = {}
        entries: dict[str, str] = {}
        for number, begin, stop in self.lengths(start, end):
            if number in wanted:
                # A reader keeps the last of a repeated one; two readers might not agree.
                if wanted[number] in strings:
                    raise _WireError(f"{wanted[number]} given twice")
                strings[wanted[number]] = bytes(self._data[begin:stop]).decode("utf-8", "replace")
            elif number in inner:
                below = self._message(
                    inner[number], begin, stop, depth + 1, in_function=in_function
                )
                if inner[number] == "entry":
                    key = below.get("key", "")
                    if key not in {"location", "offset", "length", "checksum"} or key in entries:
                        raise _WireError(f"external data with unknown or repeated {key!r}")
                    entries[key] = below.get("value", "")
        if kind in {"node", "function"}:
            domain = strings.get("domain", "")
            called = ("" if domain == "ai.onnx" else domain, strings.get("op", ""))
            if kind == "function":
                self._found.functions.add(called)
            elif in_function:
                self._found.inside_functions.add(called)
            else:
                self._found.nodes[called] += 1
        if entries:
            self._found.external.append(entries)
        return strings

    def lengths(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, first byte, end) of the length-delimited fields of a message."""
        at = start
        while at < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _WireError(f"more than {MAX_FIELDS} fields")
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise _WireError(f"field number {number} at byte {at}")
            if wire == _BYTES:
                length, begin = self._varint(at, end)
                at = begin + length
                if at <= end:
                    yield number, begin, at
            elif wire == _VARINT:
                _, at = self._varint(at, end)
            elif wire in {_FIXED64, _FIXED32}:
                at += 8 if wire == _FIXED64 else 4
            else:
                raise _WireError(f"wire type {wire} at byte {at}")
            if at > end:
                raise _WireError(f"truncated at byte {end}")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """(value, byte after it)."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise _WireError(f"number not ended at byte {at}")
