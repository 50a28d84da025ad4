"""Which modalities each node of a graph depends on, told by dataflow alone.

Sizes are not content. Exporters read a dynamic size, such as the batch, from whichever input comes
first, and a text encoder that expands a token to the batch would seem to depend on the camera. So
arithmetic on sizes belongs to no modality as long as the sizes it reads are those of dimensions
that the modality's own tensors have too, from which :func:`rebind` then reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

__all__ = ["Owner", "owners", "rebind", "used"]

#: Names of the modalities whose content something depends on.
Owner = frozenset[str]

NOBODY: Owner = frozenset()

#: Ops whose results are sizes of their input and not its content.
SIZES = frozenset({"Shape", "Size"})


def used(node: ir.Node) -> list[ir.Value]:
    """Every value that a node reads: its inputs, and what its subgraphs take from around them."""
    values = [value for value in node.inputs if value is not None]
    for subgraph in _subgraphs(node):
        inner_ids = {id(value) for value in subgraph.inputs}
        inner_ids.update(id(value) for value in subgraph.initializers.values())
        inner_ids.update(id(value) for child in subgraph for value in child.outputs)
        reads = [value for child in subgraph for value in used(child)]
        values += [value for value in (*reads, *subgraph.outputs) if id(value) not in inner_ids]
    return list({id(value): value for value in values}.values())


def owners(
    graph: ir.Graph, groups: Mapping[str, Sequence[str]]
) -> tuple[dict[ir.Node, Owner], dict[ir.Value, Owner]]:
    """Modalities whose content each node, and each value, depends on; none for constants and sizes.

    A node of one modality that reads a size which only another modality's tensors have depends on
    that modality too.

    Args:
        graph: sorted, without calls of functions whose bodies matter here.
        groups: input names by modality.
    """
    of_input = {name: frozenset({key}) for key, names in groups.items() for name in names}
    extra_owners: dict[ir.Node, Owner] = {}
    while True:
        nodes: dict[ir.Node, Owner] = {}
        values: dict[ir.Value, Owner] = {
            value: of_input.get(str(value.name), NOBODY) for value in graph.inputs
        }
        for node in graph:
            content = extra_owners.get(node, NOBODY)
            if node.op_type not in SIZES:
                content = content.union(*(values.get(value, NOBODY) for value in used(node)))
            nodes[node] = content
            values.update(dict.fromkeys(node.outputs, content))
        foreign_owners = _foreign(graph, groups, nodes, values)
        if not foreign_owners:
            return nodes, values
        for node, more in foreign_owners.items():
            extra_owners[node] = extra_owners.get(node, NOBODY) | more


def _foreign(
    graph: ir.Graph,
    groups: Mapping[str, Sequence[str]],
    nodes: Mapping[ir.Node, Owner],
    values: Mapping[ir.Value, Owner],
) -> dict[ir.Node, Owner]:
    """Nodes of one modality that read sizes which their modality's inputs cannot tell."""
    foreign_owners: dict[ir.Node, Owner] = {}
    symbols_of = {
        key: _symbols([v for v in graph.inputs if v.name in names]) for key, names in groups.items()
    }
    for node, content in nodes.items():
        if len(content) != 1:
            continue
        (modality,) = content
        for source in _size_sources(node, values, symbols_of[modality]):
            owner = values.get(source, NOBODY)
            if not owner <= content:
                foreign_owners[node] = foreign_owners.get(node, NOBODY) | owner
    return foreign_owners


