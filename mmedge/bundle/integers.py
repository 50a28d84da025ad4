"""Which integer divisions of a graph end the process, and which are guarded.

The processor traps when the smallest int32 or int64 is divided by -1, and ONNX Runtime lets it, for
``Mod`` until 1.31. So a ``Div`` or ``Mod`` whose tensors may be of these types needs a divisor that
cannot be -1, or a dividend that cannot be the smallest: a constant, or what
:mod:`mmedge_export.passes.guard_division` writes, ``Where(Equal(divisor, -1), 1, divisor)``.

Types are followed from the graph's inputs by :data:`mmedge.bundle.operators.SAME` and
``NO_INTEGERS``; what is not known may be an integer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mmedge.bundle.onnxgraph import ParsedTensor
from mmedge.bundle.operators import FIRST, NO_INTEGERS, SAME, TYPED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle.onnxgraph import ParsedGraph, ParsedNode

__all__ = ["Scope", "division_fault"]

# TensorProto.DataType: int32 and int64, and all others as an attribute holds them.
_INTEGERS: Final = frozenset({6, 7})
_OTHERS: Final = frozenset({(kind,) for kind in range(1, 64)} - {(6,), (7,)})
_INT64, _SMALLEST = 7, {6: -(1 << 31), 7: -(1 << 63)}

#: Operators whose results have an axis, whatever they take.
_WITH_AXES: Final = frozenset({
    "Concat", "Conv", "Flatten", "NonZero", "Slice", "Transpose", "Unsqueeze", "Pad", "DFT",
})  # fmt: skip


class Scope:
    """What is known of the tensors of a graph, or of a body inside one, up to some node.

    Args:
        parent: of the graph that a body lies in.
    """

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.constants: dict[str, ParsedTensor] = {}
        self.integers: dict[str, bool] = {}
        self.makers: dict[str, ParsedNode] = {}
        self.ranks: dict[str, int] = {}

    def enter(self, graph: ParsedGraph) -> None:
        """Take a graph's inputs and constants; a default of an input is no constant.

        Nodes may stand in any order: a name that a body makes further down is not that of a tensor
        around it.
        """
        if self.parent is not None:
            self.integers.update((name, True) for node in graph.nodes for name in node.outputs)
        for name, (kind, rank) in graph.inputs.items():
            self.integers[name] = kind in _INTEGERS or not kind
            if rank is not None:
                self.ranks[name] = rank
        for name, tensor in graph.constants.items():
            if name not in graph.inputs:
                self._add_constant(name, tensor)

    def add(self, node: ParsedNode, bodies: Mapping[str, bool] | None = None) -> None:
        """Take a node's results; ``bodies`` says of those of a node with bodies what is known."""
        value = node.attributes.get("value")
        if (node.domain, node.op) == ("", "Constant") and node.outputs:
            integers = node.attributes.get("value_ints") or node.attributes.get("value_int")
            if value is not None and value.tensor is not None:
                self._add_constant(node.outputs[0], value.tensor)
            elif integers is not None and not integers.reference:
                self._add_constant(node.outputs[0], _int64(integers.integers))
            else:
                self.integers[node.outputs[0]] = "value_float" not in "".join(node.attributes)
            return
        maybe = self._may_be_integer(node)
        for index, name in enumerate(node.outputs):
            self.makers[name] = node
            self.constants.pop(name, None)
            if bodies is not None:
                self.integers[name] = bodies.get(name, True)
            elif not node.domain and index == 0 and node.op in FIRST:
                source = FIRST[node.op]
                self.integers[name] = source is not None and self._of_input(node, source)
            else:
                self.integers[name] = maybe

    def _add_constant(self, name: str, tensor: ParsedTensor) -> None:
        self.constants[name] = tensor
        self.integers[name] = tensor.kind in _INTEGERS

    def _may_be_integer(self, node: ParsedNode) -> bool:
        if (node.domain, node.op) in NO_INTEGERS:
            return False
        if node.domain:
            return True
        if node.op in TYPED:
            name, kind = TYPED[node.op]
            attribute = node.attributes.get(name)
            if attribute is None:
                return self._of_input(node, 0) if kind is None else kind in _INTEGERS
            return bool(attribute.reference) or attribute.integers not in _OTHERS
        if node.op == "ConstantOfShape":
            value = node.attributes.get("value")
            if value is None:
                return False  # float32
            return value.tensor is None or value.tensor.kind in _INTEGERS
        index = SAME.get(node.op)
        return index is None or self._of_input(node, index)

    def _of_input(self, node: ParsedNode, index: int) -> bool:
        return index >= len(node.inputs) or self.may_be_integer(node.inputs[index])

    def _holder(self, name: str) -> Scope | None:
        """The innermost scope that has a tensor of that name."""
        scope: Scope | None = self
        while scope is not None and name not in scope.integers:
            scope = scope.parent
        return scope

    def may_be_integer(self, name: str) -> bool:
        """Whether a tensor may be int32 or int64."""
        holder = self._holder(name)
        return holder is None or holder.integers[name]

    def constant(self, name: str) -> ParsedTensor | None:
        """See :class:`mmedge.bundle.operators.Values`."""
        holder = self._holder(name)
        return holder.constants.get(name) if holder is not None else None

    def has_rank(self, name: str) -> bool:
        """See :class:`mmedge.bundle.operators.Values`."""
        holder = self._holder(name)
        if holder is None:
            return False
        maker, constant = holder.makers.get(name), holder.constants.get(name)
        if maker is not None:
            return maker.domain == "" and maker.op in _WITH_AXES
        if constant is not None:
            return bool(constant.shape)
        return holder.ranks.get(name, 0) > 0

    def maker(self, name: str) -> ParsedNode | None:
        """The node that makes a tensor."""
        holder = self._holder(name)
        return holder.makers.get(name) if holder is not None else None


