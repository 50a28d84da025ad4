"""Which modalities the content of each value of a graph depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge_export.onnx_graph.read_node import standard
from mmedge_export.partition.dataflow import used

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

__all__ = ["Owners", "find_owners"]


class Owners:
    """Modalities behind values, and which values are the same in every run."""

    def __init__(self) -> None:
        self._owners: dict[ir.Value, frozenset[str]] = {}
        self._runtime: set[ir.Value] = set()

    def of(self, value: ir.Value | None) -> frozenset[str]:
        """Modalities that the content of ``value`` depends on; none for one made of sizes only."""
        return frozenset() if value is None else self._owners.get(value, frozenset())

    def fixed(self, value: ir.Value | None) -> bool:
        """Whether ``value`` depends on no input of the graph at all, not even on its size."""
        return value not in self._runtime

    def set(self, value: ir.Value, owners: frozenset[str], *, fixed: bool = False) -> None:
        """Enter a value."""
        self._owners[value] = owners
        if not fixed:
            self._runtime.add(value)

    def follow(self, node: ir.Node) -> None:
        """Enter what ``node`` gives, by what it takes."""
        operands = used(node)
        behind = frozenset[str]().union(*(self.of(value) for value in operands))
        if standard(node) and node.op_type in ("Shape", "Size"):
            behind = frozenset()
        fixed = all(self.fixed(value) for value in operands)
        for value in node.outputs:
            self.set(value, behind, fixed=fixed)


def find_owners(graph: ir.Graph, groups: Mapping[str, Sequence[str]]) -> Owners:
    """Owners of all values of ``graph`` proper.

    What ``Shape`` and ``Size`` yield depends on no modality: sizes are known before any content is.
    A node with subgraphs depends on all that these take from outside.

    Args:
        graph: in topological order.
        groups: modality -> names of its inputs. An input of no modality is taken to depend on
            all of them, so that nothing made of it is ever one modality's own.
    """
    owners = Owners()
    everything = frozenset(groups)
    of_input = {
        name: frozenset((modality,)) for modality, names in groups.items() for name in names
    }
    for value in graph.inputs:
        owners.set(value, of_input.get(str(value.name), everything))
    for node in graph:
        owners.follow(node)
    return owners