def _size_sources(
    node: ir.Node, owner: Mapping[ir.Value, Owner], symbols: Mapping[str, object]
) -> list[ir.Value]:
    """Values with an owner whose sizes reach ``node`` through free values alone.

    Those whose sizes are all ``symbols`` by name are left out. A size may be that of a value which
    was itself made from sizes (zeros of the batch's size): then what that one was made from counts.
    """
    sources: list[ir.Value] = []
    visited_values: set[ir.Value] = set()
    waiting = [value for value in used(node) if not owner.get(value)]
    if node.op_type in SIZES:
        return []
    while waiting:
        value = waiting.pop()
        step = value.producer()
        if value in visited_values or step is None:
            continue
        visited_values.add(value)
        if step.op_type not in SIZES:
            waiting += used(step)
            continue
        source = step.inputs[0]
        if source is None or _tells(step, source, symbols):
            continue
        if owner.get(source):
            sources.append(source)
        else:
            waiting.append(source)
    return sources


def _symbols(values: Iterable[ir.Value]) -> dict[str, tuple[ir.Value, int]]:
    """Where each dynamic dimension can be read."""
    places: dict[str, tuple[ir.Value, int]] = {}
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                places.setdefault(size.value, (value, axis))
    return places


def _sizes_read(step: ir.Node, source: ir.Value) -> list[int | str] | None:
    """The sizes that a Shape node reads; None where they are not known by value or by name."""
    if step.op_type != "Shape" or source.shape is None:
        return None
    rank = len(source.shape)
    start = step.attributes.get_int("start", 0)
    end = step.attributes.get_int("end", rank)
    sizes: list[int | str] = []
    for size in list(source.shape)[slice(start, end)]:
        if isinstance(size, int):
            sizes.append(size)
        elif size.value is not None:
            sizes.append(size.value)
        else:
            return None
    return sizes


def _tells(step: ir.Node, source: ir.Value, symbols: Mapping[str, object]) -> bool:
    sizes = _sizes_read(step, source)
    return sizes is not None and all(isinstance(s, int) or s in symbols for s in sizes)


def rebind(
    graph: ir.Graph,
    nodes: Collection[ir.Node],
    inside: Callable[[ir.Value], bool],
    available: Sequence[ir.Value],
    owner: Mapping[ir.Value, Owner],
) -> tuple[list[ir.Node], dict[ir.Value, ir.Value]]:
    """Let ``nodes`` read their sizes from ``available`` values wherever they read them elsewhere.

    Size arithmetic that leads to them is copied, since other stages read the original, and with it
    what else depends on no modality (learned queries that are repeated over the batch).

    Args:
        graph: is changed, and sorted again.
        nodes: of one stage.
        inside: whether a value is made in the stage, or is constant.
        available: values that enter the stage, with known shapes.
        owner: of every value; those that nobody owns are constants and sizes.

    Returns:
        Shape and Size nodes that still read from outside, since no available value tells the size;
        and each copied value's original.
    """
    reader = _SizeReader(graph, _symbols(available), inside, owner)
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and not owner.get(value):
                node.replace_input_with(index, reader.replacement(value))
        # What a subgraph captures is left as it is: its sizes count as read from outside.
        captures = [value for value in used(node) if value not in node.inputs]
        for value in captures:
            reader.note(value)
    graph.sort()
    return list(reader.outside_reads), reader.originals