def division_fault(node: ParsedNode, scope: Scope) -> str | None:
    """Why a ``Div`` or ``Mod`` may end the process; None where it cannot."""
    rounding = node.attributes.get("fmod")
    if rounding is not None and rounding.integers == (1,):
        return None  # C's fmod, in floats
    if len(node.inputs) != 2 or not all(map(scope.may_be_integer, node.inputs)):
        return None
    dividend, divisor = node.inputs
    constant = scope.constant(divisor)
    if constant is not None and constant.values is not None and -1 not in constant.values:
        return None
    constant = scope.constant(dividend)
    if (
        constant is not None
        and constant.values is not None
        and _SMALLEST.get(constant.kind) not in constant.values
    ):
        return None
    if _is_guarded(divisor, scope):
        return None
    return (
        "an integer division whose divisor may be -1, with which the smallest integer ends the "
        "process"
    )


def _is_guarded(divisor: str, scope: Scope) -> bool:
    """Whether it is ``Where(Equal(x, -1), 1, x)``."""
    where = scope.maker(divisor)
    if where is None or (where.domain, where.op) != ("", "Where") or len(where.inputs) != 3:
        return False
    condition, if_true, if_false = where.inputs
    comparison = scope.maker(condition)
    if (
        comparison is None
        or (comparison.domain, comparison.op) != ("", "Equal")
        or comparison.inputs[:1] != [if_false]
    ):
        return False
    return (
        len(comparison.inputs) == 2
        and _is_all(comparison.inputs[1], -1, scope)
        and _is_all(if_true, 1, scope)
    )


def _is_all(name: str, value: int, scope: Scope) -> bool:
    constant = scope.constant(name)
    # Of one element: another shape might not be that of what it is compared with.
    return constant is not None and constant.values == (value,)


def _int64(values: tuple[int, ...]) -> ParsedTensor:
    return ParsedTensor(kind=_INT64, shape=(len(values),), values=values)