class _SizeReader:
    """Copies size arithmetic for one stage, reading sizes from what the stage has."""

    def __init__(
        self,
        graph: ir.Graph,
        symbols: Mapping[str, tuple[ir.Value, int]],
        inside: Callable[[ir.Value], bool],
        owner: Mapping[ir.Value, Owner],
    ) -> None:
        self.graph = graph
        self.symbols = symbols
        self.inside = inside
        self.owner = owner
        self.outside_reads: dict[ir.Node, None] = {}
        self.originals: dict[ir.Value, ir.Value] = {}
        self._replacements: dict[ir.Value, ir.Value] = {}
        self._outside: dict[ir.Value, bool] = {}
        self._count = 0
        self._prefix = "size_"
        names = _names(graph)
        while any(name.startswith(self._prefix) for name in names):
            self._prefix += "_"

    def replacement(self, value: ir.Value) -> ir.Value:
        """What stands for ``value`` in this stage; itself where nothing foreign leads to it."""
        if value in self._replacements:
            return self._replacements[value]
        step = value.producer()
        replacement = value
        if step is not None and not self.owner.get(value):
            replacement = (
                self._shape(step, value) if step.op_type in SIZES else self._copy(step, value)
            )
        self._replacements[value] = replacement
        return replacement

    def note(self, value: ir.Value) -> None:
        """Remember the foreign sizes that lead to a value which is not replaced."""
        step = value.producer()
        if step is None or self.owner.get(value):
            return
        if step.op_type in SIZES:
            source = step.inputs[0]
            if source is not None and self._is_free(source):
                self.note(source)
            elif source is not None and not self.inside(source):
                self.outside_reads[step] = None
            return
        for source in used(step):
            self.note(source)

    def _is_free(self, value: ir.Value) -> bool:
        """Whether a value is made by a node from sizes and constants alone."""
        return value.producer() is not None and not self.owner.get(value)

    def _reads_outside(self, value: ir.Value) -> bool:
        """Whether a size of a value from outside the stage leads to ``value``, or it lies there."""
        if value not in self._outside:
            step = value.producer()
            if step is None or self.owner.get(value):
                self._outside[value] = not self.inside(value)
            else:
                reads = used(step)
                self._outside[value] = any(map(self._reads_outside, reads))
        return self._outside[value]

    def _shape(self, step: ir.Node, value: ir.Value) -> ir.Value:
        source = step.inputs[0]
        if source is None or not self._reads_outside(source):
            return value
        sizes = _sizes_read(step, source)
        if sizes is None or not all(isinstance(s, int) or s in self.symbols for s in sizes):
            if self._is_free(source):
                return self._copy(step, value)
            self.outside_reads[step] = None
            return value
        pieces = [self._size(size) for size in sizes]
        if len(pieces) == 1:
            return pieces[0]
        return self._node("Concat", pieces, axis=0)

    def _size(self, size: int | str) -> ir.Value:
        """One size as int64 [1]."""
        if isinstance(size, int):
            return self._constant([size])
        value, axis = self.symbols[size]
        shape_value = self._node("Shape", [value])
        # Shape's start and end came with opset 15; Gather is in all.
        return self._node("Gather", [shape_value, self._constant([axis])], axis=0)

    def _copy(self, step: ir.Node, value: ir.Value) -> ir.Value:
        if any(True for _ in _subgraphs(step)):
            self.note(value)
            return value
        inputs = [None if v is None else self.replacement(v) for v in step.inputs]
        if all(new is old for new, old in zip(inputs, step.inputs, strict=True)):
            return value
        copy = ir.Node(
            step.domain,
            step.op_type,
            inputs,
            list(step.attributes.values()),
            num_outputs=len(step.outputs),
        )
        self._insert(copy)
        for new, old in zip(copy.outputs, step.outputs, strict=True):
            new.shape, new.type = old.shape, old.type
            self._replacements[old] = new
            self.originals[new] = old
        return self._replacements[value]

    def _constant(self, numbers: list[int]) -> ir.Value:
        value = ir.Value(
            name=self._name(),
            shape=ir.Shape([len(numbers)]),
            type=ir.TensorType(ir.DataType.INT64),
            const_value=ir.tensor(np.array(numbers, np.int64)),
        )
        self.graph.register_initializer(value)
        return value

    def _node(self, op: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        attrs = [ir.AttrInt64(name, number) for name, number in attributes.items()]
        node = ir.Node("", op, list(inputs), attrs)
        self._insert(node)
        return node.outputs[0]

    def _insert(self, node: ir.Node) -> None:
        node.name = self._name()
        for value in node.outputs:
            value.name = self._name()
        self.graph.append(node)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def _names(graph: ir.Graph) -> set[str]:
    names = {str(value.name) for value in graph.inputs} | set(graph.initializers)
    return names | {str(value.name) for node in graph for value in node.outputs}


def _subgraphs(node: ir.Node) -> Iterable[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
